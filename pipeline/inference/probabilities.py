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
    """What a model says of pictures and of their mirror images; probabilities ``(rows, classes)`` float32.

    Attributes:
        answers: the classifier's, as ``compute_probabilities`` gives them, averaged or not.
        straight: the network's, asked once a picture.
        mirrored: the network's of the mirror images, as it saw them.
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
    """Score pictures and their mirror images.

    A classifier that averages over a picture and its mirror image looks at both anyway: the network's two answers
    then cost nothing more. Of another classifier they cost a pass over the mirror images.

    Args:
        classifier: as for ``compute_probabilities``, as are the other arguments.
        images: grey pictures of the store.
        slice_position: ``(examples,)``.
        device: where the classifier is.
        batch_size: pictures scored at once.
        rows: which of the pictures are scored, in this order; None for all.
    """
    rows = np.arange(len(images)) if rows is None else rows
    parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        pictures = read_images(images, batch).to(device)
        places = torch.tensor(np.array(slice_position[batch], dtype=np.float32), device=device)
        straight, mirrored = classifier.score_both(pictures, places)
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
    """Score pictures as the store holds them, of which a batch at a time is read.

    Args:
        classifier: of ``build_from_checkpoint``, on ``device``.
        images: (examples, height, width) or (examples, channels, height, width) uint8; may be memory-mapped.
        slice_position: (examples,) in [-1, 1].
        device: where the classifier is.
        batch_size: pictures scored at once.
        rows: which of the examples are scored, in this order; None for all.

    Returns:
        Probabilities (rows, classes) float32.
    """
    rows = np.arange(len(images)) if rows is None else rows
    parts = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        pictures = read_images(images, batch).to(device)
        places = torch.tensor(np.array(slice_position[batch], dtype=np.float32), device=device)
        parts.append(classifier(pictures, places).exp().cpu().numpy())
    return np.concatenate(parts)


def score_stack(classifier: Classifier, stack: Stack, device: torch.device, batch_size: int) -> np.ndarray[Any, Any]:
    """Score a volume: the mean over its slices.

    Args:
        classifier: of ``build_from_checkpoint``, on ``device``.
        stack: the volume's slices.
        device: where the classifier is.
        batch_size: slices scored at once.

    Returns:
        Probabilities (classes,) float64.
    """
    slices = compute_probabilities(classifier, stack.images, stack.positions, device, batch_size)
    probabilities: np.ndarray[Any, Any] = slices.astype(np.float64).mean(axis=0)
    return probabilities
