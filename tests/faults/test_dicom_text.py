"""A person's name in a field of numbers, as a bad export leaves it, is refused and not repeated."""

import struct
import warnings

import numpy as np
import pydicom
import pytest

from pipeline.core.errors import UserError
from pipeline.formats.dicom import read_series
from tests.builders.dicom import write_series

SECRET = b"Zyxwv^Quetzal "  # of even length, as the format requires
FIELDS = {
    "SeriesInstanceUID": b"UI",
    "InstanceNumber": b"IS",
    "ImageOrientationPatient": b"DS",
    "ImagePositionPatient": b"DS",
    "PixelSpacing": b"DS",
    "SliceThickness": b"DS",
    "RescaleSlope": b"DS",
    "RescaleIntercept": b"DS",
    "NumberOfFrames": b"IS",
    "PhotometricInterpretation": b"CS",
    "TransferSyntaxUID": b"UI",
    "SpecificCharacterSet": b"CS",
}
GOOD = {"SliceThickness": "1.5", "RescaleSlope": "1", "RescaleIntercept": "0", "NumberOfFrames": "1"}
VOXELS = np.arange(2 * 5 * 6, dtype=np.int16).reshape(2, 5, 6)


def write_into(content: bytes, name: str, kind: bytes) -> bytes:
    """Replace the value of a field, whatever it may hold by the standard."""
    tag = pydicom.datadict.tag_for_keyword(name)
    start = content.index(struct.pack("<HH", tag >> 16, tag & 0xFFFF) + kind)
    (length,) = struct.unpack_from("<H", content, start + 6)
    return content[: start + 6] + struct.pack("<H", len(SECRET)) + SECRET + content[start + 8 + length :]


@pytest.mark.parametrize("number_of_slices", [1, 2])
@pytest.mark.parametrize("name", FIELDS)
def test_a_name_in_a_field_of_numbers_is_printed_nowhere(name, number_of_slices, tmp_path, capfd, caplog):
    changes = GOOD | {"SpecificCharacterSet": "ISO_IR 100"}
    series = write_series(tmp_path / "series", VOXELS[:number_of_slices], **changes)
    for path in series.iterdir():
        path.write_bytes(write_into(path.read_bytes(), name, FIELDS[name]))
        assert SECRET in path.read_bytes()
    message = ""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            read_series("series", tuple(sorted(series.iterdir())))
        except UserError as error:
            message = str(error)
            assert message.endswith(".")
            assert "DICOM" in message or "pixels cannot be read" in message or "NIfTI" in message
    printed = "".join((message, *capfd.readouterr(), caplog.text, *(str(warning.message) for warning in warned)))
    for part in ("Zyxwv", "Quetzal"):
        assert part not in printed
    unread = {"InstanceNumber", "SpecificCharacterSet", "SeriesInstanceUID", "SliceThickness", "TransferSyntaxUID"}
    assert message or name in unread
