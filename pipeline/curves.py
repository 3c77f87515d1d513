"""The points of ROC and calibration curves."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas
from numpy.typing import NDArray

from pipeline.bootstrap import NUM_CALIBRATION_BINS, assign_bins
from pipeline.metrics import read_class_indices, read_probabilities
from pipeline.ranking import divide

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RocCurve:
    """Points of a ROC curve from (0, 0) to (1, 1), one for each distinct score.

    Attributes:
        false_positive_rate: ``(points,)``, never falling.
        true_positive_rate: ``(points,)``, never falling.
    """

    false_positive_rate: Floats
    true_positive_rate: Floats


def compute_roc_curves(predictions: pandas.DataFrame, class_names: Sequence[str]) -> dict[str, RocCurve]:
    """Return a ROC curve for the last of two classes, or for each of several against the rest.

    A class that no row, or every row, has as its label is left out.
    """
    labels = read_class_indices(predictions["label"], class_names)
    probabilities = read_probabilities(predictions, class_names)
    first = 1 if len(class_names) == 2 else 0
    return {
        class_names[index]: compute_roc_curve(labels == index, probabilities[:, index])
        for index in range(first, len(class_names))
        if 0 < (labels == index).sum() < len(labels)
    }


def compute_roc_curve(is_positive: NDArray[np.bool_], scores: Floats) -> RocCurve:
    """Lower the threshold from above the highest score to the lowest; equal scores move together.

    Args:
        is_positive: ``(rows,)``, with at least one of each kind.
        scores: ``(rows,)``, higher means more likely positive.
    """
    order = np.argsort(-scores, kind="stable")
    is_last_of_ties = np.append(np.diff(scores[order]) != 0, True)
    true_positives = np.cumsum(is_positive[order])[is_last_of_ties]
    false_positives = np.cumsum(~is_positive[order])[is_last_of_ties]
    return RocCurve(
        false_positive_rate=np.append(0.0, false_positives / false_positives[-1]),
        true_positive_rate=np.append(0.0, true_positives / true_positives[-1]),
    )


def compute_calibration_bins(
    predictions: pandas.DataFrame, class_names: Sequence[str], num_bins: int = NUM_CALIBRATION_BINS
) -> pandas.DataFrame:
    """Compare confidence, the highest probability of a row, with how often such rows are right.

    Returns:
        One row a bin with ``low``, ``high`` (its edges; the upper one belongs to it),
        ``count``, and ``confidence`` and ``accuracy``, the means of its rows, NaN in an empty bin.
    """
    confidence = read_probabilities(predictions, class_names).max(axis=1)
    is_right = (predictions["label"] == predictions["predicted"]).to_numpy(dtype=np.float64)
    bins = assign_bins(confidence, num_bins)
    count = np.bincount(bins, minlength=num_bins).astype(np.float64)
    edges = np.linspace(0, 1, num_bins + 1)
    return pandas.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "count": count.astype(int),
            "confidence": divide(np.bincount(bins, confidence, num_bins), count),
            "accuracy": divide(np.bincount(bins, is_right, num_bins), count),
        }
    )
