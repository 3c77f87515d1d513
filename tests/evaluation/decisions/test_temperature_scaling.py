import numpy as np
import pytest
from scipy.special import softmax

from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.decisions.temperature_scaling import (
    BOUNDS,
    fit_temperature,
    scale_predictions,
    scale_probabilities,
)
from pipeline.evaluation.metrics import compute_level
from tests.builders.predictions import CLASSES, build_random_table, build_table


def draw_calibrated(num_classes, num_rows=20_000, seed=0):
    """Probabilities, and labels that are drawn from them: no temperature but 1 fits better."""
    generator = np.random.default_rng(seed)
    probabilities = softmax(1.2 * generator.normal(size=(num_rows, num_classes)), axis=1)
    labels = (probabilities.cumsum(axis=1) < generator.random((num_rows, 1))).sum(axis=1)
    return probabilities, labels


def compute_loss(probabilities, labels):
    return -np.log(probabilities[np.arange(len(labels)), labels]).mean()


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("known", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_found_again(num_classes, known):
    probabilities, labels = draw_calibrated(num_classes)
    distorted = scale_probabilities(probabilities, 1 / known)  # overconfident by the factor `known`
    found = fit_temperature(distorted, labels)
    assert found.value == pytest.approx(known, rel=0.04)  # twice the standard error of 20,000 rows
    assert not found.is_bounded
    np.testing.assert_allclose(scale_probabilities(distorted, known), probabilities, atol=1e-12)


def test_no_other_temperature_has_a_smaller_loss():
    probabilities, labels = draw_calibrated(3, num_rows=500)
    found = fit_temperature(probabilities, labels).value
    least = compute_loss(scale_probabilities(probabilities, found), labels)
    for factor in (0.98, 1.02):
        assert compute_loss(scale_probabilities(probabilities, factor * found), labels) > least


def test_scaled_probabilities_by_hand():
    # T = 1/2 squares: 0.8^2 = 0.64 and 0.2^2 = 0.04, together 0.68.
    np.testing.assert_allclose(scale_probabilities(np.array([[0.8, 0.2]]), 0.5), [[0.64 / 0.68, 0.04 / 0.68]])


def test_answers_that_are_all_right_end_at_the_lower_bound():
    found = fit_temperature(np.array([[0.9, 0.1], [0.4, 0.6], [0.999999, 0.000001]]), np.array([0, 1, 0]))
    assert (found.value, found.is_bounded) == (BOUNDS[0], True)


def test_answers_that_are_all_wrong_end_at_the_upper_bound():
    found = fit_temperature(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([1, 0]))
    assert (found.value, found.is_bounded) == (BOUNDS[1], True)


def test_equal_probabilities_of_all_classes_keep_temperature_1():
    found = fit_temperature(np.full((5, 3), 1 / 3), np.array([0, 1, 2, 0, 0]))
    assert (found.value, found.is_bounded) == (1.0, False)


def test_a_probability_of_0_has_a_finite_loss_and_keeps_its_place():
    """Squared error gives exact zeros, also for the true class."""
    probabilities = np.array([[1.0, 0.0]] * 201 + [[0.0, 1.0], [0.7, 0.3]])
    labels = np.array([0] * 200 + [1, 1, 0])
    found = fit_temperature(probabilities, labels)
    assert 1 < found.value < BOUNDS[1], "the one confident mistake raises the temperature"
    scaled = scale_probabilities(probabilities, found.value)
    assert np.isfinite(np.log(scaled)).all()
    np.testing.assert_array_equal(scaled.argmax(axis=1), probabilities.argmax(axis=1))


def test_temperature_1_changes_no_score():
    table = build_table([0.0, 1.0, 1.0, 0.3], ["left", "right", "left", "left"], CLASSES[2])
    scaled = scale_predictions(table, CLASSES[2], 1.0)
    before, after = (compute_level(rows, CLASSES[2], Bootstrap(10))["metrics"] for rows in (table, scaled))
    for name, metric in before.items():
        assert after[name]["value"] == pytest.approx(metric["value"], abs=1e-12), name


def test_scaling_keeps_ids_answers_and_the_table_itself():
    table = build_random_table(3)
    kept = table.copy()
    scaled = scale_predictions(table, CLASSES[3], 2.5)
    assert table.equals(kept)
    columns = ["example_id", "source_id", "group_id", "split", "label", "predicted"]
    assert scaled[columns].equals(table[columns])
    names = [f"probability_{name}" for name in CLASSES[3]]
    assert not np.allclose(scaled[names], table[names])
