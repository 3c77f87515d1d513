"""A descriptor does not change with what it ignores by construction, and little with the rest."""

import numpy as np
import pandas as pd
import pytest

from pipeline.copies.descriptors import (
    NUM_VALUES,
    compute_contrast,
    compute_descriptors,
    describe_sources,
    describe_stacks,
    list_orbits,
    reduce_images,
)
from pipeline.data.store import Store


@pytest.fixture(scope="module")
def images():
    """Smooth random images in the middle of a black square, as an anatomy lies in its scan."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 12, 12)).astype(np.float32)
    inside = np.kron(coarse, np.ones((4, 4)))
    blurred = (inside + np.roll(inside, 1, 1) + np.roll(inside, 1, 2) + np.roll(inside, (1, 1), (1, 2))) / 4
    return np.pad(blurred, ((0, 0), (8, 8), (8, 8))).astype(np.uint8)


def distance(first, second):
    return np.linalg.norm(
        first / np.linalg.norm(first, axis=1, keepdims=True) - second / np.linalg.norm(second, axis=1, keepdims=True),
        axis=1,
    )


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("is_mirrored", [False, True])
@pytest.mark.parametrize("is_inverted", [False, True])
def test_orientation_and_inversion_change_nothing(images, turns, is_mirrored, is_inverted):
    altered = np.rot90(images, turns, (1, 2))
    altered = altered[:, :, ::-1] if is_mirrored else altered
    altered = 255 - altered if is_inverted else altered
    np.testing.assert_allclose(compute_descriptors(altered), compute_descriptors(images), rtol=2e-3)


def test_a_shift_changes_far_less_than_another_image_does(images):
    own = compute_descriptors(images)
    shifted = distance(compute_descriptors(np.roll(images, (2, -2), (1, 2))), own)
    assert (shifted < 0.5 * distance(np.roll(own, 1, axis=0), own)).all()


def test_contrast_is_the_distance_from_the_surroundings_in_their_own_units():
    flat = np.full((1, 32, 32), 77.0, np.float32)
    assert np.abs(compute_contrast(flat, 4.0)).max() < 1e-3
    # One pixel of 100 on nothing: the surroundings of that pixel itself hold 1 / (2 pi 16) of it, nearly nothing.
    point = np.zeros((1, 32, 32), np.float32)
    point[0, 16, 16] = 100
    weight = 1 / (2 * np.pi * 16)
    rest = 100 * (1 - weight)
    assert compute_contrast(point, 4.0)[0, 16, 16] == pytest.approx(rest / np.sqrt(rest**2 * weight + 36), rel=0.02)


def test_directions_that_mirrors_and_quarter_turns_exchange_are_together():
    assert list_orbits(12) == [[0, 6], [1, 5, 7, 11], [2, 4, 8, 10], [3, 9]]
    assert sorted(angle for orbit in list_orbits(16) for angle in orbit) == list(range(16))


def test_an_oblong_image_keeps_its_proportions():
    image = np.zeros((1, 10, 20), np.uint8)
    image[:, :, 10:] = 200
    reduced = reduce_images(image, 20)
    assert reduced.shape == (1, 20, 20)
    np.testing.assert_array_equal(reduced[0, :5], 0)
    np.testing.assert_array_equal(reduced[0, 5:15, 10:], 200)


def test_a_volume_has_the_mean_of_its_slices_and_blank_scans_are_left_out(images):
    blank = np.full((1, *images.shape[1:]), 9, np.uint8)
    examples = np.concatenate([images[:3], blank, images[3:]])
    sources = ["b", "a", "b", "blank", "c", "c", "d"]
    index = pd.DataFrame({"example_id": list("0123456"), "source_id": sources, "group_id": [f"p{s}" for s in sources]})
    found = describe_sources(Store(examples, index.assign(label=["l", "r", "r", "l", "l", "l", "l"]), (), {}, ""))
    assert found.source_ids.tolist() == ["b", "a", "c", "d"]
    assert found.group_ids.tolist() == ["pb", "pa", "pc", "pd"]
    assert found.labels.tolist() == ["l+r", "r", "l", "l"]
    assert [rows.tolist() for rows in found.rows] == [[0, 2], [1], [4, 5], [6]]
    expected = compute_descriptors(images[[0, 2]]).sum(axis=0)
    np.testing.assert_allclose(found.descriptors[0], expected / np.linalg.norm(expected), rtol=1e-5)
    np.testing.assert_allclose(found.descriptors, describe_stacks([examples[rows] for rows in found.rows]), rtol=1e-5)


def test_colours_are_averaged():
    colours = np.random.default_rng(1).integers(0, 256, (2, 3, 32, 32)).astype(np.float32)
    np.testing.assert_allclose(compute_descriptors(colours), compute_descriptors(colours.mean(axis=1)), rtol=1e-4)
    assert compute_descriptors(colours).shape == (2, NUM_VALUES)
