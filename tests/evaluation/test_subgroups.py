import numpy as np
import pandas
import pytest

from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.metrics import compute_level
from pipeline.evaluation.predictions import number_patients
from pipeline.evaluation.subgroups import compute_fraction, compute_fractions
from tests.builders.predictions import CLASSES, build_random_table


def test_fractions_of_subgroups_by_hand():
    is_counted = np.array([True, False, True, True, False, False])
    subgroups = np.array([0, 0, 0, 1, 1, 2])
    patients = np.array([0, 0, 1, 0, 1, 1])
    found = compute_fractions(is_counted, subgroups, patients, 4, Bootstrap(200))
    assert [(item.num_rows, item.num_patients) for item in found] == [(3, 2), (2, 2), (1, 1), (0, 0)]
    assert [item.fraction["value"] for item in found] == [pytest.approx(2 / 3), 0.5, 0.0, None]
    # Subgroup 0: patient 0 alone gives 1 of 2, patient 1 alone 1 of 1.
    assert (found[0].fraction["low"], found[0].fraction["high"]) == (0.5, 1.0)
    assert found[2].fraction["low"] is None, "one patient is no interval"


def test_the_fraction_of_correct_answers_is_the_accuracy_with_its_interval():
    table = build_random_table(2)
    expected = compute_level(table, CLASSES[2], Bootstrap(300, 4))["metrics"]["accuracy"]
    is_right = (table["label"] == table["predicted"]).to_numpy()
    fraction = compute_fraction(is_right, number_patients(table["group_id"]), Bootstrap(300, 4))
    assert fraction == pytest.approx(expected)


def test_intervals_are_the_same_however_many_resamples_are_drawn_at_once(monkeypatch):
    generator = np.random.default_rng(0)
    arguments = (generator.random(40) < 0.7, generator.integers(0, 3, 40), np.arange(40) % 8, 3, Bootstrap(50, 1))
    whole = compute_fractions(*arguments)
    monkeypatch.setattr("pipeline.evaluation.bootstrap.MAX_CHUNK_NUMBERS", 24)
    assert compute_fractions(*arguments) == whole


def test_patients_are_numbered_in_the_order_of_their_ids():
    assert number_patients(pandas.Series(["b", "a", "10", "b"])).tolist() == [2, 1, 0, 2]
