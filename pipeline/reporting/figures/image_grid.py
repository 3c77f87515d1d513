"""Grids of images with captions."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.core.errors import UserError
from pipeline.core.text import make_printable
from pipeline.reporting.figures.point_cloud import draw_cloud
from pipeline.reporting.figures.style import BLUE, INK, PAPER, VERMILION, shorten

MIN_TILE_PIXELS = 176
CAPTION_PIXELS = 13
MAX_LETTERS = 500


def contact_sheet(
    images: Sequence[NDArray[Any]] | NDArray[Any],
    captions: Sequence[str],
    columns: int = 6,
    is_right: Sequence[bool] | None = None,
    title: str = "",
) -> bytes:
    """Lay images out in a grid, a caption below each.

    Small images are enlarged by a whole factor, so that their pixels stay visible.

    Args:
        images: ``(height, width)`` or ``(channels, height, width)`` uint8 each; 1 or 3 channels. A point cloud,
            ``(points, 3)`` float32, is drawn as seen from the front right.
        captions: one an image; its lines are shortened in the middle to fit.
        columns: images in a row.
        is_right: for each image whether the answer was right: a blue border and a tick,
            or a red one and a cross.
        title: written on top.

    Raises:
        UserError: no images, or another number of captions.
    """
    if len(images) == 0 or len(images) != len(captions):
        raise UserError(f"contact sheet: found {len(images)} images and {len(captions)} captions; needs as many.")
    pictures = [to_picture(image) for image in images]
    font, bold = load_font("DejaVuSans.ttf"), load_font("DejaVuSans-Bold.ttf")
    columns, margin, border = min(columns, len(pictures)), 10, 4
    tile_width = max(MIN_TILE_PIXELS, *(picture.width for picture in pictures))
    tile_height = max(picture.height for picture in pictures)
    line_height = CAPTION_PIXELS + 5
    num_lines = max(caption.count("\n") + 1 for caption in captions)
    step_x, step_y = (
        tile_width + 2 * border + margin,
        tile_height + 2 * border + num_lines * line_height + margin,
    )
    top = margin + (line_height + margin if title else 0)
    size = (columns * step_x + margin, math.ceil(len(pictures) / columns) * step_y + top)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((margin, margin), fit_text(title, bold, size[0] - 2 * margin), fill=INK, font=bold)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = margin + index % columns * step_x, top + index // columns * step_y
        colour, mark = "#9CA3AF", ""
        if is_right is not None:
            colour, mark = (BLUE, "✓ ") if is_right[index] else (VERMILION, "✗ ")
        box = (x, y, x + tile_width + 2 * border - 1, y + tile_height + 2 * border - 1)
        draw.rectangle(box, fill="#000000", outline=colour, width=border if is_right is not None else 1)
        offset_x, offset_y = (tile_width - picture.width) // 2, (tile_height - picture.height) // 2
        sheet.paste(picture, (x + border + offset_x, y + border + offset_y))
        for line_index, line in enumerate((mark + caption).split("\n")):
            place = (x, y + tile_height + 2 * border + 3 + line_index * line_height)
            text = fit_text(line, font, tile_width + 2 * border)
            draw.text(place, text, fill=colour if mark and line_index == 0 else INK, font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def to_picture(image: NDArray[np.uint8] | NDArray[np.float32]) -> Image.Image:
    """Turn an array into an RGB picture, enlarged by a whole factor to at least a tile's width.

    Args:
        image: as for :func:`contact_sheet`.
    """
    array = np.asarray(image)
    if array.dtype == np.float32:
        return Image.fromarray(draw_cloud(array))
    if array.ndim == 3:
        array = rearrange(
            array[:3] if len(array) >= 3 else array[[0, 0, 0]], "channel row column -> row column channel"
        )
    picture = Image.fromarray(array).convert("RGB")
    factor = max(1, math.ceil(MIN_TILE_PIXELS / picture.width))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def load_font(name: str) -> ImageFont.FreeTypeFont:
    """Load a font that comes with matplotlib, so that captions look the same everywhere."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(str(path), CAPTION_PIXELS)


def fit_text(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Cut the middle out of a text until it is at most ``width`` pixels wide."""
    # The font's engine ends on commands to a terminal and the like; and no picture has room for more letters.
    text = shorten(make_printable(text), MAX_LETTERS)
    for num_letters in range(len(text), 1, -1):
        shorter = shorten(text, num_letters)
        if font.getlength(shorter) <= width:
            return shorter
    return text[:1]
