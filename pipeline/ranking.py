"""How well scores put positives above negatives, for any weights of the patients."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

# Numbers held at once by one array of a chunk: 4 MB as float64, so that a few of them stay
# in a processor's cache; 16 times more took 2.5 times as long.
MAX_CHUNK_NUMBERS = 500_000
# Up to this many patients the ranking is summed once into a table of patient pairs.
MAX_PAIRED_PATIENTS = 1024
# With many rows a patient the table pays for more of them: two million rows of 1,250 patients are ranked once in
# seconds, and anew for each of 2,000 resamples in two minutes.
MAX_PAIRED_PATIENTS_OF_MANY_ROWS = 4096
MANY_ROWS = 100

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


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


def count_cells(rows: Indices, columns: Indices, shape: tuple[int, int]) -> scipy.sparse.csr_array:
    """Count how often each (row, column) pair occurs, as a sparse ``shape`` of float64."""
    ones = np.ones(len(rows))
    return scipy.sparse.csr_array(scipy.sparse.coo_array((ones, (rows, columns)), shape=shape))


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


def divide(numerator: NDArray[Any], denominator: NDArray[Any]) -> Floats:
    """Divide; NaN where the denominator is 0."""
    result = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator != 0)
    return result
