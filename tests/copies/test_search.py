"""The search finds every altered copy of a synthetic knee under an invented patient, and nothing else."""

import dataclasses

import numpy as np
import pytest

from pipeline.copies.alignment import align
from pipeline.copies.alterations import ALTERATIONS, VOLUME_ALTERATIONS
from pipeline.copies.search import MIN_SIGNIFICANCE, MIN_SIMILARITY, match_slices, measure_unrelated, search_copies
from pipeline.core.data_kinds import POINTS, WHOLE_VOLUMES
from tests.builders.painted_scans import NUM_SLICES, build_store, paint_stack

ALL = {**ALTERATIONS, **VOLUME_ALTERATIONS}


@pytest.fixture(scope="module")
def stacks():
    """Both knees of thirteen patients; a scan for each alteration."""
    scans = [(patient, side) for patient in range(13) for side in ("left", "right")]
    assert len(scans) == len(ALL)
    return [paint_stack(*scan) for scan in scans]


@pytest.fixture(scope="module")
def found(stacks):
    generator = np.random.default_rng(3)
    copies = [alter(stack, generator) for alter, stack in zip(ALL.values(), stacks, strict=True)]
    groups = [f"p{number // 2}" for number in range(len(stacks))] + [f"alias{number}" for number in range(len(copies))]
    store = build_store([*stacks, *copies], groups)
    return search_copies(store, np.full(len(store.index), "train"))


@pytest.mark.parametrize("number", range(len(ALL)), ids=list(ALL))
def test_an_altered_copy_under_another_patient_is_verified(found, number):
    assert (number, len(ALL) + number) in {(pair.first, pair.second) for pair in found.verified}


def test_nothing_else_is_found(found):
    assert len(found.verified) == len(ALL)
    assert found.unverified == ()
    assert min(pair.significance for pair in found.verified) > 2 * MIN_SIGNIFICANCE
    # Thirteen patients look alike: the search has pairs to refuse.
    assert found.num_compared == found.num_candidates > 2 * len(ALL)


def test_what_was_done_is_named(found):
    named = {pair.first: pair for pair in found.verified}
    places = {name: place for place, name in enumerate(ALL)}
    assert named[places["mirrored"]].orientation == "mirrored"
    assert named[places["turned by 180 degrees"]].orientation == "turned by 180 degrees"
    assert [place for place in sorted(named) if named[place].is_inverted] == [places["inverted"]]


def test_slices_are_matched_along_a_line_from_either_end():
    points = np.random.default_rng(0).normal(size=(20, 5)).cumsum(axis=0).astype(np.float32)
    for second, partner in ((points, lambda own: own), (points[::-1], lambda own: 19 - own)):
        own, other = match_slices(points, second)
        assert other.tolist() == partner(own).tolist()
        assert len(set(own // 7)) == 3, "one slice of each third"
    own, other = match_slices(points, points[::2])
    assert (own == 2 * other).all()
    own, other = match_slices(points[2:], points[:-1])
    assert (own + 2 == other).all()


def test_slices_that_show_nothing_are_not_matched():
    points = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    points[:4] = np.nan
    own, other = match_slices(points, points)
    assert own.min() >= 4
    assert own.tolist() == other.tolist()


@pytest.mark.parametrize(("num_others", "num_allowed"), [(0, 0), (40, 1)])
def test_where_scans_look_alike_a_pair_must_stand_out(num_others, num_allowed):
    """All strokes look like each other once aligned, as digits do; none of them is a copy.

    Among 40 images that look like nothing else 35 of their 190 pairs are as significant as the whole set asks for, and
    one is more so than its nine look-alikes allow.
    """
    generator = np.random.default_rng(0)
    down, across = np.mgrid[-24:24, -24:24] / 24
    strokes = [
        255
        * np.exp(-(((across - wave) / generator.uniform(0.08, 0.2)) ** 2) - (down / generator.uniform(0.4, 0.7)) ** 4)
        for wave in (0.1 * np.sin(3 * down + generator.uniform(0, 6)) for _ in range(20))
    ]
    stacks = [np.floor(stroke).astype(np.uint8)[None] for stroke in strokes]
    scans = [*stacks, *draw_fields(num_others, 1, seed=3, side=48)[:, None]]
    found = search_copies(build_store(scans, [f"p{number}" for number in range(len(scans))]), np.full(len(scans), "a"))
    assert len(found.verified) <= num_allowed
    assert align(np.concatenate(stacks[:-1]), np.concatenate(stacks[1:])).similarity.max() > 0.95


def test_copies_among_pairs_do_not_raise_what_unrelated_pairs_reach():
    # The median of 8 to 12 is 10, and the median of their distances from it 1.
    values = np.array([8.0, 9, 10, 11, 12])
    assert measure_unrelated(values) == pytest.approx((10, 1.4826))
    assert measure_unrelated(np.append(values, [90, 91])) == pytest.approx((10, 1.4826))


def draw_fields(number, grain, seed, side=32):
    """Return smooth random images, which have nothing in common."""
    place = np.arange(side)
    blur = np.exp(-((place[:, None] - place) ** 2) / (2 * grain**2))
    fields = blur @ np.random.default_rng(seed).normal(size=(number, side, side)) @ blur
    low, high = (find(fields, axis=(1, 2), keepdims=True) for find in (np.min, np.max))
    return np.floor(255 * (fields - low) / (high - low)).astype(np.uint8)


@pytest.mark.parametrize("grain", [2, 3, 4])
def test_small_smooth_images_that_agree_by_chance_are_never_verified(grain):
    """Among 60 there are 1,770 pairs, and some agree by 0.75 and more once aligned."""
    fields = draw_fields(60, grain, seed=0)
    found = search_copies(build_store(list(fields[:, None]), [f"p{n}" for n in range(60)]), np.full(60, "train"))
    assert found.num_compared >= 5
    assert found.verified == ()


def test_two_small_smooth_images_are_not_verified_though_there_is_nothing_to_compare_them_with():
    fields = draw_fields(400, 4, seed=1)
    found = align(fields[::2], fields[1::2], 0.0)
    assert (found.similarity >= MIN_SIMILARITY).any()
    assert found.significance.max() < MIN_SIGNIFICANCE


@pytest.mark.parametrize("name", ["inverted", "mirrored", "gamma 0.7", "rotated by 5 degrees", "zoomed by 1.05"])
def test_an_altered_copy_of_a_small_image_is_verified(name):
    fields = draw_fields(30, 1, seed=2)
    images = np.concatenate([fields, ALTERATIONS[name](fields[:3], np.random.default_rng(0))])
    found = search_copies(build_store(list(images[:, None]), [f"p{n}" for n in range(33)]), np.full(33, "train"))
    assert {(pair.first, pair.second) for pair in found.verified} == {(0, 30), (1, 31), (2, 32)}


def test_among_points_and_whole_volumes_and_of_one_scan_nothing_is_searched(stacks):
    store = build_store([stacks[0], stacks[0]], ["p", "q"])
    for kind in (POINTS, WHOLE_VOLUMES):
        assert search_copies(dataclasses.replace(store, kind=kind), np.full(len(store.index), "a")).sources.rows == ()
    assert search_copies(build_store(stacks[:1], ["p"]), np.full(NUM_SLICES, "a")).num_candidates == 0
