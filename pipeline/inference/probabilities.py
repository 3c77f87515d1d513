"""Probabilities of examples of a store, and of their mirror images: a left knee in the mirror is a right one."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data.batches import read_images
from pipeline.models.classifier import Classifier, average_mirrored
from pipeline.preprocessing.slicing import Stack


@dataclass(frozen=True)
class MirrorScores:
    """The probabilities of images and of their mirror images, ``(rows, classes)`` float32.

    Attributes:
        answers: The classifier's probabilities, as of ``compute_probabilities``, averaged or not.
        straight: The network's probabilities of the images.
        mirrored: The network's probabilities of the mirror images, as it saw them.
    """

    answers: NDArray[np.float32]
    straight: NDArray[np.float32]
    mirrored: NDArray[np.float32]


@torch.inference_mode()
def score_with_mirrored(
    classifier: Classifier,
    images: np.ndarray[Any, Any],
    slice_position: np.ndarray[Any, Any],
    device: torch.device,
    batch_size: int,
    rows: np.ndarray[Any, Any] | None = None,
) -> MirrorScores:
    """Score images and their mirror images.

    A classifier with test-time augmentation scores an image and its mirror image anyway, so the network's two answers
    cost nothing more. Of another classifier they cost a pass over the mirror images.

    Args:
        classifier: The classifier, on ``device``.
        images: The grey images of the store.
        slice_position: The places of the slices, ``(examples,)``.
        device: The device of the classifier.
        batch_size: The number of images scored at once.
        rows: The rows of the images that are scored, in this order; None for all.
    """
    rows = np.arange(len(images)) if rows is None else rows
    parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        batch_images = read_images(images, batch).to(device)
        places = torch.tensor(np.array(slice_position[batch], dtype=np.float32), device=device)
        straight, mirrored = classifier.score_both(batch_images, places)
        answers = average_mirrored(straight, mirrored) if classifier.mirror_average else straight
        parts.append((answers, straight, mirrored))
    return MirrorScores(*(torch.cat(part).exp().cpu().numpy() for part in zip(*parts, strict=True)))


@torch.inference_mode()
def compute_probabilities(
    classifier: Classifier,
    images: np.ndarray[Any, Any],
    slice_position: np.ndarray[Any, Any],
    device: torch.device,
    batch_size: int,
    rows: np.ndarray[Any, Any] | None = None,
) -> np.ndarray[Any, Any]:
    """Score examples as the store holds them, of which a batch at a time is read.

    Args:
        classifier: The classifier of ``build_from_checkpoint``, on ``device``.
        images: The images (examples, height, width) or (examples, channels, height, width) uint8; may be memory-mapped.
        slice_position: The places of the slices, (examples,) in [-1, 1].
        device: The device of the classifier.
        batch_size: The number of examples scored at once.
        rows: The rows of the examples that are scored, in this order; None for all.

    Returns:
        Probabilities (rows, classes) float32.
    """
    rows = np.arange(len(images)) if rows is None else rows
    parts = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        batch_images = read_images(images, batch).to(device)
        places = torch.tensor(np.array(slice_position[batch], dtype=np.float32), device=device)
        parts.append(classifier(batch_images, places).exp().cpu().numpy())
    return np.concatenate(parts)


def score_stack(classifier: Classifier, stack: Stack, device: torch.device, batch_size: int) -> np.ndarray[Any, Any]:
    """Score a volume: the mean over its slices.

    Args:
        classifier: The classifier of ``build_from_checkpoint``, on ``device``.
        stack: The slices of the volume.
        device: The device of the classifier.
        batch_size: The number of slices scored at once.

    Returns:
        Probabilities (classes,) float64.
    """
    slices = compute_probabilities(classifier, stack.images, stack.positions, device, batch_size)
    probabilities: np.ndarray[Any, Any] = slices.astype(np.float64).mean(axis=0)
    return probabilities
