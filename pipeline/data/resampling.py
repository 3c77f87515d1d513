"""Resampling along one axis, by area where it shrinks and linear where it grows."""

import numpy as np

from pipeline.core.array_types import Array


def resample(slices: Array, pixel_mm: tuple[float, float], spacing_mm: float | None, size: tuple[int, int]) -> Array:
    """Resample images about their centre; what lies outside them is black.

    Linear interpolation, its triangle widened to the output pixel where that is
    larger, so that fine detail is averaged and not aliased.

    Args:
        slices: ``(slices, rows, columns)`` float, black 0 and white 1; what is beyond is clipped.
        pixel_mm: The height and width of an input pixel.
        spacing_mm: The side of an output pixel; None fits the whole image into ``size``.
        size: The height and width of the output.

    Returns:
        ``(slices, height, width)`` uint8.
    """
    num_rows, num_columns = slices.shape[1:]
    if spacing_mm is None:
        spacing_mm = max(num_rows * pixel_mm[0] / size[0], num_columns * pixel_mm[1] / size[1])
    down = resampling_weights(num_rows, pixel_mm[0], size[0], spacing_mm)
    across = resampling_weights(num_columns, pixel_mm[1], size[1], spacing_mm)
    images = down @ np.clip(slices, 0, 1) @ across.T
    pixels: Array = np.floor(images * 255 + 0.5).clip(0, 255).astype(np.uint8)
    return pixels


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
    fractions: Array = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    return fractions.astype(np.float32)
