"""Attention over images, each map by itself and large enough to read.

The image is interpolated (cubic), because anatomy is smooth and its pixels are no finding. The weights are drawn as
a flat square for each input or, as an option, smoothly: linear between the centres of the inputs.
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter

from pipeline.attention.storage import AttentionMaps
from pipeline.reporting.attention.colours import blend, colour_points, find_top
from pipeline.reporting.attention.sheets import draw_matrix, list_maps, note_weights, spread_over_image
from pipeline.reporting.figures.point_cloud import draw_cloud

OVERLAY_PIXELS = 512  # the least width of a map

Interpolation = Literal["nearest", "smooth"]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Overlay:
    """One map over one example.

    Args:
        example: The index of the example in the maps.
        name: The name of the file, without ``.png``.
        title: The layer, the head and the latent.
        note: The spread of the attention and, over an image, the place of the most-read part.
        png: The PNG file.
    """

    example: int
    name: str
    title: str
    note: str
    png: bytes


def draw_overlays(maps: AttentionMaps, images: Sequence[NDArray[Any]], interpolation: Interpolation) -> list[Overlay]:
    """Draw every map of every example by itself.

    Args:
        maps: The maps.
        images: The image below the maps of each example: the stored example, or the same field of view in more
            pixels, a whole multiple of the stored ones.
        interpolation: The interpolation of the weights; matrices between latents and point clouds have none.

    Returns:
        The overlays, example by example, in each layer by layer, head by head, latent by latent.
    """
    return [
        Overlay(
            example,
            f"{name_example(maps, example)}_{one.file_name}",
            one.title,
            _write_note(maps, image, one.weights),
            save_pixels(_draw(maps, image, one.weights, interpolation)),
        )
        for example, image in enumerate(images)
        for one in list_maps(maps, example)
    ]


def name_example(maps: AttentionMaps, example: int) -> str:
    """Return the start of an example's file names: its index and its id, other characters than letters replaced."""
    return f"{example:02d}_{re.sub(r'[^A-Za-z0-9.-]+', '_', maps.example_ids[example])[-80:]}"


def draw_plain(image: NDArray[Any]) -> bytes:
    """Draw an example in the size of its maps, in its own colours."""
    if image.ndim == 2:
        return save_pixels(draw_cloud(image, side=OVERLAY_PIXELS))
    return save_pixels(_interpolate(image, _choose_size(image, image.shape[-2:])))


def draw_large(image: Pixels, weights: NDArray[np.float64], interpolation: Interpolation) -> Pixels:
    """Draw weights over an image, at least ``OVERLAY_PIXELS`` wide.

    Args:
        image: The image, (channels, height, width), with as many pixels as the weights or a whole multiple of them.
        weights: The weight of each stored pixel, (height, width).
        interpolation: The interpolation of the weights: nearest keeps each weight's square, smooth is linear between
            neighbouring pixels.

    Returns:
        The drawing, (height, width, 3).
    """
    size = _choose_size(image, weights.shape)
    factor = size[0] // weights.shape[0]
    large = np.repeat(np.repeat(weights, factor, axis=0), factor, axis=1)
    if interpolation == "smooth":
        large = smooth(large, factor)
    return blend(_interpolate(image, size).mean(axis=-1), large, find_top(weights))


def smooth(weights: NDArray[np.float64], num_pixels: int) -> NDArray[np.float64]:
    """Take the mean over a square around each pixel; flat squares of that size become linear interpolation.

    Args:
        weights: The weights, (height, width); values beyond the border are those at the border.
        num_pixels: The side of the square in pixels.

    Returns:
        The means, (height, width).
    """
    means: NDArray[np.float64] = uniform_filter(weights, num_pixels, mode="nearest")
    return means


def save_pixels(pixels: Pixels) -> bytes:
    """Return pixels (height, width, 3) as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _draw(
    maps: AttentionMaps, image: NDArray[Any], weights: NDArray[np.floating[Any]], interpolation: Interpolation
) -> Pixels:
    if maps.kind == "self":
        return draw_matrix(weights, OVERLAY_PIXELS)
    if image.ndim == 2:
        return draw_cloud(image, *colour_points(weights.reshape(-1)), side=OVERLAY_PIXELS)
    spread = spread_over_image(maps, weights)
    if interpolation == "smooth" and maps.cell_pixels > 1:
        # Linear between the centres of the inputs, not between the pixels of one input.
        spread = smooth(spread, maps.cell_pixels)
    return draw_large(image, spread, interpolation)


def _write_note(maps: AttentionMaps, image: NDArray[Any], weights: NDArray[np.floating[Any]]) -> str:
    note = note_weights(weights, maps.kind)
    if maps.kind == "self" or image.ndim == 2:
        return note
    spread = spread_over_image(maps, weights)
    # The centre of the most-read input, in percent of the image's height and width.
    down, across = np.argwhere(spread >= spread.max() * (1 - 1e-9)).mean(axis=0) + 0.5
    height, width = spread.shape
    return f"{note}; most read {100 * across / width:.0f} % across, {100 * down / height:.0f} % down"


def _choose_size(image: NDArray[Any], stored: tuple[int, ...]) -> tuple[int, int]:
    """Return the least height and width that are whole multiples of both the stored and the drawn pixels."""
    ratio = image.shape[-2] // stored[-2]
    assert image.shape[-2:] == (ratio * stored[-2], ratio * stored[-1]), "the image has another field of view"
    factor = ratio * max(1, math.ceil(OVERLAY_PIXELS / image.shape[-1]))
    return factor * stored[-2], factor * stored[-1]


def _interpolate(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Return an image of (channels, rows, columns), or a volume's middle slice, interpolated to (height, width, 3)."""
    colours = image if len(image) == 3 else image[[len(image) // 2] * 3]
    pixels = Image.fromarray(np.ascontiguousarray(np.moveaxis(colours, 0, -1)))
    return np.asarray(pixels.resize((size[1], size[0]), Image.Resampling.BICUBIC))
