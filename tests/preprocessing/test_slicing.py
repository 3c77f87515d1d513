"""Slices lie where they should, are turned as a radiologist sees them, and keep their millimetres."""

import numpy as np
import pytest
from PIL import Image

from pipeline.config.data import PreprocessConfig
from pipeline.core.errors import UserError, VolumeError
from pipeline.data.resampling import resample, resampling_weights
from pipeline.formats.nifti import read_volume
from pipeline.preprocessing.slicing import choose_slices, cut_stack, read_image_stack


def cut(path, **options):
    return cut_stack(read_volume(path), PreprocessConfig(**options), str(path))


def test_slices_are_evenly_spaced_over_the_span():
    np.testing.assert_array_equal(choose_slices(101, 5, (0.0, 1.0)), [0, 25, 50, 75, 100])
    np.testing.assert_array_equal(choose_slices(101, 3, (0.2, 0.8)), [20, 50, 80])
    np.testing.assert_array_equal(choose_slices(101, 1, (0.2, 0.8)), [50])
    np.testing.assert_array_equal(choose_slices(3, 40, (0.0, 1.0)), [0, 1, 2])
    np.testing.assert_array_equal(choose_slices(1, 40, (0.1, 0.9)), [0])


@pytest.fixture
def landmarks(write_knee, tmp_path):
    """A dark volume with one bright block in its right, anterior, superior corner."""
    intensity = np.zeros((16, 16, 16), np.int16)
    intensity[12:, 12:, 12:] = 100
    return write_knee(tmp_path / "knee.nii", intensity=intensity, spacing_mm=(2.0, 2.0, 2.0))


@pytest.mark.parametrize(
    ("plane", "corner"),
    [
        ("axial", (slice(0, 4), slice(0, 4))),  # anterior on top, the patient's right on the left
        ("coronal", (slice(0, 4), slice(0, 4))),  # superior on top, the patient's right on the left
        ("sagittal", (slice(0, 4), slice(0, 4))),  # superior on top, anterior on the left
    ],
)
def test_images_are_turned_as_a_radiologist_sees_them(plane, corner, landmarks):
    stack = cut(landmarks, plane=plane, num_slices=16, slice_range=(0.0, 1.0), image_size=(16, 16), spacing_mm=2.0)
    last = stack.images[-1]
    assert (last[corner] == 255).all()
    assert last.astype(int).sum() == 16 * 255
    assert stack.images[0].max() == 0, "the block is at the far end of the axis"
    np.testing.assert_allclose(stack.positions[[0, -1]], [-1, 1])


@pytest.mark.parametrize("stored_axes", ["PIR", "LAS", "LPS", "ASL", "SAR"])
def test_images_do_not_depend_on_the_storage_order(stored_axes, write_knee, tmp_path):
    first = cut(write_knee(tmp_path / "a.nii.gz"), num_slices=5, image_size=(20, 24), spacing_mm=4.0)
    second = cut(
        write_knee(tmp_path / "b.nii.gz", stored_axes=stored_axes), num_slices=5, image_size=(20, 24), spacing_mm=4.0
    )
    np.testing.assert_array_equal(first.images, second.images)


def test_a_mirrored_knee_gives_the_mirrored_axial_image(write_knee, tmp_path):
    intensity = np.random.default_rng(0).integers(0, 1000, (12, 14, 16)).astype(np.int16)
    first = cut(write_knee(tmp_path / "a.nii", intensity=intensity), num_slices=5)
    second = cut(write_knee(tmp_path / "b.nii", "left", intensity=intensity[::-1]), num_slices=5)
    np.testing.assert_array_equal(first.images, second.images[:, :, ::-1])


def test_of_2000_slices_some_are_taken_over_the_whole_scan_at_their_places(write_knee, tmp_path):
    volume = read_volume(write_knee(tmp_path / "knee.nii", shape=(2000, 4, 4), spacing_mm=(0.05, 1, 1)))
    stack = cut_stack(volume, PreprocessConfig(plane="sagittal", num_slices=5, slice_range=(0, 1)), "")
    assert len(stack.images) == 5
    # Slices 0, 500, 1000, 1499 and 1999, from the centre between 999 and 1000.
    assert stack.places_mm[:, 0].tolist() == pytest.approx([-49.975, -24.975, 0.025, 24.975, 49.975], abs=1e-3)


def test_spacing_keeps_millimetres():
    """A bar 20 mm wide, in voxels of 5 mm, is 10 pixels of 2 mm, about the image's centre."""
    slices = np.zeros((1, 12, 12), np.float32)
    slices[:, :, 4:8] = 1.0
    images = resample(slices, (0.0, 1.0), (5.0, 5.0), 2.0, (30, 30))
    assert images[0, 15].astype(float).sum() / 255 == pytest.approx(10, abs=0.1)
    np.testing.assert_array_equal(images[0], images[0, :, ::-1])


def test_without_a_spacing_the_whole_slice_is_fitted():
    images = resample(np.ones((1, 30, 60), np.float32), (0.0, 1.0), (1.0, 1.0), None, (20, 20))
    np.testing.assert_array_equal(images[0, 5:15], 255)
    np.testing.assert_array_equal(images[0, :5], 0)


@pytest.mark.parametrize(
    ("num_in", "in_mm", "num_out", "out_mm"), [(10, 1.0, 10, 1.0), (384, 0.365, 64, 2.2), (16, 2.0, 40, 0.7)]
)
def test_resampling_keeps_a_constant_and_a_ramp(num_in, in_mm, num_out, out_mm):
    weights = resampling_weights(num_in, in_mm, num_out, out_mm)
    centres_in = (np.arange(num_in) - (num_in - 1) / 2) * in_mm
    centres_out = (np.arange(num_out) - (num_out - 1) / 2) * out_mm
    inside = np.abs(centres_out) <= num_in * in_mm / 2
    np.testing.assert_allclose(weights.sum(axis=1), inside, atol=1e-6)
    well_inside = np.abs(centres_out) < num_in * in_mm / 2 - 2 * max(in_mm, out_mm)
    # Weights are symmetric only on the average over an input voxel; a tenth of a voxel is their error.
    np.testing.assert_allclose(
        (weights @ centres_in)[well_inside], centres_out[well_inside], atol=0.1 * max(in_mm, out_mm)
    )


def test_detail_finer_than_a_pixel_is_averaged():
    """Black and white dots at random: over some 64 of them grey deviates by a sixteenth, two dots by a third."""
    dots = np.random.default_rng(0).integers(0, 2, (1, 128, 128)).astype(np.float32)
    images = resample(dots, (0.0, 1.0), (1.0, 1.0), 8.0, (16, 16))
    assert images.std() < 255 / 16
    assert images.mean() == pytest.approx(127.5, abs=5)


def test_grey_levels_are_rounded_to_the_nearest():
    for value, level in ((0.999, 255), (0.5 / 255 - 1e-4, 0), (0.5 / 255 + 1e-4, 1)):
        assert resample(np.full((1, 4, 4), value, np.float32), (0.0, 1.0), (1.0, 1.0), None, (4, 4)).max() == level


@pytest.mark.parametrize("shape", [(1, 14, 16), (12, 1, 16), (12, 14, 1)])
def test_a_volume_one_voxel_thick_is_its_own_slice_where_left_and_right_lie_alike(shape, write_knee, tmp_path):
    """A flip of columns exchanges the sides of an axial and of a coronal slice, and not those of a sagittal one."""
    path = write_knee(tmp_path / "knee.nii", shape=shape)
    for plane in ("axial", "coronal", "sagittal"):
        if (plane == "sagittal") != (shape[0] == 1):
            with pytest.raises(VolumeError, match=rf"its only slice is .*, and preprocess\.plane is {plane}"):
                cut(path, plane=plane, image_size=(16, 16), spacing_mm=None)
            continue
        stack = cut(path, plane=plane, image_size=(16, 16), spacing_mm=None)
        assert len(stack.images) == 1
        assert stack.images.max() > 200
        assert stack.positions.tolist() == [0]


def test_equal_grids_resample_to_the_same_pixels():
    slices = np.random.default_rng(0).integers(0, 256, (2, 9, 7)) / 255
    np.testing.assert_array_equal(
        resample(slices.astype(np.float32), (0.0, 1.0), (1.0, 1.0), 1.0, (9, 7)), np.round(slices * 255)
    )


def test_percentiles_are_the_recorded_window(write_knee, tmp_path):
    path = write_knee(tmp_path / "knee.nii", intensity=np.arange(1000, dtype=np.int16).reshape(10, 10, 10))
    stack = cut(
        path,
        intensity_percentiles=(10.0, 90.0),
        slice_range=(0.0, 1.0),
        num_slices=10,
        image_size=(10, 10),
        spacing_mm=None,
    )
    assert (stack.low, stack.high) == pytest.approx(np.percentile(np.arange(1000), [10, 90]))


def test_a_mask_keeps_its_two_values(write_knee, tmp_path):
    mask = np.zeros((20, 20, 20), np.int16)
    mask[10, 10, :] = 1
    stack = cut(
        write_knee(tmp_path / "knee.nii", intensity=mask, spacing_mm=(1, 1, 1)), image_size=(20, 20), spacing_mm=1.0
    )
    assert set(np.unique(stack.images)) == {0, 255}


def test_constant_slices_are_refused(write_knee, tmp_path):
    intensity = np.zeros((20, 20, 20), np.int16)
    intensity[:, :, 0] = np.arange(20)
    path = write_knee(tmp_path / "knee.nii", intensity=intensity)
    with pytest.raises(VolumeError, match=r"knee.nii: the axial slices are constant .*preprocess.slice_range"):
        cut(path, slice_range=(0.5, 0.9))


def test_images_are_read_as_they_are(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (3, 8, 8)).astype(np.uint8)
    paths = []
    for number, image in enumerate(grey):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(np.stack([image] * 3, axis=2)).save(paths[-1])
    stack = read_image_stack(tuple(paths), PreprocessConfig(image_size=(8, 8)))
    np.testing.assert_array_equal(stack.images, grey)


def test_bad_images_are_refused(tmp_path):
    Image.new("L", (8, 8), 3).save(tmp_path / "0.png")
    Image.new("L", (9, 8), 4).save(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"not an image")
    with pytest.raises(VolumeError, match=r"several sizes .8x8, 9x8"):
        read_image_stack((tmp_path / "0.png", tmp_path / "1.png"), PreprocessConfig())
    with pytest.raises(VolumeError, match=r"2.png: not readable as an image"):
        read_image_stack((tmp_path / "2.png",), PreprocessConfig())
    with pytest.raises(VolumeError, match="every pixel of this scan is 3"):
        read_image_stack((tmp_path / "0.png",), PreprocessConfig())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_slices": 0}, r"preprocess.num_slices: found 0, allowed is 1 or more"),
        ({"slice_range": (0.9, 0.1)}, r"preprocess.slice_range: found \(0.9, 0.1\)"),
        ({"intensity_percentiles": (1, 101)}, "preprocess.intensity_percentiles"),
        ({"image_size": (0, 64)}, "preprocess.image_size"),
        ({"spacing_mm": 0.0}, "preprocess.spacing_mm"),
        ({"max_volume_gib": 0}, "preprocess.max_volume_gib"),
        ({"num_workers": -1}, "preprocess.num_workers"),
    ],
)
def test_bad_options_are_refused_by_name(options, match):
    with pytest.raises(UserError, match=match):
        PreprocessConfig(**options)
