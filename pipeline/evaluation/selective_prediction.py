"""What is gained where a model may decline to answer: accuracy of its surest answers, by confidence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas
import scipy.sparse
from einops import reduce

from pipeline.core.array_types import Floats
from pipeline.core.predictions import TIE_DECIMALS
from pipeline.evaluation.bootstrap import count_cells, divide, draw_weights, summarise
from pipeline.evaluation.predictions import read_probabilities
from pipeline.evaluation.subgroups import compute_share, compute_shares, number_patients

COVERAGES = tuple(percent / 100 for percent in range(1, 101))
TOLD_COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.5)


@dataclass(frozen=True)
class Ordered:
    """Rows from the surest to the least sure; equally sure ones stand on one rung.

    Attributes:
        rows: ``(rungs, patients)`` sparse counts.
        right: ``(rungs, patients)`` sparse counts of the right answers.
        confidence: ``(rungs,)``, falling.
    """

    rows: scipy.sparse.csr_array
    right: scipy.sparse.csr_array
    confidence: Floats


def read_confidence(table: pandas.DataFrame, class_names: Sequence[str]) -> Floats:
    """Return the highest probability of each row, ``(rows,)``, rounded so that ties stay ties."""
    confidence: Floats = read_probabilities(table, class_names).max(axis=1).round(TIE_DECIMALS)
    return confidence


def order_rows(table: pandas.DataFrame, class_names: Sequence[str]) -> Ordered:
    """Order a predictions table by confidence."""
    levels, rungs = np.unique(-read_confidence(table, class_names), return_inverse=True)
    patients = number_patients(table["group_id"])
    is_right = (table["label"] == table["predicted"]).to_numpy()
    shape = (len(levels), int(patients.max()) + 1)
    return Ordered(
        rows=count_cells(rungs, patients, shape),
        right=count_cells(rungs[is_right], patients[is_right], shape),
        confidence=-levels,
    )


def compute_accuracies(ordered: Ordered, weights: Floats, coverages: Sequence[float]) -> Floats:
    """Compute the accuracy of the surest rows at each coverage, for each draw of the patients.

    Where a coverage ends inside a rung, or inside a row, that rung counts in part with its own accuracy: what one
    would get on average by choosing among equally sure rows at random.

    Args:
        ordered: of ``order_rows``.
        weights: ``(resamples, patients)``, how often each patient counts.
        coverages: shares of the rows that are answered, above 0.

    Returns:
        ``(resamples, coverages)``.
    """
    rows, right = (np.cumsum(np.asarray(part @ weights.T), axis=0).T for part in (ordered.rows, ordered.right))
    wanted = np.asarray(coverages) * rows[:, -1:]
    # A hair less, lest rounding push a coverage that ends with a rung into the next one.
    last = np.stack([np.searchsorted(line, goal - 1e-9) for line, goal in zip(rows, wanted, strict=True)])
    before = np.maximum(last - 1, 0)
    resample = np.arange(len(rows))[:, None]
    rows_before = np.where(last > 0, rows[resample, before], 0.0)
    right_before = np.where(last > 0, right[resample, before], 0.0)
    part = divide(wanted - rows_before, rows[resample, last] - rows_before)
    accuracies: Floats = (right_before + part * (right[resample, last] - right_before)) / wanted
    return accuracies


def compute_coverage_curve(
    table: pandas.DataFrame, class_names: Sequence[str], num_resamples: int, seed: int
) -> dict[str, Any]:
    """Compute accuracy against coverage: the model answers for its surest rows alone.

    Each resample of the patients is ordered anew, so that the intervals also hold the choice of the rows.

    Args:
        table: predictions of one level.
        class_names: all classes.
        num_resamples: how many times the patients are drawn again.
        seed: of the draws.

    Returns:
        ``curve``: for each whole percentage of coverage its ``accuracy`` with an interval and the lowest
        ``confidence`` that is answered; ``area_under_risk``: the mean share of wrong answers over these coverages,
        with an interval (lower is better).
    """
    ordered = order_rows(table, class_names)
    num_rungs, num_patients = ordered.rows.shape
    values = compute_accuracies(ordered, np.ones((1, num_patients)), COVERAGES)[0]
    resampled = None
    if num_patients > 1:
        draws = draw_weights(num_patients, num_resamples, seed, max(num_patients, num_rungs))
        resampled = np.concatenate([compute_accuracies(ordered, weights, COVERAGES) for weights in draws])
    num_rows = np.cumsum(np.asarray(ordered.rows.sum(axis=1)))
    last = np.searchsorted(num_rows, np.asarray(COVERAGES) * num_rows[-1] - 1e-9)
    return {
        "curve": [
            {
                "coverage": coverage,
                "confidence": float(ordered.confidence[last[place]]),
                "accuracy": summarise(values[place], None if resampled is None else resampled[:, place]),
            }
            for place, coverage in enumerate(COVERAGES)
        ],
        "area_under_risk": summarise(
            float(1 - values.mean()),
            None if resampled is None else reduce(1 - resampled, "resample coverage -> resample", "mean"),
        ),
    }


def choose_thresholds(
    val: pandas.DataFrame,
    test: pandas.DataFrame,
    class_names: Sequence[str],
    num_resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Choose on validation the confidence below which the model declines, and see what it does on the test.

    Args:
        val: predictions of one level, of validation rows.
        test: the same of test rows.
        class_names: all classes.
        num_resamples: how many times the test patients are drawn again.
        seed: of the draws.

    Returns:
        For each told coverage the ``threshold`` (rows at it are answered) that leaves so many validation rows, and
        the ``coverage`` and ``accuracy`` on the test with intervals; no accuracy where nothing is answered.
    """
    ordered = order_rows(val, class_names)
    num_rows = np.cumsum(np.asarray(ordered.rows.sum(axis=1)))
    confidence = read_confidence(test, class_names)
    is_right = (test["label"] == test["predicted"]).to_numpy()
    patients = number_patients(test["group_id"])
    results = []
    for wanted in TOLD_COVERAGES:
        rung = int(np.searchsorted(num_rows, wanted * num_rows[-1] - 1e-9))
        threshold = 0.0 if wanted == 1 else float(ordered.confidence[rung])
        is_answered = confidence >= threshold
        answered, _ = compute_shares(is_right, np.where(is_answered, 0, 1), patients, 2, num_resamples, seed)
        results.append(
            {
                "wanted": wanted,
                "threshold": threshold,
                "coverage": compute_share(is_answered, patients, num_resamples, seed),
                "accuracy": answered["share"],
            }
        )
    return results
