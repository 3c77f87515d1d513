"""Grids of images with captions: contact sheets, mistakes and attention maps."""

import bisect
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from einops import rearrange
from PIL import Image, ImageDraw

from pipeline.core.array_types import Array
from pipeline.core.text import make_printable
from pipeline.reporting.figures.fonts import cut_by_font
from pipeline.reporting.figures.point_cloud import draw_cloud
from pipeline.reporting.figures.style import BLUE, INK, PAPER, SOFT_INK, VERMILION, shorten

MIN_TILE_PIXELS = 176
PLAIN, BOLD = "DejaVuSans.ttf", "DejaVuSans-Bold.ttf"
FONT_PIXELS = 13
LINE_PIXELS = FONT_PIXELS + 5
MARGIN = 10
BORDER_PIXELS = 4
CAPTION_GAP = 3
MAX_LETTERS = 500


@dataclass(frozen=True)
class Border:
    """The border of a cell; inside it the image lies in the middle of a black tile.

    Args:
        colour: The colour of the line.
        pixels: The width of the line, at most ``BORDER_PIXELS``.
    """

    colour: str
    pixels: int


@dataclass(frozen=True)
class Cell:
    """An image of a grid, with its texts.

    Args:
        image: The image, (height, width, 3) uint8, drawn pixel by pixel.
        caption: The lines below the image, each shortened in the middle to the width of a cell.
        title: A line above the image.
        ink: The colour of the first line of the caption; the other lines are dark.
        border: The border around the image.
    """

    image: Array
    caption: str
    title: str = ""
    ink: str = INK
    border: Border | None = None


@dataclass(frozen=True)
class Strip:
    """Cells that follow each other and continue in the next line where they are too many for one.

    Args:
        cells: The cells.
        lead: A cell in a column of its own in front of the lines, such as the input of the maps that follow.
    """

    cells: Sequence[Cell]
    lead: Cell | None = None


def draw_grid(strips: Sequence[Strip], columns: int, heading: str = "", footer: Image.Image | None = None) -> bytes:
    """Lay out strips below each other in cells of one size, the size of the largest image.

    Of six cells and a lead in three columns::

        lead  cell 0  cell 1  cell 2     all lines of cells are equally high; the lead's caption may be longer
              cell 3  cell 4  cell 5     than theirs, because nothing lies below the lead in its strip

    Args:
        strips: One strip or more, all with a lead or all without.
        columns: The number of cells in a line, without the lead.
        heading: A line on top.
        footer: An image at the lower left.

    Returns:
        PNG bytes; the same arguments give the same bytes.
    """
    leads = [strip.lead for strip in strips if strip.lead is not None]
    cells = [cell for strip in strips for cell in strip.cells]
    border = BORDER_PIXELS if any(cell.border for cell in cells) else 0
    tile = _Tile(
        width=max(cell.image.shape[1] for cell in (*leads, *cells)),
        height=max(cell.image.shape[0] for cell in (*leads, *cells)),
        border=border,
        title=LINE_PIXELS if any(cell.title for cell in cells) else 0,
    )
    step_x, step_y = tile.full_width + MARGIN, tile.measure_height(cells) + MARGIN
    num_lines = max(math.ceil(len(strip.cells) / columns) for strip in strips)
    strip_height = max(num_lines * step_y, tile.measure_height(leads) + MARGIN)
    top = MARGIN + (LINE_PIXELS + MARGIN if heading else 0)
    width = MARGIN + (columns + bool(leads)) * step_x
    height = top + len(strips) * strip_height + (LINE_PIXELS + MARGIN if footer else 0)
    sheet = Image.new("RGB", (width, height), PAPER)
    write_text(sheet, (MARGIN, MARGIN), fit_text(heading, width - 2 * MARGIN, BOLD), INK, BOLD)
    for strip_index, strip in enumerate(strips):
        y = top + strip_index * strip_height
        if strip.lead is not None:
            _draw_cell(sheet, strip.lead, tile, (MARGIN, y))
        for index, cell in enumerate(strip.cells):
            x = MARGIN + (bool(leads) + index % columns) * step_x
            _draw_cell(sheet, cell, tile, (x, y + index // columns * step_y))
    if footer is not None:
        sheet.paste(footer, (MARGIN, height - LINE_PIXELS - MARGIN // 2))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


@dataclass(frozen=True)
class _Tile:
    """The measures of all cells of a grid, in pixels."""

    width: int
    height: int
    border: int
    title: int

    @property
    def full_width(self) -> int:
        return self.width + 2 * self.border

    @property
    def caption_top(self) -> int:
        return self.title + self.height + 2 * self.border

    def measure_height(self, cells: Sequence[Cell]) -> int:
        """Return the height of a line of cells, from their titles to the longest caption."""
        return self.caption_top + LINE_PIXELS * max((cell.caption.count("\n") + 1 for cell in cells), default=0)


def _draw_cell(sheet: Image.Image, cell: Cell, tile: _Tile, corner: tuple[int, int]) -> None:
    x, y = corner
    write_text(sheet, (x, y), fit_text(cell.title, tile.full_width), SOFT_INK)
    left, top = x, y + tile.title
    if cell.border is not None:
        box = (left, top, left + tile.full_width - 1, y + tile.caption_top - 1)
        ImageDraw.Draw(sheet).rectangle(box, fill="#000000", outline=cell.border.colour, width=cell.border.pixels)
        left += tile.border + (tile.width - cell.image.shape[1]) // 2
        top += tile.border + (tile.height - cell.image.shape[0]) // 2
    sheet.paste(Image.fromarray(cell.image), (left, top))
    for index, line in enumerate(cell.caption.split("\n")):
        place = (x, y + tile.caption_top + CAPTION_GAP + index * LINE_PIXELS)
        ink = cell.ink if index == 0 else INK
        write_text(sheet, place, fit_text(line, tile.full_width), ink)


def contact_sheet(
    images: Sequence[Array] | Array, captions: Sequence[str], columns: int = 6, is_right: Sequence[bool] | None = None
) -> bytes:
    """Lay out examples in a grid, a caption below each.

    Args:
        images: The examples, as for :func:`draw_example`; they may differ in size.
        captions: A caption for each example.
        columns: The number of examples in a line.
        is_right: For each example whether the answer was right: a blue border and a tick, or a red one and a cross.
    """
    assert len(images) == len(captions) > 0, (len(images), len(captions))
    cells = []
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        border, mark, ink = Border("#9CA3AF", 1), "", INK
        if is_right is not None:
            ink, mark = (BLUE, "✓ ") if is_right[index] else (VERMILION, "✗ ")
            border = Border(ink, BORDER_PIXELS)
        cells.append(Cell(draw_example(image), mark + caption, ink=ink, border=border))
    return draw_grid([Strip(cells)], min(columns, len(cells)))


def draw_example(example: Array, min_pixels: int = MIN_TILE_PIXELS) -> Array:
    """Draw an example of a store in its own colours, enlarged by a whole factor so that pixels stay visible.

    Args:
        example: An image, (height, width) or (channels, height, width) uint8, of which 3 channels are colours and of
            more, the slices of a volume, the middle one is drawn; or a point cloud, (points, 3) float32, which is drawn
            as seen from the front right.
        min_pixels: The width that an image has at least.

    Returns:
        (height, width, 3) uint8.
    """
    if example.dtype == np.float32:
        return draw_cloud(example)
    channels = example if example.ndim == 3 else example[None]
    colours = channels if len(channels) == 3 else channels[[len(channels) // 2] * 3]
    return enlarge(rearrange(colours, "channel row column -> row column channel"), min_pixels)


def enlarge(image: Array, min_pixels: int = MIN_TILE_PIXELS) -> Array:
    """Repeat the pixels of an image, (height, width, 3), by the least whole factor that makes it wide enough."""
    factor = max(1, math.ceil(min_pixels / image.shape[1]))
    return np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)


def write_text(sheet: Image.Image, place: tuple[float, float], text: str, ink: str, font: str = PLAIN) -> None:
    """Write a text into an image.

    Args:
        sheet: The image.
        place: The left end and the top of the text, in pixels.
        text: The text.
        ink: Its colour.
        font: The file of its font.
    """
    x, y = place
    for run, loaded in cut_by_font(text, font, FONT_PIXELS):
        ImageDraw.Draw(sheet).text((x, y), run, fill=ink, font=loaded)
        x += loaded.getlength(run)


def measure_text(text: str, font: str = PLAIN) -> float:
    """Return the width of a text in pixels."""
    return sum(loaded.getlength(run) for run, loaded in cut_by_font(text, font, FONT_PIXELS))


def fit_text(text: str, width: int, font: str = PLAIN) -> str:
    """Cut the middle out of a text until it is at most ``width`` pixels wide.

    Args:
        text: The text; characters that cannot be printed are replaced.
        width: The greatest width in pixels.
        font: The file of the font that measures the text.
    """
    # The font's engine fails on control characters, and no figure has room for more letters.
    text = shorten(make_printable(text), MAX_LETTERS)
    if measure_text(text, font) <= width:
        return text
    # A longer text has all letters of a shorter one, so that widths grow with it.
    lengths = range(2, len(text))
    num_fitting = bisect.bisect_right(
        lengths, float(width), key=lambda length: measure_text(shorten(text, length), font)
    )
    return shorten(text, lengths[num_fitting - 1]) if num_fitting else text[:1]
