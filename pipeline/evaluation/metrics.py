"""The levels of metrics.json: scores for each slice, volume and patient, with 95 % intervals.

Slices of a patient resemble each other, so they are not independent: intervals are over
patients, whatever the level. Images and objects of a published set are each a group of
their own, with one level. Proportions have the interval of ``proportions``, the AUROC of two
classes that of ``auroc``, and all other scores a bootstrap where there are enough patients.
"""

from collections.abc import Sequence

import numpy as np
import pandas
from numpy.typing import NDArray

from pipeline.core.array_types import Floats, Indices
from pipeline.core.data_kinds import VOLUMES, DataKind
from pipeline.core.text import plural
from pipeline.evaluation.auroc import estimate_auroc
from pipeline.evaluation.bootstrap import Bootstrap, Support, estimate_by_bootstrap
from pipeline.evaluation.predictions import (
    aggregate,
    check_predictions,
    has_level,
    number_patients,
    read_class_indices,
    read_probabilities,
)
from pipeline.evaluation.proportions import (
    PatientCounts,
    estimate_proportion,
    keep_patients,
    plan_sample_size,
)
from pipeline.evaluation.schema import EXACT, Level, Scores, explain_missing_interval
from pipeline.evaluation.scores import (
    METRIC_NAMES,
    METRIC_TITLES,
    PatientTotals,
    compute_scores,
    resample_scores,
    sum_over_patients,
)

# With more classes a confusion matrix has no numbers in its cells, so the largest are listed in words.
MAX_READABLE_CLASSES = 12
NUM_LISTED_MISTAKES = 10
BIASED = "it is a mean of absolute values, which resampling makes larger"


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
        For "slice" and "volume", or "image" or "object", and where rows are of patients and each has one label, "knee"
        (the sides are known) and "patient": what ``compute_level`` returns.
    """
    check_predictions(predictions, class_names)
    tables = {name: aggregate(predictions, name) for name in list_levels(predictions, kind)}
    return {name: compute_level(table, class_names, bootstrap, kind) for name, table in tables.items()}


def list_levels(predictions: pandas.DataFrame, kind: DataKind) -> list[str]:
    """Return the names of the levels that a predictions table has, that of its rows first."""
    volumes = ["volume"] if kind.has_slices else []
    patients = ["knee", "patient"] if kind.has_patients else []
    return [kind.example, *volumes, *(level for level in patients if has_level(predictions, level))]


def compute_level(
    table: pandas.DataFrame,
    class_names: Sequence[str],
    bootstrap: Bootstrap,
    kind: DataKind = VOLUMES,
) -> Level:
    """Score one table with 95 % intervals over patients.

    Sensitivity, specificity, F1 and AUROC of two classes are those of the last class;
    of several classes they are means over one class against the rest. The expected
    calibration error has 15 equally wide bins of the highest probability.

    Args:
        table: The predictions of one level.
        class_names: All classes.
        bootstrap: The resamples of patients.
        kind: The kind of data, which names rows and groups.

    Returns:
        ``n`` rows, ``groups`` independent patients, ``groups_with_errors`` of them with any wrong row, ``metrics``
        with value, low, high, method and reason each, ``mean_over_groups``: the mean of the patients' own accuracies,
        ``sample_size``, ``confusion`` counts with a row for each true class, ``support`` per class,
        and ``notes``: why a number is None, or what an interval cannot show.
    """
    totals, repeats = sum_table(table, class_names)
    correct = count_correct_rows(totals, repeats)
    metrics = estimate_scores(totals, repeats, bootstrap)
    confusion = totals.confusion.sum(axis=1).reshape(len(class_names), len(class_names)).astype(int)
    support = dict(zip(class_names, confusion.sum(axis=1).tolist(), strict=True))
    notes = [
        *_list_undefined(metrics, support),
        *_list_missing_intervals(metrics, totals.num_patients, kind),
        *_list_limits(metrics, kind),
    ]
    if len(class_names) > MAX_READABLE_CLASSES:
        notes += list_mistakes(confusion, class_names)
    return {
        "n": len(table),
        "groups": totals.num_patients,
        "groups_with_errors": count_with_errors(correct),
        "metrics": metrics,
        "mean_over_groups": estimate_proportion(correct.mean_over_patients, correct),
        "sample_size": plan_sample_size(correct),
        "confusion": confusion.tolist(),
        "support": support,
        "notes": notes,
    }


def sum_table(table: pandas.DataFrame, class_names: Sequence[str]) -> tuple[PatientTotals, Floats]:
    """Sum a table per patient.

    Args:
        table: The predictions of one level.
        class_names: All classes.

    Returns:
        The sums, and how often each patient's examples are scored, ``(patients,)``.
    """
    labels = read_class_indices(table["label"], class_names)
    predicted = read_class_indices(table["predicted"], class_names)
    patients = number_patients(table["group_id"])
    totals = sum_over_patients(labels, predicted, read_probabilities(table, class_names), patients)
    return totals, count_repeats(table["example_id"], patients)


def count_repeats(example_ids: pandas.Series, patients: Indices) -> Floats:
    """Count how often each patient's examples are scored on average, ``(patients,)``: several seeds repeat them.

    Args:
        example_ids: ``(rows,)``.
        patients: ``(rows,)``, the patient of each row.
    """
    num_rows = np.bincount(patients)
    if example_ids.is_unique:
        return np.ones(len(num_rows))
    return np.asarray(num_rows / np.bincount(patients[~example_ids.duplicated().to_numpy()]))


def count_correct_rows(totals: PatientTotals, repeats: Floats, label: int | None = None) -> PatientCounts:
    """Count the examples of each patient, and the correct ones.

    Args:
        totals: A table summed per patient.
        repeats: ``(patients,)``; an example that several seeds scored counts once, with its mean.
        label: The class whose rows are counted alone; None for all rows.
    """
    cells = np.arange(totals.num_classes**2).reshape(totals.num_classes, totals.num_classes)
    chosen, diagonal = (cells, np.diagonal(cells)) if label is None else (cells[label], cells[label, [label]])
    correct, rows = (np.asarray(totals.confusion[part.ravel()].sum(axis=0)) for part in (diagonal, chosen))
    return keep_patients(correct / repeats, rows / repeats)


def count_with_errors(correct: PatientCounts) -> int:
    """Count the patients with any wrong row."""
    return int((correct.counted < correct.rows).sum())


def count_support(correct: PatientCounts) -> Support:
    """Count the patients that the intervals rest on, and those of them with any wrong row."""
    return Support(correct.num_patients, count_with_errors(correct))


def estimate_scores(totals: PatientTotals, repeats: Floats, bootstrap: Bootstrap) -> Scores:
    """Compute each score, with an interval of the method that holds for it."""
    values = {
        name: float(score[0]) for name, score in compute_scores(totals, np.ones((1, totals.num_patients))).items()
    }
    correct = count_correct_rows(totals, repeats)
    estimates = {
        "accuracy": estimate_proportion(values["accuracy"], correct),
        "ece": explain_missing_interval(values["ece"], BIASED),
    }
    if totals.num_classes == 2:
        (rank_counts,) = totals.rank_counts
        estimates["auroc"] = estimate_auroc(rank_counts)
        for label, name in enumerate(("specificity", "sensitivity")):
            estimates[name] = estimate_proportion(values[name], count_correct_rows(totals, repeats, label))
    support = count_support(correct)
    resampled = None if support.shortage else resample_scores(totals, bootstrap)
    for name in METRIC_NAMES:
        if name not in estimates:
            draws = None if resampled is None else resampled[name]
            estimates[name] = estimate_by_bootstrap(values[name], draws, support)
    return {name: estimates[name] for name in METRIC_NAMES}


def _list_undefined(metrics: Scores, support: dict[str, int]) -> list[str]:
    """Note which scores are not defined, or which classes an average leaves out."""
    present = [name for name, count in support.items() if count > 0]
    undefined = [METRIC_TITLES[name] for name, metric in metrics.items() if metric["value"] is None]
    if undefined:
        return [f"Not defined: {', '.join(undefined)}; the labels hold only {', '.join(present)}."]
    absent = [name for name in support if name not in present]
    return [f"No row has the label {', '.join(absent)}; averages leave it out."] if absent else []


def _list_missing_intervals(metrics: Scores, num_patients: int, kind: DataKind) -> list[str]:
    """Note which scores have no interval, and why."""
    if num_patients == 1:
        return [f"No intervals: there is one {kind.group} only."]
    names_of: dict[str, list[str]] = {}
    for name, metric in metrics.items():
        if metric["value"] is not None and metric["reason"]:
            names_of.setdefault(metric["reason"].replace("group", kind.group), []).append(METRIC_TITLES[name])
    return [f"No interval of {', '.join(names)}: {reason}." for reason, names in names_of.items()]


def _list_limits(metrics: Scores, kind: DataKind) -> list[str]:
    """Note which intervals are exact bounds, and what they mean."""
    names = [METRIC_TITLES[name] for name, metric in metrics.items() if metric["method"] == EXACT]
    if not names:
        return []
    return [
        f"Without a wrong row, or without a right one, in {', '.join(names)}: the interval is the exact bound over "
        f"{plural(kind.group)}, in which each {kind.group} counts once."
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
