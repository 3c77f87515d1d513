"""The paired comparison of two runs on the same test rows.

Both runs are scored on the same draws of patients, and the difference of each draw is kept. What makes a patient
hard for both cancels, so the interval of the difference is narrower than the two intervals suggest.

Source:
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 and 15.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.core.array_types import Floats, Indices
from pipeline.evaluation.bootstrap import Bootstrap, find_percentiles
from pipeline.evaluation.predictions import (
    LEVEL_KEYS,
    aggregate,
    number_patients,
    read_class_indices,
    read_probabilities,
)
from pipeline.evaluation.scores import PatientTotals, compute_scores, sum_over_patients

COMPARED_METRICS = ("accuracy", "balanced_accuracy", "auroc", "nll")


@dataclass(frozen=True)
class Difference:
    """The difference of a score between two runs.

    Args:
        value: The score of the second run minus that of the first.
        low: The difference that 2.5 % of the resamples lie below; None where too few define the score.
        high: The difference that 97.5 % of the resamples lie below.
        p_value: The two-sided p-value: twice the fraction of resamples on the other side of 0 or on it.
    """

    value: float
    low: float | None
    high: float | None
    p_value: float | None

    @property
    def is_shown(self) -> bool:
        """True where the interval excludes 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def explain_mismatch(first: pd.DataFrame, second: pd.DataFrame) -> str | None:
    """Return why two tables of predictions cannot be compared row by row; None where they can.

    Args:
        first: A table with ``example_id``, ``group_id`` and ``label``.
        second: The table of the other run; the order of rows does not matter.
    """
    one, two = (table.set_index("example_id")[["group_id", "label"]].sort_index() for table in (first, second))
    if not one.index.equals(two.index):
        shared = len(one.index.intersection(two.index))
        return f"they scored other test rows ({len(one):,} and {len(two):,}, {shared:,} of them the same)"
    if not one.equals(two):
        return "the same rows have other labels or patients"
    return None


def compare_pair(
    first: pd.DataFrame, second: pd.DataFrame, class_names: Sequence[str], level: str, bootstrap: Bootstrap
) -> dict[str, Difference]:
    """Compare two runs that scored the same test rows, by a bootstrap over patients.

    Args:
        first: The predictions of the test rows.
        second: Those of the other run; ``explain_mismatch`` of both is None.
        class_names: All classes.
        level: A level of ``aggregate``; at any other the rows are compared as they are.
        bootstrap: The resamples of patients, the same for both runs.

    Returns:
        For each of ``COMPARED_METRICS`` the difference; without those that are not defined.
    """
    rows = [aggregate(table, level) if level in LEVEL_KEYS else table for table in (first, second)]
    tables = [table.sort_values("example_id", ignore_index=True) for table in rows]
    patients = number_patients(tables[0]["group_id"])
    one, two = (_sum(table, patients, class_names) for table in tables)

    def compute(weights: Floats) -> Floats:
        scores, others = compute_scores(one, weights), compute_scores(two, weights)
        return np.stack([others[name] - scores[name] for name in COMPARED_METRICS], axis=1)

    values = compute(np.ones((1, one.num_patients)))[0]
    resampled = bootstrap.resample(compute, one.num_patients, max(one.numbers_held, two.numbers_held))
    return {
        name: _estimate(values[index], None if resampled is None else resampled[:, index])
        for index, name in enumerate(COMPARED_METRICS)
        if not np.isnan(values[index])
    }


def correct_for_many(p_values: Sequence[float | None]) -> list[float | None]:
    """Raise p-values so that the chance of one false finding among all of them stays below the level (Holm's steps).

    Args:
        p_values: The p-values of comparisons that are made together; None, where there is none, is not counted.

    Returns:
        The corrected values in the same order, each as it was or larger, at most 1.

    Source:
        Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
    """
    known = sorted((value, index) for index, value in enumerate(p_values) if value is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (value, index) in enumerate(known):
        highest = max(highest, min(1.0, value * (len(known) - rank)))
        corrected[index] = highest
    return corrected


def _sum(table: pd.DataFrame, patients: Indices, class_names: Sequence[str]) -> PatientTotals:
    labels = read_class_indices(table["label"], class_names)
    predicted = read_class_indices(table["predicted"], class_names)
    return sum_over_patients(labels, predicted, read_probabilities(table, class_names), patients)


def _estimate(value: float, resampled: Floats | None) -> Difference:
    ends = None if resampled is None else find_percentiles(resampled)
    if resampled is None or ends is None:
        return Difference(float(value), None, None, None)
    defined = resampled[~np.isnan(resampled)]
    # One is added above and below, so that no finite number of draws gives 0.
    tail = (min((defined <= 0).sum(), (defined >= 0).sum()) + 1) / (len(defined) + 1)
    return Difference(float(value), *ends, min(1.0, 2 * float(tail)))
