"""The paired comparison of two runs on the same test rows.

Interval: both runs are scored on the same draws of patients, and the difference of each draw is kept. What makes a
patient hard for both cancels, so the interval of the difference is narrower than the two intervals suggest.

Test: if the runs are equally good, it is chance which of the two made which predictions of a patient. So the
predictions are exchanged within patients, for every choice of patients or for many drawn ones, and the p-value is the
fraction of these exchanges whose difference is as large as the one that was found. Of a score that is a mean this is
the sign-flip test of the patients' differences. A p-value from the bootstrap would reject a true null hypothesis too
often with few patients: in 14 % instead of 5 % of cases with six (``reports/benchmarks/paired_test.py``).
``scipy.stats.permutation_test`` exchanges single numbers, not the rows of a patient.

The AUROC knows of the order of a run's probabilities alone, so what is exchanged for it are their ranks within the run.
Probabilities of two scales would be mixed into a ranking that neither run has: added to the logits of one run, a number
that changes none of the two AUROCs would change the p-value.

Source:
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 and 15; Phipson and Smyth, "Permutation
    p-values should never be zero", Statistical Applications in Genetics and Molecular Biology 9, 2010; Venkatraman and
    Begg, "A distribution-free procedure for comparing receiver operating characteristic curves from a paired
    experiment", Biometrika 83, 1996, for the exchange of ranks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from pipeline.core.array_types import Floats, Indices
from pipeline.evaluation.bootstrap import MAX_CHUNK_NUMBERS, Bootstrap, find_percentiles, widen_tail
from pipeline.evaluation.predictions import (
    LEVEL_KEYS,
    aggregate,
    number_patients,
    read_class_indices,
    read_probabilities,
)
from pipeline.evaluation.scores import PatientTotals, compute_scores, sum_over_patients

COMPARED_METRICS = ("accuracy", "balanced_accuracy", "auroc", "nll")
# Up to this many patients all choices of patients are exchanged, 4,096 at most.
MAX_EXACT_PATIENTS = 12
# Differences of sums that were added in another order, relative to the difference.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Difference:
    """The difference of a score between two runs.

    Args:
        value: The score of the second run minus that of the first.
        low: The lower end of the 95 % interval; None where too few resamples define the score, or all are equal.
        high: The upper end.
        p_value: The two-sided p-value of the permutation test; None for one patient.
    """

    value: float
    low: float | None
    high: float | None
    p_value: float | None


@dataclass(frozen=True)
class Permutations:
    """Exchanges of the two runs' predictions within patients.

    Args:
        number: How many are drawn where there are more than ``MAX_EXACT_PATIENTS`` patients.
        seed: The seed of the random numbers.
    """

    number: int = 2000
    seed: int = 0

    def draw(self, num_patients: int, numbers_held: int) -> Iterator[NDArray[np.bool_]]:
        """Choose the patients whose predictions are exchanged.

        Args:
            num_patients: The number of patients.
            numbers_held: How many numbers a choice needs at once; the more, the fewer are drawn together.

        Yields:
            ``(choices, patients)``; of few patients all choices in all, the empty one too.
        """
        is_exact = num_patients <= MAX_EXACT_PATIENTS
        number = 2**num_patients if is_exact else self.number
        generator = np.random.default_rng(self.seed)
        chunk_size = max(1, MAX_CHUNK_NUMBERS // max(num_patients, numbers_held))
        for start in range(0, number, chunk_size):
            size = min(chunk_size, number - start)
            if is_exact:
                yield (np.arange(start, start + size)[:, None] >> np.arange(num_patients)) % 2 == 1
            else:
                yield generator.integers(0, 2, size=(size, num_patients)) == 1


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
    tables: tuple[pd.DataFrame, pd.DataFrame],
    class_names: Sequence[str],
    level: str,
    bootstrap: Bootstrap,
    permutations: Permutations,
) -> dict[str, Difference]:
    """Compare two runs that scored the same test rows.

    Args:
        tables: The predictions of the test rows of both runs; ``explain_mismatch`` of them is None.
        class_names: All classes.
        level: A level of ``aggregate``; at any other the rows are compared as they are.
        bootstrap: The resamples of patients, the same for both runs.
        permutations: The exchanges of predictions.

    Returns:
        For each of ``COMPARED_METRICS`` the difference; without those that are not defined.
    """
    rows = [aggregate(table, level) if level in LEVEL_KEYS else table for table in tables]
    ordered = [table.sort_values("example_id", ignore_index=True) for table in rows]
    patients = number_patients(ordered[0]["group_id"])
    num_patients = int(patients.max()) + 1
    # As if the predictions of the second run were those of as many patients more.
    both = _sum(ordered, np.concatenate([patients, patients + num_patients]), class_names)

    def compute(first: Floats, second: Floats) -> Floats:
        """Score the second weights minus the first, ``(rows of weights, metrics)``."""
        scores, others = compute_scores(both, first), compute_scores(both, second)
        return np.stack([others[name] - scores[name] for name in COMPARED_METRICS], axis=1)

    def compute_resample(weights: Floats) -> Floats:
        nobody = np.zeros_like(weights)
        return compute(np.hstack([weights, nobody]), np.hstack([nobody, weights]))

    values = compute_resample(np.ones((1, num_patients)))[0]
    resampled = bootstrap.resample(compute_resample, num_patients, both.numbers_held)
    p_values: Sequence[float | None] = [None] * len(COMPARED_METRICS)
    if num_patients > 1:
        exchanged = np.concatenate(
            [
                compute(np.hstack([~choice, choice]).astype(float), np.hstack([choice, ~choice]).astype(float))
                for choice in permutations.draw(num_patients, both.numbers_held)
            ]
        )
        p_values = [compute_p_value(values[place], column) for place, column in enumerate(exchanged.T)]
        if num_patients > MAX_EXACT_PATIENTS:  # the predictions as they are count as one exchange
            p_values = [(value * len(exchanged) + 1) / (len(exchanged) + 1) for value in p_values if value is not None]
    return {
        name: _estimate(values[place], None if resampled is None else resampled[:, place], num_patients, p_value)
        for place, (name, p_value) in enumerate(zip(COMPARED_METRICS, p_values, strict=True))
        if not np.isnan(values[place])
    }


def compute_p_value(value: float, exchanged: Floats) -> float:
    """Return the fraction of exchanges with a difference at least as large as the one that was found, of either sign.

    Args:
        value: The difference that was found.
        exchanged: ``(exchanges,)``: the differences after the exchanges.
    """
    return float(np.mean(np.abs(exchanged) >= abs(value) * (1 - ROUNDING)))


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


def _sum(tables: Sequence[pd.DataFrame], patients: Indices, class_names: Sequence[str]) -> PatientTotals:
    """Sum the rows of two runs as one table, in which ``patients`` numbers those of the second after the first's."""
    table = pd.concat(tables)
    labels = read_class_indices(table["label"], class_names)
    predicted = read_class_indices(table["predicted"], class_names)
    probabilities = read_probabilities(table, class_names)
    # Ranks of each run by itself, ties in the middle: runs of other scales do not mix when rows are exchanged.
    ranks = np.concatenate([rankdata(read_probabilities(run, class_names), axis=0) for run in tables])
    return sum_over_patients(labels, predicted, probabilities, patients, ranks)


def _estimate(value: float, resampled: Floats | None, num_patients: int, p_value: float | None) -> Difference:
    ends = None if resampled is None else find_percentiles(resampled, widen_tail(num_patients))
    if ends is None or ends[0] == ends[1]:
        return Difference(float(value), None, None, p_value)
    return Difference(float(value), *ends, p_value)
