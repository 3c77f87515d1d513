"""Scores of each class against the rest, agreement with the labels, and precision-recall curves."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas
from einops import rearrange
from numpy.typing import NDArray

from pipeline.core.array_types import Floats, Indices
from pipeline.evaluation.bootstrap import (
    Bootstrap,
    Support,
    divide_or_nan,
    estimate_by_bootstrap,
    estimate_by_linearisation,
)
from pipeline.evaluation.metrics import count_correct_rows, count_repeats, count_with_errors
from pipeline.evaluation.predictions import number_patients, read_class_indices, read_probabilities
from pipeline.evaluation.proportions import estimate_fraction, keep_patients
from pipeline.evaluation.schema import ClassScores, ClassTable, Estimate, explain_missing_interval
from pipeline.evaluation.scores import PatientTotals, sum_over_patients


def compute_class_table(table: pandas.DataFrame, class_names: Sequence[str], bootstrap: Bootstrap) -> ClassTable:
    """Score each class of one level against the rest, with 95 % intervals over patients.

    Args:
        table: The predictions of one level.
        class_names: All classes.
        bootstrap: The resamples of patients, for F1 and kappa.

    Returns:
        ``kappa``, and for each class its rows and patients, ``precision`` (the positive predictive value), ``recall``
        (the sensitivity), ``specificity``, ``npv`` (the negative predictive value), ``f1`` and ``average_precision``.
    """
    labels = read_class_indices(table["label"], class_names)
    predicted = read_class_indices(table["predicted"], class_names)
    probabilities, patients = read_probabilities(table, class_names), number_patients(table["group_id"])
    totals = sum_over_patients(labels, predicted, probabilities, patients)
    repeats = count_repeats(table["example_id"], patients)
    support = Support(totals.num_patients, count_with_errors(count_correct_rows(totals, repeats)))

    def compute(weights: Floats) -> Floats:
        cells = np.asarray((totals.confusion @ weights.T).T)
        confusion = rearrange(cells, "draw (true predicted) -> draw true predicted", true=totals.num_classes)
        no_disagreement = 1 - np.eye(totals.num_classes)
        return np.concatenate([compute_f1(confusion), compute_kappa(confusion, no_disagreement)[:, None]], axis=1)

    values = compute(np.ones((1, totals.num_patients)))[0]
    resampled = None if support.shortage else bootstrap.resample(compute, totals.num_patients, totals.numbers_held)
    draws: Sequence[Floats | None] = [None] * len(values) if resampled is None else list(resampled.T)
    *f1, kappa = (
        estimate_by_bootstrap(float(value), drawn, support) for value, drawn in zip(values, draws, strict=True)
    )
    classes = {}
    for index, name in enumerate(class_names):
        ranking = rank_rows(probabilities[:, index], labels == index)
        influences = np.bincount(patients, ranking.influences).astype(np.float64)
        counted = replace(support, with_event=count_groups_of_class(labels == index, patients))
        precision = _estimate_average_precision(ranking.average_precision, influences, counted)
        classes[name] = _score_class(totals, repeats, index, f1[index], precision)
    return {"kappa": kappa, "classes": classes}


def _score_class(
    totals: PatientTotals, repeats: Floats, index: int, f1: Estimate, average_precision: Estimate
) -> ClassScores:
    """Count the rows of one class, with the label and called so, and put its scores together."""
    cells = np.arange(totals.num_classes**2).reshape(totals.num_classes, totals.num_classes)

    def count(places: Indices) -> Floats:
        return np.asarray(totals.confusion[places.ravel()].sum(axis=0) / repeats, dtype=np.float64)

    rows, with_label, called = count(cells), count(cells[index]), count(cells[:, index])
    hits = count(cells[index, [index]])
    rest_not_called = rows - with_label - called + hits
    return {
        "n": round(float((with_label * repeats).sum())),
        "groups": int((with_label > 0).sum()),
        "precision": estimate_fraction(keep_patients(hits, called)),
        "recall": estimate_fraction(keep_patients(hits, with_label)),
        "specificity": estimate_fraction(keep_patients(rest_not_called, rows - with_label)),
        "npv": estimate_fraction(keep_patients(rest_not_called, rows - called)),
        "f1": f1,
        "average_precision": average_precision,
    }


def compute_f1(confusion: Floats) -> Floats:
    """Compute the F1 of each class, ``(draws, classes)``; NaN where it is neither a label nor predicted.

    Args:
        confusion: ``(draws, classes, classes)`` counts, axis 1 the true class.
    """
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    return divide_or_nan(2 * hits, confusion.sum(axis=2) + confusion.sum(axis=1))


def compute_kappa(confusion: Floats, disagreement: Floats) -> Floats:
    """Compute Cohen's kappa: 1 minus the disagreement with the labels as a fraction of that of chance.

    An example of five rows, with a disagreement of 1 off the diagonal:

        true a    2  1        two of five rows are wrong: 0.4; by chance, from 3 and 2 labels and 3 and 2 predictions,
        true b    1  1        (3 x 2 + 2 x 3) / 25 = 0.48; kappa is 1 - 0.4 / 0.48 = 1/6

    Args:
        confusion: ``(draws, classes, classes)`` counts, axis 1 the true class.
        disagreement: ``(classes, classes)``, 0 on the diagonal; of grades it may grow with their distance.

    Returns:
        ``(draws,)``; NaN where the labels hold one class only.

    Source:
        Cohen, "Weighted kappa", Psychological Bulletin 70, 1968.
    """
    total = confusion.sum(axis=(1, 2))
    labels, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    observed = (confusion * disagreement).sum(axis=(1, 2)) / total
    by_chance = ((labels @ disagreement) * predicted).sum(axis=1) / total**2
    has_two_classes = (labels > 0).sum(axis=1) >= 2
    return np.where(has_two_classes, 1 - divide_or_nan(observed, by_chance), np.nan)


@dataclass(frozen=True)
class Ranking:
    """Average precision, and the influence of each row on it.

    Attributes:
        average_precision: The mean precision at the rows with the class; NaN without such rows.
        influences: ``(rows,)``, by how much it grows, to first order, for each time that a row counts once more.
    """

    average_precision: float
    influences: Floats


def rank_rows(scores: Floats, is_positive: NDArray[np.bool_]) -> Ranking:
    """Compute the average precision of scores.

    From the highest score down, the precision at a score is the fraction of positives among the rows that reach it,
    and the average precision its mean over the positives. An example of five rows:

        score        0.9   0.8   0.8   0.4   0.1
        positive       1     0     1     0     1
        precision      1   2/3   2/3   2/4   3/5    average precision (1 + 2/3 + 3/5) / 3

    Args:
        scores: ``(rows,)``.
        is_positive: ``(rows,)``.
    """
    num_positives = is_positive.sum()
    if num_positives == 0:
        return Ranking(np.nan, np.zeros(len(scores)))
    _, place, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    positives = np.bincount(place, is_positive, len(counts))
    reached, hits = np.cumsum(counts), np.cumsum(positives)
    precision = hits / reached
    average = float((positives * precision).sum() / num_positives)
    # A row that counts once more is reached by all scores up to its own, and changes the precision of each.
    gain = np.cumsum((positives / reached)[::-1])[::-1][place]
    loss = np.cumsum((positives * precision / reached)[::-1])[::-1][place]
    grown = is_positive * (precision[place] - average + gain) - loss
    return Ranking(average, grown / num_positives)


def count_groups_of_class(is_positive: NDArray[np.bool_], patients: Indices) -> dict[str, int]:
    """Count the patients with a row of the class, and those with one of the rest.

    Args:
        is_positive: ``(rows,)``.
        patients: ``(rows,)``, index of the patient.
    """
    return {
        "the class": len(np.unique(patients[is_positive])),
        "the rest": len(np.unique(patients[~is_positive])),
    }


def _estimate_average_precision(value: float, influences: Floats, support: Support) -> Estimate:
    if np.isnan(value):
        return explain_missing_interval(None, "not defined: a class has no row")
    return estimate_by_linearisation(value, influences, support, is_fraction=True)


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """Points of a precision-recall curve, one for each distinct score.

    Attributes:
        recall: ``(points,)``, never rising.
        precision: ``(points,)``.
        fraction: The fraction of rows with the class: the precision of guessing.
    """

    recall: Floats
    precision: Floats
    fraction: float


def compute_precision_recall_curves(
    predictions: pandas.DataFrame, class_names: Sequence[str]
) -> dict[str, PrecisionRecallCurve]:
    """Return a curve for the last of two classes, or for each of several against the rest.

    A class that no row has as its label is left out.
    """
    from sklearn.metrics import precision_recall_curve  # here, because it takes a second to load

    labels = read_class_indices(predictions["label"], class_names)
    probabilities = read_probabilities(predictions, class_names)
    curves = {}
    for index in range(1 if len(class_names) == 2 else 0, len(class_names)):
        if (labels == index).any():
            precision, recall, _ = precision_recall_curve(labels == index, probabilities[:, index])
            curves[class_names[index]] = PrecisionRecallCurve(recall, precision, float((labels == index).mean()))
    return curves
