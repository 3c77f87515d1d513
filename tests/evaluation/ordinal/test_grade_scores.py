"""Scores of grades by hand and against scikit-learn; cut points that raise kappa on the rows of their fit."""

import numpy as np
import pandas
import pytest
from sklearn import metrics as reference

from pipeline.core.data_kinds import PATIENT_IMAGES
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.decisions.decision_support import list_tables
from pipeline.evaluation.metrics import list_levels
from pipeline.evaluation.ordinal.cut_points import apply_cut_points, compute_expected_grades, fit_cut_points
from pipeline.evaluation.ordinal.grade_scores import compute_grades, score_grades
from tests.builders.predictions import CLASSES, build_random_table, build_table

FEW = Bootstrap(100)
GRADES = ("0", "1", "2")


def draw_table(num_patients, seed, error=0.8, num_grades=4):
    """Two images a patient; the answer is the latent severity with noise, cut into grades as the label is."""
    generator = np.random.default_rng(seed)
    severity = generator.normal(size=num_patients).repeat(2) * 1.2 + generator.normal(size=2 * num_patients) * 0.4
    answer = severity + generator.normal(size=len(severity)) * error
    edges = np.linspace(-1, 1, num_grades - 1)
    labels, predicted = np.searchsorted(edges, severity), np.searchsorted(edges, answer)
    names = np.arange(num_grades).astype(str)
    probabilities = np.eye(num_grades)[predicted]
    groups = np.arange(num_patients).repeat(2).astype(str)
    return build_table(probabilities, names[labels], names, groups), tuple(names)


def test_distances_by_hand():
    labels, predicted = ["0", "0", "1", "2", "2"], ["0", "1", "1", "1", "0"]
    found = score_grades(build_table(np.full((5, 3), 1 / 3), labels, GRADES, predicted=predicted), GRADES, FEW)
    assert found["mae"]["value"] == pytest.approx(0.8)
    assert found["within_one"]["value"] == pytest.approx(0.8)
    # Squared distances 0, 1, 0, 1, 4; by chance labels 2, 1, 2 and predictions 2, 3, 0 give 35 of 25.
    by_chance = (2 * (0 * 2 + 1 * 3 + 4 * 0) + 1 * (1 * 2 + 0 + 0) + 2 * (4 * 2 + 1 * 3 + 0)) / 25
    assert found["quadratic_kappa"]["value"] == pytest.approx(1 - (6 / 5) / by_chance)


@pytest.mark.parametrize("num_classes", [2, 3, 6])
def test_values_are_those_of_scikit_learn(num_classes):
    names = CLASSES[num_classes]
    table = build_random_table(num_classes)
    found = score_grades(table, names, FEW)
    for weights in ("linear", "quadratic"):
        expected = reference.cohen_kappa_score(table["label"], table["predicted"], labels=names, weights=weights)
        assert found[f"{weights}_kappa"]["value"] == pytest.approx(expected)
    places = [pandas.Categorical(table[name], names).codes for name in ("label", "predicted")]
    assert found["mae"]["value"] == pytest.approx(reference.mean_absolute_error(*places))


def test_few_patients_have_no_bootstrap_interval_and_many_have_one():
    few, names = draw_table(20, 0)
    assert "too narrow" in score_grades(few, names, FEW)["mae"]["reason"]
    many, _ = draw_table(80, 0)
    found = score_grades(many, names, FEW)
    assert {scores["method"] for scores in found.values()} == {"bootstrap", "beta-binomial"}
    assert all(scores["low"] < scores["value"] < scores["high"] for scores in found.values())


@pytest.mark.slow
def test_intervals_over_sixty_patients_hold_the_truth():
    """Of 200 intervals that hold in 95 %, fewer than 182 do with a chance of 1 %; few tables have none."""
    large, names = draw_table(100_000, 99)
    truth = {name: scores["value"] for name, scores in score_grades(large, names, Bootstrap(1)).items()}
    missed = dict.fromkeys(truth, 0)
    shown = dict.fromkeys(truth, 0)
    for seed in range(200):
        found = score_grades(draw_table(60, seed)[0], names, Bootstrap(500))
        for name, scores in found.items():
            if scores["low"] is not None:
                shown[name] += 1
                missed[name] += not scores["low"] <= truth[name] <= scores["high"]
    assert min(shown.values()) >= 150, shown
    assert max(missed.values()) <= 18, missed


def test_expected_grades_by_hand():
    assert compute_expected_grades(np.array([[1.0, 0, 0], [0.25, 0.25, 0.5]])).tolist() == [0, 1.25]


def test_a_cut_point_moves_to_where_grades_change_by_hand():
    expected, labels = np.array([0.1, 0.2, 0.3, 0.6, 0.9]), np.array([0, 0, 1, 1, 1])
    assert fit_cut_points(expected, labels, 2) == pytest.approx([0.25])
    assert apply_cut_points(expected, np.array([0.25])).tolist() == labels.tolist()
    assert apply_cut_points(np.array([0.25]), np.array([0.25])).tolist() == [0]


@pytest.mark.parametrize("seed", range(5))
def test_no_single_cut_point_can_be_moved_for_a_better_kappa(seed):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, 60)
    expected = np.clip(labels * 0.5 + 0.8 + generator.normal(size=60) * 0.4, 0, 3).round(1)
    cuts = fit_cut_points(expected, labels, 4)
    assert (np.diff(cuts) >= 0).all()

    def score(points):
        return reference.cohen_kappa_score(labels, apply_cut_points(expected, points), weights="quadratic")

    assert score(cuts) >= score(np.array([0.5, 1.5, 2.5]))
    for cut in range(3):
        for place in np.arange(-0.05, 3.1, 0.1):
            moved = cuts.copy()
            moved[cut] = place
            assert (np.diff(moved) < 0).any() or score(moved) <= score(cuts) + 1e-12


def test_cut_points_are_fitted_on_validation_and_scored_on_test():
    """A model that is half a grade too low: the cut points give all of it back, and test labels change none."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 200)
    probabilities = np.array([[1.0, 0, 0], [0.55, 0.45, 0], [0, 0.6, 0.4]])[labels]
    table = build_table(probabilities, np.array(GRADES)[labels], GRADES)
    table["split"] = np.where(np.arange(200) < 100, "val", "test")
    found = compute_grades(table, ["image"], {"majority": table[100:]}, GRADES, FEW)
    level = found["levels"]["image"]
    assert level["scores"]["mae"]["value"] > 0.5
    assert level["with_cut_points"]["mae"]["value"] == 0
    assert level["fitted_on"] == {"num_rows": 100, "num_groups": 100}
    assert found["baselines"]["majority"] == level["scores"]
    other = table.assign(label=np.where(table["split"] == "test", "0", table["label"]))
    assert compute_grades(other, ["image"], {}, GRADES, FEW)["levels"]["image"]["cut_points"] == level["cut_points"]


def test_validation_of_one_grade_has_no_cut_points():
    table = build_table(np.full((4, 3), 1 / 3), ["1", "1", "0", "2"], GRADES)
    table["split"] = ["val", "val", "test", "test"]
    level = compute_grades(table, ["image"], {}, GRADES, FEW)["levels"]["image"]
    assert level["cut_points"] is None
    assert level["with_cut_points"] is None


@pytest.mark.parametrize(
    ("changed", "missing"),
    [
        ({}, set()),
        ({"label": "2"}, {"knee", "patient"}),
        ({"label": "2", "side": "right"}, {"patient"}),
        ({"side": ""}, {"knee"}),
    ],
    ids=["alike", "one knee progressed", "knees of two grades", "a side is unknown"],
)
def test_at_a_level_that_validation_lacks_nothing_is_fitted_and_all_else_is_scored(changed, missing):
    """Two visits of a knee of each patient, in both splits; one validation row then has another grade or side."""
    patients = np.arange(24).repeat(2)
    table = build_table(
        np.eye(3)[patients % 3] * 0.7 + 0.1, np.array(GRADES)[patients % 3], GRADES, patients.astype(str)
    )
    table = table.assign(side="left", split=np.where(patients < 12, "val", "test"))
    for column, value in changed.items():
        table.loc[0, column] = value
    levels = list_levels(table[table["split"] == "test"], PATIENT_IMAGES)
    assert levels == ["image", "knee", "patient"]
    found = compute_grades(table, levels, {}, GRADES, FEW)["levels"]
    for level in levels:
        num_rows = {"image": 24, "knee": 12 + (changed.get("side") == "right"), "patient": 12}[level]
        assert found[level]["scores"]["mae"]["value"] == 0
        assert (found[level]["cut_points"] is None) == (level in missing)
        assert found[level]["fitted_on"]["num_rows"] == (0 if level in missing else num_rows)
    assert [tables.name for tables in list_tables(table, levels)] == [name for name in levels if name not in missing]
