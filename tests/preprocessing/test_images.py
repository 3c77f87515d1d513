"""Images in the store: sizes and grey levels that were computed by hand."""

import numpy as np
import pytest
from PIL import Image

from pipeline.config.data import PreprocessConfig
from pipeline.core.errors import VolumeError
from pipeline.preprocessing.images import fit_image
from tests.builders.dicom import write_radiograph
from tests.builders.odd_files import write_grey_modes


def fit(path, **options):
    return fit_image(path, PreprocessConfig(image_size=(8, 8), **options))


def save(path, pixels):
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return path


def test_an_image_of_the_size_is_kept_bit_for_bit(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    fitted = fit(save(tmp_path / "a.png", pixels))
    np.testing.assert_array_equal(fitted.values, np.moveaxis(pixels, -1, 0))
    assert (fitted.low, fitted.high, fitted.stored_shape) == (0.0, 255.0, (8, 8, 3))
    assert fit(tmp_path / "a.png", colour="grey").values.shape == (1, 8, 8)
    grey = fit(save(tmp_path / "b.png", np.stack([pixels[..., 0]] * 3, axis=-1)))
    np.testing.assert_array_equal(grey.values, pixels[None, ..., 0])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        # Two rows of eight pixels, black to white from left to right in four steps of two pixels.
        ("pad", [0] * 3 + [1, 1] + [0] * 3),
        ("crop", [1] * 8),
        ("stretch", [1] * 8),
    ],
)
def test_a_wide_image_is_padded_cropped_or_stretched(how, expected, tmp_path):
    path = save(tmp_path / "a.png", np.repeat([[10, 10, 80, 80, 160, 160, 240, 240]], 2, axis=0))
    values = fit(path, fit=how).values[0]
    assert (values.max(axis=1) > 0).astype(int).tolist() == expected
    middle = values[4]
    if how == "crop":
        assert middle.min() >= 80, "the left and the right quarter are lost"
        assert middle.max() <= 160
    else:
        assert middle.tolist() == [10, 10, 80, 80, 160, 160, 240, 240]


def test_12_bits_in_16_are_windowed_by_percentiles_and_not_black(tmp_path):
    levels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 64
    Image.fromarray(levels).save(tmp_path / "a.png")
    fitted = fit(tmp_path / "a.png", intensity_percentiles=(0.0, 100.0))
    assert (fitted.low, fitted.high) == (0.0, 63 * 64)
    np.testing.assert_array_equal(fitted.values[0], np.floor(levels / (63 * 64) * 255 + 0.5))


def test_millimetres_are_kept_where_they_are_known(tmp_path):
    levels = np.arange(24 * 16, dtype=np.uint16).reshape(24, 16)
    path = write_radiograph(tmp_path / "a", levels, ImagerPixelSpacing=[0.5, 0.5])
    whole = fit(path, intensity_percentiles=(0.0, 100.0))
    assert (whole.values[0].max(axis=0) > 0).sum() < 8, "12 mm high and 8 mm wide: columns at the sides are black"
    fine = fit(path, intensity_percentiles=(0.0, 100.0), spacing_mm=0.5)
    expected = np.floor(levels[8:16, 4:12] / levels.max() * 255 + 0.5)
    np.testing.assert_array_equal(fine.values[0], expected)
    flat = fit(write_radiograph(tmp_path / "b", levels[:16], ImagerPixelSpacing=[0.25, 0.5]))
    assert (flat.values[0].max(axis=1) > 0).sum() == 4, "4 mm high and 8 mm wide"


def test_white_as_zero_gives_the_same_image(tmp_path):
    levels = np.random.default_rng(0).integers(0, 4096, (8, 8)).astype(np.uint16)
    plain = fit(write_radiograph(tmp_path / "a", levels))
    inverted = fit(write_radiograph(tmp_path / "b", 4095 - levels, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(inverted.values, plain.values)


def test_one_image_in_any_mode_of_grey_is_the_same_example(tmp_path):
    levels = np.random.default_rng(0).permutation(np.linspace(0, 255, 64)).reshape(8, 8).astype(np.uint8)
    for path in write_grey_modes(tmp_path, levels):
        fitted = fit(path, intensity_percentiles=(0.0, 100.0))
        np.testing.assert_array_equal(fitted.values, levels[None], err_msg=path.name)


def test_one_grey_level_is_refused(tmp_path):
    with pytest.raises(VolumeError, match=r"a.png: one grey level everywhere"):
        fit(save(tmp_path / "a.png", np.full((9, 9), 7)))
    Image.fromarray(np.full((9, 9), 700, np.uint16)).save(tmp_path / "b.png")
    with pytest.raises(VolumeError, match=r"b.png: one grey level everywhere"):
        fit(tmp_path / "b.png")
    edge = np.zeros((8, 32))
    edge[:, :2] = 255
    with pytest.raises(VolumeError, match=r"c.png: one grey level everywhere after fitting"):
        fit(save(tmp_path / "c.png", edge), fit="crop")
