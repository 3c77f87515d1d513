"""Pictures made small for models that want one number a block of pixels."""

import numpy as np
from einops import rearrange, reduce
from numpy.typing import NDArray

MAX_POOLED_SIZE = 64  # pixels along the longer side
POOLED_ROWS_AT_ONCE = 1024


def pool_images(images: NDArray[np.uint8], rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    """Average images over square blocks until both sides have at most 64 pixels.

    Rows and columns that fill no whole block are cut off, evenly from both ends.

    Args:
        images: ``(rows, height, width)`` or ``(rows, channels, height, width)``.
        rows: which of them; all if None.

    Returns:
        ``(rows, channels * pooled height * pooled width)`` float32, still 0 to 255.
    """
    rows = np.arange(len(images)) if rows is None else rows
    height, width = images.shape[-2:]
    factor = choose_pooling(height, width)
    top, left = (height % factor) // 2, (width % factor) // 2
    bottom, right = top + height // factor * factor, left + width // factor * factor
    num_pixels = (height // factor) * (width // factor) * int(np.prod(images.shape[1:-2], dtype=np.int64))
    pooled = np.empty((len(rows), num_pixels), dtype=np.float32)
    for start in range(0, len(rows), POOLED_ROWS_AT_ONCE):
        batch = images[rows[start : start + POOLED_ROWS_AT_ONCE], ..., top:bottom, left:right]
        blocks = reduce(batch.astype(np.float32), "... (y dy) (x dx) -> ... y x", "mean", dy=factor, dx=factor)
        pooled[start : start + len(batch)] = rearrange(blocks, "row ... -> row (...)")
    return pooled


def choose_pooling(height: int, width: int) -> int:
    """Return the side of the blocks, in pixels, that pictures are averaged over."""
    return min(-(-max(height, width) // MAX_POOLED_SIZE), height, width)
