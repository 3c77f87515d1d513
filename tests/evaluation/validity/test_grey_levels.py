"""Drift of grey levels, against numbers computed by hand."""

import dataclasses

import numpy as np
import pytest

from pipeline.evaluation.validity.grey_levels import GreyLevels, compute_distance, compute_drift, measure_scans
from tests.builders.stores import build_store


def one_level(level):
    return np.eye(256)[level]


def test_the_distance_is_the_mean_number_of_levels_that_pixels_would_have_to_change():
    assert compute_distance(one_level(10), one_level(13)) == pytest.approx(3)
    half = (one_level(0) + one_level(100)) / 2
    assert compute_distance(half, one_level(0)) == pytest.approx(50)
    assert compute_distance(half, half) == 0


def test_scans_are_measured_one_by_one_and_count_once_each():
    images = np.zeros((3, 2, 2), np.uint8)
    images[1], images[2, 0] = 255, 51
    store = build_store(images, ["left", "right", "left"], np.zeros(3, int), 3)
    index = store.index.assign(source_id=["a", "a", "b"])
    found = measure_scans(dataclasses.replace(store, index=index), np.arange(3))
    np.testing.assert_allclose(found.numbers, [[0.5, 0.5], [0.1, 0.1]])
    assert found.histogram[[0, 51, 255]] == pytest.approx([0.5, 0.25, 0.25])
    assert found.histogram.sum() == pytest.approx(1)


def test_drift_is_in_standard_deviations_of_training_and_counts_scans_outside_of_it():
    means = np.linspace(0.2, 0.4, 101)
    training = GreyLevels(np.stack([means, np.full(101, 0.1)], axis=1), one_level(77))
    brighter = GreyLevels(training.numbers + np.array([0.1, 0.0]), one_level(102))
    drift = compute_drift(training, training, brighter)
    mean, std = drift["numbers"]
    assert mean["training"] == pytest.approx({"low": 0.21, "median": 0.3, "high": 0.39})
    assert mean["difference"] == pytest.approx(0.1 / means.std())
    assert mean["test_difference"] == 0
    assert mean["outside"] == pytest.approx((means + 0.1 > 0.39).mean())
    assert std["difference"] is None, "all training scans are alike"
    assert (drift["distance"], drift["test_distance"]) == (pytest.approx(25), 0)


def test_a_scan_of_which_predict_would_warn_is_counted_as_far():
    generator = np.random.default_rng(0)
    images = generator.integers(100, 110, (40, 8, 8), dtype=np.uint8)
    training = build_store(images, ["left"] * 40, np.zeros(40, int), 40)
    reference = measure_scans(training, np.arange(40)).build_reference()
    images = images.copy()
    images[:3] += 60
    other = build_store(images, ["left"] * 40, np.zeros(40, int), 40)
    assert measure_scans(other, np.arange(40), reference).num_far == 3
    assert measure_scans(training, np.arange(40), reference).num_far == 0
