"""Mixup and cutmix: pictures that are partly another one, with labels in the same proportion.

Pictures are mixed within the share of a batch that one device holds, because it sees no other; so the number of
devices is part of what is drawn, as it is for dropout. The draws are made on the processor, whose beta distribution
takes a generator, and are a few numbers a picture.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from pipeline.boxes import cover_boxes
from pipeline.config import AugmentConfig


@dataclass(frozen=True)
class Mixture:
    """How the pictures of one device's share of a batch are mixed.

    Args:
        partners: (pictures,) int64, the picture that each is mixed with, by its place in the share.
        own_share: (pictures,) float32, what a picture keeps of itself and of its label; the rest is the partner's.
        boxes: (pictures, 4) int64, where the partner's pixels are pasted (cutmix), edges as in
            :func:`pipeline.boxes.draw_erased_boxes`; None where all pixels are averaged (mixup).
    """

    partners: torch.Tensor
    own_share: torch.Tensor
    boxes: torch.Tensor | None = None


def draw_mixture(
    config: AugmentConfig,
    num_pictures: int,
    image_size: tuple[int, int],
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
    area: np.ndarray[Any, Any], image_size: tuple[int, int], generator: np.random.Generator
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
