"""A DICOM series and a NIfTI file of one volume are the same volume; what is no stack is refused."""

import numpy as np
import pytest

from pipeline.config.data import PreprocessConfig
from pipeline.core.errors import VolumeError
from pipeline.formats.dicom import is_dicom, read_series
from pipeline.formats.nifti import read_volume
from pipeline.preprocessing.slicing import cut_stack
from tests.builders.dicom import PLANES, write_series
from tests.builders.volumes import compute_intensity


@pytest.fixture
def intensity():
    return np.random.default_rng(0).integers(0, 1000, (12, 14, 16)).astype(np.int16)


def read(folder):
    return read_series(str(folder), tuple(folder.iterdir()))


@pytest.mark.parametrize("plane", PLANES)
def test_a_series_is_the_volume_that_its_nifti_file_is(plane, intensity, write_knee, tmp_path):
    nifti = read_volume(write_knee(tmp_path / "knee.nii", intensity=intensity))
    series = read(write_series(tmp_path / "series", intensity, plane))
    np.testing.assert_array_equal(compute_intensity(series), compute_intensity(nifti))
    np.testing.assert_allclose(series.spacing_mm, nifti.spacing_mm, rtol=1e-6)
    np.testing.assert_allclose(series.centre_mm, nifti.centre_mm, atol=1e-3)  # written with three decimals
    options = PreprocessConfig(num_slices=5, image_size=(16, 16), spacing_mm=6.0)
    np.testing.assert_array_equal(cut_stack(series, options, "").images, cut_stack(nifti, options, "").images)


@pytest.mark.parametrize("numbers", [lambda number: (number * 5) % 12, 1, None])
def test_slices_are_stacked_by_their_place_whatever_their_numbers_are(numbers, intensity, tmp_path):
    folder = write_series(tmp_path / "series", intensity, InstanceNumber=numbers)
    np.testing.assert_array_equal(compute_intensity(read(folder)), intensity)


def test_stored_values_become_scanner_units(intensity, tmp_path):
    folder = write_series(tmp_path / "series", intensity, RescaleSlope=2, RescaleIntercept=-5)
    np.testing.assert_array_equal(compute_intensity(read(folder)), intensity * 2.0 - 5.0)


def test_one_slice_is_a_volume_one_voxel_thick(intensity, tmp_path):
    folder = write_series(tmp_path / "series", intensity[:1], SliceThickness=2.5)
    volume = read(folder)
    np.testing.assert_array_equal(compute_intensity(volume), intensity[:1])
    assert volume.spacing_mm == pytest.approx((2.5, 5.0, 6.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SeriesInstanceUID": lambda number: f"1.2.{number % 2}"}, "several DICOM series in one folder"),
        ({"ImagePositionPatient": [0.0, 0.0, 0.0]}, "11 of 12 DICOM slices lie at the place of another"),
        ({"ImagePositionPatient": lambda number: [4.0 * number, number, 0]}, "not in one line .* by 11 mm"),
        ({"PixelSpacing": [-5, 6]}, "PixelSpacing is -5, 6"),
        ({"RescaleSlope": 0}, "the scale of intensities is 0"),
        ({"BitsStored": 12}, r"pixels cannot be read \(ValueError\)\. Convert"),
        ({"ImagePositionPatient": None}, "DICOM without ImagePositionPatient"),
        ({"PixelSpacing": lambda number: [5.0 + number, 6.0]}, "differ in size, spacing or direction"),
        ({"ImageOrientationPatient": lambda number: [0, 1, 0, 0, 0, -1 if number else 1]}, "differ in size"),
        ({"ImageOrientationPatient": None}, "DICOM without ImageOrientationPatient"),
        ({"ImageOrientationPatient": lambda number: [0, 1, 0, 0, 0, -2]}, "12 of 12 DICOM files is 0, 1, 0, 0, 0, -2"),
        ({"ImageOrientationPatient": lambda number: [0, 1, 0, 0, 0.1, -1]}, "not two perpendicular unit vectors"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "not grey with black as 0"),
        ({"NumberOfFrames": 2}, "several frames"),
    ],
)
def test_what_is_no_stack_is_refused(changes, message, intensity, tmp_path):
    with pytest.raises(VolumeError, match=message) as caught:
        read(write_series(tmp_path / "series", intensity, **changes))
    assert "Secret" not in str(caught.value)


def test_slices_with_scalings_of_their_own_become_scanner_units(intensity, tmp_path):
    folder = write_series(tmp_path / "series", intensity, RescaleSlope=lambda number: 1 + number)
    slopes = np.arange(len(intensity)) + 1
    np.testing.assert_allclose(compute_intensity(read(folder)), intensity * slopes[:, None, None])


def test_a_missing_slice_is_noticed(intensity, tmp_path):
    folder = write_series(tmp_path / "series", intensity)
    (folder / "005.dcm").unlink()
    lost = r"1 of 12 DICOM slices is missing .* after slice 1 is 8 mm, elsewhere 4 mm"
    with pytest.raises(VolumeError, match=lost):
        read(folder)
    (folder / "010.dcm").unlink()
    (folder / "045.dcm").unlink()
    with pytest.raises(VolumeError, match=r"3 of 12 .* after slice 1 is 12 mm"):
        read(folder)


@pytest.mark.parametrize("step_mm", [0.01, 0.04, 0.1, 0.5, 4.0, 20.0])
def test_a_missing_slice_is_noticed_at_every_distance_of_slices(step_mm, intensity, tmp_path):
    """Positions have two or four digits after the point; scans of small samples have slices of hundredths."""
    digits = 4 if step_mm < 0.1 else 2

    def place(number):
        return [round(80 - step_mm * number, digits), 0, 0]

    folder = write_series(tmp_path / "series", intensity, ImagePositionPatient=place)
    assert read(folder).spacing_mm[0] == pytest.approx(step_mm)
    (folder / "025.dcm").unlink()
    with pytest.raises(VolumeError, match="1 of 12 DICOM slices is missing"):
        read(folder)


def test_slices_at_odd_distances_are_no_stack(intensity, tmp_path):
    places = [0, 4, 8, 13.5, 17, 21, 25, 29, 33, 37, 41, 45]
    folder = write_series(tmp_path / "series", intensity, ImagePositionPatient=lambda number: [places[number], 0, 0])
    # Stored from left to right, they are read from right to left: 37 to 33, ..., 17 to 13.5, 13.5 to 8.
    with pytest.raises(VolumeError, match=r"uneven distances: the distance after slice \d+ is 5\.5 mm, elsewhere 4 mm"):
        read(folder)


def test_a_damaged_file_is_named(intensity, tmp_path):
    folder = write_series(tmp_path / "series", intensity)
    (folder / "005.dcm").write_bytes(b"no")
    with pytest.raises(VolumeError, match=r"005.dcm: not readable as DICOM"):
        read(folder)
    (folder / "005.dcm").unlink()
    with pytest.raises(VolumeError, match=r"at most 0\.0 GiB"):
        read_series(str(folder), tuple(folder.iterdir()), max_bytes=100)


def test_dicom_is_known_by_its_first_bytes_where_the_name_tells_nothing(intensity, tmp_path):
    folder = write_series(tmp_path / "series", intensity)
    (folder / "000.dcm").rename(folder / "IM_0001")
    (folder / "notes").write_text("x" * 200)
    (folder / "DICOMDIR").write_bytes((folder / "IM_0001").read_bytes())
    assert is_dicom(folder / "IM_0001")
    assert not is_dicom(folder / "notes")
    assert not is_dicom(folder / "DICOMDIR")


@pytest.mark.parametrize(("num_stored", "is_signed"), [(12, 0), (12, 1), (16, 0), (16, 1)])
def test_unused_bits_are_ignored_and_signs_kept(num_stored, is_signed, intensity, tmp_path):
    low = -(1 << (num_stored - 1)) if is_signed else 0
    levels = np.random.default_rng(0).integers(low, low + (1 << num_stored), (2, 14, 16))

    def pack(number):
        dirty = (levels[number] & ((1 << num_stored) - 1)) | (0xA000 if num_stored == 12 else 0)
        return dirty.astype("<u2").tobytes()

    bits = {"BitsStored": num_stored, "HighBit": num_stored - 1, "PixelRepresentation": is_signed}
    folder = write_series(tmp_path / "series", intensity[:2, :, :], PixelData=pack, **bits)
    voxels = compute_intensity(read(folder))
    assert sorted(voxels.ravel().tolist()) == sorted(levels.ravel().tolist())


def test_a_number_of_a_wrong_length_is_refused_without_its_bytes(intensity, tmp_path):
    folder = write_series(tmp_path / "knee", intensity)
    path = next(folder.iterdir())
    content = path.read_bytes()
    number = b"\x28\x00\x00\x01US\x02\x00\x10\x00"  # (0028,0100), two bytes: 16 bits
    assert number in content
    path.write_bytes(content.replace(number, number[:4] + b"FD\x04\x00\x10\x00\x00\x00"))
    with pytest.raises(VolumeError, match=r"damaged header \(BytesLengthException\)"):
        read_series("knee", (folder,))
