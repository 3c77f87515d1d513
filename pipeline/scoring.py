"""What a trained model says about pictures."""

from typing import Any

import numpy as np
import torch

from pipeline.classifier import Classifier
from pipeline.examples import read_images
from pipeline.slicing import Stack


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
