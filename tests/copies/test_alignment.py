"""An image agrees with its altered copy once it is aligned, and with no other image."""

import numpy as np
import pytest

from pipeline.copies.alignment import (
    ORIENTATIONS,
    Maps,
    align,
    compute_significance,
    count_effective_pixels,
    find_starts,
    orient,
    refine,
)
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


def test_the_significance_is_that_of_fishers_transform():
    # arctanh(0.8) is half of the logarithm of 9, and the std of a correlation of 100 pixels is 1 / sqrt(97).
    found = compute_significance(np.array([0.8, 0.0, 0.8]), np.array([100.0, 100.0, 2.0]))
    assert found.tolist() == pytest.approx([np.log(3) * 97**0.5, 0, 0])
    assert np.isfinite(compute_significance(np.array([1.0]), np.array([1000.0]))).all()


def test_noise_has_as_many_effective_pixels_as_are_weighted_and_a_part_of_its_spectrum_a_part_of_them():
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(2, 200, 32, 32))
    # The border is tapered over a fifth of the side: of each axis 0.8^2 / 0.75 counts.
    weighted = 32**2 * (0.8**2 / 0.75) ** 2
    assert count_effective_pixels(*noise).mean() == pytest.approx(weighted, rel=0.03)
    # Blocks of two by two pixels: a quarter is independent, and the taper mixes few of them.
    blocks = np.kron(noise[:, :, :16, :16], np.ones((2, 2)))
    assert count_effective_pixels(*blocks).mean() == pytest.approx(weighted / 4 * (4 / 2.25), rel=0.1)


@pytest.mark.parametrize("side", [32, 64])
def test_the_smaller_and_the_smoother_images_are_the_less_a_similarity_means(side):
    """Of one similarity the significance falls with the size of the grains, and of one grain with the side."""
    noise = np.random.default_rng(0).normal(size=(2, 20, side, side))
    numbers = [
        np.median(count_effective_pixels(*(compute_contrast(smooth(images, grain), 1.5) for images in 30 * noise)))
        for grain in (0.5, 1, 2, 4)
    ]
    assert (np.diff(numbers) < 0).all()
    half = noise[:, :, : side // 2, : side // 2]
    smaller = np.median(count_effective_pixels(*(compute_contrast(smooth(images, 1), 1.5) for images in 30 * half)))
    assert smaller < 0.35 * numbers[1]


def smooth(images, standard_deviation):
    """Return smoother images of the same contrast."""
    place = np.arange(images.shape[-1])
    blur = np.exp(-((place[:, None] - place) ** 2) / (2 * standard_deviation**2))
    blurred = blur @ images @ blur
    return (blurred * (images.std() / blurred.std())).astype(np.float32)
