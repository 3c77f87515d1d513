import numpy as np
import pytest

from pipeline.data.resampling import resample, resampling_weights


def test_the_same_spacing_and_size_changes_nothing():
    np.testing.assert_array_equal(resampling_weights(7, 0.4, 7, 0.4), np.eye(7, dtype=np.float32))
    slices = np.random.default_rng(0).integers(0, 256, (2, 5, 6))
    np.testing.assert_array_equal(resample(slices, (0.0, 255.0), (0.5, 0.5), 0.5, (5, 6)), slices)


@pytest.mark.parametrize(("num_in", "in_mm", "num_out", "out_mm"), [(9, 1.0, 4, 2.5), (4, 2.0, 11, 0.7), (5, 1, 8, 3)])
def test_a_row_sums_to_one_inside_the_image_and_to_zero_outside(num_in, in_mm, num_out, out_mm):
    weights = resampling_weights(num_in, in_mm, num_out, out_mm)
    centres_mm = (np.arange(num_out) - (num_out - 1) / 2) * out_mm
    is_inside = abs(centres_mm) <= num_in * in_mm / 2
    np.testing.assert_allclose(weights.sum(axis=1), is_inside, atol=1e-6)  # float32
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights, weights[::-1, ::-1], atol=1e-6, err_msg="left and right are alike")


def test_halving_four_pixels_by_hand():
    # Output centres at -1 and 1 mm, input centres at -1.5 -0.5 0.5 1.5, a triangle of 2 mm: 0.75 0.75 0.25, sum 1.75.
    expected = np.array([[3, 3, 1, 0], [0, 1, 3, 3]]) / 7
    np.testing.assert_allclose(resampling_weights(4, 1.0, 2, 2.0), expected, rtol=1e-6)


def test_a_whole_image_fits_into_any_size_with_black_around_it():
    image = resample(np.ones((1, 8, 4)), (0.0, 1.0), (1.0, 1.0), None, (8, 8))
    assert (image[0, :, 2:6] == 255).all()
    assert (image[0, :, :2] == 0).all()
    assert (image[0, :, 6:] == 0).all()
