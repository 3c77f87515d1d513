"""Selective prediction: the accuracy of the most confident answers, where a model may decline to give the others."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas
import scipy.sparse
from einops import reduce

from pipeline.core.array_types import Floats, Indices
from pipeline.core.predictions import TIE_DECIMALS
from pipeline.evaluation.bootstrap import Bootstrap, Support, count_pairs, divide_or_nan, estimate_by_bootstrap
from pipeline.evaluation.predictions import number_patients, read_probabilities
from pipeline.evaluation.proportions import (
    PatientCounts,
    compute_fraction,
    compute_fractions,
    estimate_fraction,
    keep_patients,
)
from pipeline.evaluation.schema import Coverage, CoveragePoint, Estimate, Threshold

COVERAGES = tuple(percent / 100 for percent in range(1, 101))
LISTED_COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.5)

# Subtracted so that rounding does not push a coverage that ends with a confidence level into the next one.
ROUNDING = 1e-9


@dataclass(frozen=True)
class ConfidenceLevels:
    """Rows from the most to the least confident; equally confident ones share a level.

    Attributes:
        rows: ``(levels, patients)`` sparse counts.
        correct: ``(levels, patients)`` sparse counts of the correct predictions.
        confidence: ``(levels,)``, falling.
    """

    rows: scipy.sparse.csr_array
    correct: scipy.sparse.csr_array
    confidence: Floats

    @property
    def support(self) -> Support:
        """The patients, and those with an error."""
        rows, correct = (np.asarray(part.sum(axis=0)) for part in (self.rows, self.correct))
        return Support(len(rows), int((correct < rows).sum()))

    def find_last(self, coverages: Sequence[float]) -> Indices:
        """Return the index of the level in which each coverage of the table ends, ``(coverages,)``."""
        num_rows = np.cumsum(np.asarray(self.rows.sum(axis=1)))
        return np.asarray(np.searchsorted(num_rows, np.asarray(coverages) * num_rows[-1] - ROUNDING), dtype=np.int64)


def read_confidence(table: pandas.DataFrame, class_names: Sequence[str]) -> Floats:
    """Return the highest probability of each row, ``(rows,)``, rounded so that ties stay ties."""
    confidence: Floats = read_probabilities(table, class_names).max(axis=1).round(TIE_DECIMALS)
    return confidence


def group_by_confidence(table: pandas.DataFrame, class_names: Sequence[str]) -> ConfidenceLevels:
    """Count the rows of a predictions table for each confidence and patient."""
    levels, level_of_row = np.unique(-read_confidence(table, class_names), return_inverse=True)
    patients = number_patients(table["group_id"])
    is_correct = (table["label"] == table["predicted"]).to_numpy()
    shape = (len(levels), int(patients.max()) + 1)
    return ConfidenceLevels(
        rows=count_pairs(level_of_row, patients, shape),
        correct=count_pairs(level_of_row[is_correct], patients[is_correct], shape),
        confidence=-levels,
    )


def compute_accuracies(levels: ConfidenceLevels, weights: Floats, coverages: Sequence[float]) -> Floats:
    """Compute the accuracy of the most confident rows at each coverage, for each draw of the patients.

    Where a coverage ends inside a level, or inside a row, that level counts in part with its own accuracy: what one
    would get on average by choosing among equally confident rows at random. An example of five rows:

        confidence           0.9    0.8    0.8    0.8    0.6
        correct                1      1      1      0      0
        rows to here           1                    4      5
        correct to here        1                    3      3

        coverage 0.2 = 1 row:   1 correct of 1
        coverage 0.6 = 3 rows:  1 + 2/3 of (3 - 1) = 7/3 correct of 3, because the second level counts by 2/3
        coverage 0.9 = 4.5:     3 + 1/2 of (3 - 3) = 3 correct of 4.5

    Args:
        levels: The rows by confidence.
        weights: ``(resamples, patients)``, how often each patient counts.
        coverages: The fractions of the rows that are answered, above 0.

    Returns:
        ``(resamples, coverages)``.
    """
    rows, correct = (np.cumsum(np.asarray(part @ weights.T), axis=0).T for part in (levels.rows, levels.correct))
    wanted = np.asarray(coverages) * rows[:, -1:]
    last = np.stack([np.searchsorted(line, goal - ROUNDING) for line, goal in zip(rows, wanted, strict=True)])
    rows_before, rows_to_here = _read_around(rows, last)
    correct_before, correct_to_here = _read_around(correct, last)
    part = divide_or_nan(wanted - rows_before, rows_to_here - rows_before)
    accuracies: Floats = (correct_before + part * (correct_to_here - correct_before)) / wanted
    return accuracies


def _read_around(cumulative: Floats, last: Indices) -> tuple[Floats, Floats]:
    """Return cumulative counts ``(resamples, levels)`` before and with each level of ``(resamples, coverages)``."""
    with_level = np.take_along_axis(cumulative, last, axis=1)
    before = np.take_along_axis(cumulative, np.maximum(last - 1, 0), axis=1)
    return np.where(last > 0, before, 0.0), with_level


def count_answered(levels: ConfidenceLevels, coverage: float, last: int) -> PatientCounts:
    """Count each patient's most confident rows down to a coverage, and the correct ones; see ``compute_accuracies``.

    Args:
        levels: The rows by confidence.
        coverage: The fraction of all rows that is answered.
        last: The index of the level in which the coverage ends, whose rows count in part.
    """
    rows, correct = (sum_levels(part, 0, last) for part in (levels.rows, levels.correct))
    last_rows, last_correct = (sum_levels(part, last, last + 1) for part in (levels.rows, levels.correct))
    part = (coverage * levels.rows.data.sum() - rows.sum()) / last_rows.sum()
    return keep_patients(correct + part * last_correct, rows + part * last_rows)


def sum_levels(counts: scipy.sparse.csr_array, first: int, end: int) -> Floats:
    """Sum the counts ``(levels, patients)`` of some levels, ``(patients,)``, without a table of these levels."""
    cells = slice(counts.indptr[first], counts.indptr[end])
    sums = np.bincount(counts.indices[cells], counts.data[cells], counts.shape[1])
    return np.asarray(sums, dtype=np.float64)


def compute_coverage_curve(
    table: pandas.DataFrame, class_names: Sequence[str], bootstrap: Bootstrap
) -> tuple[list[CoveragePoint], Estimate]:
    """Compute accuracy against coverage: the model answers for its most confident rows alone.

    The interval of an accuracy takes the confidence down to which rows are answered as given. That of the area comes
    from resamples of the patients, each ordered again, where there are enough of them.

    Args:
        table: The predictions of one level.
        class_names: All classes.
        bootstrap: The resamples of patients.

    Returns:
        The curve: for each whole percentage of coverage its ``accuracy`` with an interval and the lowest
        ``confidence`` that is answered. The area under the risk-coverage curve: the mean fraction of wrong answers
        over these coverages, with an interval (lower is better).
    """
    levels = group_by_confidence(table, class_names)
    num_levels, num_patients = levels.rows.shape
    support = levels.support

    def compute(weights: Floats) -> Floats:
        return compute_accuracies(levels, weights, COVERAGES)

    values = compute(np.ones((1, num_patients)))[0]
    resampled = None if support.shortage else bootstrap.resample(compute, num_patients, num_levels)
    curve: list[CoveragePoint] = [
        {
            "coverage": coverage,
            "confidence": float(levels.confidence[last]),
            "accuracy": estimate_fraction(count_answered(levels, coverage, last)),
        }
        for coverage, last in zip(COVERAGES, levels.find_last(COVERAGES), strict=True)
    ]
    areas = None if resampled is None else reduce(1 - resampled, "resample coverage -> resample", "mean")
    return curve, estimate_by_bootstrap(float(1 - values.mean()), areas, support)


def choose_thresholds(val: pandas.DataFrame, test: pandas.DataFrame, class_names: Sequence[str]) -> list[Threshold]:
    """Choose on validation the confidence below which the model declines, and evaluate it on the test rows.

    Args:
        val: The predictions of one level, of validation rows.
        test: The predictions of the same level, of test rows.
        class_names: All classes.

    Returns:
        For each listed coverage the ``threshold`` (rows at it are answered) that leaves so many validation rows, and
        the ``coverage`` and ``accuracy`` on the test rows with intervals; no accuracy where nothing is answered.
    """
    levels = group_by_confidence(val, class_names)
    confidence = read_confidence(test, class_names)
    is_correct = (test["label"] == test["predicted"]).to_numpy()
    patients = number_patients(test["group_id"])
    thresholds: list[Threshold] = []
    for wanted, last in zip(LISTED_COVERAGES, levels.find_last(LISTED_COVERAGES), strict=True):
        threshold = 0.0 if wanted == 1 else float(levels.confidence[last])
        is_answered = confidence >= threshold
        answered, _ = compute_fractions(is_correct, np.where(is_answered, 0, 1), patients, 2)
        thresholds.append(
            {
                "wanted": wanted,
                "threshold": threshold,
                "coverage": compute_fraction(is_answered, patients),
                "accuracy": answered.fraction,
            }
        )
    return thresholds


def compute_coverage(
    val: pandas.DataFrame, test: pandas.DataFrame, class_names: Sequence[str], bootstrap: Bootstrap
) -> Coverage:
    """Compute the coverage curve of the test rows, and the thresholds chosen on validation.

    Args:
        val: The predictions of one level, of validation rows.
        test: The predictions of the same level, of test rows.
        class_names: All classes.
        bootstrap: The resamples of the test patients.
    """
    curve, area = compute_coverage_curve(test, class_names, bootstrap)
    thresholds = choose_thresholds(val, test, class_names)
    return {"curve": curve, "area_under_risk": area, "thresholds": thresholds}
