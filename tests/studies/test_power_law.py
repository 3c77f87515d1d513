"""A learning curve's numbers: the mean over draws, who wins, and how many patients a task needs."""

import numpy as np
import pytest

from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.studies.power_law import (
    compare_draws,
    estimate_mean,
    fit_power_law,
    forecast_size,
    name_verdict,
)

SIZES = (2, 4, 8, 16)
BOOTSTRAP = Bootstrap(200)
ROWS = np.full(1000, 10.0)


def make_correct(accuracies):
    """The right rows of 1,000 patients with ten rows each, ``(sizes, draws, patients)``: all of the same accuracy."""
    return np.array(accuracies)[..., None] * np.broadcast_to(ROWS, (*np.shape(accuracies), len(ROWS)))


def test_the_interval_over_draws_is_that_of_student():
    # Standard error 0.1 / sqrt(3), times the quantile 4.3027 of two degrees of freedom.
    estimate = estimate_mean([0.7, 0.8, 0.9])
    assert (estimate["value"], estimate["low"], estimate["high"]) == pytest.approx((0.8, 0.5516, 1.0484), abs=1e-4)
    assert estimate_mean([0.7, 0.8, 0.9], (0.0, 1.0))["high"] == 1
    assert estimate_mean([0.7])["low"] is None
    assert "equal" in estimate_mean([0.7, 0.7])["reason"]


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.02, 0.03, 0.04], "wins"),
        ([-0.02, -0.03, -0.04], "loses"),
        ([0.05, -0.01, 0.02], "draws"),
        ([-0.05, 0.01, -0.02], "draws"),
        ([0.0, 0.0, 0.0], "draws"),
        ([0.1], "not tested"),
        ([-0.1, -0.1], "not tested"),
    ],
)
def test_a_model_wins_or_loses_where_the_interval_has_0_outside(differences, verdict):
    assert name_verdict(estimate_mean(differences)) == verdict
    base = np.full(len(differences), 0.5)
    first, second = make_correct(base + differences), make_correct(base)
    assert compare_draws(4, first, second, ROWS, BOOTSTRAP).verdict == verdict
    turned = {"wins": "loses", "loses": "wins"}.get(verdict, verdict)
    assert compare_draws(4, second, first, ROWS, BOOTSTRAP).verdict == turned


def test_the_difference_is_paired_over_test_patients():
    """What is hard for both cancels: a constant gain has no spread, however different the patients are."""
    second = np.tile(np.arange(1000) % 9, (3, 1)).astype(float)
    gained = np.ones_like(second)
    gained[:, 0] = 0  # of one patient, without whom all gain the same
    compared = compare_draws(4, second + gained, second, ROWS, BOOTSTRAP)
    assert compared.differences == pytest.approx((0.0999, 0.0999, 0.0999))
    assert compared.over_patients == pytest.approx((0.0997, 0.1))
    assert compare_draws(4, second + 1, second, ROWS, BOOTSTRAP).over_patients is None


def test_the_intervals_over_few_test_patients_hold_the_truth_as_often_as_they_say():
    """The gain of a patient is normal, 1 of 10 rows on average: Student's t is exact, and the bootstrap near it."""
    draws, num_tables, num_patients = np.random.default_rng(0), 400, 6
    found = 0
    for _ in range(num_tables):
        gained = np.tile(draws.normal(1.0, 1.0, num_patients), (3, 1))
        low, high = compare_draws(4, gained, 0 * gained, np.full(num_patients, 10.0), BOOTSTRAP).over_patients
        found += low <= 0.1 <= high
    assert found / num_tables > 0.91  # with the quantiles of many patients .86


@pytest.mark.parametrize(("floor", "scale", "exponent"), [(0.05, 0.5, 0.5), (0.0, 0.4, 1.0), (0.3, 0.0, 1.0)])
def test_a_power_law_is_found_again(floor, scale, exponent):
    errors = floor + scale * np.array(SIZES, dtype=float) ** -exponent
    law = fit_power_law(np.array(SIZES), np.stack([errors, errors]))
    assert law.compute_error(64.0) == pytest.approx(floor + scale * 64**-exponent, abs=1e-9)
    assert law.floor + law.scale == pytest.approx(floor + scale, abs=1e-9)


def test_the_size_for_an_error_is_that_of_the_law():
    # 0.05 + 0.5 / sqrt(n) = 0.15 at n = 25; 0.05 is never reached.
    law = fit_power_law(np.array(SIZES), (0.05 + 0.5 * np.array(SIZES, dtype=float) ** -0.5)[None])
    assert law.compute_size(0.15) == pytest.approx(25)
    assert np.isinf(law.compute_size(0.05 - 1e-6)).all()


def make_law(floor=0.05, scale=0.5, exponent=0.5, draws=3, noise=0.0):
    generator = np.random.default_rng(0)
    errors = floor + scale * np.array(SIZES, dtype=float)[:, None] ** -exponent
    return make_correct(1 - errors - noise * generator.standard_normal((len(SIZES), draws)))


@pytest.mark.parametrize(
    ("wanted", "reach", "size"),
    [(0.7, "reached", 4.0), (0.85, "extrapolated", 25.0), (0.9, "too far", None), (0.96, "never", None)],
)
def test_a_size_is_given_up_to_four_times_the_largest(wanted, reach, size):
    forecast = forecast_size("cnn", SIZES, make_law(), ROWS, wanted, BOOTSTRAP)
    assert forecast.reach == reach
    assert forecast.limit == 64
    assert forecast.size == pytest.approx(size)
    assert forecast.ceiling == pytest.approx(0.95)


def test_the_interval_is_over_draws_and_has_no_end_beyond_the_limit():
    forecast = forecast_size("cnn", SIZES, make_law(noise=0.01), ROWS, 0.8, BOOTSTRAP)
    assert forecast.low < forecast.size < (forecast.high or 64)
    far = forecast_size("cnn", SIZES, make_law(noise=0.005), ROWS, 0.89, BOOTSTRAP)
    assert far.reach == "extrapolated"
    assert far.high is None, "the end is beyond the limit"
    alone = forecast_size("cnn", SIZES, make_law(draws=1), ROWS, 0.8, BOOTSTRAP)
    assert (alone.low, alone.high) == (None, None)


def test_a_flat_curve_and_too_few_sizes_have_no_size():
    flat = forecast_size("cnn", SIZES, make_law(floor=0.5, scale=0), ROWS, 0.8, BOOTSTRAP)
    assert (flat.reach, flat.size) == ("flat", None)
    few = forecast_size("cnn", SIZES[:3], make_law()[:3], ROWS, 0.8, BOOTSTRAP)
    assert (few.reach, few.size) == ("too few sizes", None)
