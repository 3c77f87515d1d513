"""An image agrees with its altered copy once it is aligned, and with no other image."""

import numpy as np
import pytest

from pipeline.copies.alignment import ORIENTATIONS, Maps, align, find_starts, orient, refine
from pipeline.copies.alterations import ALTERATIONS, change_gamma, move
from pipeline.copies.descriptors import compute_contrast

NAMES = tuple(ALTERATIONS)


@pytest.fixture(scope="module")
def images():
    """Structure at two scales, 48 x 48."""
    generator = np.random.default_rng(0)
    coarse = np.kron(generator.normal(0, 40, (4, 12, 12)), np.ones((4, 4)))
    fine = np.kron(generator.normal(0, 25, (4, 24, 24)), np.ones((2, 2)))
    return np.clip(128 + coarse + fine, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_an_altered_copy_agrees(images, name):
    altered = ALTERATIONS[name](images, np.random.default_rng(1))
    assert align(images, altered).similarity.min() > 0.8


def test_other_images_do_not_agree(images):
    assert align(images, np.roll(images, 1, axis=0), min_coarse=0.0).similarity.max() < 0.5


@pytest.mark.parametrize("orientation", range(8))
def test_the_orientation_and_the_inversion_are_found(images, orientation):
    # The inverse of a quarter turn is the other one; every other orientation is its own inverse.
    inverse = {5: 6, 6: 5}.get(orientation, orientation)
    second = orient(images, np.full(len(images), inverse))
    found = align(images, change_gamma(255 - second, 0.7))
    assert found.orientation.tolist() == [orientation] * len(images), ORIENTATIONS[orientation]
    assert found.is_inverted.all()
    assert not align(images, second).is_inverted.any()


def test_the_map_is_that_of_the_movement(images):
    first, second = (compute_contrast(stack.astype(np.float32), 3.0) for stack in (images, move(images, 4.0, 1.05)))
    start = Maps(np.tile(np.eye(2), (len(images), 1, 1)), np.zeros((len(images), 2)), np.zeros(len(images)))
    found = refine(first, second, start)
    # A place of the first image lies at 1.05 times the distance from the centre in the second one, turned by 4 degrees.
    angle = np.deg2rad(4)
    expected = 1.05 * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(found.matrix, np.broadcast_to(expected, found.matrix.shape), atol=0.015)
    np.testing.assert_allclose(found.shift, 0, atol=0.015)
    assert (found.correlation > 0.85).all()


def test_a_start_is_at_the_shift(images):
    contrast = compute_contrast(images[:, :32, :32].astype(np.float32), 3.0)
    _, starts = find_starts(contrast, np.roll(contrast, (2, -3), (1, 2)))
    # In units of half a side, 16 pixels.
    np.testing.assert_allclose(starts.shift[::2], [[2 / 16, -3 / 16]] * len(images), atol=0.01)


def test_a_blank_image_agrees_with_nothing(images):
    blank = np.full_like(images, 30)
    assert align(blank, images, min_coarse=0.0).similarity.max() < 0.01
    assert align(images, blank, min_coarse=0.0).similarity.max() < 0.01


def test_no_pairs_give_no_similarities():
    assert align(np.zeros((0, 8, 8), np.uint8), np.zeros((0, 8, 8), np.uint8)).similarity.shape == (0,)
