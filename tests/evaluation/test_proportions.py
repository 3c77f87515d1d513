import numpy as np
import pandas
import pytest
from scipy import stats

from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.metrics import compute_level
from pipeline.evaluation.predictions import number_patients
from pipeline.evaluation.proportions import (
    PatientCounts,
    compute_fraction,
    compute_fractions,
    compute_posterior,
    count_patients_needed,
    estimate_fraction,
    estimate_proportion,
    plan_sample_size,
)
from tests.builders.predictions import CLASSES, build_random_table


def build_counts(counted, rows):
    counted, rows = np.broadcast_arrays(np.asarray(counted, dtype=float), np.asarray(rows, dtype=float))
    return PatientCounts(counted.copy(), rows.copy())


def draw_counts(seed, num_patients=20, mean=0.95, correlation=0.1, max_rows=60):
    generator = np.random.default_rng(seed)
    precision = (1 - correlation) / correlation
    rows = generator.integers(1, max_rows, num_patients)
    fractions = generator.beta(mean * precision, (1 - mean) * precision, num_patients)
    return build_counts(generator.binomial(rows, fractions), rows)


@pytest.mark.parametrize(("num_correct", "num_rows"), [(1, 2), (15, 16), (590, 600), (9_999, 10_000), (25_000, 50_000)])
def test_patients_of_one_row_have_the_interval_of_jeffreys(num_correct, num_rows):
    counted = np.zeros(num_rows)
    counted[:num_correct] = 1
    found = estimate_fraction(build_counts(counted, 1))
    expected = stats.beta(num_correct + 0.5, num_rows - num_correct + 0.5).ppf([0.025, 0.975])
    # Ends are interpolated in cells of the grid, each of about a sixtieth of the interval.
    tolerance = 0.01 * np.ptp(expected)
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected), abs=tolerance)
    assert found["method"] == "beta-binomial"


@pytest.mark.parametrize("seed", range(8))
def test_right_and_wrong_can_be_exchanged(seed):
    counts = draw_counts(seed)
    found = estimate_fraction(counts)
    mirrored = estimate_fraction(PatientCounts(counts.rows - counts.counted, counts.rows))
    assert (mirrored["low"], mirrored["high"]) == pytest.approx((1 - found["high"], 1 - found["low"]), abs=1e-9)


def test_two_patients_by_hand():
    """The posterior of 1 of 2 and 2 of 2 rows, from its definition on a fine grid of both unknown numbers."""
    proportion = (np.arange(400) + 0.5) / 400
    correlation = ((np.arange(400) + 0.5) / 400)[:, None]
    precision = (1 - correlation) / correlation
    right, wrong = proportion * precision, (1 - proportion) * precision
    both_of_two = right * (right + 1) / (precision * (precision + 1))
    one_of_two = 2 * right * wrong / (precision * (precision + 1))
    prior = proportion**-0.5 * (1 - proportion) ** -0.5 * (1 - correlation) ** 2
    density = prior * both_of_two * one_of_two
    cumulative = np.cumsum(density.sum(axis=0)) / density.sum()
    low, high = np.interp([0.025, 0.975], cumulative, proportion + 0.5 / 400)
    found = compute_posterior(build_counts([1, 2], 2))
    # Both grids have cells of less than a hundredth.
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.005)
    assert found.correlation == pytest.approx((density * correlation).sum() / density.sum(), abs=0.005)


@pytest.mark.parametrize(("num_patients", "bound"), [(2, 0.158), (16, 0.794), (22, 0.846), (59, 0.939)])
@pytest.mark.parametrize("num_rows", [1, 175])
def test_without_errors_the_end_is_the_exact_bound_over_patients(num_patients, bound, num_rows):
    perfect = estimate_fraction(build_counts(np.full(num_patients, num_rows), num_rows))
    assert perfect["low"] == pytest.approx(bound, abs=5e-4)
    assert (perfect["value"], perfect["high"], perfect["method"]) == (1.0, 1.0, "exact over groups")
    useless = estimate_fraction(build_counts(np.zeros(num_patients), num_rows))
    assert (useless["low"], useless["high"]) == (0.0, 1 - perfect["low"])


def test_patients_that_are_all_right_or_all_wrong_count_once_each():
    """40 equal rows of each of 20 patients say little more than one row each, and far less than 800 rows."""
    found = estimate_fraction(build_counts(np.repeat([0.0, 40.0], [4, 16]), 40))
    once, always = (np.ptp(stats.beta(16 * n + 0.5, 4 * n + 0.5).ppf([0.025, 0.975])) for n in (1, 40))
    # A little more, because the prior of the correlation is 0 at 1.
    assert 0.8 * once < found["high"] - found["low"] < once
    assert found["high"] - found["low"] > 5 * always


def test_more_alike_rows_widen_the_interval():
    """The same 16 errors among 800 rows, in 16 patients or in one."""
    spread = estimate_fraction(build_counts(np.r_[np.full(16, 39), np.full(4, 40)], 40))
    packed = estimate_fraction(build_counts(np.r_[24, np.full(19, 40)], 40))
    assert spread["value"] == packed["value"] == 0.98
    assert packed["high"] - packed["low"] > 1.5 * (spread["high"] - spread["low"])


@pytest.mark.parametrize("seed", range(20))
def test_the_interval_holds_the_fraction_and_has_a_width(seed):
    counts = draw_counts(seed, num_patients=2 + seed, mean=(0.5, 0.9, 0.99)[seed % 3], max_rows=(2, 40, 900)[seed % 3])
    for value in (counts.fraction, counts.mean_over_patients):
        found = estimate_proportion(value, counts)
        assert 0 <= found["low"] <= value <= found["high"] <= 1
        assert found["low"] < found["high"]


def test_a_patient_with_most_of_the_rows_cannot_push_the_fraction_out_of_its_interval():
    counts = build_counts(np.r_[500.0, np.ones(30)], np.r_[1000.0, np.ones(30)])
    found = estimate_fraction(counts)
    posterior = compute_posterior(counts)
    assert posterior.low > found["value"], "the patients' own fractions are mostly 1"
    assert (found["low"], found["high"]) == (found["value"], posterior.high)


def test_no_patient_and_one_patient_have_no_interval_and_a_reason():
    assert estimate_fraction(build_counts([], [])) == {
        "value": None, "low": None, "high": None, "method": None, "reason": "not defined: there is no row"
    }  # fmt: skip
    alone = estimate_fraction(build_counts([3], 4))
    assert (alone["value"], alone["low"], alone["high"]) == (0.75, None, None)
    assert "one group only" in alone["reason"]


def test_fifty_thousand_patients_are_as_certain_as_a_normal_approximation():
    counts = draw_counts(0, num_patients=50_000, mean=0.97, correlation=0.2)
    found = estimate_fraction(counts)
    fractions = counts.counted / counts.rows
    half_width = 1.96 * fractions.std() / np.sqrt(50_000)
    assert (found["low"], found["high"]) == pytest.approx((0.97 - half_width, 0.97 + half_width), abs=2 * half_width)
    assert 0.7 * 2 * half_width < found["high"] - found["low"] < 1.05 * 2 * half_width


def test_so_many_patients_are_needed_that_the_interval_has_the_width():
    counts = draw_counts(3, num_patients=40, mean=0.7)
    found = compute_posterior(counts)
    assert count_patients_needed(counts, found.high - found.low) == 40
    # A quarter of the width takes 16 times the patients, but for the skewness of so few.
    assert count_patients_needed(counts, (found.high - found.low) / 4) == pytest.approx(16 * 40, rel=0.15)
    perfect = build_counts([30, 30], 30)
    assert count_patients_needed(perfect, 0.1) == 36, "0.025 ** (1 / 36) is 0.9026, 0.025 ** (1 / 35) is 0.8999"
    assert count_patients_needed(perfect, 0.04) == 91
    assert plan_sample_size(perfect) == {"correlation": None, "five_points": 36, "two_points": 91}
    assert plan_sample_size(counts)["correlation"] == found.correlation


def test_fractions_of_subgroups_by_hand():
    is_counted = np.array([True, False, True, True, False, False])
    subgroups = np.array([0, 0, 0, 1, 1, 2])
    patients = np.array([0, 0, 1, 0, 1, 1])
    found = compute_fractions(is_counted, subgroups, patients, 4)
    assert [(item.num_rows, item.num_patients) for item in found] == [(3, 2), (2, 2), (1, 1), (0, 0)]
    assert [item.fraction["value"] for item in found] == [pytest.approx(2 / 3), 0.5, 0.0, None]
    assert found[0].fraction == estimate_fraction(build_counts([1, 1], [2, 1]))
    assert found[2].fraction["low"] is None, "one patient is no interval"


def test_the_fraction_of_correct_answers_is_the_accuracy_with_its_interval():
    table = build_random_table(2)
    expected = compute_level(table, CLASSES[2], Bootstrap(300, 4))["metrics"]["accuracy"]
    is_right = (table["label"] == table["predicted"]).to_numpy()
    assert compute_fraction(is_right, number_patients(table["group_id"])) == expected


def test_patients_are_numbered_in_the_order_of_their_ids():
    assert number_patients(pandas.Series(["b", "a", "10", "b"])).tolist() == [2, 1, 0, 2]
