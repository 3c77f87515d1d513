"""Compressed pixels are those that pydicom gives; damaged ones take a bounded time, and a crash is a refusal."""

import io
import os
import signal

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from pipeline.core.errors import VolumeError
from pipeline.formats import compressed_pixels
from pipeline.formats.image_files import read_pixels
from tests.builders.dicom import write_radiograph

LEVELS = (np.arange(34 * 36) % 4096).astype(np.uint16).reshape(34, 36)


def compress(path, syntax):
    header = pydicom.dcmread(write_radiograph(path, LEVELS))
    header.compress(syntax)
    header.save_as(path)
    return header


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_pixels_are_those_that_were_compressed(syntax, tmp_path):
    compress(tmp_path / "a.dcm", syntax)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.dcm").values[0], LEVELS)


@pytest.mark.slow
def test_a_frame_that_keeps_its_decoder_busy_is_refused_and_the_next_one_is_read(tmp_path):
    header = compress(tmp_path / "good.dcm", JPEGLSLossless)
    frame = bytearray(get_frame(header.PixelData, 0, number_of_frames=1))
    frame[238:246] = bytes(8)
    header.PixelData = encapsulate([bytes(frame[:380])])  # without its end, CharLS counts bits for nine seconds
    header.save_as(tmp_path / "slow.dcm")
    before = os.times().children_user
    with pytest.raises(VolumeError, match=r"slow.dcm: .* took more than 1 s to decode"):
        read_pixels(tmp_path / "slow.dcm")
    assert os.times().children_user - before < 5
    np.testing.assert_array_equal(read_pixels(tmp_path / "good.dcm").values[0], LEVELS)


def test_a_decoder_that_crashes_is_a_refusal(tmp_path):
    compress(tmp_path / "a.dcm", JPEGLSLossless)
    read_pixels(tmp_path / "a.dcm")
    os.kill(compressed_pixels._start(os.getpid()).pid, signal.SIGSEGV)
    with pytest.raises(VolumeError, match="the decoder crashes"):
        read_pixels(tmp_path / "a.dcm")
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.dcm").values[0], LEVELS)


def test_errors_of_a_decoder_are_named_by_their_type_alone(tmp_path):
    header = compress(tmp_path / "a.dcm", JPEGLSLossless)
    header.PixelData = encapsulate([b"\xff\xd8Secret"])
    content = io.BytesIO()
    header.save_as(content)
    with pytest.raises(RuntimeError, match=r"^[A-Za-z]+Error$"):
        compressed_pixels.decode_frame(content.getvalue(), LEVELS.size)
