"""Attention drawn over pictures, matrices between latents, and sheets of both.

The inputs stay grey and attention is colour from dark violet to yellow, whose lightness grows with the weight, so
that it is read without telling hues apart. Nothing is made smaller, and pixels are enlarged by whole factors alone.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.core.errors import UserError
from pipeline.reporting.figures.image_grid import CAPTION_PIXELS, MIN_TILE_PIXELS, fit_text, load_font
from pipeline.reporting.figures.style import INK, PAPER

COLOURS = "plasma"
SOFT_INK = "#57606A"
DIMMED = 0.55  # of the input's own brightness, below attention
STRONGEST = 0.85  # how much of the input the highest weight covers
# The colour of the highest weight begins here: a single input that stands out would leave all others dark.
TOP_PERCENTILE = 99.5
MAX_PANELS = 8  # beside an input; more go on in the next line
UNREAD = 0.33  # the grey of points that get no attention
MAX_SHEET_PIXELS = 1850  # wide; larger maps are fewer in a line
TINY = float(np.finfo(np.float32).tiny)

Floats = NDArray[np.floating[Any]]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class SheetRow:
    """One example of a sheet.

    Args:
        picture: the input, (height, width, 3).
        caption: lines below it.
        panels: its maps, each (height, width, 3).
        notes: a line below each map.
    """

    picture: Pixels
    caption: str
    panels: Sequence[Pixels]
    notes: Sequence[str]


def spread_over_pixels(weights: Floats, image_size: tuple[int, int], cell_pixels: int) -> NDArray[np.float64]:
    """Share the weight of each input among the pixels that it stands for.

    Pixels behind the last whole cell, where the side is no multiple of the cell, belong to the nearest one.

    Args:
        weights: (..., rows, columns).
        image_size: height and width in pixels.
        cell_pixels: side of an input's square.

    Returns:
        (..., height, width) with the same sums.
    """
    shares = np.asarray(weights, dtype=np.float64)
    rows, columns = (
        np.minimum(np.arange(size) // cell_pixels, count - 1)
        for size, count in zip(image_size, shares.shape[-2:], strict=True)
    )
    num_pixels = np.bincount(rows)[:, None] * np.bincount(columns)[None, :]
    spread: NDArray[np.float64] = (shares / num_pixels)[..., rows[:, None], columns[None, :]]
    return spread


def find_top(weights: Floats) -> float:
    """Return the weight from which on the colour is the brightest; above 0."""
    top = float(np.percentile(weights, TOP_PERCENTILE))
    return top if top > 0 else max(float(np.max(weights)), TINY)


def colour_weights(weights: Floats, top: float) -> NDArray[np.float64]:
    """Return red, green and blue from 0 to 1 for each weight, (..., 3)."""
    colours: NDArray[np.float64] = matplotlib.colormaps[COLOURS](np.clip(weights / top, 0, 1))[..., :3]
    return colours


def colour_points(weights: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return for the points of a cloud what ``pipeline.clouds.draw_cloud`` takes: brighter and larger for more.

    Args:
        weights: (points,), the attention that each gets.

    Returns:
        Colours (points, 3) and sizes (points,), from 0 to 1.
    """
    top = find_top(weights)
    sizes = np.clip(weights / top, 0, 1)
    return UNREAD * (1 - sizes[:, None]) + colour_weights(weights, top) * sizes[:, None], sizes


def choose_factor(width: int, tile_pixels: int = MIN_TILE_PIXELS) -> int:
    """Return the whole factor that makes a picture at least as wide as a tile."""
    return max(1, math.ceil(tile_pixels / width))


def draw_input(picture: Pixels, tile_pixels: int = MIN_TILE_PIXELS) -> Pixels:
    """Draw an input as it is, enlarged.

    Args:
        picture: (channels, height, width); three channels are colours, of other numbers the first is grey.
        tile_pixels: it becomes at least as wide.

    Returns:
        (height, width, 3).
    """
    colours = picture if len(picture) == 3 else picture[[0, 0, 0]]
    return _enlarge(rearrange(colours, "channel row column -> row column channel"), tile_pixels)


def draw_overlay(picture: Pixels, weights: Floats, top: float, tile_pixels: int = MIN_TILE_PIXELS) -> Pixels:
    """Draw weights over an input in grey, enlarged.

    Args:
        picture: (channels, height, width).
        weights: (height, width), of each pixel.
        top: the weight that gets the brightest colour.
        tile_pixels: it becomes at least as wide.

    Returns:
        (height, width, 3).
    """
    return _enlarge(blend(picture.mean(axis=0), weights, top), tile_pixels)


def blend(grey: Floats, weights: Floats, top: float) -> Pixels:
    """Lay colours over a dimmed grey picture, the denser the higher the weight.

    Args:
        grey: (height, width), black 0 and white 255.
        weights: (height, width).
        top: the weight that gets the brightest colour.

    Returns:
        (height, width, 3).
    """
    dimmed = grey[..., None] / 255 * DIMMED
    opacity = STRONGEST * np.clip(weights / top, 0, 1)[..., None]
    mixed = dimmed * (1 - opacity) + colour_weights(weights, top) * opacity
    pixels: Pixels = np.round(mixed * 255).astype(np.uint8)
    return pixels


def draw_weights(weights: Floats, top: float, tile_pixels: int = MIN_TILE_PIXELS) -> Pixels:
    """Draw a matrix of weights, such as those between latents, enlarged; returns (height, width, 3)."""
    return _enlarge(np.round(colour_weights(weights, top) * 255).astype(np.uint8), tile_pixels)


def attention_sheet(rows: Sequence[SheetRow], titles: Sequence[str], heading: str) -> bytes:
    """Lay examples out below each other: the input, and beside it its maps.

    Args:
        rows: the examples; all have the same number of maps and the same size.
        titles: of the maps, above each.
        heading: on top of the sheet.

    Returns:
        PNG bytes; the same arguments give the same bytes.

    Raises:
        UserError: no rows, or not a title and a note for each map.
    """
    if not rows or any(not len(row.panels) == len(row.notes) == len(titles) for row in rows):
        raise UserError("attention sheet: needs one example or more, with a title and a note for each map.")
    font, bold = load_font("DejaVuSans.ttf"), load_font("DejaVuSans-Bold.ttf")
    margin, line_height = 10, CAPTION_PIXELS + 5
    height = max(picture.shape[0] for row in rows for picture in (row.picture, *row.panels))
    width = max(picture.shape[1] for row in rows for picture in (row.picture, *row.panels))
    num_columns = min(MAX_PANELS, len(titles), max(1, MAX_SHEET_PIXELS // (width + margin) - 1))
    num_lines = math.ceil(len(titles) / num_columns)
    caption_height = line_height * max(row.caption.count("\n") + 1 for row in rows)
    step_x, step_y = width + margin, line_height + height + line_height + margin
    row_height = max(num_lines * step_y, line_height + height + caption_height + margin)
    top = margin + line_height + margin
    size = (margin + (1 + num_columns) * step_x, top + len(rows) * row_height + line_height + margin)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((margin, margin), fit_text(heading, bold, size[0] - 2 * margin), fill=INK, font=bold)
    for row_index, row in enumerate(rows):
        y = top + row_index * row_height
        draw.text((margin, y), "input", fill=SOFT_INK, font=font)
        sheet.paste(Image.fromarray(row.picture), (margin, y + line_height))
        for line_index, line in enumerate(row.caption.split("\n")):
            place = (margin, y + line_height + height + 3 + line_index * line_height)
            draw.text(place, fit_text(line, font, width), fill=INK, font=font)
        for panel_index, (panel, title, note) in enumerate(zip(row.panels, titles, row.notes, strict=True)):
            panel_x = margin + (1 + panel_index % num_columns) * step_x
            panel_y = y + panel_index // num_columns * step_y
            draw.text((panel_x, panel_y), fit_text(title, font, width), fill=SOFT_INK, font=font)
            sheet.paste(Image.fromarray(panel), (panel_x, panel_y + line_height))
            text = fit_text(note, font, width)
            draw.text((panel_x, panel_y + line_height + height + 3), text, fill=SOFT_INK, font=font)
    _draw_scale(sheet, (margin, size[1] - line_height - margin // 2))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _draw_scale(sheet: Image.Image, place: tuple[int, int]) -> None:
    """Draw the colours from none to most, at the foot of a sheet."""
    font, draw = load_font("DejaVuSans.ttf"), ImageDraw.Draw(sheet)
    bar = np.round(colour_weights(np.linspace(0, 1, 120), 1.0) * 255).astype(np.uint8)
    x, y = place
    draw.text((x, y), "none", fill=SOFT_INK, font=font)
    start = x + math.ceil(font.getlength("none")) + 6
    sheet.paste(Image.fromarray(np.repeat(bar[None], CAPTION_PIXELS, axis=0)), (start, y + 1))
    draw.text((start + 126, y), "most in that map", fill=SOFT_INK, font=font)


def _enlarge(picture: Pixels, tile_pixels: int) -> Pixels:
    """Repeat pixels until a picture is as wide as a tile."""
    factor = choose_factor(picture.shape[1], tile_pixels)
    return np.repeat(np.repeat(picture, factor, axis=0), factor, axis=1)
