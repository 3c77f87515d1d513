"""What a predictions table is worth: scores for each slice, volume and patient, with 95 % intervals.

Slices of a patient resemble each other, so they are not independent witnesses:
intervals come from drawing whole patients, whatever the level. Images and objects
of a published set are each a group of their own, with one level.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas
from numpy.typing import NDArray

from pipeline.core.data_kinds import VOLUMES, DataKind
from pipeline.core.errors import UserError
from pipeline.core.text import plural
from pipeline.evaluation.bootstrap import MIN_DEFINED_SHARE, summarise
from pipeline.evaluation.predictions import (
    aggregate,
    check_predictions,
    has_patient_level,
    read_class_indices,
    read_probabilities,
)
from pipeline.evaluation.scores import METRIC_NAMES, PatientSums, compute_scores, resample_scores, sum_over_patients

# With more classes a confusion matrix has no numbers in its cells, so the largest are told in words.
MAX_READABLE_CLASSES = 12
NUM_TOLD_MISTAKES = 10


def compute_metrics(
    predictions: pandas.DataFrame,
    class_names: Sequence[str],
    num_resamples: int = 2000,
    seed: int = 0,
    kind: DataKind = VOLUMES,
) -> dict[str, dict[str, Any]]:
    """Compute the ``levels`` of metrics.json.

    Args:
        predictions: one row a slice, with the columns of the predictions table.
        class_names: all classes; of two, the last one is the positive class.
        num_resamples: how many times the patients are drawn again.
        seed: of the draws. The same seed draws the same patients at every level and for
            every model, so results on one table can be compared in pairs.
        kind: The kind of data, which names rows and groups.

    Returns:
        For "slice", "volume" and, where labels belong to patients, "patient": what
        ``compute_level`` returns. For "image" or "object" alone, where each row is its own group.
    """
    check_predictions(predictions, class_names)
    if not kind.has_patients:
        return {kind.example: compute_level(predictions, class_names, num_resamples, seed, kind)}
    levels = ["slice", "volume", *(["patient"] if has_patient_level(predictions) else [])]
    return {
        level: compute_level(aggregate(predictions, level), class_names, num_resamples, seed, kind) for level in levels
    }


def compute_level(
    table: pandas.DataFrame,
    class_names: Sequence[str],
    num_resamples: int = 2000,
    seed: int = 0,
    kind: DataKind = VOLUMES,
) -> dict[str, Any]:
    """Score one table with 95 % percentile intervals from a bootstrap over patients.

    Sensitivity, specificity, F1 and AUROC of two classes are those of the last class;
    of several classes they are means over one class against the rest. The expected
    calibration error has 15 equally wide bins of the highest probability; it is an average
    of absolute values, so a resample's lies above the table's and its interval leans upwards.

    Returns:
        ``n`` rows, ``groups`` independent patients, ``metrics`` with value, low and high
        each, ``confusion`` counts with a row for each true class, ``support`` per class,
        and ``notes``: why a number is None, or what an interval cannot show.
    """
    if num_resamples < 1:
        raise UserError(f"num_resamples: found {num_resamples}; allowed are 1 and more.")
    labels = read_class_indices(table["label"], class_names)
    predicted = read_class_indices(table["predicted"], class_names)
    patients, patient_names = pandas.factorize(table["group_id"], sort=True)
    num_patients = len(patient_names)
    probabilities = read_probabilities(table, class_names)
    sums = sum_over_patients(labels, predicted, probabilities, patients.astype(np.int64))
    values = compute_scores(sums, np.ones((1, num_patients)))
    resampled = resample_scores(sums, num_resamples, np.random.default_rng(seed)) if num_patients > 1 else None
    metrics = {
        name: summarise(values[name][0], None if resampled is None else resampled[name]) for name in METRIC_NAMES
    }
    confusion = sums.confusion.sum(axis=1).reshape(len(class_names), len(class_names)).astype(int)
    return {
        "n": len(table),
        "groups": num_patients,
        "metrics": metrics,
        "confusion": confusion.tolist(),
        "support": dict(zip(class_names, confusion.sum(axis=1).tolist(), strict=True)),
        "notes": explain(metrics, sums, confusion, class_names, kind),
    }


def explain(
    metrics: dict[str, dict[str, float | None]],
    sums: PatientSums,
    confusion: NDArray[np.int64],
    class_names: Sequence[str],
    kind: DataKind = VOLUMES,
) -> list[str]:
    """Say in words why numbers are missing and what the intervals cannot show."""
    notes = []
    present = [name for name, count in zip(class_names, confusion.sum(axis=1), strict=True) if count > 0]
    undefined = [name for name, metric in metrics.items() if metric["value"] is None]
    if undefined:
        notes.append(f"Not defined: {', '.join(undefined)}; the labels hold only {', '.join(present)}.")
    elif len(present) < len(class_names):
        absent = [name for name in class_names if name not in present]
        notes.append(f"No row has the label {', '.join(absent)}; averages leave it out.")
    no_interval = [name for name, metric in metrics.items() if metric["value"] is not None and metric["low"] is None]
    if sums.num_patients == 1:
        notes.append(f"No intervals: there is one {kind.group} only.")
    elif no_interval:
        notes.append(
            f"No interval: {', '.join(no_interval)}; more than {1 - MIN_DEFINED_SHARE:.0%} "
            "of the resamples lack a class."
        )
    if np.trace(confusion) == confusion.sum() and sums.num_patients > 1:
        # Exact two-sided 95 % limit for no event among so many patients (Clopper and Pearson, 1934).
        limit = 1 - 0.025 ** (1 / sums.num_patients)
        notes.append(
            "No error was seen, so a bootstrap has none to draw and its interval has no width. "
            f"With {sums.num_patients} {plural(kind.group)} free of errors, "
            f"up to {limit:.1%} of all {plural(kind.group)} may still show one (exact 95 % limit)."
        )
    if len(class_names) > MAX_READABLE_CLASSES:
        notes += describe_mistakes(confusion, class_names)
    return notes


def describe_mistakes(confusion: NDArray[np.int64], class_names: Sequence[str]) -> list[str]:
    """Name the most frequent mistakes, the first of equal ones in the order of the classes; nothing where none is."""
    mistakes = confusion.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:NUM_TOLD_MISTAKES]
    cells = zip(*np.unravel_index(order, mistakes.shape), strict=True)
    told = [
        f"{class_names[true]} for {class_names[predicted]} ({mistakes[true, predicted]:,})"
        for true, predicted in cells
        if mistakes[true, predicted] > 0
    ]
    return [f"Most often mistaken: {', '.join(told)}."] if told else []
