"""A fixed permutation of an image's pixels, after which only their position embeddings relate neighbours."""

import torch
from einops import rearrange
from torch import nn

from pipeline.core.pixel_order import compute_pixel_order


class PixelPermutation(nn.Module):
    """A permutation of the pixels, the same for every image, all channels of a pixel together.

    Args:
        image_size: The height and the width in pixels.
        seed: The seed of the order.
    """

    order: torch.Tensor

    def __init__(self, image_size: tuple[int, int], seed: int) -> None:
        super().__init__()
        self.seed = seed
        order = torch.tensor(compute_pixel_order(image_size[0] * image_size[1], seed))
        self.register_buffer("order", order, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Permute pixels.

        Args:
            images: The images (..., height, width), of the size given.

        Returns:
            The same shape; the place ``i``, rows one after the other, holds the pixel ``order[i]``.
        """
        pixels = rearrange(images, "... height width -> ... (height width)")[..., self.order]
        return rearrange(pixels, "... (height width) -> ... height width", height=images.shape[-2])
