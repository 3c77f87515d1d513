"""Proportions, such as an accuracy, with 95 % intervals that hold near 0 and 1 and for few patients.

Rows of a patient resemble each other, so what counts is how many patients there are and how much alike their rows
are. Each patient has a proportion of its own, drawn from a beta distribution with the mean that is asked for; the
counts of its rows are binomial. Two numbers are unknown: the mean, and the intraclass correlation, which is 0 where
all patients are alike and 1 where all rows of a patient are. Their posterior is computed on a grid, and the interval
leaves 2.5 % of the mean's posterior on either side.

A bootstrap over patients cannot draw an error that it has not seen, so that its intervals near 1 are far too narrow;
``reports/benchmarks/intervals.md`` has the coverage of both. statsmodels fits the same distribution by maximum
likelihood, which has no interval where no row is wrong.

Source:
    Griffiths, "Maximum likelihood estimation for the beta-binomial distribution", Biometrics 29, 1973 (the
    distribution); Clopper and Pearson, Biometrika 26, 1934 (the exact bound where all rows are alike).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from pipeline.core.array_types import Floats, Indices
from pipeline.evaluation.bootstrap import count_pairs
from pipeline.evaluation.schema import EXACT, TAIL, Estimate, SampleSize, explain_missing_interval

# The prior of the intraclass correlation is Beta(1, 3), with a mean of 1/4. That of the proportion, Beta(1/2, 1/2),
# is even over the angle whose squared sine the proportion is.
CORRELATION_PRIOR = 3.0
# Cells of the grid: a coarse one finds the region that matters, a fine one is summed there.
COARSE_CELLS = (16, 10)
FINE_CELLS = (64, 16)
MAX_ZOOMS = 30
Span = tuple[float, float]
DOMAIN: tuple[Span, Span] = ((0.0, np.pi / 2), (0.0, 1.0))  # of the angle, and of the correlation's square root
# The logarithm of how much less likely than the best a cell may be; what lies outside adds up to less than 1e-4.
NEGLIGIBLE = 14.0


@dataclass(frozen=True)
class PatientCounts:
    """The rows of each patient, and those that are counted, such as the correct ones.

    Attributes:
        counted: ``(patients,)``, 0 to the number of rows; need not be whole.
        rows: ``(patients,)``, above 0.
    """

    counted: Floats
    rows: Floats

    @property
    def num_patients(self) -> int:
        return len(self.rows)

    @property
    def fraction(self) -> float:
        """The fraction of all rows that is counted."""
        return float(self.counted.sum() / self.rows.sum())

    @property
    def mean_over_patients(self) -> float:
        """The mean of the patients' own fractions."""
        return float((self.counted / self.rows).mean())


@dataclass(frozen=True)
class Posterior:
    """The posterior of the proportion and of the intraclass correlation.

    Args:
        low: The proportion that has 2.5 % of the posterior below it.
        high: The proportion that has 2.5 % above it.
        correlation: The mean of the intraclass correlation.
    """

    low: float
    high: float
    correlation: float


def keep_patients(counted: Floats, rows: Floats) -> PatientCounts:
    """Leave out the patients without rows.

    Args:
        counted: ``(patients,)``.
        rows: ``(patients,)``.
    """
    has_rows = rows > 0
    return PatientCounts(counted[has_rows], rows[has_rows])


def estimate_fraction(counts: PatientCounts) -> Estimate:
    """Return the fraction of all rows that is counted, with its interval."""
    return estimate_proportion(counts.fraction if counts.num_patients > 0 else np.nan, counts)


def estimate_proportion(value: float, counts: PatientCounts) -> Estimate:
    """Return a proportion with its interval.

    Args:
        value: The fraction of all rows, or the mean of the patients' own fractions; NaN where there is no row. The
            interval is widened to hold it, where patients with many rows differ from those with few.
        counts: The rows of each patient.
    """
    if np.isnan(value):
        return explain_missing_interval(None, "not defined: there is no row")
    if counts.num_patients < 2:
        return explain_missing_interval(value, "rows of one group only")
    low, high = compute_interval(counts)
    method = EXACT if is_extreme(counts) else "beta-binomial"
    return {"value": value, "low": min(low, value), "high": max(high, value), "method": method, "reason": ""}


def is_extreme(counts: PatientCounts) -> bool:
    """Return whether all rows are counted, or none is."""
    total = counts.counted.sum()
    return bool(total == 0 or total == counts.rows.sum())


def compute_interval(counts: PatientCounts) -> tuple[float, float]:
    """Compute the 95 % interval of the proportion.

    Where all rows are alike, nothing shows how much alike the rows of a patient are. Then each patient counts once,
    and the far end is the exact bound: with 16 patients free of errors 0.025^(1/16), which is 79.4 %. A single wrong
    row among many shows that rows of that patient differ, and can make the interval narrower than this.

    Args:
        counts: The rows of two patients or more.
    """
    if not is_extreme(counts):
        posterior = compute_posterior(counts)
        return posterior.low, posterior.high
    bound = TAIL ** (1 / counts.num_patients)
    return (bound, 1.0) if counts.counted.sum() > 0 else (0.0, 1 - bound)


def compute_posterior(counts: PatientCounts, weight: float = 1.0) -> Posterior:
    """Compute the posterior of the proportion and of the intraclass correlation.

    The grid has the angle whose squared sine is the proportion, and the square root of the correlation. It begins
    with all angles from 0 to pi / 2 and all roots from 0 to 1, and zooms in until the cells that matter fill it. An
    example of five patients, with (counted, rows) of (3, 4), (4, 4), (4, 4), (2, 2) and (4, 4): gamma functions are
    computed once for the counted 2, 3 and 4, for the rest of 1, and for the rows 2 and 4, with the weights 1, 1, 3,
    1, 1 and 4.

    Args:
        counts: The rows of each patient.
        weight: How often each patient counts.
    """
    terms = [
        _Terms(*np.unique(values[values > 0], return_counts=True))
        for values in (counts.counted, counts.rows - counts.counted, counts.rows)
    ]
    angle_span, root_span = DOMAIN
    for _ in range(MAX_ZOOMS):
        angles, roots = _centres(angle_span, COARSE_CELLS[0]), _centres(root_span, COARSE_CELLS[1])
        density = _compute_log_density(terms, angles, roots, weight)
        is_kept = density > density.max() - NEGLIGIBLE
        previous = angle_span, root_span
        angle_span = _zoom(angle_span, is_kept.any(axis=1), DOMAIN[0])
        root_span = _zoom(root_span, is_kept.any(axis=0), DOMAIN[1])
        if _is_filled(previous[0], angle_span) and _is_filled(previous[1], root_span):
            break
    angles, roots = _centres(angle_span, FINE_CELLS[0]), _centres(root_span, FINE_CELLS[1])
    density = _compute_log_density(terms, angles, roots, weight)
    mass = np.exp(density - density.max())
    mass /= mass.sum()
    edges = np.linspace(*angle_span, FINE_CELLS[0] + 1)
    cumulative = np.concatenate([[0.0], np.cumsum(mass.sum(axis=1))])
    low, high = np.sin(np.interp([TAIL, 1 - TAIL], cumulative, edges)) ** 2
    return Posterior(float(low), float(high), float(mass.sum(axis=0) @ roots**2))


@dataclass(frozen=True)
class _Terms:
    """Distinct counts, each with the number of patients that have it."""

    values: Floats
    num_patients: Indices

    def sum_log_rising(self, start: Floats) -> Floats:
        """Sum the logarithms of start (start + 1) ... (start + value - 1) over the patients."""
        rising = gammaln(start[..., None] + self.values) - gammaln(start)[..., None]
        sums: Floats = rising @ self.num_patients
        return sums


def _compute_log_density(terms: list[_Terms], angles: Floats, roots: Floats, weight: float) -> Floats:
    """Compute the logarithm of the posterior density, up to a constant, ``(angles, roots)``."""
    counted, rest, rows = terms
    correlation = roots**2
    precision = (1 - correlation) / correlation
    likelihood = (
        counted.sum_log_rising(np.sin(angles)[:, None] ** 2 * precision)
        + rest.sum_log_rising(np.cos(angles)[:, None] ** 2 * precision)
        - rows.sum_log_rising(precision)
    )
    # The density of the correlation, times the derivative of the correlation by its root.
    prior = (CORRELATION_PRIOR - 1) * np.log1p(-correlation) + np.log(roots)
    density: Floats = weight * likelihood + prior
    return density


def _centres(span: Span, num_cells: int) -> Floats:
    """Return the centres of equally wide cells."""
    start, end = span
    centres: Floats = start + (end - start) * (np.arange(num_cells) + 0.5) / num_cells
    return centres


def _zoom(span: Span, is_kept: NDArray[np.bool_], domain: Span) -> Span:
    """Return the part of a span whose cells are kept, and one cell more on each side, which may lie outside it."""
    start, end = span
    cell = (end - start) / len(is_kept)
    kept = np.flatnonzero(is_kept)
    first, last = start + float(kept[0] - 1) * cell, start + float(kept[-1] + 2) * cell
    return max(first, domain[0]), min(last, domain[1])


def _is_filled(span: Span, zoomed: Span) -> bool:
    """Return whether what matters lies in a span, and takes more than half of it."""
    is_inside = zoomed[0] >= span[0] and zoomed[1] <= span[1]
    return is_inside and 2 * (zoomed[1] - zoomed[0]) > span[1] - span[0]


def plan_sample_size(counts: PatientCounts) -> SampleSize:
    """Return how many patients like these an interval of plus and minus five and two percentage points would need."""
    return {
        "correlation": None if is_extreme(counts) else compute_posterior(counts).correlation,
        "five_points": count_patients_needed(counts, 0.1),
        "two_points": count_patients_needed(counts, 0.04),
    }


def count_patients_needed(counts: PatientCounts, width: float) -> int:
    """Count the patients that an interval of a width needs, if they are like these.

    Each patient of the table is weighted so that all together count as so many patients: the proportion, the
    intraclass correlation and the rows of a patient stay as they are. Where all rows are alike, the exact bound over
    patients decides.

    Args:
        counts: The rows of each patient.
        width: The distance of both ends of the interval.
    """

    def is_enough(num_patients: int) -> bool:
        if is_extreme(counts):
            return bool(1 - TAIL ** (1 / num_patients) <= width)
        posterior = compute_posterior(counts, num_patients / counts.num_patients)
        return bool(posterior.high - posterior.low <= width)

    enough = 2
    while not is_enough(enough):
        enough *= 2
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        enough, too_few = (middle, too_few) if is_enough(middle) else (enough, middle)
    return enough


@dataclass(frozen=True)
class SubgroupFraction:
    """The fraction of a subgroup's rows that is counted.

    Args:
        num_rows: The rows of the subgroup.
        num_patients: The patients that they belong to.
        fraction: The fraction that is counted, with its interval.
    """

    num_rows: int
    num_patients: int
    fraction: Estimate


def compute_fractions(
    is_counted: NDArray[np.bool_], subgroups: Indices, patients: Indices, num_subgroups: int
) -> list[SubgroupFraction]:
    """Compute, for each subgroup of a table, the fraction of its rows that is counted.

    Args:
        is_counted: ``(rows,)``, such as whether the prediction is correct.
        subgroups: ``(rows,)``, the subgroup of each row, 0 to ``num_subgroups`` - 1.
        patients: ``(rows,)``, the patient of each row, 0 to the number of patients - 1.
        num_subgroups: The number of subgroups; one without rows has no fraction, one of a single patient no interval.
    """
    shape = (num_subgroups, int(patients.max()) + 1)
    rows = count_pairs(subgroups, patients, shape)
    counted = count_pairs(subgroups[is_counted], patients[is_counted], shape)
    found = []
    for index in range(num_subgroups):
        counts = keep_patients(counted[[index]].toarray()[0], rows[[index]].toarray()[0])
        found.append(SubgroupFraction(int(counts.rows.sum()), counts.num_patients, estimate_fraction(counts)))
    return found


def compute_fraction(is_counted: NDArray[np.bool_], patients: Indices) -> Estimate:
    """Compute the fraction of all rows that is counted: ``compute_fractions`` of a table that is one subgroup.

    Args:
        is_counted: ``(rows,)``, such as whether the prediction is correct.
        patients: ``(rows,)``, the patient of each row, 0 to the number of patients - 1.
    """
    return compute_fractions(is_counted, np.zeros(len(is_counted), dtype=np.int64), patients, 1)[0].fraction
