"""Mixup, cutmix and random erasing of normalised images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from pipeline.config.training import AugmentConfig

# How much higher than wide an erased box may be, or wider than high: arXiv 1708.04896 on random erasing.
LARGEST_ASPECT = 1 / 0.3


@dataclass(frozen=True)
class Mixture:
    """How the pictures of one device's share of a batch are mixed.

    Args:
        partners: (pictures,) int64, the picture that each is mixed with, by its place in the share.
        own_share: (pictures,) float32, what a picture keeps of itself and of its label; the rest is the partner's.
        boxes: (pictures, 4) int64, where the partner's pixels are pasted (cutmix), edges as in
            :func:`draw_erased_boxes`; None where all pixels are averaged (mixup).
    """

    partners: torch.Tensor
    own_share: torch.Tensor
    boxes: torch.Tensor | None = None


def draw_mixture(
    config: AugmentConfig,
    num_pictures: int,
    image_size: Sequence[int],
    generator: np.random.Generator,
    device: torch.device,
) -> Mixture | None:
    """Draw how a batch is mixed.

    Where both mixup and cutmix are on, each batch gets one of them, both as likely.

    Args:
        config: the alphas; nothing is drawn where both are 0.
        num_pictures: in this device's share of the batch.
        image_size: height and width in pixels.
        generator: the source of all draws.
        device: where the mixture is needed.

    Returns:
        The mixture, or None where neither is on.

    Source:
        Mixup arXiv 1710.09412, cutmix arXiv 1905.04899.
    """
    if config.mixup_alpha == 0 and config.cutmix_alpha == 0:
        return None
    is_cutmix = config.mixup_alpha == 0 or (config.cutmix_alpha > 0 and generator.random() < 0.5)
    alpha = config.cutmix_alpha if is_cutmix else config.mixup_alpha
    partners = torch.from_numpy(generator.permutation(num_pictures)).to(device)
    partner_share = generator.beta(alpha, alpha, num_pictures)
    boxes = None
    if is_cutmix:
        boxes = draw_pasted_boxes(partner_share, image_size, generator)
        # A box that reaches over the edge has lost a part: the labels follow the pixels that are there.
        partner_share = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2]) / (image_size[0] * image_size[1])
    return Mixture(
        partners=partners,
        own_share=torch.from_numpy((1 - partner_share).astype(np.float32)).to(device),
        boxes=None if boxes is None else torch.from_numpy(boxes).to(device),
    )


def draw_pasted_boxes(
    area: np.ndarray[Any, Any], image_size: Sequence[int], generator: np.random.Generator
) -> np.ndarray[Any, Any]:
    """Draw the place of boxes of the picture's own shape; their centres are uniform over the picture's pixels.

    Args:
        area: (pictures,) of the box before it is cut at the picture's edge, as a fraction of the picture's.
        image_size: height and width in pixels.
        generator: the source of all draws.

    Returns:
        (pictures, 4) int64: the first row, the row after the last, the first column, the column after the last.
    """
    edges = []
    for size in image_size:
        side = np.rint(size * np.sqrt(area)).astype(np.int64)
        start = generator.integers(0, size, len(area)) - side // 2
        edges += [np.clip(start, 0, size), np.clip(start + side, 0, size)]
    return np.stack(edges, axis=-1)


def mix_images(images: torch.Tensor, mixture: Mixture | None) -> torch.Tensor:
    """Mix pictures (batch, channels, height, width) with their partners; None leaves them as they are."""
    if mixture is None:
        return images
    if mixture.boxes is not None:
        return torch.where(cover_boxes(mixture.boxes, *images.shape[-2:]), images[mixture.partners], images)
    own_share = mixture.own_share[:, None, None, None]
    return own_share * images + (1 - own_share) * images[mixture.partners]


def mix_labels(labels: torch.Tensor, mixture: Mixture | None, num_classes: int) -> torch.Tensor:
    """Mix labels in the proportion of the pictures.

    Args:
        labels: (batch,) class indices.
        mixture: of the same pictures.
        num_classes: of the model.

    Returns:
        Probabilities (batch, classes) float32 that add up to 1; without a mixture the class indices.
    """
    if mixture is None:
        return labels
    one_hot = functional.one_hot(labels, num_classes).float()
    own_share = mixture.own_share[:, None]
    return own_share * one_hot + (1 - own_share) * one_hot[mixture.partners]


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

    chosen = uniform(0, 1) < config.random_erasing_probability
    area = uniform(*config.random_erasing_area) * (height * width)
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
