"""Places between pixels get what lies between their values."""

import numpy as np
import pytest

from pipeline.copies.sampling import sample

IMAGES = np.array([[[0, 10, 20], [40, 50, 60]], [[1, 1, 1], [1, 1, 5]]], np.float32)


@pytest.mark.parametrize(
    ("down", "across", "expected", "is_inside"),
    [
        (0.0, 1.0, (10, 1), True),
        (1.0, 2.0, (60, 5), True),  # the last pixel
        (0.5, 0.0, (20, 1), True),
        (0.25, 1.5, (25, 1.5), True),  # a quarter of the way from 15 to 55, and from 1 to 3
        (-0.5, 0.0, (0, 1), False),
        (1.5, 2.5, (60, 5), False),
    ],
)
def test_values_are_linear_between_pixels(down, across, expected, is_inside):
    values, inside = sample(IMAGES, np.array([[down]]), np.array([[across]]))
    np.testing.assert_allclose(values[:, 0], expected)
    assert inside.tolist() == [[is_inside]]


def test_every_image_has_places_of_its_own():
    values, _ = sample(IMAGES, np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]]))
    assert values.tolist() == [[10.0], [5.0]]


def test_an_image_of_one_row_is_sampled():
    values, inside = sample(IMAGES[:1, :1], np.array([[0.0, 0.0]]), np.array([[0.5, 2.0]]))
    assert (values.tolist(), inside.tolist()) == ([[5.0, 20.0]], [[True, True]])
