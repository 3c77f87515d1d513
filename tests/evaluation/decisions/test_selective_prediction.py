import numpy as np
import pandas
import pytest

from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.decisions.selective_prediction import (
    COVERAGES,
    LISTED_COVERAGES,
    choose_thresholds,
    compute_accuracies,
    compute_coverage_curve,
    group_by_confidence,
)
from tests.builders.predictions import CLASSES, build_random_table, build_table

NAMES = CLASSES[2]


def build_six() -> pandas.DataFrame:
    """From the most confident row: correct, wrong, (correct, wrong) in a tie, correct, wrong; three patients."""
    confidence = np.array([0.95, 0.9, 0.8, 0.8, 0.7, 0.6])
    is_correct = np.array([True, False, True, False, True, False])
    labels = np.where(is_correct, "right", "left")
    order = [3, 0, 5, 1, 4, 2]  # the table's own order must not matter
    return build_table(confidence[order], labels[order], NAMES, group_ids=[f"p{row % 3}" for row in order])


def read_accuracies(table, coverages):
    ordered = group_by_confidence(table, NAMES)
    return compute_accuracies(ordered, np.ones((1, ordered.rows.shape[1])), coverages)[0]


def test_the_curve_of_six_rows_by_hand():
    found = read_accuracies(build_six(), [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0])
    # Half of six is one of the two that are equally confident: one half of it is correct.
    np.testing.assert_allclose(found, [1, 1 / 2, 1.5 / 3, 2 / 4, 3 / 5, 3 / 6])


def test_a_row_that_is_answered_in_part_counts_in_part():
    # A quarter of six rows is the first, right, and half of the second, wrong.
    np.testing.assert_allclose(read_accuracies(build_six(), [0.25]), [1 / 1.5])


def test_the_example_of_the_docstring():
    confidence, is_correct = np.array([0.9, 0.8, 0.8, 0.8, 0.6]), np.array([True, True, True, False, False])
    table = build_table(confidence, np.where(is_correct, "right", "left"), NAMES)
    np.testing.assert_allclose(read_accuracies(table, [0.2, 0.6, 0.9]), [1, (7 / 3) / 3, 3 / 4.5])


def test_at_full_coverage_it_is_the_accuracy_and_at_the_end_every_row_is_answered():
    table = build_random_table(2)
    curve = compute_coverage_curve(table, NAMES, Bootstrap(50))[0]
    assert curve[-1]["coverage"] == 1.0
    assert curve[-1]["accuracy"]["value"] == pytest.approx((table["label"] == table["predicted"]).mean())
    columns = [f"probability_{name}" for name in NAMES]
    assert curve[-1]["confidence"] == table[columns].max(axis=1).min()


def test_a_resample_counts_a_patient_as_often_as_it_was_drawn():
    table = build_six()
    ordered = group_by_confidence(table, NAMES)
    weights = np.array([[2.0, 0.0, 1.0]])
    repeated = pandas.concat([table[table["group_id"] == name] for name in ("p0", "p0", "p2")])
    expected = read_accuracies(repeated, COVERAGES)
    np.testing.assert_allclose(compute_accuracies(ordered, weights, COVERAGES)[0], expected)


@pytest.mark.parametrize(("labels", "expected"), [("right", 0.0), ("left", 1.0)])
def test_the_area_under_the_risk_is_0_of_a_perfect_and_1_of_an_always_wrong_model(labels, expected):
    table = build_table([0.6, 0.7, 0.8], [labels] * 3, NAMES)
    _, area = compute_coverage_curve(table, NAMES, Bootstrap(20))
    assert area["value"] == pytest.approx(expected)


def test_a_model_of_constant_confidence_gains_nothing_by_declining():
    table = build_table([0.7] * 4, ["right", "right", "right", "left"], NAMES)
    curve, area = compute_coverage_curve(table, NAMES, Bootstrap(20))
    assert [point["accuracy"]["value"] for point in curve] == [pytest.approx(0.75)] * 100
    assert area["value"] == pytest.approx(0.25)


def test_one_patient_has_a_curve_and_no_interval():
    table = build_table([0.6, 0.7], ["right", "left"], NAMES, group_ids=["a", "a"])
    point = compute_coverage_curve(table, NAMES, Bootstrap(20))[0][-1]
    assert (point["accuracy"]["value"], point["accuracy"]["low"]) == (0.5, None)


def test_intervals_hold_the_value_and_are_the_same_from_the_same_seed():
    table = build_random_table(2, patient_std=0.5)
    first, again = (compute_coverage_curve(table, NAMES, Bootstrap(300, 1)) for _ in range(2))
    assert first == again
    for point in first[0][20:]:
        assert point["accuracy"]["low"] <= point["accuracy"]["value"] <= point["accuracy"]["high"]


def test_thresholds_are_chosen_on_validation_and_evaluated_on_the_test_rows():
    val = build_table(np.linspace(0.55, 0.99, 100), ["right"] * 100, NAMES)
    test = build_table([0.6, 0.75, 0.8, 0.95], ["left", "left", "right", "right"], NAMES)
    rows = {row["wanted"]: row for row in choose_thresholds(val, test, NAMES)}
    assert tuple(rows) == LISTED_COVERAGES
    assert rows[1.0]["threshold"] == 0.0
    # Half of the validation rows have 0.55 + 0.44 * 50 / 99 = 0.772 and more; two of the four test rows do, both right.
    assert rows[0.5]["threshold"] == pytest.approx(0.55 + 0.44 * 50 / 99)
    assert rows[0.5]["coverage"]["value"] == 0.5
    assert rows[0.5]["accuracy"]["value"] == 1.0
    assert rows[0.95]["coverage"]["value"] == 1.0, "0.572 is below all test rows"
    assert rows[0.95]["accuracy"]["value"] == 0.5


def test_where_nothing_is_answered_there_is_no_accuracy():
    val = build_table([0.9, 0.9], ["right", "right"], NAMES)
    test = build_table([0.6, 0.7], ["right", "left"], NAMES)
    row = choose_thresholds(val, test, NAMES)[-1]
    assert row["coverage"]["value"] == 0.0
    assert (row["accuracy"]["value"], row["accuracy"]["low"]) == (None, None)
