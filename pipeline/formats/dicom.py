"""DICOM: a series of files becomes a volume with anatomical axes, or is refused. The only module that imports pydicom.

Monai's reader stacks the slices in the order of their numbers and takes the first and the last one's place for the
affine; it does not check that they are one stack. That is checked here first. Of the headers nothing but geometry and
pixels is read; names and other free text never leave this module.
"""

import contextlib
import importlib.util
import io
import logging
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import UserError, VolumeError
from pipeline.formats.volume import Volume, build_volume

SUFFIXES = (".dcm", ".ima")
DEFLATED = b"1.2.840.10008.1.2.1.99"  # DICOM PS3.5, A.5: all but the first bytes are packed, however much that is
# pydicom takes a header's values apart when they are read; damaged ones were seen to end in most of these.
READ_ERRORS = (
    OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, EOFError, RuntimeError, struct.error,
)  # fmt: skip
PREAMBLE_BYTES, MAGIC = 128, b"DICM"
# Slices of one stack differ in their distance by rounding alone; positions have a hundredth of a millimetre or better.
MAX_UNEVENNESS_MM = 0.05
NEEDED = ("SeriesInstanceUID", "InstanceNumber", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")


def is_dicom(path: Path) -> bool:
    """Return whether a file is a DICOM image by its name or its first bytes; a ``DICOMDIR`` is none."""
    if path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    if path.name.lower().endswith(SUFFIXES):
        return True
    with path.open("rb") as file:
        return file.read(PREAMBLE_BYTES + len(MAGIC))[PREAMBLE_BYTES:] == MAGIC


def read_series(name: str, paths: tuple[Path, ...], max_bytes: int = 4 << 30) -> Volume:
    """Read the slices of one series.

    Args:
        name: The name of the series' folder, for messages.
        paths: The files of the series, in any order.
        max_bytes: The largest size in bytes; files that are larger together are refused before their pixels are read.

    Returns:
        The volume with axes right, anterior, superior; DICOM's left and posterior are turned.

    Raises:
        VolumeError: unreadable; several series in the folder; several frames in a file; colour; slices that are
            missing, duplicate, tilted against each other or numbered against their places.
        UserError: pydicom is not installed.
    """
    if importlib.util.find_spec("pydicom") is None:
        raise UserError(f"{name}: DICOM needs pydicom, not installed here. Run pip install 'perceiver-knees[dicom]'.")
    num_bytes = sum(path.stat().st_size for path in paths)
    if num_bytes > max_bytes:
        raise VolumeError(
            f"{name}: {num_bytes / 2**30:.1f} GiB of DICOM, at most {max_bytes / 2**30:.1f} GiB are read. "
            "Raise preprocess.max_volume_gib if that is meant."
        )
    # It takes seconds to import, and a model that scores NIfTI files does without.
    from monai.data import PydicomReader

    with _silence_pydicom():
        try:
            return _read_stack(name, paths, PydicomReader())
        except UserError:
            raise
        except READ_ERRORS as error:
            found = type(error).__name__  # its text may quote the header
            raise VolumeError(f"{name}: DICOM with a damaged header ({found}). Export it again.") from error


@contextlib.contextmanager
def _silence_pydicom() -> Iterator[None]:
    """Keep warnings and log records away: what they report is checked here, and they quote headers."""
    logger = logging.getLogger("pydicom")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was_disabled


def _read_stack(name: str, paths: tuple[Path, ...], reader: Any) -> Volume:
    slices = [(_read_slice(path), str(path)) for path in paths]
    _check_stack(name, [header for header, _ in slices])
    reader.has_series, reader.filenames = len(slices) > 1, [path for _, path in slices]
    if reader.has_series:
        reader.filenames = [reader.filenames]
    try:
        voxels, facts = reader.get_data([header for header, _ in slices])
    except READ_ERRORS as error:
        raise VolumeError(
            f"{name}: pixels cannot be read ({type(error).__name__}); compressed ones need another program. "
            "Convert the series to NIfTI, for instance with dcm2niix."
        ) from error
    affine = np.asarray(facts["affine"], dtype=np.float64)
    if voxels.ndim == 2:  # a slice alone: its thickness is all that is known of the third axis
        across = np.cross(affine[:3, 0], affine[:3, 1])
        thickness = float(slices[0][0].get("SliceThickness", None) or 1.0)
        affine[:3, 2] = across / np.linalg.norm(across) * thickness
        voxels = voxels[:, :, None]
    return build_volume(name, voxels, affine)


def _read_slice(path: Path) -> Any:
    import pydicom

    try:
        # From memory, because a length in the file may be larger than the file.
        content = path.read_bytes()
        if DEFLATED in content:
            raise VolumeError(f"{path}: DICOM that is packed as a whole (deflated). Convert the series to NIfTI.")
        header = pydicom.dcmread(io.BytesIO(content))
        missing = [tag for tag in (*NEEDED, "PixelData") if tag not in header or header[tag].is_empty]
        num_frames = int(header.get("NumberOfFrames", None) or 1)
        photometric = str(header.get("PhotometricInterpretation", ""))
    except (pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException, *READ_ERRORS) as error:
        if isinstance(error, UserError):
            raise
        raise VolumeError(
            f"{path}: not readable as DICOM ({type(error).__name__}). Copy or export it again."
        ) from error
    if missing:
        raise VolumeError(f"{path}: DICOM without {', '.join(missing)}. Convert the series to NIfTI.")
    if num_frames > 1:
        raise VolumeError(f"{path}: DICOM with several frames in a file. Convert it to NIfTI.")
    if photometric != "MONOCHROME2":
        raise VolumeError(f"{path}: DICOM that is not grey with black as 0 (MONOCHROME2). Convert it to NIfTI.")
    return header


def _check_stack(name: str, headers: list[Any]) -> None:
    """Refuse what is not one stack of parallel slices at even distances, numbered along it."""
    if len({str(header.SeriesInstanceUID) for header in headers}) > 1:
        raise VolumeError(f"{name}: several DICOM series in one folder. Put each into a folder of its own.")
    headers = sorted(headers, key=lambda header: int(header.InstanceNumber))
    first = headers[0]
    directions = np.array([header.ImageOrientationPatient for header in headers], dtype=np.float64)
    grids = {(int(header.Rows), int(header.Columns), *map(float, header.PixelSpacing)) for header in headers}
    if len(grids) > 1 or np.abs(directions - directions[0]).max() > 1e-3:
        raise VolumeError(f"{name}: DICOM slices that differ in size, spacing or direction. Convert it to NIfTI.")
    across = np.cross(directions[0, :3], directions[0, 3:])
    places = np.array([header.ImagePositionPatient for header in headers], dtype=np.float64)
    offsets = places - np.asarray(first.ImagePositionPatient, dtype=np.float64)
    steps = np.diff(offsets @ across)
    sideways = offsets - np.outer(offsets @ across, across)
    uneven = len(steps) > 0 and (np.abs(steps - steps[0]).max() > MAX_UNEVENNESS_MM or abs(steps[0]) < 1e-3)
    if uneven or np.abs(sideways).max() > MAX_UNEVENNESS_MM:
        raise VolumeError(
            f"{name}: DICOM slices that are missing, duplicate or numbered against their places "
            f"({len(headers)} files). Complete the folder, or convert it to NIfTI."
        )
