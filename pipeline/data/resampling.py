"""Resampling along one axis, by area where it shrinks and linear where it grows."""

import functools

import numpy as np

from pipeline.config.data import Fit
from pipeline.core.array_types import Array


def resample(
    slices: Array,
    limits: tuple[float, float],
    pixel_mm: tuple[float, float],
    spacing_mm: float | None,
    size: tuple[int, int],
    fit: Fit = "pad",
) -> Array:
    """Resample images about their centre; what lies outside them is black.

    Linear interpolation, its triangle widened to the output pixel where that is
    larger, so that fine detail is averaged and not aliased.

    Args:
        slices: ``(slices, rows, columns)`` of any numbers.
        limits: The levels that become black and white; what is beyond is clipped.
        pixel_mm: The height and width of an input pixel.
        spacing_mm: The side of an output pixel; None fits the image into ``size``.
        size: The height and width of the output.
        fit: How it is fitted where there is no spacing: the whole of it (pad), so that it fills ``size`` (crop), or
            height and width by themselves (stretch).

    Returns:
        ``(slices, height, width)`` uint8.
    """
    num_rows, num_columns = slices.shape[1:]
    row_mm, column_mm = choose_spacing((num_rows, num_columns), pixel_mm, size, fit)
    if spacing_mm is not None:
        row_mm = column_mm = spacing_mm
    down = resampling_weights(num_rows, pixel_mm[0], size[0], row_mm)
    across = resampling_weights(num_columns, pixel_mm[1], size[1], column_mm)
    images = np.empty((len(slices), *size), np.float32)
    for image, given in zip(images, slices, strict=True):
        # One after the other and in place: new arrays cost more than what is computed on them.
        levels = np.subtract(given, limits[0], dtype=np.float32)
        levels /= limits[1] - limits[0]
        image[:] = down @ np.clip(levels, 0, 1, out=levels) @ across.T
    pixels: Array = np.floor(images * 255 + 0.5).clip(0, 255).astype(np.uint8)
    return pixels


def choose_spacing(
    num_pixels: tuple[int, int], pixel_mm: tuple[float, float], size: tuple[int, int], fit: Fit
) -> tuple[float, float]:
    """Return the height and width of an output pixel that fit an image into a size.

    An image of 100 x 50 pixels of 1 mm in 10 x 10 gets pixels of 10 mm (pad), of 5 mm (crop), or 10 x 5 mm (stretch).

    Args:
        num_pixels: The rows and columns of the image.
        pixel_mm: The height and width of its pixels.
        size: The height and width of the output in pixels.
        fit: How it is fitted.
    """
    rows_mm, columns_mm = (count * mm / side for count, mm, side in zip(num_pixels, pixel_mm, size, strict=True))
    if fit == "stretch":
        return rows_mm, columns_mm
    side_mm = max(rows_mm, columns_mm) if fit == "pad" else min(rows_mm, columns_mm)
    return side_mm, side_mm


@functools.lru_cache(maxsize=64)
def resampling_weights(num_in: int, in_mm: float, num_out: int, out_mm: float) -> Array:
    """Return the ``(num_out, num_in)`` float32 matrix that resamples one axis about its centre.

    A row sums to one where the output pixel's centre lies inside the image and to zero elsewhere.

    Args:
        num_in: The number of input pixels.
        in_mm: The size of an input pixel.
        num_out: The number of output pixels.
        out_mm: The size of an output pixel.
    """
    centres_in = (np.arange(num_in) - (num_in - 1) / 2) * in_mm
    centres_out = (np.arange(num_out) - (num_out - 1) / 2) * out_mm
    reach = max(in_mm, out_mm)
    weights = np.clip(1 - np.abs(centres_out[:, None] - centres_in[None, :]) / reach, 0, None)
    weights[np.abs(centres_out) > num_in * in_mm / 2] = 0
    total = weights.sum(axis=1, keepdims=True)
    fractions: Array = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0).astype(np.float32)
    fractions.flags.writeable = False  # it is kept for images of the same size
    return fractions
