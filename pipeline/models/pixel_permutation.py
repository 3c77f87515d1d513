"""A fixed permutation of a picture's pixels: what a model learns of them must then come from their positions."""

import hashlib

import torch
from einops import rearrange
from torch import nn


def compute_pixel_order(num_pixels: int, seed: int) -> list[int]:
    """Draw an order of pixels that is the same on every machine, device and version of any library.

    Pixels are sorted by the SHA-256 of ``seed/pixel``, because random number generators are free to change what
    they draw, and a checkpoint keeps the seed alone.

    Args:
        num_pixels: of a picture, rows one after the other.
        seed: of the order.

    Returns:
        For each place, the pixel that comes to lie there; each pixel once.
    """
    keys = [hashlib.sha256(f"{seed}/{pixel}".encode()).digest() for pixel in range(num_pixels)]
    return sorted(range(num_pixels), key=keys.__getitem__)


class PixelPermutation(nn.Module):
    """Moves the pixels of every picture in the same way, all channels of a pixel together.

    Args:
        image_size: height and width in pixels.
        seed: of the order.
    """

    order: torch.Tensor
    inverse_order: torch.Tensor

    def __init__(self, image_size: tuple[int, int], seed: int) -> None:
        super().__init__()
        self.seed = seed
        order = torch.tensor(compute_pixel_order(image_size[0] * image_size[1], seed))
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("inverse_order", order.argsort(), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Permute pixels.

        Args:
            images: (..., height, width) of the size given.

        Returns:
            The same shape; the place ``i``, rows one after the other, holds the pixel ``order[i]``.
        """
        return _reorder(images, self.order)

    def undo(self, images: torch.Tensor) -> torch.Tensor:
        """Put permuted pixels, or a map of them such as attention, back to where the picture has them."""
        return _reorder(images, self.inverse_order)


def _reorder(images: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    pixels = rearrange(images, "... height width -> ... (height width)")[..., order]
    return rearrange(pixels, "... (height width) -> ... height width", height=images.shape[-2])
