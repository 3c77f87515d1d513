"""DICOM: a series becomes a volume with anatomical axes, a radiograph an image.

Slices are stacked by their place along the normal, whatever their names and numbers are. Monai's reader stacks them by
their numbers, checks no distances and loads torch; nibabel reads no DICOM series of this kind. Of the headers nothing
but geometry, grey levels and pixels is read; names and other free text never leave this module.
"""

import contextlib
import hashlib
import importlib.util
import io
import logging
import struct
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange

from pipeline.core.array_types import Array
from pipeline.core.errors import UserError, VolumeError
from pipeline.formats.archives import is_archive, read_files
from pipeline.formats.compressed_pixels import decode_frame
from pipeline.formats.volume import Volume, build_volume

SUFFIXES = (".dcm", ".ima")
DEFLATED = b"1.2.840.10008.1.2.1.99"  # DICOM PS3.5, A.5: all but the first bytes are packed, however much that is
# pydicom takes a header's values apart when they are read; damaged ones were seen to end in most of these.
READ_ERRORS = (
    OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, EOFError, RuntimeError, struct.error,
    MemoryError,
)  # fmt: skip
PREAMBLE_BYTES, MAGIC = 128, b"DICM"
# Slices of one stack differ in their distance by rounding alone; positions have a hundredth of a millimetre or better,
# and those of slices that are thinner than a few of these hundredths have a small part of their distance.
MAX_UNEVENNESS_MM, MAX_UNEVENNESS = 0.05, 0.1
# Directions of parallel slices, as cosines, differ by rounding alone.
MAX_TURN = 1e-3
# How far the products of two perpendicular unit vectors may be from 1 and 0, by rounding in a header.
MAX_SKEW = 1e-2
# A reference image lies across the slices.
MAX_COSINE_OF_REFERENCE = 0.9
# With fewer, nobody can tell the reference image from the slices.
MIN_SLICES_WITH_REFERENCE = 4
NEEDED = ("SeriesInstanceUID", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])  # DICOM counts left and posterior as positive
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
# A start of a JPEG or JPEG-LS frame (ITU T.81, B.1.1.3; T.87, C.1.1): other markers of that range are tables.
FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
CODESTREAM_START = b"\xff\x4f\xff\x51"  # JPEG 2000 (ITU T.800, A.5.1)


def has_magic(content: bytes) -> bool:
    """Return whether the first bytes of a file are those of DICOM."""
    return content[PREAMBLE_BYTES : PREAMBLE_BYTES + len(MAGIC)] == MAGIC


def is_dicom(path: Path) -> bool:
    """Return whether a file is a DICOM image by its name or its first bytes; a ``DICOMDIR`` is none."""
    try:
        if path.name.upper() == "DICOMDIR" or not path.is_file():
            return False
        if path.name.lower().endswith(SUFFIXES):
            return True
        with path.open("rb") as file:
            return has_magic(file.read(PREAMBLE_BYTES + len(MAGIC)))
    except OSError:  # not to be read, or a name that is too long for any file
        return False


def list_series(folder: Path) -> tuple[Path, ...]:
    """Return the DICOM files that lie in a folder itself, sorted; hidden ones are passed over."""
    found = (path for path in folder.iterdir() if not path.name.startswith(".") and is_dicom(path))
    return tuple(sorted(found))


def read_series(name: str, paths: tuple[Path, ...], max_bytes: int = 4 << 30) -> Volume:
    """Read the slices of one series.

    Args:
        name: The name of the series' folder or archive, for messages.
        paths: The files of the series in any order, their folder, or an archive of them.
        max_bytes: The largest size in bytes; files that are larger together are refused before their pixels are read.

    Returns:
        The volume with axes right, anterior, superior; DICOM's left and posterior are turned.

    Raises:
        VolumeError: unreadable; several series; several frames in a file; colour; slices that are missing, duplicate or
            tilted against each other.
        UserError: pydicom is not installed.
    """
    with silence_pydicom(name):
        return _read_stack(name, _read_contents(name, paths, max_bytes), max_bytes)


def read_radiograph(
    name: str, content: bytes, max_pixels: int
) -> tuple[Array, tuple[float, float] | None, tuple[float, float] | None]:
    """Read a single image, such as a radiograph.

    Args:
        name: The name of the file, for messages.
        content: All of its bytes.
        max_pixels: The largest number of pixels.

    Returns:
        ``(channels, height, width)`` with black as the lowest value; the values that the header's window makes black
        and white, None where it has none; the height and width of a pixel in millimetres, None where unknown.

    Raises:
        VolumeError: unreadable, too large, of several frames, or of another photometric interpretation.
        UserError: pydicom is not installed.
    """
    with silence_pydicom(name):
        header = _parse(name, content, ("Rows", "Columns", "PixelData"))
        if int(header.Rows) * int(header.Columns) > max_pixels:
            found = f"{header.Rows} x {header.Columns}"
            raise VolumeError(f"{name}: {found} pixels, at most {max_pixels:,} are read. Make it smaller.")
        photometric = str(header.get("PhotometricInterpretation", ""))
        if photometric not in ("MONOCHROME1", "MONOCHROME2", *COLOURS):
            raise VolumeError(f"{name}: DICOM that is neither grey nor RGB. Convert it to PNG.")
        spacing = header.get("PixelSpacing", None) or header.get("ImagerPixelSpacing", None)
        pixel_mm = None if not spacing else (float(spacing[0]), float(spacing[1]))
        if pixel_mm is not None and not (np.isfinite(pixel_mm).all() and min(pixel_mm) > 0):
            pixel_mm = None
        values = _read_values(name, header, content)
        if photometric in COLOURS:
            if values.ndim != 3 or values.dtype != np.uint8:
                raise VolumeError(f"{name}: DICOM in colour of more than 8 bits. Convert it to PNG.")
            return rearrange(values, "row column channel -> channel row column"), (0.0, 255.0), pixel_mm
        if values.ndim != 2:
            raise VolumeError(f"{name}: DICOM of a damaged shape. Export it again.")
        levels, limits = _show_grey(header, values)
        return levels[None], limits, pixel_mm


@contextlib.contextmanager
def silence_pydicom(name: str) -> Iterator[None]:
    """Refuse to work without pydicom, keep its warnings and log records away, and refuse what it stumbles over.

    What they report is checked here, and they quote headers.
    """
    if importlib.util.find_spec("pydicom") is None:
        raise UserError(f"{name}: DICOM needs pydicom, not installed here. Run pip install 'perceiver-knees[dicom]'.")
    from pydicom.errors import BytesLengthException

    logger = logging.getLogger("pydicom")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except (BytesLengthException, *READ_ERRORS) as error:
        found = type(error).__name__  # its text may quote the header
        raise VolumeError(f"{name}: DICOM with a damaged header ({found}). Export it again.") from error
    finally:
        logger.disabled = was_disabled


def _read_contents(name: str, paths: tuple[Path, ...], max_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file of a series."""
    if is_archive(paths[0]):
        for number, content in enumerate(read_files(paths[0], max_bytes), start=1):
            if has_magic(content):
                yield f"{name}, file {number}", content
        return
    files = list_series(paths[0]) if paths[0].is_dir() else paths
    # A folder that came from somebody else may hold links to any file of this machine.
    if any(not path.resolve().is_relative_to(path.parent.resolve()) for path in files if path.is_symlink()):
        raise VolumeError(f"{name}: a symbolic link that leads out of the folder. Put the file itself there.")
    num_bytes = sum(path.stat().st_size for path in files)
    _check_size(name, num_bytes, max_bytes)
    for path in files:
        yield str(path), path.read_bytes()


def _check_size(name: str, num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise VolumeError(
            f"{name}: {num_bytes / 2**30:.1f} GiB of DICOM, at most {max_bytes / 2**30:.1f} GiB are read. "
            "Raise preprocess.max_volume_gib if that is meant."
        )


def _parse(name: str, content: bytes, needed: Iterable[str]) -> Any:
    """Parse one file of a single frame; its pixels stay packed."""
    import pydicom

    try:
        if DEFLATED in content[: 1 << 12]:
            raise VolumeError(f"{name}: DICOM that is packed as a whole (deflated). Convert the series to NIfTI.")
        header = pydicom.dcmread(io.BytesIO(content))
        missing = [tag for tag in needed if (value := header.get(tag, None)) is None or value in ("", b"", [])]
        num_frames = int(header.get("NumberOfFrames", None) or 1)
    except (pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException, *READ_ERRORS) as error:
        if isinstance(error, UserError):
            raise
        raise VolumeError(
            f"{name}: not readable as DICOM ({type(error).__name__}). Copy or export it again."
        ) from error
    if missing:
        raise VolumeError(f"{name}: DICOM without {', '.join(missing)}. Convert the series to NIfTI.")
    if num_frames > 1:
        raise VolumeError(f"{name}: DICOM with several frames in a file. Convert it to NIfTI.")
    return header


def _read_stack(name: str, contents: Iterable[tuple[str, bytes]], max_bytes: int) -> Volume:
    """Read each file once, keep its pixels and geometry, and stack them."""
    headers, values, scalings, digests, num_bytes = [], [], [], [], 0
    for label, content in contents:
        header = _parse(label, content, (*NEEDED, "PixelData"))
        if str(header.get("PhotometricInterpretation", "")) != "MONOCHROME2":
            raise VolumeError(f"{label}: DICOM that is not grey with black as 0 (MONOCHROME2). Convert it to NIfTI.")
        num_bytes += 2 * _read_number(header, "Rows") * _read_number(header, "Columns")
        _check_size(name, num_bytes, max_bytes)  # compressed pixels may be far fewer bytes than the header's
        values.append(_read_values(label, header, content))
        scalings.append(_read_scaling(header))
        digests.append(hashlib.sha256(content).digest())
        del header.PixelData
        headers.append(header)
    if not headers:
        raise VolumeError(f"{name}: no DICOM file in it. Name a series, its folder or an archive of it.")
    _check_directions(name, headers)
    slices = _list_slices(headers)
    order, affine = _arrange(name, [headers[place] for place in slices])
    order = [slices[place] for place in order]
    stack = np.stack([values[place] for place in order])
    scaling = scalings[order[0]]
    if len({scalings[place] for place in order}) > 1:  # each slice has its own, as some vendors write them
        factors = np.array([scalings[place] for place in order], dtype=np.float32)
        stack, scaling = stack * factors[:, 0, None, None] + factors[:, 1, None, None], (1.0, 0.0)
    voxels = rearrange(stack, "slice row column -> column row slice")
    digest = hashlib.sha256(b"".join(digests[place] for place in order)).hexdigest()
    return replace(build_volume(name, voxels, affine, scaling), sha256=digest)


def _check_directions(name: str, headers: list[Any]) -> None:
    """Refuse directions of rows and columns that are no perpendicular unit vectors (DICOM PS3.3, C.7.6.2.1.1)."""
    directions = np.array([header.ImageOrientationPatient for header in headers], dtype=np.float64).reshape(-1, 2, 3)
    products = directions @ directions.transpose(0, 2, 1)
    wrong = ~(np.abs(products - np.eye(2)).max(axis=(1, 2)) <= MAX_SKEW)
    if wrong.any():
        found = ", ".join(f"{value:g}" for value in directions[wrong][0].ravel())
        raise VolumeError(
            f"{name}: ImageOrientationPatient of {wrong.sum()} of {len(headers)} DICOM files is {found}, and not two "
            "perpendicular unit vectors. Export the series again."
        )


def _list_slices(headers: list[Any]) -> list[int]:
    """Return the places of the slices: all but one image of another plane, as reformatted series have.

    It shows where the slices lie, and is none of them. Two or more such images are something else, and so is one that
    is turned in its own plane; they are refused with the stack.
    """
    directions = np.array([header.ImageOrientationPatient for header in headers], dtype=np.float64)
    normals = np.cross(directions[:, :3], directions[:, 3:])
    is_other = np.abs(normals @ np.median(normals, axis=0)) < MAX_COSINE_OF_REFERENCE
    if is_other.sum() != 1 or len(headers) < MIN_SLICES_WITH_REFERENCE:
        return list(range(len(headers)))
    return [int(place) for place in np.flatnonzero(~is_other)]


def _read_scaling(header: Any) -> tuple[float, float]:
    slope, intercept = header.get("RescaleSlope", None), header.get("RescaleIntercept", None)
    return (1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept))


def _arrange(name: str, headers: list[Any]) -> tuple[list[int], Array]:
    """Order slices along their normal; refuse what is not one stack of parallel slices at even distances.

    Returns:
        The places of the slices in that order, and the affine ``(4, 4)`` from (column, row, slice) to millimetres.
    """
    if len({str(header.SeriesInstanceUID) for header in headers}) > 1:
        raise VolumeError(f"{name}: several DICOM series in one folder. Put each into a folder of its own.")
    directions = np.array([header.ImageOrientationPatient for header in headers], dtype=np.float64)
    sizes = [(_read_number(header, "Rows"), _read_number(header, "Columns")) for header in headers]
    grids = {(*size, *map(float, header.PixelSpacing)) for size, header in zip(sizes, headers, strict=True)}
    if min(min(map(float, header.PixelSpacing)) for header in headers) <= 0:
        found = ", ".join(f"{float(value):g}" for value in headers[0].PixelSpacing)
        raise VolumeError(f"{name}: PixelSpacing is {found}; sizes of pixels are above 0. Export the series again.")
    if len(grids) > 1 or np.abs(directions - directions[0]).max() > MAX_TURN:
        raise VolumeError(f"{name}: DICOM slices that differ in size, spacing or direction. Convert it to NIfTI.")
    across = np.cross(directions[0, :3], directions[0, 3:])
    places = np.array([header.ImagePositionPatient for header in headers], dtype=np.float64)
    order = np.argsort(places @ across, kind="stable")
    offsets = places[order] - places[order[0]]
    steps = np.diff(offsets @ across)
    sideways = offsets - np.outer(offsets @ across, across)
    tolerance_mm = min(MAX_UNEVENNESS_MM, MAX_UNEVENNESS * float(np.median(steps))) if len(steps) else 0.0
    is_twice = len(steps) > 0 and steps.min() < 1e-3
    uneven = len(steps) > 0 and (np.abs(steps - steps[0]).max() > tolerance_mm or is_twice)
    num_echoes = len({str(header.get("EchoTime", "")) for header in headers})
    if is_twice and num_echoes > 1:
        raise VolumeError(
            f"{name}: {num_echoes} echoes of each slice in one series, which are no stack. Convert one of them to "
            "NIfTI, or choose another series."
        )
    is_line = np.abs(sideways).max() <= MAX_UNEVENNESS_MM
    if uneven and is_line and not is_twice:
        skipped = np.round(steps / steps.min()) - 1
        is_gap = skipped.any() and np.abs(steps - (skipped + 1) * steps.min()).max() <= tolerance_mm
        usual = steps.min() if is_gap else float(np.median(steps))
        after, missing = int(np.abs(steps - usual).argmax()), int(skipped.sum())
        are = "is" if missing == 1 else "are"
        found = f"{missing} of {len(headers) + missing} DICOM slices {are} missing by the positions of the others"
        raise VolumeError(
            f"{name}: {found if is_gap else 'DICOM slices at uneven distances'}: the distance after slice {after + 1} "
            f"is {steps[after]:.3g} mm, elsewhere {usual:.3g} mm. Complete the folder."
        )
    if is_twice:
        num_copies = int((steps < 1e-3).sum())
        lie = "lies" if num_copies == 1 else "lie"
        raise VolumeError(
            f"{name}: {num_copies} of {len(headers)} DICOM slices {lie} at the place of another, as duplicate files or "
            "a second series do. Take the copies away, or convert one series to NIfTI."
        )
    if not is_line:
        raise VolumeError(
            f"{name}: DICOM slices are not in one line along their normal, by {np.abs(sideways).max():.3g} mm, as "
            "those of a tilted gantry do. Convert it to NIfTI."
        )
    spacing = [float(value) for value in headers[0].PixelSpacing]
    if len(headers) > 1:
        step = offsets[-1] / (len(headers) - 1)
    else:  # a slice alone: its thickness is all that is known of the third axis
        step = across / np.linalg.norm(across) * float(headers[0].get("SliceThickness", None) or 1.0)
    affine = np.eye(4)
    # PixelSpacing has the distance of rows first; a column's index grows along the first direction.
    affine[:3, 0], affine[:3, 1] = directions[0, :3] * spacing[1], directions[0, 3:] * spacing[0]
    affine[:3, 2], affine[:3, 3] = step, places[order[0]]
    affine[:3] = LPS_TO_RAS @ affine[:3]
    return order.tolist(), affine


def _read_values(name: str, header: Any, content: bytes) -> Array:
    """Return the pixels of one file, ``(row, column)`` or ``(row, column, channel)``, as they are stored."""
    syntax = None
    try:
        syntax = header.file_meta.TransferSyntaxUID
        if syntax.is_encapsulated:
            _check_frame_size(name, header)
            num_values = int(header.Rows) * int(header.Columns) * int(header.SamplesPerPixel)
            found: Array = decode_frame(content, num_values)
            return found
        if syntax.is_little_endian and _is_plain_grey(header):
            return _view_values(header)
        values: Array = header.pixel_array
    except UserError:
        raise
    except TimeoutError as error:
        raise VolumeError(
            f"{name}: its compressed pixels took {error} to decode, as damaged ones do. Export it again."
        ) from error
    except READ_ERRORS as error:
        found_type = str(error) if isinstance(error, RuntimeError) else type(error).__name__
        advice = "Convert the file, for instance with dcm2niix."
        if syntax is not None and syntax.is_encapsulated:
            advice = f"Compressed ones need codecs: pip install 'perceiver-knees[dicom]'. Or: {advice}"
        raise VolumeError(f"{name}: pixels cannot be read ({found_type}). {advice}") from error
    return values


def _is_plain_grey(header: Any) -> bool:
    return _read_number(header, "SamplesPerPixel") == 1 and _read_number(header, "BitsAllocated") in (8, 16)


def _view_values(header: Any) -> Array:
    """Return a view of grey pixels that are stored as they are: pydicom's own way takes longer than all other reading.

    Source:
        DICOM PS3.5, 8.1.1: little-endian words, padded to an even number of bytes, unused high bits to be ignored.
    """
    rows, columns, num_stored = (_read_number(header, name) for name in ("Rows", "Columns", "BitsStored"))
    is_signed, num_bits = _read_number(header, "PixelRepresentation") == 1, _read_number(header, "BitsAllocated")
    if not (0 < num_stored <= num_bits and _read_number(header, "HighBit") == num_stored - 1):
        raise ValueError("bits that are stored elsewhere")
    dtype = np.dtype(f"<{'i' if is_signed else 'u'}{num_bits // 8}")
    values: Array = np.frombuffer(header.PixelData, dtype, count=rows * columns).reshape(rows, columns)
    if num_stored < num_bits:  # shifted up and down again, so that a sign is kept and bits of overlays are not
        shift = num_bits - num_stored
        values = (values << shift) >> shift
    return values


def _read_number(header: Any, name: str) -> int:
    """Return a whole number of two bytes; of a slice pydicom takes as long for its eight as for all else."""
    element = header.get_item(name)
    if isinstance(element.value, bytes) and len(element.value) == 2:  # not yet taken apart
        return int.from_bytes(element.value, "little" if element.is_little_endian else "big")
    return int(header[name].value)


def _check_frame_size(name: str, header: Any) -> None:
    """Refuse a compressed frame of another size than the header's, before a codec takes memory for it."""
    from pydicom.encaps import get_frame

    frame, size = get_frame(header.PixelData, 0, number_of_frames=1), (int(header.Rows), int(header.Columns))
    start = frame.find(CODESTREAM_START, 0, 1024)
    found = _find_jpeg_size(frame)
    if start >= 0:
        columns, rows, left, top = struct.unpack(">4I", frame[start + 8 : start + 24])
        found = (rows - top, columns - left)
    if found is not None and found != size:
        raise VolumeError(f"{name}: compressed pixels of another size than the header's. Export it again.")


def _find_jpeg_size(frame: bytes) -> tuple[int, int] | None:
    """Return rows and columns of a JPEG or JPEG-LS frame; None where it is of another kind."""
    if not frame.startswith(b"\xff\xd8"):
        return None
    place = 2
    while place + 9 <= len(frame) and frame[place] == 0xFF:
        length = int.from_bytes(frame[place + 2 : place + 4], "big")
        if frame[place + 1] in FRAME_MARKERS:
            rows, columns = struct.unpack(">2H", frame[place + 5 : place + 9])
            return rows, columns
        place += 2 + length
    raise ValueError("no frame")


def _show_grey(header: Any, values: Array) -> tuple[Array, tuple[float, float] | None]:
    """Turn stored values to what is seen: scaled, windowed by the header, black as the lowest."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    is_padding = None
    if header.get("PixelPaddingValue", None) is not None:
        limit = header.get("PixelPaddingRangeLimit", None)
        padding = {int(header.PixelPaddingValue), int(header.PixelPaddingValue if limit is None else limit)}
        is_padding = (values >= min(padding)) & (values <= max(padding))  # DICOM PS3.3, C.7.5.1.1.2
    if not header.get("ModalityLUTSequence", None):  # pydicom ignores a slope without an intercept
        header.RescaleSlope, header.RescaleIntercept = _read_scaling(header)
    levels = np.asarray(apply_modality_lut(values, header), dtype=np.float32)
    limits = None
    if header.get("VOILUTSequence", None) or str(header.get("VOILUTFunction", "")) == "SIGMOID":
        levels = np.asarray(apply_voi_lut(levels.astype(values.dtype), header), dtype=np.float32)
    else:
        limits = _read_window(header)
    if not np.isfinite(levels).all():
        raise ValueError("infinite levels")
    if limits is not None and not (levels.min() < limits[1] and levels.max() > limits[0]):
        limits = None  # a window that shows nothing of the image
    if str(header.PhotometricInterpretation) == "MONOCHROME1":
        levels = -levels
        limits = None if limits is None else (-limits[1], -limits[0])
    if is_padding is not None and not is_padding.all():
        levels[is_padding] = levels[~is_padding].min()
    return levels, limits


def _read_window(header: Any) -> tuple[float, float] | None:
    """Return the first window's black and white, of DICOM PS3.3, C.11.2.1.2; None where there is none."""
    centres, widths = header.get("WindowCenter", None), header.get("WindowWidth", None)
    if centres is None or widths is None:
        return None
    # Several windows are offered in lists, the first is the usual one.
    centre, width = (float(np.atleast_1d(np.asarray(found, dtype=np.float64))[0]) for found in (centres, widths))
    if not (np.isfinite(centre) and np.isfinite(width) and width > 1):
        return None
    if str(header.get("VOILUTFunction", "")) == "LINEAR_EXACT":
        return centre - width / 2, centre + width / 2
    return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
