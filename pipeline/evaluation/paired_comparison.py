"""Two runs on the same test rows: is the difference more than the luck of who was tested?

Both runs are scored on the same draws of patients, and the difference of each draw is kept. What makes a patient
hard for both cancels, so the interval of the difference is narrower than the two intervals suggest.

Source:
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 and 15.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.core.array_types import Floats
from pipeline.evaluation.auroc import count_held_numbers
from pipeline.evaluation.bootstrap import MAX_CHUNK_NUMBERS, MIN_DEFINED_SHARE, chunk_sizes, draw_patient_weights
from pipeline.evaluation.predictions import LEVEL_KEYS, aggregate, read_class_indices, read_probabilities
from pipeline.evaluation.scores import PatientSums, compute_scores, sum_over_patients

COMPARED = ("accuracy", "balanced_accuracy", "auroc", "nll")


@dataclass(frozen=True)
class Difference:
    """How much a score of the second run lies above the first's.

    Args:
        value: second minus first.
        low: 2.5 % of the resamples lie below; None where too few define the score.
        high: 97.5 % lie below.
        p_value: two-sided: how often resamples lie on the other side of 0 or on it, doubled; small is rare.
    """

    value: float
    low: float | None
    high: float | None
    p_value: float | None

    @property
    def is_shown(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def explain_mismatch(first: pd.DataFrame, second: pd.DataFrame) -> str | None:
    """Say why two tables of predictions cannot be compared row by row; None where they can.

    Args:
        first: with ``example_id``, ``group_id`` and ``label``.
        second: likewise; the order of rows does not matter.
    """
    one, two = (table.set_index("example_id")[["group_id", "label"]].sort_index() for table in (first, second))
    if not one.index.equals(two.index):
        shared = len(one.index.intersection(two.index))
        return f"they scored other test rows ({len(one):,} and {len(two):,}, {shared:,} of them the same)"
    if not one.equals(two):
        return "the same rows have other labels or patients"
    return None


def compare_pair(
    first: pd.DataFrame,
    second: pd.DataFrame,
    class_names: Sequence[str],
    level: str,
    num_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Difference]:
    """Compare two runs that scored the same test rows, by a bootstrap over patients.

    Args:
        first: predictions of the test rows.
        second: of the other run; ``explain_mismatch`` of both is None.
        class_names: all classes.
        level: of ``aggregate``; at any other the rows stand for themselves.
        num_resamples: draws of patients.
        seed: of the draws.

    Returns:
        For each of ``COMPARED`` the difference; without those that are not defined.
    """
    rows = [aggregate(table, level) if level in LEVEL_KEYS else table for table in (first, second)]
    tables = [table.sort_values("example_id", ignore_index=True) for table in rows]
    patients, names = pd.factorize(tables[0]["group_id"], sort=True)
    sums = [_sum(table, patients.astype(np.int64), class_names) for table in tables]
    everyone = np.ones((1, len(names)))
    values = [compute_scores(part, everyone) for part in sums]
    drawn = _resample(sums, len(names), num_resamples, np.random.default_rng(seed)) if len(names) > 1 else None
    differences = {}
    for name in COMPARED:
        value = float(values[1][name][0] - values[0][name][0])
        if not np.isnan(value):
            differences[name] = _summarise(value, None if drawn is None else drawn[name])
    return differences


def correct_for_many(p_values: Sequence[float | None]) -> list[float | None]:
    """Raise p-values so that the chance of one false finding among all of them stays below the level (Holm's steps).

    Args:
        p_values: of comparisons that are made together; None, where there is none, counts for nothing.

    Returns:
        In the same order, each as it was or larger, at most 1.

    Source:
        Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
    """
    known = sorted((value, place) for place, value in enumerate(p_values) if value is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (value, place) in enumerate(known):
        highest = max(highest, min(1.0, value * (len(known) - rank)))
        corrected[place] = highest
    return corrected


def _sum(table: pd.DataFrame, patients: NDArray[np.int64], class_names: Sequence[str]) -> PatientSums:
    labels = read_class_indices(table["label"], class_names)
    predicted = read_class_indices(table["predicted"], class_names)
    return sum_over_patients(labels, predicted, read_probabilities(table, class_names), patients)


def _resample(
    sums: list[PatientSums], num_patients: int, num_resamples: int, generator: np.random.Generator
) -> dict[str, Floats]:
    """Return the difference of each draw, the same patients drawn for both."""
    held = [count_held_numbers(ranking) for part in sums for ranking in part.rankings]
    largest = max([num_patients, sums[0].num_classes ** 2, *held])
    parts = []
    for size in chunk_sizes(num_resamples, max(1, MAX_CHUNK_NUMBERS // largest)):
        weights = draw_patient_weights(num_patients, size, generator)
        scores = [compute_scores(part, weights) for part in sums]
        parts.append({name: scores[1][name] - scores[0][name] for name in COMPARED})
    return {name: np.concatenate([part[name] for part in parts]) for name in COMPARED}


def _summarise(value: float, drawn: Floats | None) -> Difference:
    defined = np.empty(0) if drawn is None else drawn[~np.isnan(drawn)]
    if drawn is None or len(defined) < MIN_DEFINED_SHARE * len(drawn):
        return Difference(value, None, None, None)
    low, high = np.percentile(defined, [2.5, 97.5])
    # One is added above and below, so that no finite number of draws gives 0.
    tail = (min((defined <= 0).sum(), (defined >= 0).sum()) + 1) / (len(defined) + 1)
    return Difference(value, float(low), float(high), min(1.0, 2 * float(tail)))
