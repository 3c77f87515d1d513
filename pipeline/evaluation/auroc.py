"""The AUROC for any weights of the patients, and ROC curves.

scikit-learn's ``roc_auc_score`` sorts all rows for each resample of a bootstrap; torchmetrics' does too, and neither
draws patients. Here the rows are sorted once and counted per rank and patient; a resample is a product with these
counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas
import scipy.sparse
from numpy.typing import NDArray
from scipy import special

from pipeline.core.array_types import Floats, Indices
from pipeline.evaluation.bootstrap import MAX_CHUNK_NUMBERS, count_pairs, divide_or_nan
from pipeline.evaluation.predictions import read_class_indices, read_probabilities
from pipeline.evaluation.schema import EXACT, TAIL, Estimate, explain_missing_interval

# Up to this many patients the ranks are summed once into a table of patient pairs.
MAX_PAIRED_PATIENTS = 1024
# With many rows a patient the table pays for more of them: two million rows of 1,250 patients are ranked once in
# seconds, and again for each of 2,000 resamples in two minutes.
MAX_PAIRED_PATIENTS_OF_MANY_ROWS = 4096
MANY_ROWS = 100
# Of so many patients of equal size the interval held in every cell of a simulation; where few rows are not those of
# one large patient, the variance says little.
MIN_EFFECTIVE_GROUPS = 5.0
SMALLEST_STD = 1e-12  # of an AUROC; below it is a rounding error of equal numbers


@dataclass(frozen=True)
class RankCounts:
    """The rows of one class against the rest, counted per rank and patient.

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

    @property
    def numbers_held(self) -> int:
        """The numbers that a resample holds at once."""
        return 1 if self.pair_wins is not None else int(self.positives.shape[0])


def count_ranks(scores: Floats, is_positive: NDArray[np.bool_], patients: Indices, num_patients: int) -> RankCounts:
    """Sort the scores once and merge the rows that no threshold at a positive separates.

    Args:
        scores: ``(rows,)``, the probability of the positive class.
        is_positive: ``(rows,)``, whether the row's label is the positive class.
        patients: ``(rows,)``, the patient of each row, 0 to ``num_patients`` - 1.
        num_patients: The number of patients.
    """
    counts = count_rows_by_rank(scores, is_positive, patients, num_patients)
    has_many_rows = len(scores) >= MANY_ROWS * num_patients
    if num_patients > (MAX_PAIRED_PATIENTS_OF_MANY_ROWS if has_many_rows else MAX_PAIRED_PATIENTS):
        return counts
    return replace(counts, pair_wins=count_pair_wins(counts.positives, counts.negatives))


def count_rows_by_rank(
    scores: Floats, is_positive: NDArray[np.bool_], patients: Indices, num_patients: int
) -> RankCounts:
    """Count the rows of each rank and patient, without the table of patient pairs that only resamples need.

    Even ranks hold the negatives between two positives, odd ranks the positives of
    one distinct score together with the negatives that tie with them.

    Args:
        scores: ``(rows,)``, the probability of the positive class.
        is_positive: ``(rows,)``, whether the row's label is the positive class.
        patients: ``(rows,)``, the patient of each row, 0 to ``num_patients`` - 1.
        num_patients: The number of patients.
    """
    thresholds = np.unique(scores[is_positive])
    ranks = np.searchsorted(thresholds, scores, "left") + np.searchsorted(thresholds, scores, "right")
    shape = (2 * len(thresholds) + 1, num_patients)
    positives = count_pairs(ranks[is_positive], patients[is_positive], shape)
    negatives = count_pairs(ranks[~is_positive], patients[~is_positive], shape)
    return RankCounts(positives, negatives, None)


def count_pair_wins(positives: scipy.sparse.csr_array, negatives: scipy.sparse.csr_array) -> Floats:
    """Count how often a positive of each patient is ranked above a negative of each patient, ties one half.

    Pairs of one rank tie. All others are counted while neighbouring ranks are merged, two at a time: where two ranks
    become one, each positive of the upper wins against each negative of the lower. An example with one row in each of
    four ranks, of the patients a and b, positive (+) or negative (-):

        ranks          a- | b+ | b- | a+
        merged once    a-   b+ | b-   a+    b+ wins against a-, and a+ against b-
        merged twice   a-   b+   b-   a+    a+, of the upper half, wins against a-; b+ does not win against b-

    While a rank holds few patients such products of sparse tables are cheap; the remaining ranks are counted with
    dense ones. All are sums of halves, so no digit depends on their order.

    Args:
        positives: ``(ranks, patients)`` counts.
        negatives: ``(ranks, patients)`` counts.

    Returns:
        ``(patients, patients)``: positives' patients by negatives' patients.
    """
    wins: Floats = (positives.T @ negatives).toarray() / 2
    while positives.shape[0] > 1 and _is_cheaper_sparse(positives, negatives):
        upper = positives[1::2]
        wins += (upper.T @ negatives[::2][: upper.shape[0]]).toarray()
        positives, negatives = merge_ranks(positives), merge_ranks(negatives)
    return wins + _count_wins_over_lower_ranks(positives, negatives)


def _is_cheaper_sparse(positives: scipy.sparse.csr_array, negatives: scipy.sparse.csr_array) -> bool:
    """Return whether sparse products are cheaper than dense ones: at most an eighth of all cells is filled."""
    num_ranks, num_patients = positives.shape
    return bool(4 * (positives.nnz + negatives.nnz) <= num_patients * num_ranks)


def _count_wins_over_lower_ranks(positives: scipy.sparse.csr_array, negatives: scipy.sparse.csr_array) -> Floats:
    """Count the pairs of a positive and a negative of a lower rank, some ranks at a time as dense tables."""
    num_ranks, num_patients = positives.shape
    wins = np.zeros((num_patients, num_patients))
    below = np.zeros(num_patients)
    chunk_ranks = max(1, MAX_CHUNK_NUMBERS // num_patients)
    for start in range(0, num_ranks, chunk_ranks):
        counts = negatives[start : start + chunk_ranks].toarray()
        cumulative = np.cumsum(counts, axis=0) + below
        wins += positives[start : start + chunk_ranks].toarray().T @ (cumulative - counts)
        below = cumulative[-1].copy()
    return wins


def merge_ranks(counts: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """Add up each even rank and the one after it, ``(half the ranks, patients)``."""
    cells = counts.tocoo()
    shape = ((counts.shape[0] + 1) // 2, counts.shape[1])
    return scipy.sparse.csr_array(scipy.sparse.coo_array((cells.data, (cells.row // 2, cells.col)), shape=shape))


def compute_auroc(counts: RankCounts, weights: Floats) -> Floats:
    """Compute the fraction of (positive, negative) pairs that are ranked correctly, ties one half.

    Args:
        counts: The counts of one class.
        weights: ``(resamples, patients)``.

    Returns:
        ``(resamples,)``; NaN where there is no positive or no negative.
    """
    num_positives = weights @ counts.positives.sum(axis=0)
    num_negatives = weights @ counts.negatives.sum(axis=0)
    if counts.pair_wins is not None:
        wins = ((weights @ counts.pair_wins) * weights).sum(axis=1)
    else:
        positives, negatives = counts.positives @ weights.T, counts.negatives @ weights.T
        wins = (positives * (np.cumsum(negatives, axis=0) - negatives / 2)).sum(axis=0)
    return divide_or_nan(wins, num_positives * num_negatives)


def estimate_auroc(counts: RankCounts) -> Estimate:
    """Return the AUROC of a table with its interval over patients.

    The variance is that of clustered data: each positive has the fraction of negatives that it is ranked above, each
    negative the fraction of positives above it, and both are summed over the rows of a patient. The quantile is
    Student's, with fewer degrees of freedom where a few patients make up most of the variance, as near 1. The interval
    is symmetric on the logit scale, where it cannot leave 0 to 1, and has the mean and variance that the logit of a
    beta-distributed AUROC has (``_compute_logit_interval``).

    Where all pairs are ranked correctly there is no variance, and the end is the exact bound over the patients of the
    class that has fewer of them, as if any of them could have all its pairs wrong. Nor is any other interval wider than
    the exact one of these patients.

    A variance of few patients, or of some of which one has most rows, is too uncertain for an interval; the exact bound
    counts each patient once, and needs none (``count_effective_groups``).

    Args:
        counts: The counts of one class.

    Source:
        Obuchowski, "Nonparametric analysis of clustered ROC curve data", Biometrics 53, 1997 (the variance);
        Satterthwaite, "An approximate distribution of estimates of variance components", Biometrics Bulletin 2, 1946
        (degrees of freedom from the variance of a variance); Clopper and Pearson, Biometrika 26, 1934 (the exact
        interval). The coverage is in ``reports/benchmarks/intervals.md``.
    """
    num_positives, num_negatives = (
        np.asarray(part.sum(axis=0), dtype=np.float64) for part in (counts.positives, counts.negatives)
    )
    num_patients = int(min((num_positives > 0).sum(), (num_negatives > 0).sum()))
    if num_patients == 0:
        return explain_missing_interval(None, "not defined: a class has no row")
    value = float(compute_auroc(counts, np.ones((1, len(num_positives))))[0])
    if num_patients == 1:
        return explain_missing_interval(value, "a class has rows of one group only")
    if value in (0.0, 1.0):
        bound = TAIL ** (1 / num_patients)
        low, high = (bound, 1.0) if value == 1 else (0.0, 1 - bound)
        return {"value": value, "low": low, "high": high, "method": EXACT, "reason": ""}
    effective = count_effective_groups(num_positives + num_negatives)
    if effective < MIN_EFFECTIVE_GROUPS:
        rounded_down = np.floor(10 * effective) / 10
        reason = (
            f"by their rows the groups count like {rounded_down:.1f} of equal size, {MIN_EFFECTIVE_GROUPS:g} needed"
        )
        return explain_missing_interval(value, reason)
    spread = _compute_clustered_spread(counts, num_positives, num_negatives, value)
    if spread.std < SMALLEST_STD:
        return explain_missing_interval(value, "all groups rank their rows alike, so that there is no variance")
    quantile = float(special.stdtrit(min(spread.degrees_of_freedom, num_patients - 1), 1 - TAIL))
    low, high = _compute_logit_interval(value, spread.std, quantile)
    widest = _compute_exact_interval(value, num_patients)
    low, high = max(low, widest[0]), min(high, widest[1])
    return {"value": value, "low": low, "high": high, "method": "logit", "reason": ""}


def count_effective_groups(num_rows: Floats) -> float:
    """Count how many patients of equal size have a mean as uncertain as these have: (sum of n)^2 / (sum of n^2).

    Four patients of 1, 1, 1 and 3 rows count like 36 / 12 = 3 patients.

    Args:
        num_rows: ``(patients,)``; those without rows do not count.

    Source:
        Kish, "Survey Sampling", 1965, section 11.7.
    """
    return float(num_rows.sum() ** 2 / (num_rows**2).sum())


def _compute_logit_interval(value: float, std: float, quantile: float) -> tuple[float, float]:
    """Return the ends of an interval on the logit scale, for an AUROC that is beta-distributed about the true one.

    The logit of a Beta(a, b) variable has the mean digamma(a) - digamma(b), which is farther from 0 than log(a / b),
    and the variance trigamma(a) + trigamma(b). For many wrong pairs of many patients both are what the delta method
    says, log(a / b) and the variance over (value (1 - value)) squared. Near 1 the wrong pairs are often those of one or
    two patients: b is small, and the delta method too narrow. An example: for an AUROC of 0.99 with a standard
    deviation of 0.01, a + b is 99, b is 0.99, and the logit's standard deviation 1.30 instead of 1.01.

    Args:
        value: The AUROC, above 0 and below 1.
        std: Its standard deviation, above 0.
        quantile: How many standard deviations of the logit the ends are away.

    Source:
        Johnson, Kotz and Balakrishnan, "Continuous Univariate Distributions" 2, 1995, chapter 25 (the logit of a beta
        variable).
    """
    # A beta variable's variance makes a + b one less than this; as it is here, it stays above 0.
    shapes = np.array([value, 1 - value]) * (value * (1 - value) / std**2)
    bias = (special.digamma(shapes) - np.log(shapes)) @ [1, -1]
    half_width = quantile * np.sqrt(special.polygamma(1, shapes).sum())
    low, high = special.expit(special.logit(value) - bias + np.array([-half_width, half_width]))
    return float(low), float(high)


def _compute_exact_interval(value: float, num_patients: int) -> tuple[float, float]:
    """Return Clopper and Pearson's interval of a fraction of the patients, which need not be a whole number of them."""
    right, wrong = value * num_patients, (1 - value) * num_patients
    return float(special.betaincinv(right, wrong + 1, TAIL)), float(special.betaincinv(right + 1, wrong, 1 - TAIL))


@dataclass(frozen=True)
class _Spread:
    """The standard deviation of an AUROC, and the degrees of freedom of its square."""

    std: float
    degrees_of_freedom: float


def _compute_clustered_spread(
    counts: RankCounts, num_positives: Floats, num_negatives: Floats, value: float
) -> _Spread:
    """Compute how uncertain the AUROC is; both numbers are ``(patients,)``."""
    positives, negatives = (np.asarray(part.sum(axis=1)) for part in (counts.positives, counts.negatives))
    negatives_below = np.cumsum(negatives) - negatives / 2
    positives_above = positives.sum() - np.cumsum(positives) + positives / 2
    excess_of_positives = counts.positives.T @ negatives_below / negatives.sum() - num_positives * value
    excess_of_negatives = counts.negatives.T @ positives_above / positives.sum() - num_negatives * value

    def correct_for_mean(has_rows: NDArray[np.bool_]) -> float:
        return float(has_rows.sum() / (has_rows.sum() - 1))

    total = [
        excess / part.sum()
        for excess, part in ((excess_of_positives, num_positives), (excess_of_negatives, num_negatives))
    ]
    variance = (
        correct_for_mean(num_positives > 0) * (total[0] ** 2).sum()
        + correct_for_mean(num_negatives > 0) * (total[1] ** 2).sum()
        + 2 * correct_for_mean(num_positives + num_negatives > 0) * (total[0] * total[1]).sum()
    )
    squares = (total[0] + total[1]) ** 2
    # The variance of a variance is that of the squares: 2 in the units of a normal distribution, more where a few
    # patients make up most of the sum.
    excess_of_squares = len(squares) * (squares**2).sum() - squares.sum() ** 2
    freedom = 2 * len(squares) * squares.sum() ** 2 / excess_of_squares if excess_of_squares > 0 else np.inf
    return _Spread(float(np.sqrt(max(variance, 0.0))), float(freedom))


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
    from sklearn.metrics import roc_curve  # here, because it takes a second to load and most stages need no curve

    labels = read_class_indices(predictions["label"], class_names)
    probabilities = read_probabilities(predictions, class_names)
    curves = {}
    for index in range(1 if len(class_names) == 2 else 0, len(class_names)):
        if 0 < (labels == index).sum() < len(labels):
            rates = roc_curve(labels == index, probabilities[:, index], drop_intermediate=False)
            curves[class_names[index]] = RocCurve(*rates[:2])
    return curves
