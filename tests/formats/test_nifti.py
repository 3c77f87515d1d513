"""The NIfTI reader: one volume however it was stored, and a clear line for what is no volume."""

import gzip
import itertools
import struct

import nibabel
import numpy as np
import pytest

from pipeline.core.errors import VolumeError
from pipeline.formats.nifti import read_volume, write_volume
from pipeline.formats.volume import describe_obliquity, describe_spacing
from tests.builders.volumes import compute_intensity

AXES = [
    "".join(directions[axis] for axis in order)
    for order in itertools.permutations(range(3))
    for directions in itertools.product("RL", "AP", "SI")
]
# Tilted, so that a flip or a swap of the affine cannot hide either.
AFFINE = np.array([[0.5, 0.02, 0, 70], [-0.02, 0.6, 0.1, -20], [0, -0.1, 3.0, 10], [0, 0, 0, 1]])


@pytest.fixture(scope="session")
def intensity():
    """No two voxels are equal: a flip or a swap cannot hide."""
    return np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)


@pytest.mark.parametrize("stored_axes", AXES)
def test_volume_is_the_same_however_it_was_stored(stored_axes, intensity, tmp_path):
    write_volume(tmp_path / "knee.nii.gz", intensity, AFFINE, stored_axes)
    volume = read_volume(tmp_path / "knee.nii.gz")
    np.testing.assert_array_equal(volume.voxels, intensity)
    assert volume.stored_axes == stored_axes
    assert volume.spacing_mm == pytest.approx(np.sqrt((AFFINE[:3, :3] ** 2).sum(axis=0)))
    assert volume.centre_mm == pytest.approx((AFFINE @ [0.5, 1, 1.5, 1])[:3])


def as_image(intensity, image_class=nibabel.Nifti1Image):
    image = image_class(intensity, AFFINE)
    image.set_sform(AFFINE, code=1)
    return image


@pytest.mark.parametrize(
    ("image_class", "name"),
    [
        (nibabel.Nifti1Image, "knee.nii"),
        (nibabel.Nifti1Image, "knee.nii.gz"),
        (nibabel.Nifti2Image, "knee.nii"),
        (nibabel.Nifti2Image, "knee.nii.gz"),
        (nibabel.Nifti1Pair, "knee.hdr"),
        (nibabel.Nifti2Pair, "knee.hdr"),
        (nibabel.Nifti1Pair, "knee.hdr.gz"),
    ],
)
def test_every_container_gives_the_same_voxels(image_class, name, intensity, tmp_path):
    nibabel.save(as_image(intensity, image_class), tmp_path / name)
    np.testing.assert_array_equal(compute_intensity(read_volume(tmp_path / name)), intensity)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_grey_type_and_byte_order_gives_the_same_intensities(dtype, order, intensity, tmp_path):
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(np.dtype(dtype).newbyteorder(order))
    image = nibabel.Nifti1Image(intensity.astype(dtype), AFFINE, header)
    image.to_filename(tmp_path / "knee.nii")
    np.testing.assert_array_equal(compute_intensity(read_volume(tmp_path / "knee.nii")), intensity)


def test_slope_and_intercept_are_applied(intensity, tmp_path):
    image = as_image(intensity)
    image.header.set_slope_inter(2.0, -5.0)
    content = bytearray(image.to_bytes())
    content[112:120] = struct.pack("<ff", 2.0, -5.0)
    (tmp_path / "knee.nii").write_bytes(content)
    np.testing.assert_array_equal(compute_intensity(read_volume(tmp_path / "knee.nii")), intensity * 2.0 - 5.0)


@pytest.mark.parametrize(
    ("shape", "read_as"), [((3, 4), (3, 4, 1)), ((2, 3, 4, 1), (2, 3, 4)), ((2, 3, 4, 1, 1), (2, 3, 4))]
)
def test_an_image_and_a_single_frame_are_volumes(shape, read_as, tmp_path):
    values = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    nibabel.save(as_image(values), tmp_path / "knee.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "knee.nii").voxels.ravel(), values.ravel())
    assert read_volume(tmp_path / "knee.nii").voxels.shape == read_as


def test_a_gzip_file_of_several_members_is_one_volume(intensity, tmp_path):
    content = as_image(intensity).to_bytes()
    parts = gzip.compress(content[:100]) + gzip.compress(content[100:370]) + gzip.compress(content[370:])
    (tmp_path / "knee.nii.gz").write_bytes(parts)
    np.testing.assert_array_equal(read_volume(tmp_path / "knee.nii.gz").voxels, intensity)


def test_equal_volumes_are_equal_files(intensity, tmp_path):
    for name in ("first.nii.gz", "second.nii.gz"):
        write_volume(tmp_path / name, intensity, AFFINE, "PIR")
    content = (tmp_path / "first.nii.gz").read_bytes()
    assert content == (tmp_path / "second.nii.gz").read_bytes()
    assert content[3:8] == bytes(5), "no name and no time in the gzip header (RFC 1952)"


def refused(path, match):
    with pytest.raises(VolumeError, match=match) as caught:
        read_volume(path)
    assert str(path.parent) in str(caught.value), "the message names the file"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda v: np.where(v == 3, np.nan, v.astype(np.float32)), "NaN or infinite"),
        (lambda v: np.where(v == 3, np.inf, v.astype(np.float32)), "NaN or infinite"),
        (lambda v: np.full_like(v, 7), "constant, every voxel is 7"),
        (lambda v: v.astype(np.complex64), "voxels are complex64"),
        (lambda v: np.stack([v, v], axis=3), "an image of 2x3x4x2; one frame"),
        (lambda v: np.ones((2, 3, 4, 1, 3), np.int16), "an image of 2x3x4x1x3; one frame"),
        (lambda v: v.astype([("R", "u1"), ("G", "u1"), ("B", "u1")]), "voxels are colour"),
    ],
)
def test_voxels_that_are_no_grey_volume_are_refused(make, match, intensity, tmp_path):
    nibabel.save(as_image(make(intensity)), tmp_path / "knee.nii")
    refused(tmp_path / "knee.nii", match)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda content: content[:-1], "truncated, the header claims"),
        (lambda content: content[:200], "not a NIfTI file"),
        (lambda content: b"", "the file is empty"),
        (lambda content: b"P5 12 12 255 " * 40, "not a NIfTI file"),
        (lambda content: content[:344] + b"abc\0" + content[348:], "magic b'abc'"),
        (lambda content: content[:70] + struct.pack("<h", 1234) + content[72:], "unknown data type"),
        (lambda content: content[:108] + struct.pack("<f", 8.0) + content[112:], "voxels cannot begin at byte 8"),
        (lambda content: content[:108] + struct.pack("<f", np.nan) + content[112:], "voxels cannot begin at byte nan"),
        (lambda content: content[:252] + struct.pack("<hh", 0, 0) + content[256:], "no valid affine .sform_code"),
        (lambda content: content[:280] + bytes(48) + content[328:], "no valid affine .singular"),
        (lambda content: content[:280] + struct.pack("<f", np.nan) + content[284:], "no valid affine .singular"),
        (lambda content: content[:42] + struct.pack("<h", -4) + content[44:], "one frame of 2-D or 3-D"),
        (lambda content: content[:42] + struct.pack("<hhh", 30000, 30000, 30000) + content[48:], "GiB of voxels"),
        (
            lambda content: content[:42] + struct.pack("<hhh", 300, 300, 300) + content[48:],
            "truncated, the header claims",
        ),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_damaged_files_are_refused_by_name(spoil, match, pack, intensity, tmp_path):
    content = spoil(as_image(intensity).to_bytes())
    path = tmp_path / "knee.nii.gz"
    path.write_bytes(pack(content) if content else b"")
    refused(path, match)


def test_truncated_gzip_is_refused(intensity, tmp_path):
    content = gzip.compress(np.random.default_rng(0).bytes(100) + as_image(intensity).to_bytes())
    whole = gzip.compress(as_image(np.random.default_rng(0).integers(0, 999, (9, 9, 9)).astype(np.int16)).to_bytes())
    (tmp_path / "knee.nii.gz").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "knee.nii.gz", "truncated")
    (tmp_path / "other.nii.gz").write_bytes(content)
    refused(tmp_path / "other.nii.gz", "not a NIfTI file")


def test_a_flipped_bit_in_gzip_data_is_found_by_its_checksum(intensity, tmp_path):
    whole = bytearray(gzip.compress(as_image(intensity).to_bytes(), compresslevel=0))
    whole[-30] ^= 1
    (tmp_path / "knee.nii.gz").write_bytes(whole)
    refused(tmp_path / "knee.nii.gz", "damaged gzip data")


def test_a_header_without_data_is_refused(intensity, tmp_path):
    nibabel.save(as_image(intensity, nibabel.Nifti1Pair), tmp_path / "knee.hdr")
    (tmp_path / "knee.img").unlink()
    refused(tmp_path / "knee.hdr", "knee.img: no such file")
    (tmp_path / "knee.hdr").rename(tmp_path / "knee.nii")
    refused(tmp_path / "knee.nii", "knee.nii: the header puts the voxels in an .img file")


@pytest.mark.real_data
def test_every_awkward_file_is_read_or_refused(real_data):
    files = [path for path in (real_data / "nifti_awkward").rglob("*") if path.is_file()]
    read = 0
    for path in files:
        try:
            read += compute_intensity(read_volume(path)).size > 0
        except VolumeError:
            continue
    assert len(files) > 70
    assert read > 20


def test_a_file_without_orientation_is_read_where_it_may_be_as_right_anterior_superior(tmp_path):
    """The standard's method 1: voxel sizes along the stored axes, and no rotation."""
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = nibabel.Nifti1Image(values, np.diag([-0.5, 0.6, 3.0, 1.0]))
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    nibabel.save(image, tmp_path / "knee.nii")
    with pytest.raises(VolumeError, match="left and right are unknown"):
        read_volume(tmp_path / "knee.nii")
    volume = read_volume(tmp_path / "knee.nii", needs_orientation=False)
    np.testing.assert_array_equal(volume.voxels, values)
    assert volume.spacing_mm == pytest.approx((0.5, 0.6, 3.0))
    assert not volume.orientation_known
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-0.5, 0.6, 3.0, 1.0])), tmp_path / "known.nii")
    known = read_volume(tmp_path / "known.nii", needs_orientation=False)
    assert known.orientation_known
    np.testing.assert_array_equal(known.voxels, values[::-1])


@pytest.mark.parametrize(("code", "factor"), [(0, 1), (1, 1000), (2, 1), (3, 0.001)])
def test_the_unit_of_the_header_is_read(code, factor, tmp_path):
    affine = np.diag([-0.5, 0.6, 3.0, 1.0])
    affine[:3, 3] = (10, 20, 30)
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), affine)
    image.header["xyzt_units"] = code | 8  # seconds for the time
    nibabel.save(image, tmp_path / "knee.nii")
    volume = read_volume(tmp_path / "knee.nii")
    assert volume.spacing_mm == pytest.approx((0.5 * factor, 0.6 * factor, 3.0 * factor))
    assert volume.centre_mm == pytest.approx((9.75 * factor, 20.6 * factor, 34.5 * factor))
    assert bool(describe_spacing(volume.spacing_mm)) == (factor != 1)


@pytest.mark.parametrize("code", range(8))
def test_a_code_that_is_no_unit_of_length_is_doubted(code, tmp_path):
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header["xyzt_units"] = code | 16
    nibabel.save(image, tmp_path / "a.nii")
    expected = "" if code < 4 else f"xyzt_units has the code {code}, which is no unit of length; millimetres are taken"
    assert read_volume(tmp_path / "a.nii").doubt == expected


def test_voxel_sizes_that_sform_and_pixdim_state_differently_are_doubted(tmp_path):
    def read(sform, pixdim=None, sform_code=1):
        image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.diag([0.5, 0.6, 3.0, 1.0]))
        image.set_qform(image.affine, code=1)
        image.set_sform(sform, code=sform_code)
        if pixdim is not None:
            image.header["pixdim"][1:4] = pixdim
        nibabel.save(image, tmp_path / "knee.nii")
        return read_volume(tmp_path / "knee.nii")

    turned = np.array([[0, 0.6, 0, 9], [0.5, 0, 0, 9], [0, 0, 3.01, 9], [0, 0, 0, 1]])
    assert read(turned, (0.5, 0.6, 3.0)).doubt == ""
    assert read(np.diag([1.0, 0.6, 3.0, 1.0]), sform_code=0).doubt == ""
    volume = read(np.diag([1.0, 0.6, 3.0, 1.0]))
    assert volume.spacing_mm == pytest.approx((1.0, 0.6, 3.0))
    assert volume.doubt == "voxels are 1x0.6x3 by the sform and 0.5x0.6x3 by pixdim; the sform is taken"


@pytest.mark.parametrize("qform_code", [0, 1])
def test_an_sform_of_zeros_is_refused_and_a_valid_qform_named(tmp_path, qform_code):
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), AFFINE)
    image.set_qform(AFFINE, code=qform_code)
    image.set_sform(AFFINE, code=1)
    content = image.to_bytes()
    path = tmp_path / "zeros.nii"
    path.write_bytes(content[:280] + bytes(48) + content[328:])  # srow_x, srow_y and srow_z
    with pytest.raises(VolumeError, match="no valid affine") as refusal:
        read_volume(path)
    assert ("The qform is valid: set sform_code to 0" in str(refusal.value)) == (qform_code == 1)


def test_an_sform_and_a_qform_of_different_sides_are_refused_or_unknown(tmp_path):
    values, affine = np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.diag([0.5, 0.6, 3.0, 1.0])
    image = nibabel.Nifti1Image(values, affine)
    image.set_qform(affine, code=1)
    nibabel.save(image, tmp_path / "same.nii")
    assert read_volume(tmp_path / "same.nii").orientation_known
    image.set_sform(np.diag([-0.5, 0.6, 3.0, 1.0]), code=1)
    nibabel.save(image, tmp_path / "knee.nii")
    with pytest.raises(VolumeError, match="sform and qform name different sides"):
        read_volume(tmp_path / "knee.nii")
    volume = read_volume(tmp_path / "knee.nii", needs_orientation=False)
    assert not volume.orientation_known
    np.testing.assert_array_equal(volume.voxels, values[::-1])
    image.set_qform(affine, code=0)
    nibabel.save(image, tmp_path / "one.nii")
    assert read_volume(tmp_path / "one.nii").orientation_known


@pytest.mark.parametrize(("turned", "obliquity"), [(0, 0), (20, 20), (40, 40), (50, 40), (90, 0)])
def test_slices_between_two_planes_are_doubted(turned, obliquity, intensity, tmp_path):
    """Turned about the vertical axis: from 45 degrees on the next axis is the nearest."""
    angle = np.deg2rad(turned)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([2.0, 3.0, 4.0])
    nibabel.save(nibabel.Nifti1Image(intensity, affine), tmp_path / "turned.nii")
    volume = read_volume(tmp_path / "turned.nii")
    assert volume.obliquity_degrees == pytest.approx(obliquity, abs=1e-3)
    assert bool(describe_obliquity(volume.obliquity_degrees)) == (obliquity == 40)


@pytest.mark.parametrize("tilt", [0, 1, 20, -20])
def test_slices_that_are_not_stacked_at_right_angles_are_doubted(tilt, intensity, tmp_path):
    """Turned as well, which alone is no reason: all angles stay."""
    angle, turn = np.deg2rad(tilt), np.deg2rad(10)
    axes = np.array([[2, 0, 0], [0, 3, 4 * np.sin(angle)], [0, 0, 4 * np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]] @ axes
    nibabel.save(nibabel.Nifti1Image(intensity, affine), tmp_path / "tilted.nii")
    doubt = read_volume(tmp_path / "tilted.nii").doubt
    assert ("20 degrees off a right angle" in doubt) == (abs(tilt) == 20)
    assert bool(doubt) == (abs(tilt) == 20)
