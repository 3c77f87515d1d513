import numpy as np

from pipeline.data.near_duplicates import compute_perceptual_hashes, find_informative


def count_differing_bits(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.bitwise_count(first ^ second).sum(axis=1).astype(int)


def test_a_hash_ignores_brightness_and_changes_with_what_is_shown():
    images = np.random.default_rng(0).integers(0, 120, (6, 34, 32)).astype(np.uint8)
    hashes = compute_perceptual_hashes(images)
    assert hashes.shape == (6, 4)
    np.testing.assert_array_equal(compute_perceptual_hashes(images + 100), hashes)
    # Of random images half of 256 bits differ; one standard deviation is 8 bits.
    assert (abs(count_differing_bits(hashes, np.roll(hashes, 1, axis=0)) - 128) < 40).all()


def test_the_hash_of_colours_is_that_of_their_mean():
    colours = np.random.default_rng(1).integers(0, 256, (3, 3, 32, 32)).astype(np.float32)
    np.testing.assert_array_equal(compute_perceptual_hashes(colours), compute_perceptual_hashes(colours.mean(axis=1)))


def test_only_an_image_of_one_grey_level_is_not_informative():
    images = np.full((3, 8, 8), 7, dtype=np.uint8)
    images[1, 3, 3] += 1
    assert find_informative(images).tolist() == [False, True, False]
