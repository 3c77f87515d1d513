"""Files that were made to break a reader, one test for each that once did; and files that are not what they seem."""

import gzip
import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from pipeline.config.data import PreprocessConfig
from pipeline.core.errors import UserError, VolumeError
from pipeline.datasets.akoa import parse_name
from pipeline.datasets.mnist import read_idx
from pipeline.formats.dicom import read_series
from pipeline.formats.hdf5 import read_hdf5_points
from pipeline.formats.image_files import read_image
from pipeline.formats.nifti import read_volume
from pipeline.formats.point_clouds import read_cloud
from pipeline.preprocessing.slicing import read_image_stack
from tests.builders.dicom import write_series
from tests.faults.readers import make_clouds, read_facts

NAME = "OAI9014797_BaseLine_3_de3d1_SAG_3D_DESS_WE_{}.nii.gz"
VOXELS = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)


def make_content(voxels=VOXELS, **fields):
    content = bytearray(nibabel.Nifti1Image(voxels, np.diag([1.0, 2.0, 3.0, 1.0])).to_bytes())
    for name, value in fields.items():
        kind, place = nibabel.Nifti1Header.template_dtype.fields[name]
        content[place : place + kind.itemsize] = np.array(value, kind).tobytes()
    return bytes(content)


@pytest.mark.parametrize(
    ("fields", "voxels", "message"),
    [
        ({"scl_slope": 2.0, "scl_inter": np.nan}, VOXELS, "scl_slope or scl_inter is not finite"),
        ({"scl_slope": 1e36, "scl_inter": 0.0}, VOXELS, r"intensities reach beyond 1e\+30"),
        ({}, VOXELS.astype(np.float64) * 1e37, r"intensities reach beyond 1e\+30"),
    ],
)
def test_intensities_that_no_image_can_hold_are_refused(fields, voxels, message, tmp_path):
    (tmp_path / "a.nii").write_bytes(make_content(voxels, **fields))
    with pytest.raises(VolumeError, match=message):
        read_volume(tmp_path / "a.nii")


def test_a_gzip_bomb_before_the_voxels_is_refused_unopened(tmp_path):
    """A header may claim that voxels begin after gigabytes of zeros, which gzip packs a thousandfold."""
    header = make_content(vox_offset=float(3 << 20))
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(header + bytes(3 << 20)))
    with pytest.raises(VolumeError, match=r"the header claims 0\.0 GiB of voxels"):
        read_volume(tmp_path / "a.nii.gz", max_bytes=1 << 20)


@pytest.mark.slow
def test_a_file_of_thousands_of_gzip_members_is_read_in_time(tmp_path):
    """Each member once copied all that followed it: a 10 MB file took hours."""
    content = make_content()
    members = [gzip.compress(content[start : start + 100]) for start in range(0, len(content), 100)]
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"") * 200_000 + b"".join(members))
    found = read_volume(tmp_path / "a.nii.gz").voxels
    np.testing.assert_array_equal(found, VOXELS)


def test_a_packed_idx_file_is_read_no_further_than_its_header_says(tmp_path):
    header = bytes((0, 0, 8, 1)) + struct.pack(">I", 3)
    (tmp_path / "a.gz").write_bytes(gzip.compress(header + bytes(1 << 24)))
    with pytest.raises(UserError, match="too long: more than 3 bytes"):
        read_idx(tmp_path / "a.gz", (60_000,))


def make_archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../outside.npy", b"x")
    return buffer.getvalue()


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trapped",)


def make_pickle():
    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [make_archive(), b"PK\x03\x04", make_pickle(), b"\x93NUMPY\x01\x00\x06\x00{'a':(", b"\x93NUMPY\x01\x00\xff\xff"],
)
def test_an_array_file_is_one_array_of_numbers_or_refused(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"neither an OFF file nor a \.npy array of numbers"):
        read_cloud(tmp_path / "a.npy", 3, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_a_damaged_hdf5_file_is_refused_wherever_it_is_damaged(tmp_path):
    (tmp_path / "folder").mkdir()
    content = make_clouds(tmp_path / "folder")[0]
    path, num_refused = tmp_path / "a.h5", 0
    for place in range(0, 2048, 8):
        path.write_bytes(content[:place] + b"\xff" * 8 + content[place + 8 :])
        try:
            read_hdf5_points(path, 8)
        except UserError:
            num_refused += 1
    assert num_refused > 50


def test_an_hdf5_file_that_claims_more_than_the_published_set_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", (50_000, 2048, 3), np.float32)
        file.create_dataset("label", (50_000, 1), np.uint8)
    assert (tmp_path / "a.h5").stat().st_size < 10_000
    with pytest.raises(UserError, match="50000 objects, allowed are 1 to 20000"):
        read_hdf5_points(tmp_path / "a.h5", 2048)


def test_an_image_is_of_a_plain_format_whatever_its_name_says(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with pytest.raises(UserError, match="not readable as an image"):
        read_image(tmp_path / "a.png", 1, (8, 8))
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "GIF")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="not readable as an image"):
        read_image(tmp_path / "a.png", 1, (8, 8))


def test_a_damaged_or_huge_image_is_refused(tmp_path):
    start = b"\x89PNG\r\n\x1a\n"
    (tmp_path / "a.png").write_bytes(start + struct.pack(">I", 3) + b"IHDR" + bytes(7))
    with pytest.raises(UserError, match="not readable as an image"):
        read_image(tmp_path / "a.png", 1, (8, 8))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 12_000, 12_000, 8, 0, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(start + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b""))
    with pytest.raises(VolumeError, match="12000 x 12000 pixels, at most"):
        read_image_stack((tmp_path / "a.png",), PreprocessConfig())


@pytest.mark.parametrize(
    ("name", "text", "spoilt"), [("SliceThickness", "1.25", b"1.x5"), ("RescaleSlope", "1.75", b"1.x5")]
)
def test_dicom_values_that_are_no_numbers_are_refused(name, text, spoilt, tmp_path):
    (path,) = write_series(tmp_path / "series", VOXELS[:1], **{name: text}).iterdir()
    content = path.read_bytes()
    path.write_bytes(content.replace(str(text).encode(), spoilt))
    with pytest.raises(VolumeError, match=r"DICOM with a damaged header|not readable as DICOM"):
        read_series("series", (path,))


def test_a_packed_dicom_file_is_refused_unopened(tmp_path):
    (path,) = write_series(tmp_path / "series", VOXELS[:1]).iterdir()
    header = pydicom.dcmread(path)
    header.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    header.save_as(path)
    with pytest.raises(VolumeError, match="packed as a whole"):
        read_series("series", (path,))


@pytest.mark.parametrize("text", ["[" * 9, "null", "[]", "1", '"x"', "{}", '{"model": 1}', "[" * 100_000])
def test_facts_of_a_liar_with_the_right_checksum_are_refused(text, tmp_path):
    (tmp_path / "facts.json").write_text(text)
    with pytest.raises(UserError, match="its facts are not those of a checkpoint"):
        read_facts(tmp_path / "facts.json")


def test_digits_of_other_scripts_are_no_patient():
    """They count as digits to regular expressions: one patient would have two ids."""
    with pytest.raises(ValueError, match="neither patient nor side"):
        parse_name(Path(NAME.format("RIGHT").replace("9014797", "٣014797")))
