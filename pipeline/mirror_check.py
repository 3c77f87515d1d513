"""The mirror check: a left knee in the mirror is a right one, and a model that reads the knee must say so."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.augment import LATERALITY
from pipeline.classifier import Classifier, average_mirrored
from pipeline.config import Plane
from pipeline.examples import read_images
from pipeline.kinds import Kind


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


def shows_laterality(kind: Kind, class_names: Sequence[str], plane: Plane) -> bool:
    """Tell whether a mirror image is one of the other label: left and right, in axial or coronal slices."""
    return kind == "volumes" and tuple(class_names) == LATERALITY and plane != "sagittal"


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
