"""The columns of class probabilities, and the class that is predicted from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.array_types import Indices

# Averages that should be equal differ in the last digits with the order of the
# rows; rounding keeps a tie a tie. The first class name wins a tie.
TIE_DECIMALS = 12


def probability_columns(class_names: Sequence[str]) -> list[str]:
    """Return the names of the columns that hold the probabilities, in the order of the classes."""
    return [f"probability_{name}" for name in class_names]


def choose_classes(probabilities: NDArray[Any]) -> Indices:
    """Return the index of the largest probability along the last axis, of equal ones the first.

    Args:
        probabilities: ``(..., classes)``.

    Returns:
        ``(...)`` int64.
    """
    indices: Indices = np.asarray(probabilities, dtype=np.float64).round(TIE_DECIMALS).argmax(axis=-1)
    return indices


def choose_class(probabilities: NDArray[Any]) -> int:
    """Return :func:`choose_classes` of a single row ``(classes,)``."""
    return int(choose_classes(probabilities))


@dataclass(frozen=True)
class Mirrored:
    """The network's probabilities of slices and of their mirror images; ``(rows, classes)`` float32.

    Args:
        straight: Those of the slices, one pass each.
        mirrored: Those of the mirror images.
        is_averaged: Whether the classifier averages over both.
    """

    straight: NDArray[np.float32]
    mirrored: NDArray[np.float32]
    is_averaged: bool
