"""Linear interpolation of many images at once, for alterations and for alignment.

scipy's interpolation takes one image a call, and to import it takes longer than to split a small data set.
"""

import numpy as np

from pipeline.core.array_types import Array


def sample(images: Array, down: Array, across: Array) -> tuple[Array, Array]:
    """Sample images at places between their pixels.

    Args:
        images: ``(images, height, width)`` float32.
        down: Places from the centre of the first row on, in pixels, ``(images or 1, places)``.
        across: Places from the centre of the first column on, as ``down``.

    Returns:
        The values, ``(images, places)``, those of the nearest border for places outside, and whether each place is
        inside its image, ``(images or 1, places)``.
    """
    count, height, width = images.shape
    is_inside = (down >= 0) & (down <= height - 1) & (across >= 0) & (across <= width - 1)
    row, below = _split(down, height)
    column, right = _split(across, width)
    place = row * width + column + np.arange(count)[:, None] * (height * width)
    flat = images.reshape(-1)
    # A place on the last row or column has no next one; its weight is then 0.
    corners = (flat.take(place + step, mode="clip") for step in (0, 1, width, width + 1))
    upper_left, upper_right, lower_left, lower_right = corners
    upper = upper_left + (upper_right - upper_left) * right
    lower = lower_left + (lower_right - lower_left) * right
    return upper + (lower - upper) * below, is_inside


def _split(places: Array, size: int) -> tuple[Array, Array]:
    """Return the pixel before each place, an int, and how far the place is beyond it, 0 to 1."""
    nearest = np.clip(places, 0, size - 1)
    pixel = np.minimum(nearest.astype(np.intp), max(size - 2, 0))
    return pixel, nearest - pixel.astype(nearest.dtype)
