"""The order of permuted pixels, drawn alike by the model and by the figures, which need no torch."""

import hashlib


def compute_pixel_order(num_pixels: int, seed: int) -> list[int]:
    """Draw an order of pixels that is the same on every machine, device and version of any library.

    Pixels are sorted by the SHA-256 of ``seed/pixel``, because random number generators are free to change what
    they draw, and a checkpoint keeps the seed alone.

    Args:
        num_pixels: The number of pixels of an image, rows one after the other.
        seed: The seed of the order.

    Returns:
        For each place, the pixel that comes to lie there; each pixel once.
    """
    keys = [hashlib.sha256(f"{seed}/{pixel}".encode()).digest() for pixel in range(num_pixels)]
    return sorted(range(num_pixels), key=keys.__getitem__)
