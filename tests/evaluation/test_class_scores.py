import numpy as np
import pytest
from sklearn import metrics as reference

from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.class_scores import (
    compute_class_table,
    compute_kappa,
    compute_precision_recall_curves,
    rank_rows,
)
from pipeline.evaluation.metrics import compute_level
from tests.builders.predictions import CLASSES, build_random_table, build_table

FEW = Bootstrap(100)


@pytest.mark.parametrize("num_classes", [2, 3, 6])
def test_values_are_those_of_scikit_learn(num_classes):
    names = CLASSES[num_classes]
    table = build_random_table(num_classes)
    found = compute_class_table(table, names, FEW)
    precision, recall, f1, counts = reference.precision_recall_fscore_support(
        table["label"], table["predicted"], labels=names
    )
    for index, name in enumerate(names):
        scores = found["classes"][name]
        is_class = table["label"] == name
        assert scores["n"] == counts[index]
        assert scores["groups"] == table[is_class]["group_id"].nunique()
        not_called = table["predicted"] != name
        expected = {
            "precision": precision[index],
            "recall": recall[index],
            "f1": f1[index],
            "specificity": not_called[~is_class].mean(),
            "npv": (~is_class)[not_called].mean(),
            "average_precision": reference.average_precision_score(is_class, table[f"probability_{name}"]),
        }
        values = {score: scores[score]["value"] for score in expected}
        assert values == pytest.approx(expected, abs=1e-12, nan_ok=True), name
    assert found["kappa"]["value"] == pytest.approx(reference.cohen_kappa_score(table["label"], table["predicted"]))


@pytest.mark.parametrize("weights", [None, "linear", "quadratic"])
def test_kappa_takes_any_disagreement(weights):
    confusion = np.random.default_rng(0).integers(0, 20, (4, 4))
    labels, predicted = (np.repeat(axis.ravel(), confusion.ravel()) for axis in np.indices((4, 4)))
    distance = np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    disagreement = {None: distance > 0, "linear": distance, "quadratic": distance**2}[weights]
    expected = reference.cohen_kappa_score(labels, predicted, weights=weights)
    assert compute_kappa(confusion[None].astype(float), disagreement)[0] == pytest.approx(expected)


def test_kappa_by_hand():
    assert compute_kappa(np.array([[[2.0, 1], [1, 1]]]), 1 - np.eye(2))[0] == pytest.approx(1 / 6)


def test_average_precision_by_hand():
    ranking = rank_rows(np.array([0.9, 0.8, 0.8, 0.4, 0.1]), np.array([True, False, True, False, True]))
    assert ranking.average_precision == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)


def test_influences_are_the_slopes_of_average_precision_in_the_weights_of_the_rows():
    generator = np.random.default_rng(0)
    scores, is_positive = generator.random(40).round(1), generator.random(40) < 0.4
    ranking = rank_rows(scores, is_positive)
    assert ranking.influences.sum() == pytest.approx(0, abs=1e-12)
    for row in range(40):
        weights = np.ones(40)
        weights[row] += 1e-6
        moved = reference.average_precision_score(is_positive, scores, sample_weight=weights)
        slope = (moved - ranking.average_precision) / 1e-6
        assert ranking.influences[row] == pytest.approx(slope, abs=1e-5)


def test_intervals_are_over_patients():
    table = build_random_table(2, num_patients=100, slices=4, patient_std=0.5)
    found = compute_class_table(table, CLASSES[2], Bootstrap(400))
    scores = found["classes"]["right"]
    methods = {name: scores[name]["method"] for name in ("precision", "recall", "f1", "average_precision")}
    assert methods == {
        "precision": "beta-binomial",
        "recall": "beta-binomial",
        "f1": "bootstrap",
        "average_precision": "linearised",
    }
    assert scores["average_precision"]["low"] < scores["average_precision"]["value"]
    alone = compute_class_table(table.assign(group_id=table["example_id"]), CLASSES[2], Bootstrap(400))
    single = alone["classes"]["right"]["average_precision"]
    assert single["value"] == scores["average_precision"]["value"]
    level = compute_level(table, CLASSES[2], Bootstrap(400))["metrics"]
    assert scores["f1"] == level["f1"], "one number has one interval"
    assert scores["recall"] == level["sensitivity"]
    assert scores["specificity"] == level["specificity"]


@pytest.mark.slow
def test_the_linearised_interval_of_average_precision_is_as_wide_as_a_bootstrap_over_patients():
    table = build_random_table(2, num_patients=100, slices=4, patient_std=0.5, decimals=6)
    found = compute_class_table(table, CLASSES[2], FEW)["classes"]["right"]["average_precision"]
    generator = np.random.default_rng(0)
    positions = table.groupby("group_id").indices
    draws = []
    for _ in range(200):
        rows = np.concatenate([positions[group] for group in generator.choice(list(positions), 100)])
        drawn = table.iloc[rows]
        draws.append(reference.average_precision_score(drawn["label"] == "right", drawn["probability_right"]))
    # Two hundred draws give the standard deviation within about 5 %.
    assert found["high"] - found["low"] == pytest.approx(3.98 * np.std(draws), rel=0.2)


@pytest.mark.parametrize(
    ("num_patients", "with_class", "reason"),
    [
        (100, 10, ""),
        (100, 9, "a linearised interval with the class in fewer than 10 groups is too narrow"),
        (100, 91, "a linearised interval with the rest in fewer than 10 groups is too narrow"),
        (99, 10, "a linearised interval over fewer than 100 groups is too narrow"),
    ],
)
def test_the_average_precision_of_a_class_of_few_patients_has_no_interval(num_patients, with_class, reason):
    # A row a patient; the odd patients are predicted "right", so that many are wrong.
    labels = ["right" if patient < with_class else "left" for patient in range(num_patients)]
    probabilities = [0.3 + 0.4 * (patient % 2) + patient / 1000 for patient in range(num_patients)]
    table = build_table(probabilities, labels, CLASSES[2], [f"P{patient}" for patient in range(num_patients)])
    found = compute_class_table(table, CLASSES[2], FEW)["classes"]["right"]
    assert found["groups"] == with_class
    assert found["average_precision"]["reason"] == reason
    assert (found["average_precision"]["low"] is None) == (reason != "")
    assert found["average_precision"]["value"] is not None


def test_a_class_that_no_row_has_is_not_defined():
    table = build_table([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]], ["cyst", "normal"], CLASSES[3])
    found = compute_class_table(table, CLASSES[3], FEW)["classes"]["tear"]
    assert (found["n"], found["groups"]) == (0, 0)
    for name in ("precision", "recall", "f1", "average_precision"):
        assert found[name]["value"] is None
        assert found[name]["reason"]
    assert found["npv"]["value"] == 1
    assert compute_class_table(table.iloc[:1], CLASSES[3], FEW)["kappa"]["value"] is None


def test_a_precision_recall_curve_by_hand():
    table = build_table([0.9, 0.5, 0.5, 0.1], ["right", "left", "right", "left"], CLASSES[2])
    curve = compute_precision_recall_curves(table, CLASSES[2])["right"]
    assert curve.recall.tolist() == [1, 1, 0.5, 0]
    assert curve.precision.tolist() == pytest.approx([0.5, 2 / 3, 1, 1])
    assert curve.fraction == 0.5
