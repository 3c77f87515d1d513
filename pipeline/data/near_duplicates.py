"""Near-duplicates: perceptual hashes that differ in a few bits, and pixels that correlate."""

import numpy as np
from einops import rearrange

from pipeline.core.array_types import Array
from pipeline.data.hamming_search import find_close_hashes
from pipeline.data.resampling import resampling_weights

HASH_SIDE = 16
# In grey levels: a smaller step between neighbouring cells is noise on something flat.
MIN_STEP = 2.0
CHUNK = 512
# Of the pixels of two images: copies that were brightened, compressed or scaled a little correlate more.
MIN_CORRELATION = 0.99
MAX_LISTED = 100


def compute_perceptual_hashes(images: Array) -> Array:
    """Return ``(examples, 4)`` uint64: for each of 16 x 16 cells, whether its right neighbour is brighter.

    The hash ignores brightness, contrast and small noise, and changes with what is shown.

    Source:
        The difference hash of N. Krawetz, "Kind of Like That" (2013), at 256 bits.
    """
    height, width = images.shape[-2:]
    down = resampling_weights(height, 1.0, HASH_SIDE, height / HASH_SIDE)
    across = resampling_weights(width, 1.0, HASH_SIDE + 1, width / (HASH_SIDE + 1))
    hashes = []
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK].astype(np.float32)
        cells = down @ (chunk if chunk.ndim == 3 else chunk.mean(axis=1)) @ across.T
        brighter = np.diff(cells, axis=2) > MIN_STEP
        hashes.append(np.packbits(brighter.reshape(len(chunk), -1), axis=1).view(np.uint64))
    return np.concatenate(hashes)


def find_informative(images: Array) -> Array:
    """Return ``(examples,)``, whether an image has more than one grey level."""
    informative = [
        (chunk.max(axis=tuple(range(1, chunk.ndim))) > chunk.min(axis=tuple(range(1, chunk.ndim))))
        for chunk in (images[start : start + CHUNK] for start in range(0, len(images), CHUNK))
    ]
    return np.concatenate(informative)


def find_near_duplicates(
    images: Array,
    hashes: Array,
    informative: Array,
    codes: Array,
    max_bits: int,
    duplicates: list[tuple[int, int, int]],
) -> tuple[int, list[tuple[int, int, int]]]:
    """Compare images with those of the other splits, but for the pairs that are known as duplicates.

    Images that are mostly black have few bits that could differ, so pairs with close hashes are then compared pixel
    by pixel.

    Args:
        images: All examples of the store, ``(examples, height, width)`` or ``(examples, channels, height, width)``
            uint8.
        hashes: The perceptual hashes, ``(examples, 4)`` uint64.
        informative: A mask of the images with more than one grey level, ``(examples,)``.
        codes: The split of each example, ``(examples,)``.
        max_bits: The largest number of bits in which two hashes may differ.
        duplicates: The pairs that are known as duplicates: two rows, the smaller first, and 0 bits.

    Returns:
        How many pairs are alike, and those with the closest hashes.
    """
    rows = np.flatnonzero(informative)
    count, found = 0, np.zeros((0, 3), np.int64)
    num_kept = MAX_LISTED + len(duplicates)
    for first, second, bits in find_close_hashes(hashes[rows], codes[rows], max_bits):
        pairs = np.stack([rows[first], rows[second]], axis=1)
        alike = _correlate(images, pairs) >= MIN_CORRELATION
        count += int(alike.sum())
        found = _keep_closest(np.vstack([found, np.column_stack([pairs, bits])[alike]]), num_kept)
    known = {pair[:2] for pair in duplicates}
    near = [(int(a), int(b), int(distance)) for a, b, distance in found if (int(a), int(b)) not in known]
    return count - len(known), near


def _correlate(images: Array, pairs: Array) -> Array:
    """Return the correlation of the pixels of each pair of images, ``(pairs,)``; brightness does not matter."""
    correlations = [np.zeros(0, np.float32)]
    for chunk in list_chunks(pairs, CHUNK):
        first, second = (
            rearrange(images[chunk[:, side]].astype(np.float32), "pair ... -> pair (...)") for side in range(2)
        )
        first -= first.mean(axis=1, keepdims=True)
        second -= second.mean(axis=1, keepdims=True)
        product, scale = (first * second).sum(axis=1), (first**2).sum(axis=1) * (second**2).sum(axis=1)
        correlations.append(product / np.sqrt(scale))
    return np.concatenate(correlations)


def list_chunks(rows: Array, size: int) -> list[Array]:
    """Return the rows in arrays of ``size``, the last one shorter."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _keep_closest(found: Array, number: int) -> Array:
    """Return the pairs ``(pairs, 3)`` with the smallest distance, in the order of distance and rows."""
    if len(found) <= 1:
        return found
    order = np.lexsort((found[:, 1], found[:, 0], found[:, 2]))
    return found[order[:number]]
