"""Altered copies are among the candidates, and the search finds what a plain comparison finds."""

import numpy as np
import pandas as pd
import pytest

from pipeline.copies.alterations import ALTERATIONS
from pipeline.copies.candidates import (
    MAX_ALIKE_OF_ONE,
    NUM_ALIKE,
    NUM_NEIGHBOURS,
    NUM_OF_OTHERS,
    NUM_OF_OWN,
    find_candidates,
    fit_metric,
)
from pipeline.copies.descriptors import describe_sources, describe_stacks
from pipeline.data.store import Store

NUMBER = 60


@pytest.fixture(scope="module")
def store():
    """Images of structure at two scales, two a patient."""
    generator = np.random.default_rng(0)
    coarse = np.kron(generator.normal(0, 40, (NUMBER, 12, 12)), np.ones((4, 4)))
    fine = np.kron(generator.normal(0, 25, (NUMBER, 24, 24)), np.ones((2, 2)))
    examples = np.clip(128 + coarse + fine, 0, 255).astype(np.uint8)
    names = [f"s{number}" for number in range(NUMBER)]
    index = pd.DataFrame({"example_id": names, "source_id": names, "label": "left"})
    return Store(examples, index.assign(group_id=[f"p{n // 2}" for n in range(NUMBER)]), ("left",), {}, "")


@pytest.fixture(scope="module")
def sources(store):
    return describe_sources(store)


@pytest.fixture(scope="module")
def metric(store, sources):
    return fit_metric(store, sources)


@pytest.mark.parametrize("name", tuple(ALTERATIONS))
def test_an_altered_copy_is_closer_than_the_limit_and_than_other_scans(store, sources, metric, name):
    altered = ALTERATIONS[name](store.examples, np.random.default_rng(1))
    points = metric.project(describe_stacks([image[None] for image in altered]))
    distances = np.linalg.norm(points[:, None] - metric.project(sources.descriptors)[None], axis=2)
    own = np.diag(distances)
    assert (own <= metric.max_distance).mean() >= 0.95
    assert ((distances < own[:, None]).sum(axis=1) < NUM_OF_OTHERS).mean() >= 0.95


def test_the_metric_is_the_same_each_time(store, sources, metric):
    again = fit_metric(store, sources)
    np.testing.assert_array_equal(again.directions, metric.directions)
    assert again.max_distance == metric.max_distance


def test_the_candidates_are_those_of_a_plain_search():
    generator = np.random.default_rng(2)
    points = generator.normal(size=(40, 3)).astype(np.float32)
    groups = np.array([f"p{number // 4}" for number in range(40)])
    found = find_candidates(points, groups, 3.0)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    expected = set()
    for row in range(40):
        nearest = [other for other in np.argsort(distances[row])[:NUM_NEIGHBOURS] if distances[row, other] <= 3.0]
        strangers = [other for other in nearest if groups[other] != groups[row]][:NUM_OF_OTHERS]
        own = [other for other in nearest if groups[other] == groups[row]][:NUM_OF_OWN]
        expected |= {(min(row, int(other)), max(row, int(other))) for other in (*strangers, *own)}
    assert {tuple(pair) for pair in found.pairs.tolist()} == expected
    assert len(expected) > 20
    np.testing.assert_allclose(found.distances, distances[tuple(found.pairs.T)], atol=1e-3)
    assert (np.diff(found.distances) >= 0).all()


def test_equal_points_are_candidates_and_a_point_is_none_of_itself():
    points = np.zeros((2, 4), np.float32)
    assert find_candidates(points, np.array(["p", "q"]), 0.0).pairs.tolist() == [[0, 1]]
    assert find_candidates(points[:1], np.array(["p"]), 0.0).pairs.shape == (0, 2)


def draw_frames(number, patients=12):
    """Return points that are close to others of their patient, and their patients; every third patient has one."""
    generator = np.random.default_rng(3)
    numbers = [1 if patient % 3 == 0 else number for patient in range(patients)]
    places = np.repeat(generator.normal(0, 3, (patients, 3)), numbers, axis=0)
    groups = np.repeat([f"p{patient}" for patient in range(patients)], numbers)
    return (places + generator.normal(0, 0.1, places.shape)).astype(np.float32), groups


@pytest.mark.parametrize("number", [2, MAX_ALIKE_OF_ONE + 1, NUM_NEIGHBOURS + 1, 3 * NUM_NEIGHBOURS])
def test_many_scans_of_a_patient_hide_no_other_patient(number, monkeypatch):
    monkeypatch.setattr("pipeline.copies.candidates.MAX_IN_MEMORY", 1000)  # several parts
    points, groups = draw_frames(number)
    found = find_candidates(points, groups, 100.0)
    pairs = {tuple(pair) for pair in found.pairs.tolist()}
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    sizes = {group: int((groups == group).sum()) for group in groups}
    for row in range(len(points)):
        nearest = [int(other) for other in np.argsort(distances[row]) if groups[other] != groups[row]]
        counted, seen = [], set()
        for other in nearest:
            if sizes[groups[other]] <= MAX_ALIKE_OF_ONE or groups[other] not in seen:
                counted.append(other)
            seen.add(groups[other])
        expected = {(min(row, k), max(row, k)) for k in (*nearest[:NUM_OF_OTHERS], *counted[:NUM_OF_OTHERS])}
        assert expected <= pairs
        neighbours = found.neighbours[row]
        assert neighbours[neighbours >= 0].tolist() == counted[:NUM_ALIKE]
    assert found.num_limited == 0


def test_the_further_search_is_limited_and_says_so():
    points, groups = draw_frames(2 * NUM_NEIGHBOURS)
    whole, part = find_candidates(points, groups, 100.0), find_candidates(points, groups, 100.0, 80 * len(points))
    assert part.num_limited == len(points) - 80
    # Of each patient as many are searched as of any other.
    searched = groups[(part.neighbours >= 0).sum(axis=1) == NUM_ALIKE]
    numbers = [(searched == group).sum() for group in np.unique(groups) if (groups == group).sum() > 1]
    assert max(numbers) - min(numbers) <= 1
    assert {tuple(pair) for pair in part.pairs.tolist()} <= {tuple(pair) for pair in whole.pairs.tolist()}
    assert find_candidates(points, groups, 100.0, 0).num_limited == len(points)
