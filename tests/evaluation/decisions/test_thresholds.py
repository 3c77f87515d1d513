import numpy as np
import pytest

from pipeline.config.outputs import EvaluateConfig
from pipeline.core.errors import UserError
from pipeline.evaluation.bootstrap import Bootstrap, Support
from pipeline.evaluation.decisions.thresholds import (
    PositiveRows,
    choose_operating_point,
    compute_decision_curve,
    count_calls,
    find_threshold,
)

FIVE = PositiveRows(
    np.array([0.1, 0.4, 0.5, 0.6, 0.9]), np.array([False, True, False, False, True]), np.array([0, 1, 1, 2, 2])
)
FEW, MANY = Support(3, 2), Support(100, 60)


def draw(num_patients=100, rows=4, seed=0):
    generator = np.random.default_rng(seed)
    patients = np.repeat(np.arange(num_patients), rows)
    probability = generator.random(len(patients)).round(3)
    return PositiveRows(probability, generator.random(len(patients)) < probability, patients)


@pytest.mark.parametrize(
    ("rate", "wanted", "threshold"),
    [
        ("specificity", 2 / 3, 0.6),
        ("specificity", 1.0, 0.9),
        ("specificity", 0.3, 0.4),
        ("sensitivity", 1.0, 0.4),
        ("sensitivity", 0.5, 0.9),
        ("sensitivity", 0.6, 0.4),
    ],
)
def test_a_threshold_by_hand(rate, wanted, threshold):
    assert find_threshold(FIVE, rate, wanted) == threshold


@pytest.mark.parametrize("rate", ["sensitivity", "specificity"])
@pytest.mark.parametrize("wanted", [0.05, 0.5, 0.8, 0.95, 1.0])
def test_no_threshold_with_the_rate_has_a_better_other_rate(rate, wanted):
    rows = draw()
    found = find_threshold(rows, rate, wanted)

    def compute(threshold):
        called = rows.probability >= threshold
        rates = {"sensitivity": called[rows.is_positive].mean(), "specificity": (~called)[~rows.is_positive].mean()}
        return rates.pop(rate), *rates.values()

    reached, other = compute(found)
    assert reached >= wanted - 1e-9
    for threshold in np.append(np.unique(rows.probability), 1.1):
        also, better = compute(threshold)
        assert also < wanted - 1e-9 or better <= other


def test_where_the_most_probable_row_is_negative_no_row_is_called_positive():
    rows = PositiveRows(np.array([0.2, 0.9]), np.array([True, False]), np.array([0, 1]))
    threshold = find_threshold(rows, "specificity", 0.95)
    assert threshold == pytest.approx(0.9)
    assert threshold > 0.9


def test_a_threshold_of_validation_is_applied_to_test_rows_and_says_how_many_patients_chose_it():
    test = PositiveRows(np.array([0.59, 0.6, 0.7, 0.2]), np.array([True, True, False, False]), np.array([0, 1, 2, 3]))
    point = choose_operating_point(FIVE, test, "specificity", 0.6)
    assert point["threshold"] == 0.6
    assert point["chosen_on"] == {"num_rows": 3, "num_groups": 3}
    assert point["reached"] == pytest.approx(2 / 3)
    assert {name: rate["value"] for name, rate in point["test"].items()} == {"sensitivity": 0.5, "specificity": 0.5}
    assert point["test"]["sensitivity"]["method"] == "beta-binomial"
    assert choose_operating_point(FIVE, test, "sensitivity", 0.5)["chosen_on"] == {"num_rows": 2, "num_groups": 2}


def test_without_a_class_in_validation_there_is_no_threshold():
    negatives = PositiveRows(np.array([0.1, 0.2]), np.zeros(2, bool), np.arange(2))
    point = choose_operating_point(negatives, FIVE, "sensitivity", 0.9)
    assert point["threshold"] is point["test"] is point["reached"] is None
    assert point["chosen_on"] == {"num_rows": 0, "num_groups": 0}
    assert choose_operating_point(FIVE, negatives, "sensitivity", 0.9)["test"]["sensitivity"]["value"] is None


@pytest.mark.parametrize(("prevalence", "used"), [(None, 0.4), (0.1, 0.1)])
def test_net_benefit_by_hand(prevalence, used):
    curve = compute_decision_curve(FIVE, prevalence, Bootstrap(100), FEW)
    assert curve["prevalence"] == used
    assert curve["is_observed"] == (prevalence is None)
    at = {point["threshold"]: point for point in curve["curve"]}
    # From 0.5 on three rows are called: one of two positives, two of three negatives; the odds are 1.
    assert at[0.5]["model"]["value"] == pytest.approx(used / 2 - (1 - used) * 2 / 3)
    assert at[0.2]["treat_all"] == pytest.approx(used - (1 - used) / 4)
    # From 0.95 on none is called.
    assert at[0.95]["model"]["value"] == 0
    # Below 0.1 all are.
    assert at[0.05]["model"]["value"] == pytest.approx(at[0.05]["treat_all"])
    assert at[0.1]["model"]["value"] == pytest.approx(at[0.1]["treat_all"]), "a row at the threshold is called"


def test_the_net_benefit_at_the_observed_prevalence_is_counted_in_rows():
    rows = draw()
    for point in compute_decision_curve(rows, None, Bootstrap(100), FEW)["curve"]:
        called = rows.probability >= point["threshold"] - 1e-9
        odds = point["threshold"] / (1 - point["threshold"])
        counted = (called & rows.is_positive).sum() - odds * (called & ~rows.is_positive).sum()
        assert point["model"]["value"] == pytest.approx(counted / len(called))


def test_many_patients_have_an_interval_and_few_a_reason():
    few = compute_decision_curve(FIVE, None, Bootstrap(100), FEW)["curve"][9]["model"]
    assert few["reason"] == "a bootstrap over fewer than 100 groups is too narrow"
    many = compute_decision_curve(draw(), None, Bootstrap(500), MANY)["curve"][9]["model"]
    assert many["low"] < many["value"] < many["high"]
    assert many["method"] == "bootstrap"


def test_the_patients_with_each_outcome_by_hand():
    counted = count_calls(FIVE).count_groups()
    # From 0.5 on rows of patients 1 and 2 are called; the negatives are 0.1 of patient 0, 0.5 of 1 and 0.6 of 2.
    assert counted[9] == {"true positives": 1, "false negatives": 1, "false positives": 2, "true negatives": 1}
    assert counted[18] == {"true positives": 0, "false negatives": 2, "false positives": 0, "true negatives": 3}


@pytest.mark.parametrize(
    ("false_positives", "false_negatives", "reason"),
    [
        (10, 10, ""),
        (9, 10, "a bootstrap with false positives in fewer than 10 groups is too narrow"),
        (10, 9, "a bootstrap with false negatives in fewer than 10 groups is too narrow"),
        (9, 9, "a bootstrap with false negatives and false positives in fewer than 10 groups is too narrow"),
    ],
)
def test_a_threshold_with_an_outcome_in_few_patients_has_no_interval(false_positives, false_negatives, reason):
    # Each of a hundred patients has a positive row, of 0.6 or 0.2, and a negative one, of 0.2 or 0.6.
    patients = np.arange(100).repeat(2)
    is_positive = np.tile([True, False], 100)
    probability = np.where(is_positive, 0.6, 0.2)
    probability[1 : 2 * false_positives : 2] = 0.6
    probability[200 - 2 * false_negatives :: 2] = 0.2
    curve = compute_decision_curve(PositiveRows(probability, is_positive, patients), None, Bootstrap(200), MANY)
    at = {point["threshold"]: point["model"] for point in curve["curve"]}
    assert at[0.5]["reason"] == reason
    assert (at[0.5]["low"] is None) == (reason != "")
    assert at[0.5]["value"] == pytest.approx(0.5 * (1 - false_negatives / 100) - 0.5 * false_positives / 100)
    # From 0.05 on all rows are called, and none from 0.95 on.
    assert at[0.05]["low"] is at[0.95]["low"] is None
    assert "true negatives" in at[0.05]["reason"]


@pytest.mark.parametrize(
    ("name", "value"), [("wanted_sensitivity", 0.0), ("wanted_specificity", 1.1), ("prevalence", 1.0)]
)
def test_impossible_rates_are_refused(name, value):
    with pytest.raises(UserError, match=f"evaluate.{name}"):
        EvaluateConfig(**{name: value})
