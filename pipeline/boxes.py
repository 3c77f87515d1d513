"""Rectangles in pictures: where a random part is erased or, with cutmix, pasted."""

import math

import torch

from pipeline.config import AugmentConfig

# How much higher than wide an erased box may be, or wider than high: arXiv 1708.04896 on random erasing.
LARGEST_ASPECT = 1 / 0.3


def draw_erased_boxes(
    config: AugmentConfig, num_pictures: int, height: int, width: int, generator: torch.Generator, device: torch.device
) -> torch.Tensor:
    """Draw the box that each picture loses; most have none where the probability is low.

    Area and place are uniform and the ratio of the sides is log-uniform. A side that would be longer than the
    picture is cut to it, so that a large and slim box has less than the drawn area.

    Args:
        config: how often, and between which parts of the picture's area.
        num_pictures: boxes to draw.
        height: of the pictures in pixels.
        width: of the pictures in pixels.
        generator: the source of all draws; it lives on ``device``.
        device: where the pictures are.

    Returns:
        (pictures, 4) int64: the first row, the row after the last, the first column and the column after the
        last; an empty box for a picture that is left whole.
    """

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(num_pictures, generator=generator, device=device)

    chosen = uniform(0, 1) < config.erase_probability
    area = uniform(*config.erase_area) * (height * width)
    aspect = torch.exp(uniform(-math.log(LARGEST_ASPECT), math.log(LARGEST_ASPECT)))
    box_height = (area * aspect).sqrt().round().clamp(1, height)
    box_width = (area / aspect).sqrt().round().clamp(1, width)
    top = (uniform(0, 1) * (height - box_height + 1)).floor()
    left = (uniform(0, 1) * (width - box_width + 1)).floor()
    bottom = torch.where(chosen, top + box_height, top)
    return torch.stack([top, bottom, left, left + box_width], dim=-1).long()


def cover_boxes(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Say which pixels lie in the boxes.

    Args:
        boxes: (pictures, 4) as :func:`draw_erased_boxes` returns them.
        height: of the pictures in pixels.
        width: of the pictures in pixels.

    Returns:
        (pictures, 1, height, width) bool.
    """
    top, bottom, left, right = boxes[:, :, None, None].unbind(dim=1)
    rows = torch.arange(height, device=boxes.device)[:, None]
    columns = torch.arange(width, device=boxes.device)
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    return inside[:, None]


def erase_boxes(images: torch.Tensor, boxes: torch.Tensor | None) -> torch.Tensor:
    """Erase a box of each picture.

    Args:
        images: (batch, channels, height, width), normalised: 0 is the mean of the training pictures.
        boxes: (batch, 4), or None where nothing is erased.

    Returns:
        The pictures with 0, the mean, in all channels of their boxes.
    """
    if boxes is None:
        return images
    return images.masked_fill(cover_boxes(boxes, *images.shape[-2:]), 0.0)
