"""The levels of metrics.json: scores for each slice, volume and patient, with 95 % intervals.

Slices of a patient resemble each other, so they are not independent: intervals come
from drawing whole patients, whatever the level. Images and objects of a published set
are each a group of their own, with one level.
"""

from collections.abc import Sequence

import numpy as np
import pandas
from numpy.typing import NDArray

from pipeline.core.data_kinds import VOLUMES, DataKind
from pipeline.core.text import plural
from pipeline.evaluation.bootstrap import MIN_DEFINED_FRACTION, Bootstrap, percentile_interval
from pipeline.evaluation.predictions import (
    aggregate,
    check_predictions,
    has_patient_level,
    number_patients,
    read_class_indices,
    read_probabilities,
)
from pipeline.evaluation.schema import Level, Scores
from pipeline.evaluation.scores import METRIC_NAMES, compute_scores, resample_scores, sum_over_patients

# With more classes a confusion matrix has no numbers in its cells, so the largest are listed in words.
MAX_READABLE_CLASSES = 12
NUM_LISTED_MISTAKES = 10


def compute_levels(
    predictions: pandas.DataFrame,
    class_names: Sequence[str],
    bootstrap: Bootstrap,
    kind: DataKind = VOLUMES,
) -> dict[str, Level]:
    """Compute the ``levels`` of metrics.json.

    Args:
        predictions: One row a slice, with the columns of the predictions table.
        class_names: All classes; of two, the last one is the positive class.
        bootstrap: The resamples of patients.
        kind: The kind of data, which names rows and groups.

    Returns:
        For "slice", "volume" and, where labels belong to patients, "patient": what
        ``compute_level`` returns. For "image" or "object" alone, where each row is its own group.
    """
    check_predictions(predictions, class_names)
    tables = {
        name: aggregate(predictions, name) if kind.has_patients else predictions
        for name in list_levels(predictions, kind)
    }
    return {name: compute_level(table, class_names, bootstrap, kind) for name, table in tables.items()}


def list_levels(predictions: pandas.DataFrame, kind: DataKind) -> list[str]:
    """Return the names of the levels that a predictions table has, that of its rows first."""
    if not kind.has_patients:
        return [kind.example]
    return ["slice", "volume", *(["patient"] if has_patient_level(predictions) else [])]


def compute_level(
    table: pandas.DataFrame,
    class_names: Sequence[str],
    bootstrap: Bootstrap,
    kind: DataKind = VOLUMES,
) -> Level:
    """Score one table with 95 % percentile intervals from a bootstrap over patients.

    Sensitivity, specificity, F1 and AUROC of two classes are those of the last class;
    of several classes they are means over one class against the rest. The expected
    calibration error has 15 equally wide bins of the highest probability; it is an average
    of absolute values, so a resample's lies above the table's and its interval leans upwards.

    Args:
        table: The predictions of one level.
        class_names: All classes.
        bootstrap: The resamples of patients.
        kind: The kind of data, which names rows and groups.

    Returns:
        ``n`` rows, ``groups`` independent patients, ``metrics`` with value, low and high
        each, ``confusion`` counts with a row for each true class, ``support`` per class,
        and ``notes``: why a number is None, or what an interval cannot show.
    """
    labels = read_class_indices(table["label"], class_names)
    predicted = read_class_indices(table["predicted"], class_names)
    patients = number_patients(table["group_id"])
    totals = sum_over_patients(labels, predicted, read_probabilities(table, class_names), patients)
    values = compute_scores(totals, np.ones((1, totals.num_patients)))
    resampled = resample_scores(totals, bootstrap)
    metrics = {
        name: percentile_interval(values[name][0], None if resampled is None else resampled[name])
        for name in METRIC_NAMES
    }
    confusion = totals.confusion.sum(axis=1).reshape(len(class_names), len(class_names)).astype(int)
    support = dict(zip(class_names, confusion.sum(axis=1).tolist(), strict=True))
    notes = [
        *_list_undefined(metrics, support),
        *_list_missing_intervals(metrics, totals.num_patients, kind),
        *_list_limits(confusion, totals.num_patients, kind),
    ]
    if len(class_names) > MAX_READABLE_CLASSES:
        notes += list_mistakes(confusion, class_names)
    return {
        "n": len(table),
        "groups": totals.num_patients,
        "metrics": metrics,
        "confusion": confusion.tolist(),
        "support": support,
        "notes": notes,
    }


def _list_undefined(metrics: Scores, support: dict[str, int]) -> list[str]:
    """Note which scores are not defined, or which classes an average leaves out."""
    present = [name for name, count in support.items() if count > 0]
    undefined = [name for name, metric in metrics.items() if metric["value"] is None]
    if undefined:
        return [f"Not defined: {', '.join(undefined)}; the labels hold only {', '.join(present)}."]
    absent = [name for name in support if name not in present]
    return [f"No row has the label {', '.join(absent)}; averages leave it out."] if absent else []


def _list_missing_intervals(metrics: Scores, num_patients: int, kind: DataKind) -> list[str]:
    """Note which scores have no interval, and why."""
    if num_patients == 1:
        return [f"No intervals: there is one {kind.group} only."]
    names = [name for name, metric in metrics.items() if metric["value"] is not None and metric["low"] is None]
    rest = f"more than {1 - MIN_DEFINED_FRACTION:.0%} of the resamples lack a class."
    return [f"No interval: {', '.join(names)}; {rest}"] if names else []


def _list_limits(confusion: NDArray[np.int64], num_patients: int, kind: DataKind) -> list[str]:
    """Note what may still be wrong where no error was seen."""
    if np.trace(confusion) < confusion.sum() or num_patients == 1:
        return []
    # Exact two-sided 95 % limit for no event among so many patients (Clopper and Pearson, 1934).
    limit = 1 - 0.025 ** (1 / num_patients)
    return [
        "No error was seen, so a bootstrap has none to draw and its interval has no width. "
        f"With {num_patients} {plural(kind.group)} free of errors, "
        f"up to {limit:.1%} of all {plural(kind.group)} may still show one (exact 95 % limit)."
    ]


def list_mistakes(confusion: NDArray[np.int64], class_names: Sequence[str]) -> list[str]:
    """Name the most frequent mistakes, the first of equal ones in the order of the classes; nothing where none is."""
    mistakes = confusion.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:NUM_LISTED_MISTAKES]
    cells = zip(*np.unravel_index(order, mistakes.shape), strict=True)
    listed = [
        f"{class_names[true]} for {class_names[predicted]} ({mistakes[true, predicted]:,})"
        for true, predicted in cells
        if mistakes[true, predicted] > 0
    ]
    return [f"Most often mistaken: {', '.join(listed)}."] if listed else []
