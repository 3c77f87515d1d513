"""How well scores put positives above negatives, for any weights of the patients."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas
import scipy.sparse
from numpy.typing import NDArray

from pipeline.core.array_types import Floats, Indices
from pipeline.evaluation.bootstrap import MAX_CHUNK_NUMBERS, count_cells, divide
from pipeline.evaluation.predictions import read_class_indices, read_probabilities

# Up to this many patients the ranking is summed once into a table of patient pairs.
MAX_PAIRED_PATIENTS = 1024
# With many rows a patient the table pays for more of them: two million rows of 1,250 patients are ranked once in
# seconds, and anew for each of 2,000 resamples in two minutes.
MAX_PAIRED_PATIENTS_OF_MANY_ROWS = 4096
MANY_ROWS = 100


@dataclass(frozen=True)
class Ranking:
    """What the AUROC of one class needs.

    Between two neighbouring distinct scores of positives all negatives are
    equivalent, so rows are merged into ranks, the lowest scores first.

    Attributes:
        positives: ``(ranks, patients)`` sparse counts.
        negatives: ``(ranks, patients)`` sparse counts.
        pair_wins: ``(patients, patients)``: over all pairs of a positive of the row
            patient and a negative of the column patient, how often the positive
            scores higher, a tie counting one half. None for many patients.
    """

    positives: scipy.sparse.csr_array
    negatives: scipy.sparse.csr_array
    pair_wins: Floats | None


def build_ranking(scores: Floats, is_positive: NDArray[np.bool_], patients: Indices, num_patients: int) -> Ranking:
    """Sort the scores once and merge the rows that no threshold of a positive tells apart.

    Even ranks hold the negatives between two positives, odd ranks the positives of
    one distinct score together with the negatives that tie with them.
    """
    thresholds = np.unique(scores[is_positive])
    ranks = np.searchsorted(thresholds, scores, "left") + np.searchsorted(thresholds, scores, "right")
    shape = (2 * len(thresholds) + 1, num_patients)
    positives = count_cells(ranks[is_positive], patients[is_positive], shape)
    negatives = count_cells(ranks[~is_positive], patients[~is_positive], shape)
    has_many_rows = len(scores) >= MANY_ROWS * num_patients
    if num_patients > (MAX_PAIRED_PATIENTS_OF_MANY_ROWS if has_many_rows else MAX_PAIRED_PATIENTS):
        return Ranking(positives, negatives, None)
    return Ranking(positives, negatives, count_pair_wins(positives, negatives))


def count_pair_wins(positives: scipy.sparse.csr_array, negatives: scipy.sparse.csr_array) -> Floats:
    """Count how often a positive of each patient is ranked above a negative of each patient, ties one half.

    Neighbouring ranks are merged, two at a time: of the pairs inside a merged rank, those with the negative below
    count as they are merged. While a rank holds few patients such products of sparse tables are cheap; what is left
    is one product of dense tables. All are sums of halves, so no digit depends on their order.

    Args:
        positives: ``(ranks, patients)`` counts.
        negatives: ``(ranks, patients)`` counts.

    Returns:
        ``(patients, patients)``: positives' patients by negatives' patients.
    """
    num_patients = positives.shape[1]
    wins: Floats = (positives.T @ negatives).toarray() / 2
    while positives.shape[0] > 1 and 4 * (positives.nnz + negatives.nnz) <= num_patients * positives.shape[0]:
        upper = positives[1::2]
        wins += (upper.T @ negatives[::2][: upper.shape[0]]).toarray()
        positives, negatives = merge_ranks(positives), merge_ranks(negatives)
    below = np.zeros(num_patients)
    chunk_ranks = max(1, MAX_CHUNK_NUMBERS // num_patients)
    for start in range(0, positives.shape[0], chunk_ranks):
        counts = negatives[start : start + chunk_ranks].toarray()
        cumulative = np.cumsum(counts, axis=0) + below
        wins += positives[start : start + chunk_ranks].toarray().T @ (cumulative - counts)
        below = cumulative[-1].copy()
    return wins


def merge_ranks(counts: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """Add up each rank at an even place with the one after it, ``(half the ranks, patients)``."""
    cells = counts.tocoo()
    shape = ((counts.shape[0] + 1) // 2, counts.shape[1])
    return scipy.sparse.csr_array(scipy.sparse.coo_array((cells.data, (cells.row // 2, cells.col)), shape=shape))


def compute_auroc(ranking: Ranking, weights: Floats) -> Floats:
    """Compute the share of (positive, negative) pairs that are ranked rightly, ties one half.

    Args:
        ranking: the ranking of one class.
        weights: ``(resamples, patients)``.

    Returns:
        ``(resamples,)``; NaN where there is no positive or no negative.
    """
    num_positives = weights @ ranking.positives.sum(axis=0)
    num_negatives = weights @ ranking.negatives.sum(axis=0)
    if ranking.pair_wins is not None:
        wins = ((weights @ ranking.pair_wins) * weights).sum(axis=1)
    else:
        positives, negatives = ranking.positives @ weights.T, ranking.negatives @ weights.T
        wins = (positives * (np.cumsum(negatives, axis=0) - negatives / 2)).sum(axis=0)
    return divide(wins, num_positives * num_negatives)


def count_held_numbers(ranking: Ranking) -> int:
    """Return how many numbers a resample of this ranking holds at once."""
    return 1 if ranking.pair_wins is not None else ranking.positives.shape[0]


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
