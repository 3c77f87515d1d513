"""Colours of attention: over inputs, between latents, and the scale below a sheet of maps.

The inputs stay grey and attention is colour from dark violet to yellow, whose lightness grows with the weight, so
that readers need not distinguish hues. Nothing is made smaller, and pixels are enlarged by whole factors only.
"""

import math
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.reporting.figures.image_grid import (
    FONT_PIXELS,
    LINE_PIXELS,
    MARGIN,
    MIN_TILE_PIXELS,
    enlarge,
    measure_text,
    write_text,
)
from pipeline.reporting.figures.style import PAPER, SOFT_INK

COLOURS = "plasma"
DIMMED = 0.55  # the fraction of the input's own brightness that is left below attention
STRONGEST = 0.85  # the opacity of the highest weight
# The colour of the highest weight begins here: a single input that stands out would leave all others dark.
TOP_PERCENTILE = 99.5
UNREAD = 0.33  # the grey of points that get no attention
SCALE_PIXELS, SCALE_GAP = 120, 6
MOST = "most in that map"
TINY = float(np.finfo(np.float32).tiny)

Floats = NDArray[np.floating[Any]]
Pixels = NDArray[np.uint8]


def spread_over_pixels(weights: Floats, image_size: tuple[int, int], cell_pixels: int) -> NDArray[np.float64]:
    """Spread the weight of each input evenly over its pixels.

    Pixels after the last whole cell, where the side is no multiple of the cell, belong to the nearest one.

    Args:
        weights: The weights of the inputs, (..., rows, columns).
        image_size: The height and the width of the image in pixels.
        cell_pixels: The side of an input's square in pixels.

    Returns:
        (..., height, width) with the same sums.
    """
    by_input = np.asarray(weights, dtype=np.float64)
    rows, columns = (
        np.minimum(np.arange(size) // cell_pixels, count - 1)
        for size, count in zip(image_size, by_input.shape[-2:], strict=True)
    )
    num_pixels = np.bincount(rows)[:, None] * np.bincount(columns)[None, :]
    spread: NDArray[np.float64] = (by_input / num_pixels)[..., rows[:, None], columns[None, :]]
    return spread


def find_top(weights: Floats) -> float:
    """Return the lowest weight that gets the brightest colour; above 0."""
    top = float(np.percentile(weights, TOP_PERCENTILE))
    return top if top > 0 else max(float(np.max(weights)), TINY)


def colour_weights(weights: Floats, top: float) -> NDArray[np.float64]:
    """Return red, green and blue from 0 to 1 for each weight, (..., 3)."""
    colours: NDArray[np.float64] = matplotlib.colormaps[COLOURS](np.clip(weights / top, 0, 1))[..., :3]
    return colours


def colour_points(weights: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return colours and sizes for the points of a cloud: brighter and larger for more attention.

    Args:
        weights: The attention that each point gets, (points,).

    Returns:
        Colours (points, 3) and sizes (points,), from 0 to 1.
    """
    top = find_top(weights)
    sizes = np.clip(weights / top, 0, 1)
    return UNREAD * (1 - sizes[:, None]) + colour_weights(weights, top) * sizes[:, None], sizes


def draw_overlay(image: Pixels, weights: Floats, top: float, tile_pixels: int = MIN_TILE_PIXELS) -> Pixels:
    """Draw weights over an input in grey, enlarged.

    Args:
        image: The input, (channels, height, width).
        weights: The weight of each pixel, (height, width).
        top: The weight that gets the brightest colour.
        tile_pixels: The least width of the drawing in pixels.

    Returns:
        The drawing, (height, width, 3).
    """
    return enlarge(blend(image.mean(axis=0), weights, top), tile_pixels)


def blend(grey: Floats, weights: Floats, top: float) -> Pixels:
    """Lay colours over a dimmed grey image, the denser the higher the weight.

    Args:
        grey: The image, (height, width), black 0 and white 255.
        weights: The weight of each pixel, (height, width).
        top: The weight that gets the brightest colour.

    Returns:
        The mixed colours, (height, width, 3).
    """
    dimmed = grey[..., None] / 255 * DIMMED
    opacity = STRONGEST * np.clip(weights / top, 0, 1)[..., None]
    mixed = dimmed * (1 - opacity) + colour_weights(weights, top) * opacity
    pixels: Pixels = np.round(mixed * 255).astype(np.uint8)
    return pixels


def draw_scale() -> Image.Image:
    """Draw the colours from none to most, for the foot of a sheet."""
    bar = np.round(colour_weights(np.linspace(0, 1, SCALE_PIXELS), 1.0) * 255).astype(np.uint8)
    start = math.ceil(measure_text("none")) + SCALE_GAP
    end = start + SCALE_PIXELS + SCALE_GAP
    size = (end + math.ceil(measure_text(MOST)), LINE_PIXELS + MARGIN // 2)
    scale = Image.new("RGB", size, PAPER)
    write_text(scale, (0, 0), "none", SOFT_INK)
    scale.paste(Image.fromarray(np.repeat(bar[None], FONT_PIXELS, axis=0)), (start, 1))
    write_text(scale, (end, 0), MOST, SOFT_INK)
    return scale
