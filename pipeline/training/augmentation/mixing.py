"""Mixup, cutmix and random erasing of normalised images."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from pipeline.config.training import AugmentConfig

# The largest ratio of an erased box's sides: arXiv 1708.04896 on random erasing.
LARGEST_ASPECT = 1 / 0.3
# Mixtures are drawn ahead for so many batches: of 64 images 3 MiB.
MIXTURES_AT_ONCE = 1024


@dataclass(frozen=True)
class Mixture:
    """The mixing of the images of one device's shard of a batch.

    Args:
        partners: The image that each is mixed with, by its place in the shard, (images,) int64.
        own_fraction: The fraction that an image keeps of itself and of its label, (images,) float32; the rest is the
            partner's.
        boxes: The boxes where the partner's pixels are pasted (cutmix), edges as in :func:`draw_erased_boxes`,
            (images, 4) int64; None where all pixels are averaged (mixup).
    """

    partners: torch.Tensor
    own_fraction: torch.Tensor
    boxes: torch.Tensor | None = None


def draw_mixture(
    config: AugmentConfig,
    num_images: int,
    image_size: Sequence[int],
    generator: np.random.Generator,
) -> Mixture | None:
    """Draw the mixture of a batch, on the processor.

    Where both mixup and cutmix are on, each batch gets one of them, both as likely.

    Args:
        config: The options with the alphas; nothing is drawn where both are 0.
        num_images: The number of images in this device's shard of the batch.
        image_size: The height and the width in pixels.
        generator: The random number generator of all draws.

    Returns:
        The mixture, or None where neither is on.

    Source:
        Mixup arXiv 1710.09412, cutmix arXiv 1905.04899.
    """
    if config.mixup_alpha == 0 and config.cutmix_alpha == 0:
        return None
    is_cutmix = config.mixup_alpha == 0 or (config.cutmix_alpha > 0 and generator.random() < 0.5)
    alpha = config.cutmix_alpha if is_cutmix else config.mixup_alpha
    partners = torch.from_numpy(generator.permutation(num_images))
    partner_fraction = generator.beta(alpha, alpha, num_images)
    boxes = None
    if is_cutmix:
        boxes = draw_pasted_boxes(partner_fraction, image_size, generator)
        # A box that reaches over the edge has lost a part: the labels follow the pixels that are there.
        partner_fraction = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2]) / (image_size[0] * image_size[1])
    return Mixture(
        partners=partners,
        own_fraction=torch.from_numpy((1 - partner_fraction).astype(np.float32)),
        boxes=None if boxes is None else torch.from_numpy(boxes),
    )


def draw_mixtures(
    config: AugmentConfig,
    shard_sizes: Sequence[int],
    image_size: Sequence[int],
    generator: np.random.Generator,
    device: torch.device,
) -> Iterator[Mixture | None]:
    """Draw the mixtures of an epoch's batches, many at once, so that a step copies nothing to the device.

    Args:
        config: The options with the alphas.
        shard_sizes: The number of images of this device's shard of each batch.
        image_size: The height and the width in pixels.
        generator: The random number generator of all draws.
        device: The device that the mixtures are needed on.

    Yields:
        The mixture of each batch, or None where neither is on.
    """
    for start in range(0, len(shard_sizes), MIXTURES_AT_ONCE):
        sizes = shard_sizes[start : start + MIXTURES_AT_ONCE]
        drawn = [mixture for size in sizes if (mixture := draw_mixture(config, size, image_size, generator))]
        if not drawn:
            yield from [None] * len(sizes)
            continue
        no_boxes = torch.zeros((0, 4), dtype=torch.int64)
        boxes = [no_boxes if mixture.boxes is None else mixture.boxes for mixture in drawn]
        partners = _copy_at_once([mixture.partners for mixture in drawn], device)
        own_fractions = _copy_at_once([mixture.own_fraction for mixture in drawn], device)
        for members in zip(partners, own_fractions, _copy_at_once(boxes, device), strict=True):
            yield Mixture(*members[:2], boxes=members[2] if len(members[2]) > 0 else None)


def _copy_at_once(parts: list[torch.Tensor], device: torch.device) -> Sequence[torch.Tensor]:
    """Copy tensors of one kind to the device together."""
    return torch.split(torch.cat(parts).to(device), [len(part) for part in parts])


def draw_pasted_boxes(
    area: np.ndarray[Any, Any], image_size: Sequence[int], generator: np.random.Generator
) -> np.ndarray[Any, Any]:
    """Draw the place of boxes of the image's own shape; their centres are uniform over the image's pixels.

    Args:
        area: The areas of the boxes before they are cut at the image's edge, as fractions of the image's, (images,).
        image_size: The height and the width in pixels.
        generator: The random number generator of all draws.

    Returns:
        (images, 4) int64: the first row, the row after the last, the first column, the column after the last.
    """
    edges = []
    for size in image_size:
        side = np.rint(size * np.sqrt(area)).astype(np.int64)
        start = generator.integers(0, size, len(area)) - side // 2
        edges += [np.clip(start, 0, size), np.clip(start + side, 0, size)]
    return np.stack(edges, axis=-1)


def mix_images(images: torch.Tensor, mixture: Mixture | None) -> torch.Tensor:
    """Mix images (batch, channels, height, width) with their partners; None leaves them as they are."""
    if mixture is None:
        return images
    if mixture.boxes is not None:
        return torch.where(cover_boxes(mixture.boxes, *images.shape[-2:]), images[mixture.partners], images)
    own_fraction = mixture.own_fraction[:, None, None, None]
    return own_fraction * images + (1 - own_fraction) * images[mixture.partners]


def mix_labels(labels: torch.Tensor, mixture: Mixture | None, num_classes: int) -> torch.Tensor:
    """Mix labels in the proportion of the images.

    Args:
        labels: The class indices (batch,).
        mixture: The mixture of the same images.
        num_classes: The number of classes of the model.

    Returns:
        Probabilities (batch, classes) float32 that add up to 1; without a mixture the class indices.
    """
    if mixture is None:
        return labels
    one_hot = functional.one_hot(labels, num_classes).float()
    own_fraction = mixture.own_fraction[:, None]
    return own_fraction * one_hot + (1 - own_fraction) * one_hot[mixture.partners]


def mix_weights(weights: torch.Tensor | None, mixture: Mixture | None) -> torch.Tensor | None:
    """Mix the weights of examples (batch,) in the proportion of their labels; None, for 1, stays None."""
    if weights is None or mixture is None:
        return weights
    return mixture.own_fraction * weights + (1 - mixture.own_fraction) * weights[mixture.partners]


def draw_erased_boxes(
    config: AugmentConfig, num_images: int, height: int, width: int, generator: torch.Generator, device: torch.device
) -> torch.Tensor:
    """Draw the box that each image loses; most have none where the probability is low.

    Area and place are uniform and the ratio of the sides is log-uniform. A side that would be longer than the
    image is cut to it, so that a large and slim box has less than the drawn area.

    Args:
        config: The options with the probability, and the fractions of the image's area.
        num_images: The number of boxes to draw.
        height: The height of the images in pixels.
        width: The width of the images in pixels.
        generator: The random number generator of all draws, on ``device``.
        device: The device of the images.

    Returns:
        (images, 4) int64: the first row, the row after the last, the first column and the column after the
        last; an empty box for an image that is left whole.
    """

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(num_images, generator=generator, device=device)

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
    """Mark the pixels that lie in the boxes.

    Args:
        boxes: The boxes as :func:`draw_erased_boxes` returns them, (images, 4).
        height: The height of the images in pixels.
        width: The width of the images in pixels.

    Returns:
        (images, 1, height, width) bool.
    """
    top, bottom, left, right = boxes[:, :, None, None].unbind(dim=1)
    rows = torch.arange(height, device=boxes.device)[:, None]
    columns = torch.arange(width, device=boxes.device)
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    return inside[:, None]


def erase_boxes(images: torch.Tensor, boxes: torch.Tensor | None) -> torch.Tensor:
    """Erase a box of each image.

    Args:
        images: The normalised images (batch, channels, height, width); 0 is the mean of the training images.
        boxes: The boxes (batch, 4), or None where nothing is erased.

    Returns:
        The images with 0, the mean, in all channels of their boxes.
    """
    if boxes is None:
        return images
    return images.masked_fill(cover_boxes(boxes, *images.shape[-2:]), 0.0)
