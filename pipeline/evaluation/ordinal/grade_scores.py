"""Scores of grades, which count how many grades a prediction is away from the label."""

from collections.abc import Sequence

import numpy as np
import pandas
from einops import rearrange

from pipeline.core.array_types import Floats
from pipeline.evaluation.bootstrap import Bootstrap, Support, estimate_by_bootstrap
from pipeline.evaluation.class_scores import compute_kappa
from pipeline.evaluation.metrics import count_correct_rows, count_repeats, count_with_errors
from pipeline.evaluation.ordinal.cut_points import apply_cut_points, compute_expected_grades, fit_cut_points
from pipeline.evaluation.predictions import (
    aggregate,
    has_level,
    number_patients,
    read_class_indices,
    read_probabilities,
)
from pipeline.evaluation.proportions import estimate_fraction, keep_patients
from pipeline.evaluation.schema import Grades, GradeScores, LevelGrades
from pipeline.evaluation.scores import sum_over_patients


def compute_grades(
    predictions: pandas.DataFrame,
    levels: Sequence[str],
    baselines: dict[str, pandas.DataFrame],
    class_names: Sequence[str],
    bootstrap: Bootstrap,
) -> Grades:
    """Score the test rows as grades, at each level, and with cut points that are fitted on the validation rows.

    Args:
        predictions: The predictions of the validation and the test rows.
        levels: The names of the levels of the test rows; where the validation rows lack one, nothing is fitted at it.
        baselines: The predictions of each baseline for the test rows.
        class_names: The grades, from the lowest to the highest.
        bootstrap: The resamples of patients.
    """
    val, test = (predictions[predictions["split"] == split] for split in ("val", "test"))
    return {
        "levels": {level: _compute_level(val, test, level, class_names, bootstrap) for level in levels},
        "baselines": {name: score_grades(table, class_names, bootstrap) for name, table in baselines.items()},
    }


def _compute_level(
    val: pandas.DataFrame, test: pandas.DataFrame, level: str, class_names: Sequence[str], bootstrap: Bootstrap
) -> LevelGrades:
    # A validation patient may have two labels where each test patient has one: nothing is fitted then.
    val = aggregate(val, level) if len(val) > 0 and has_level(val, level) else val.iloc[:0]
    test = aggregate(test, level)
    labels = read_class_indices(val["label"], class_names)
    expected = compute_expected_grades(read_probabilities(val, class_names))
    fitted = fit_cut_points(expected, labels, len(class_names)) if len(set(labels)) > 1 else None
    scores = None
    if fitted is not None:
        places = apply_cut_points(compute_expected_grades(read_probabilities(test, class_names)), fitted)
        scores = score_grades(test.assign(predicted=np.asarray(class_names)[places]), class_names, bootstrap)
    return {
        "scores": score_grades(test, class_names, bootstrap),
        "cut_points": None if fitted is None else fitted.tolist(),
        "fitted_on": {"num_rows": len(val), "num_groups": val["group_id"].nunique()},
        "with_cut_points": scores,
    }


def score_grades(table: pandas.DataFrame, class_names: Sequence[str], bootstrap: Bootstrap) -> GradeScores:
    """Score one table of predictions as grades, with 95 % intervals over patients.

    An example of five rows with the grades 0, 1, 2: labels 0, 0, 1, 2, 2 and predictions 0, 1, 1, 1, 0. The distances
    are 0, 1, 0, 1, 2, so that the mean absolute error is 0.8, and four of five rows are within one grade.

    Args:
        table: The predictions of one level.
        class_names: The grades, from the lowest to the highest.
        bootstrap: The resamples of patients, for the kappas and the mean absolute error.

    Returns:
        ``quadratic_kappa`` and ``linear_kappa``, in which the square of the distance counts or the distance;
        ``mae``, the mean distance in grades; ``within_one``, the fraction of rows at most one grade away.

    Source:
        Cohen, "Weighted kappa", Psychological Bulletin 70, 1968.
    """
    labels = read_class_indices(table["label"], class_names)
    predicted = read_class_indices(table["predicted"], class_names)
    patients = number_patients(table["group_id"])
    totals = sum_over_patients(labels, predicted, read_probabilities(table, class_names), patients)
    repeats = count_repeats(table["example_id"], patients)
    support = Support(totals.num_patients, count_with_errors(count_correct_rows(totals, repeats)))
    distance = measure_distances(len(class_names))

    def compute(weights: Floats) -> Floats:
        cells = np.asarray((totals.confusion @ weights.T).T)
        confusion = rearrange(cells, "draw (true predicted) -> draw true predicted", true=totals.num_classes)
        mean = (confusion * distance).sum(axis=(1, 2)) / confusion.sum(axis=(1, 2))
        return np.stack([compute_kappa(confusion, distance**2), compute_kappa(confusion, distance), mean], axis=1)

    values = compute(np.ones((1, totals.num_patients)))[0]
    drawn = None if support.shortage else bootstrap.resample(compute, totals.num_patients, totals.numbers_held)
    quadratic, linear, mae = (
        estimate_by_bootstrap(float(value), None if drawn is None else drawn[:, place], support)
        for place, value in enumerate(values)
    )
    is_near = (np.abs(labels - predicted) <= 1).astype(np.float64)
    near, rows = (
        np.bincount(patients, counted, totals.num_patients) / repeats for counted in (is_near, np.ones(len(is_near)))
    )
    within_one = estimate_fraction(keep_patients(near, rows))
    return {"quadratic_kappa": quadratic, "linear_kappa": linear, "mae": mae, "within_one": within_one}


def measure_distances(num_classes: int) -> Floats:
    """Measure how many grades each two are apart, ``(classes, classes)``."""
    grades = np.arange(num_classes, dtype=np.float64)
    distances: Floats = np.abs(grades[:, None] - grades)
    return distances
