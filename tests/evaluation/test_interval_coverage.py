"""A few cells of the simulation in reports/benchmarks/intervals.py, with few repetitions."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "reports" / "benchmarks" / "intervals.py"


@pytest.fixture(scope="module")
def simulation():
    spec = importlib.util.spec_from_file_location("intervals_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its records look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("patients", "accuracy", "correlation"), [(6, 0.9, 0.1), (16, 0.99, 0.3), (16, 0.995, 0.05)])
def test_intervals_near_100_percent_hold_the_truth_and_are_narrow(simulation, patients, accuracy, correlation):
    result = simulation.cover_proportion(simulation.Cell(patients, accuracy, correlation), 120)
    # Of 120 intervals that hold in 95 %, more than 10 fail with a chance of 4 %; the seeds are fixed.
    assert result.held >= 110
    assert result.width < result.exact_width


def test_a_bootstrap_does_not_hold_there(simulation, monkeypatch):
    monkeypatch.setattr(simulation, "OLD_FRACTION", 1.0)
    result = simulation.cover_proportion(simulation.Cell(16, 0.99, 0.3), 60)
    assert result.bootstrap < 0.7


def test_a_cell_is_below_93_percent_where_chance_is_no_excuse(simulation):
    cell = simulation.Cell(16, 0.9, 0.1)
    poor, good = (simulation.ProportionResult(cell, 4000, held, 0.1, 0.2, 0.8) for held in (3600, 3700))
    assert simulation.find_significant([good, poor, good]) == [poor]
    # 3,680 of 4,000 are 92 %: below by themselves (p = 0.008), but not among 72 cells.
    edge = simulation.ProportionResult(cell, 4000, 3680, 0.1, 0.2, 0.8)
    assert simulation.find_significant([edge]) == [edge]
    assert simulation.find_significant([edge, *[good] * 71]) == []


def test_skills_give_the_accuracy_and_the_correlation(simulation):
    mean, spread = simulation.solve_skill(0.95, 0.2)
    totals = simulation.draw_totals(6_000, (mean, spread), np.random.default_rng(0))
    correct = np.asarray(totals.confusion[[0, 3]].sum(axis=0)) / simulation.ROWS
    assert correct.mean() == pytest.approx(0.95, abs=0.005)
    variance = 0.95 * 0.05
    # The variance of a patient's fraction is the correlation, and the rest over its rows.
    assert correct.var() == pytest.approx(variance * (0.2 + 0.8 / simulation.ROWS), rel=0.1)


def test_few_patients_have_no_bootstrap_interval_and_many_one_that_holds(simulation, monkeypatch):
    monkeypatch.setattr(simulation, "NUM_TRUTH_PATIENTS", 1000)
    few, many = (simulation.cover_scores(simulation.Cell(patients, 0.9, 0.1), 8) for patients in (16, 60))
    assert not few.printed.any()
    assert many.printed.all()
    assert many.held.mean() > 0.8
    text = "\n".join(simulation.describe_scores([few, many]))
    assert "| 16 | 0.9 | 0.1 | none | none | none | none | none |" in text


@pytest.mark.parametrize(
    ("patients", "accuracy", "correlation", "is_equal", "has_both"),
    [
        (16, 0.9, 0.1, True, True),
        (60, 0.99, 0.3, True, True),
        (60, 0.99, 0.3, True, False),
        (16, 0.9, 0.3, False, True),
    ],
)
def test_intervals_of_the_auroc_hold_the_truth(simulation, patients, accuracy, correlation, is_equal, has_both):
    cell = simulation.Cell(patients, accuracy, correlation, is_equal)
    result = simulation.cover_auroc(cell, has_both, 60)
    # Of 60 intervals that hold in 95 %, more than 6 fail with a chance of 3 %; the seeds are fixed.
    assert result.held >= 54
    assert result.width < 0.3
    row = f"| {patients} | {accuracy} | {correlation} | {result.truth:.4f} | {'equal' if is_equal else 'unequal'} |"
    assert row in "\n".join(simulation.describe_auroc([result]))


def test_the_true_auroc_is_that_of_very_many_patients(simulation):
    skill = simulation.solve_skill(0.9, 0.3)
    generator = np.random.default_rng(0)
    found = simulation.estimate_auroc_of_drawn_rows(simulation.Cell(5000, 0.9, 0.3), True, skill, generator)
    assert found["value"] == pytest.approx(simulation.compute_true_auroc(skill), abs=0.004)


def test_events_in_few_patients_have_no_interval_and_in_many_one_that_holds(simulation):
    few, many = (simulation.cover_events(simulation.Cell(patients, 0.9, 0.1), 0.1, True, 6) for patients in (60, 200))
    assert not few.given.any()
    assert many.given[:, :2].all(), "average precision"
    is_rare = many.num_groups.min(axis=2) < 10
    assert (many.given[:, 2:] == ~is_rare).all()
    assert is_rare[:, -1].all()
    assert many.held[many.given].mean() > 0.85
    text = "\n".join(simulation.describe_events([few, many]))
    assert "| 60 | 0.9 | 0.1 | 10% | both | – |" in text


@pytest.mark.parametrize("has_both", [True, False])
def test_true_average_precision_and_net_benefit_are_those_of_very_many_patients(simulation, has_both):
    skill = simulation.solve_skill(0.9, 0.3)
    cell = simulation.Cell(4000, 0.9, 0.3)
    rows = simulation.draw_rows(cell, 0.1, has_both, skill, np.random.default_rng(0))
    found = simulation.rank_rows(rows.probability, rows.is_positive).average_precision
    assert found == pytest.approx(simulation.compute_true_average_precision(skill, 0.1), abs=0.02)
    benefit = simulation.count_calls(rows).compute_net_benefit(np.ones((1, 4000)), 0.1)[0]
    # The odds weigh a false positive at 0.95 nineteen times.
    assert benefit == pytest.approx(simulation.compute_true_net_benefit(skill, 0.1), abs=0.01)
