"""The bootstrap over patients: whole patients are drawn, and intervals come from the scores of such resamples.

Where a score is too slow to compute for each resample, such as a regression, its interval is that of the same bootstrap
to first order: the influence of each patient on the score (``estimate_by_linearisation``).

Slices of a patient resemble each other, so they are not independent: a patient is drawn with all its rows. A resample
is a row of weights, how often each patient was drawn, and a score is computed for many such rows at once.

Neither library at hand does this. ``torchmetrics.BootStrapper`` draws single rows, and needs torch. With
``scipy.stats.bootstrap`` one could draw the numbers of patients, but each score would draw them again, every resample
would walk through the rows again, and one resample without a class would make the whole interval NaN.

Source:
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile interval); Field and Welsh,
    "Bootstrapping clustered data", 2007 (whole clusters are drawn).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse
from einops import rearrange
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit, logit

from pipeline.core.array_types import Floats, Indices
from pipeline.core.errors import UserError
from pipeline.evaluation.schema import TAIL, Estimate, explain_missing_interval

# An interval needs this fraction of resamples in which the score is defined.
MIN_DEFINED_FRACTION = 0.9

# A bootstrap over fewer groups than these makes intervals that are too narrow, so that there is none.
MIN_GROUPS = 60
# So it is with more, where fewer than these have an error: it cannot draw what only some of the others would show.
MIN_GROUPS_WITH_ERRORS = 30
# A score that a few rows can decide, such as a net benefit that weighs a false positive 19 times, needs more groups,
# and each of the events that it counts in so many of them.
MIN_GROUPS_OF_EVENTS = 100
MIN_GROUPS_WITH_EVENT = 10

# Numbers held at once by one array of a chunk: 4 MB as float64, so that a few of them stay
# in a processor's cache; 16 times more took 2.5 times as long.
MAX_CHUNK_NUMBERS = 500_000


@dataclass(frozen=True)
class Bootstrap:
    """Resamples of patients.

    Args:
        num_resamples: How many times the patients are drawn again.
        seed: The seed of the random numbers. The same seed draws the same patients at every level and for every
            model, so results on one table can be compared in pairs.
    """

    num_resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_resamples < 1:
            raise UserError(f"num_resamples: found {self.num_resamples}; allowed are 1 and more.")

    def draw(self, num_patients: int, numbers_held: int) -> Iterator[Floats]:
        """Draw the patients of all resamples, many at once.

        Args:
            num_patients: The number of patients to draw from.
            numbers_held: How many numbers a resample needs at once; the more, the fewer are drawn together.

        Yields:
            ``(resamples, patients)``: how often each patient was drawn.
        """
        generator = np.random.default_rng(self.seed)
        chunk_size = max(1, MAX_CHUNK_NUMBERS // max(num_patients, numbers_held))
        for start in range(0, self.num_resamples, chunk_size):
            size = min(chunk_size, self.num_resamples - start)
            yield draw_patient_weights(num_patients, size, generator)

    def resample(self, compute: Callable[[Floats], Floats], num_patients: int, numbers_held: int = 1) -> Floats | None:
        """Compute a statistic of every resample.

        Args:
            compute: The statistic: weights ``(resamples, patients)`` to ``(resamples, ...)``, NaN where undefined.
            num_patients: The number of patients to draw from.
            numbers_held: See ``draw``.

        Returns:
            ``(resamples, ...)``; None for a single patient, of whom every resample is the same.
        """
        if num_patients < 2:
            return None
        return np.concatenate([compute(weights) for weights in self.draw(num_patients, numbers_held)])


@dataclass(frozen=True)
class Support:
    """The groups that an interval rests on.

    Args:
        num_groups: The groups, such as patients.
        num_with_errors: Those of them with any wrong row.
        with_event: Of a score that a few rows can decide, those of them with each event that it counts, such as "false
            positives"; empty for other scores.
    """

    num_groups: int
    num_with_errors: int
    with_event: Mapping[str, int] = field(default_factory=dict)

    @property
    def shortage(self) -> str:
        """The reason why a bootstrap would be too narrow; empty where there is none."""
        return self.explain_shortage("a bootstrap")

    def explain_shortage(self, method: str) -> str:
        """Write the reason why a method's interval would be too narrow; empty where there is none.

        The only place that decides it. An example of a decision curve over 120 patients, 40 of them with errors:

            false positives in 10, false negatives in 25     an interval
            false positives in  9, false negatives in 25     none: "with false positives in fewer than 10 groups"
        """
        if self.num_groups < 2:
            return "rows of one group only"
        least = MIN_GROUPS_OF_EVENTS if self.with_event else MIN_GROUPS
        if self.num_groups < least:
            return f"{method} over fewer than {least} groups is too narrow"
        if self.num_with_errors < MIN_GROUPS_WITH_ERRORS:
            return f"{method} with errors in fewer than {MIN_GROUPS_WITH_ERRORS} groups is too narrow"
        rare = [event for event, num_groups in self.with_event.items() if num_groups < MIN_GROUPS_WITH_EVENT]
        if rare:
            return f"{method} with {' and '.join(rare)} in fewer than {MIN_GROUPS_WITH_EVENT} groups is too narrow"
        return ""


def estimate_by_bootstrap(value: float, resampled: Floats | None, support: Support) -> Estimate:
    """Return a value with its 95 % interval, where there are enough groups for one that holds.

    Args:
        value: The statistic of the table itself; NaN where it is not defined.
        resampled: ``(resamples,)``: the statistic of each resample, or None where there are none.
        support: The groups that were drawn.

    Source:
        ``reports/benchmarks/intervals.md``, how often such intervals hold the true score, by groups and errors.
    """
    if np.isnan(value):
        return explain_missing_interval(None, "not defined: a class has no row")
    if support.shortage:
        return explain_missing_interval(float(value), support.shortage)
    ends = None if resampled is None else find_percentiles(resampled, widen_tail(support.num_groups))
    if ends is None:
        reason = f"more than {1 - MIN_DEFINED_FRACTION:.0%} of the resamples lack a class"
        return explain_missing_interval(float(value), reason)
    low, high = ends
    if np.isclose(low, high, rtol=1e-9, atol=0):
        return explain_missing_interval(float(value), "all resamples are equal")
    return {"value": float(value), "low": low, "high": high, "method": "bootstrap", "reason": ""}


def estimate_by_linearisation(
    value: float, influences: Floats, support: Support, is_fraction: bool = False
) -> Estimate:
    """Return a value with the 95 % interval that its patients' influences give, where there are enough of them.

    Args:
        value: The statistic of the table.
        influences: ``(patients,)``, by how much the value grows, to first order, for each time that a patient counts
            once more; a patient's is the sum over its rows, and all add up to 0.
        support: The groups that the interval rests on.
        is_fraction: Whether the value lies between 0 and 1; its interval is then symmetric on the logit scale.

    Source:
        Efron, "The jackknife, the bootstrap and other resampling plans", 1982, chapter 6 (the infinitesimal jackknife).
    """
    shortage = support.explain_shortage("a linearised interval")
    if shortage:
        return explain_missing_interval(value, shortage)
    num_groups = support.num_groups
    std = float(np.sqrt(num_groups / (num_groups - 1) * (influences**2).sum()))
    if std == 0 or (is_fraction and value in (0.0, 1.0)):
        return explain_missing_interval(value, "all groups have the same influence, so that there is no variance")
    half_width = float(stats.t.ppf(1 - TAIL, num_groups - 1)) * std
    ends = np.array([-half_width, half_width])
    low, high = expit(logit(value) + ends / (value * (1 - value))) if is_fraction else value + ends
    return {"value": value, "low": float(low), "high": float(high), "method": "linearised", "reason": ""}


def widen_tail(num_groups: int) -> float:
    """Return the fraction of resamples on either side of a 95 % interval, which is below 2.5 % for few groups.

    Resamples vary less than tables do, because the mean of a resample is that of the table and not the true one. For
    a mean, this gives the width of Student's t interval.

    Source:
        Hesterberg, "What teachers should know about the bootstrap", The American Statistician 69, 2015, section 4.1.
    """
    quantile = stats.t.ppf(1 - TAIL, num_groups - 1) * np.sqrt(num_groups / (num_groups - 1))
    return float(stats.norm.cdf(-quantile))


def find_percentiles(resampled: Floats, tail: float = TAIL) -> tuple[float, float] | None:
    """Return the values that a fraction ``tail`` of the resamples lies below and above; None where too many are NaN."""
    defined = resampled[~np.isnan(resampled)]
    if len(defined) < MIN_DEFINED_FRACTION * len(resampled):
        return None
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def draw_patient_weights(num_patients: int, num_resamples: int, generator: np.random.Generator) -> Floats:
    """Draw as many patients as there are, with replacement, and count each.

    Args:
        num_patients: The number of patients to draw from, and of draws a resample.
        num_resamples: The number of resamples.
        generator: The random number generator.

    Returns:
        ``(resamples, patients)``; each row sums to the number of patients.
    """
    drawn = generator.integers(0, num_patients, size=(num_resamples, num_patients))
    cells = drawn + num_patients * np.arange(num_resamples)[:, None]
    flat: Indices = rearrange(cells, "resample draw -> (resample draw)")
    counts = np.bincount(flat, minlength=cells.size)
    weights: Floats = counts.astype(np.float64)
    return rearrange(weights, "(resample patient) -> resample patient", patient=num_patients)


def count_pairs(rows: Indices, columns: Indices, shape: tuple[int, int]) -> scipy.sparse.csr_array:
    """Count how often each (row, column) pair occurs.

    Args:
        rows: The row of each pair.
        columns: The column of each pair.
        shape: The numbers of rows and columns of the result.

    Returns:
        A sparse table of float64 counts.
    """
    ones = np.ones(len(rows))
    return scipy.sparse.csr_array(scipy.sparse.coo_array((ones, (rows, columns)), shape=shape))


def divide_or_nan(numerator: NDArray[Any], denominator: NDArray[Any]) -> Floats:
    """Divide; NaN where the denominator is 0."""
    result = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator != 0)
    return result
