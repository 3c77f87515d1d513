import hashlib
from pathlib import Path

import numpy as np
import pytest
from einops import reduce
from PIL import Image

from pipeline.attention.native_slices import read_native, refine
from pipeline.config.data import PreprocessConfig
from pipeline.core.errors import UserError
from pipeline.data.sources import Source
from pipeline.formats.nifti import read_volume
from pipeline.preprocessing.slicing import cut_stack

# Rows of 1 mm and columns of 2 mm in 24 x 26 mm, fitted into 6 x 6 pixels of 26 / 6 mm.
OPTIONS = PreprocessConfig(num_slices=3, image_size=(6, 6), intensity_percentiles=(0.0, 100.0))


def build_source(name: str, *more: str) -> Source:
    return Source("s", "p", "left", tuple(Path(part) for part in (name, *more)))


@pytest.fixture
def knee(tmp_path, write_knee):
    """A volume in which every voxel differs, 13 columns of 2 mm, 24 rows of 1 mm, 5 slices."""
    intensity = np.arange(13 * 24 * 5, dtype=np.int16).reshape(13, 24, 5)
    return write_knee(tmp_path / "a.nii.gz", spacing_mm=(2.0, 1.0, 3.0), intensity=intensity, stored_axes="PIR")


def test_a_native_slice_shows_what_the_stored_one_shows_in_smaller_pixels(tmp_path, knee):
    volume = read_volume(knee)
    stored = cut_stack(volume, OPTIONS, "").images
    for slice_index in range(3):
        native = read_native(tmp_path, build_source("a.nii.gz"), OPTIONS, volume.sha256)[0][[slice_index]]
        ratio = 5  # 26 / 6 mm to 1 mm
        assert native.shape == (1, 6 * ratio, 6 * ratio)
        coarse = reduce(native[0].astype(float), "(h a) (w b) -> h w", "mean", a=ratio, b=ratio)
        inside = (slice(1, -1), slice(1, -1))  # at the border black from outside the scan is mixed in
        assert np.abs(coarse[inside] - stored[slice_index][inside]).max() < 6, "of 255 grey levels"
        assert np.abs(coarse[:, ::-1][inside] - stored[slice_index][inside]).max() > 30, "a mirrored one would differ"


def test_where_stored_pixels_are_the_scans_own_nothing_changes(tmp_path, knee):
    options = PreprocessConfig(num_slices=3, image_size=(24, 26), spacing_mm=1.0)
    volume = read_volume(knee)
    native = read_native(tmp_path, build_source("a.nii.gz"), options, volume.sha256)[0][1:2]
    np.testing.assert_array_equal(native[0], cut_stack(volume, options, "").images[1])


@pytest.mark.parametrize(
    ("options", "pixel_mm", "size", "spacing_mm"),
    [
        (PreprocessConfig(image_size=(64, 64)), (0.5, 0.5), (384, 384), 0.5),
        (PreprocessConfig(image_size=(64, 64), spacing_mm=1.0), (0.4, 0.7), (192, 192), 1 / 3),
        (PreprocessConfig(image_size=(64, 64), spacing_mm=0.3), (0.5, 0.5), (64, 64), 0.3),
        (PreprocessConfig(image_size=(4, 4)), (0.5, 0.5), (64, 64), 3.0),
    ],
)
def test_pixels_are_as_small_as_the_scans_and_fit_into_stored_ones(options, pixel_mm, size, spacing_mm):
    fine = refine(options, (384, 384), pixel_mm)
    assert fine.image_size == size
    assert fine.spacing_mm == pytest.approx(spacing_mm)


def test_slices_that_were_cut_before_are_drawn_as_they_came(tmp_path):
    generator = np.random.default_rng(0)
    names = [f"a_{number}.png" for number in range(3)]
    slices = generator.integers(0, 255, (3, 12, 18), dtype=np.uint8)
    for name, pixels in zip(names, slices, strict=True):
        Image.fromarray(pixels).save(tmp_path / name)
    digest = hashlib.sha256(b"".join((tmp_path / name).read_bytes() for name in names)).hexdigest()
    images, volume = read_native(tmp_path, build_source(*names), OPTIONS, digest)
    assert volume is None
    native = images[2:]
    assert native.shape == (1, 18, 18)
    np.testing.assert_array_equal(native[0, 3:15], slices[2])
    assert native[0, :3].max() == 0


def test_another_file_under_the_name_is_refused(tmp_path, knee):
    with pytest.raises(UserError, match=r"a\.nii\.gz: not the file that was cut for the store"):
        read_native(tmp_path, build_source("a.nii.gz"), OPTIONS, "0" * 64)
    with pytest.raises(UserError, match=r"b\.nii\.gz: no such file, so the slice cannot be drawn"):
        read_native(tmp_path, build_source("b.nii.gz"), OPTIONS, "0" * 64)
