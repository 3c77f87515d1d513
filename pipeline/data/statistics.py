"""Brightness and contrast of the training volumes, to notice a new one that is far from all of them.

Slices are windowed before a model sees them, so that scanner units do not matter; what differs is the fraction of
the image that is black, or bright: another sequence, another field of view, another body part.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pipeline.core.array_types import Array
from pipeline.core.errors import UserError
from pipeline.data.batches import Examples, read_images

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
# Quantiles of fewer volumes are of little use.
MIN_VOLUMES = 8


def compute_statistics(
    examples: Examples, chunk: int = 4096, are_slices: bool = False
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute each channel's mean and standard deviation over all pixels, with black 0 and white 1.

    Sums are whole numbers, so that neither order nor device changes a digit.

    Args:
        examples: The training split and no other.
        chunk: The number of images that are read at once; a whole scan has as many as it has slices.
        are_slices: Whether the channels are the slices of a volume, which have one scale; some may be black.

    Returns:
        Means and standard deviations, one a channel; of whole scans, whose padding does not count, one for all slices.

    Raises:
        UserError: a channel has the same value everywhere.
    """
    are_scans = examples.slice_position.ndim == 3
    step = max(1, chunk // examples.images.shape[1]) if are_scans else chunk
    chunks = (examples.rows[start : start + step] for start in range(0, len(examples), step))
    counts = np.sum([_count_levels(read_images(examples.images, rows).numpy()) for rows in chunks], axis=0)
    if are_scans:
        counts = counts.sum(axis=0, keepdims=True)
        num_padding = int(examples.slice_position[..., 0].isnan().sum())
        counts[0, 0] -= num_padding * examples.images.shape[-2] * examples.images.shape[-1]
    elif are_slices:
        counts = np.broadcast_to(counts.sum(axis=0), counts.shape)
    num_pixels = counts.sum(axis=1)
    mean = counts @ np.arange(256) / num_pixels
    std = np.sqrt(np.maximum(counts @ np.arange(256) ** 2 / num_pixels - mean**2, 0))
    if not (std > 0).all():
        raise UserError(
            "training images: a channel has the same value in every pixel, so there is nothing to learn from. "
            "Look at the contact sheet of the preprocess stage."
        )
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def _count_levels(images: Array) -> Array:
    """Count the pixels of each of 256 levels, ``(channels, 256)``."""
    return np.stack([np.bincount(channel.reshape(-1), minlength=256) for channel in np.moveaxis(images, 1, 0)])


@dataclass(frozen=True)
class IntensityReference:
    """Quantiles (0, 5, 50, 95 and 100 %) over the training volumes, with black 0 and white 1.

    Args:
        num_volumes: The number of volumes.
        mean: Quantiles of the volumes' mean grey level.
        std: Quantiles of the standard deviation over a volume's pixels.
    """

    num_volumes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def compute_reference(volumes: Iterable[Array]) -> IntensityReference:
    """Measure volumes.

    Args:
        volumes: Each ``(slices, height, width)`` uint8, as the model sees it; they are read one at a time.
    """
    measured = np.array([measure(images) for images in volumes])
    mean, std = np.quantile(measured, QUANTILES, axis=0).T.tolist()
    return IntensityReference(len(measured), tuple(mean), tuple(std))


def measure(images: Array) -> tuple[float, float]:
    """Return mean and standard deviation of a volume's pixels, with black 0 and white 1."""
    counts = np.bincount(np.asarray(images).reshape(-1), minlength=256)
    levels = np.arange(256) / 255
    mean = float(counts @ levels / counts.sum())
    return mean, float(np.sqrt(counts @ (levels - mean) ** 2 / counts.sum()))


def describe_distance(images: Array, reference: IntensityReference | None) -> str:
    """Describe in what a volume is far from those of training.

    Far is what lies beyond the 5 or 95 % quantile by more than the distance between the two; of numbers that are
    normally distributed one in a million does.

    Args:
        images: ``(slices, height, width)`` uint8.
        reference: The quantiles of the training volumes; None returns nothing.

    Returns:
        A sentence, or nothing where the volume is near.
    """
    if reference is None or reference.num_volumes < MIN_VOLUMES:
        return ""
    found = measure(images)
    names = ("mean", "standard deviation")
    for name, value, quantiles in zip(names, found, (reference.mean, reference.std), strict=True):
        low, high = quantiles[1], quantiles[3]
        if not low - (high - low) <= value <= high + (high - low):
            return f"intensities far from training's: {name} {value:.3f}, there {low:.3f} to {high:.3f}"
    return ""
