import numpy as np
import pytest

from pipeline.evaluation.metrics import compute_level
from pipeline.evaluation.subgroups import compute_share, compute_shares, number_patients
from tests.evaluation.test_metrics import CLASSES, build_random_table


def test_shares_of_parts_by_hand():
    is_counted = np.array([True, False, True, True, False, False])
    parts = np.array([0, 0, 0, 1, 1, 2])
    patients = np.array([0, 0, 1, 0, 1, 1])
    shares = compute_shares(is_counted, parts, patients, 4, 200, 0)
    assert [(share["n"], share["groups"]) for share in shares] == [(3, 2), (2, 2), (1, 1), (0, 0)]
    assert [share["share"]["value"] for share in shares] == [pytest.approx(2 / 3), 0.5, 0.0, None]
    # Part 0: patient 0 alone gives 1 of 2, patient 1 alone 1 of 1.
    assert (shares[0]["share"]["low"], shares[0]["share"]["high"]) == (0.5, 1.0)
    assert shares[2]["share"]["low"] is None, "one patient is no interval"


def test_the_share_of_right_answers_is_the_accuracy_with_its_interval():
    table = build_random_table(2)
    expected = compute_level(table, CLASSES[2], 300, seed=4)["metrics"]["accuracy"]
    is_right = (table["label"] == table["predicted"]).to_numpy()
    share = compute_share(is_right, number_patients(table["group_id"]), 300, seed=4)
    assert share == pytest.approx(expected)


def test_intervals_are_the_same_however_many_resamples_are_drawn_at_once(monkeypatch):
    generator = np.random.default_rng(0)
    arguments = (generator.random(40) < 0.7, generator.integers(0, 3, 40), np.arange(40) % 8, 3, 50, 1)
    whole = compute_shares(*arguments)
    monkeypatch.setattr("pipeline.evaluation.bootstrap.MAX_CHUNK_NUMBERS", 24)
    assert compute_shares(*arguments) == whole


def test_patients_are_numbered_in_the_order_of_their_ids():
    assert number_patients(["b", "a", "10", "b"]).tolist() == [2, 1, 0, 2]
