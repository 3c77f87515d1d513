"""Arrays as NumPy saves them, read without pickle and without trusting what they claim.

``.npz`` is an archive of arrays, ``.npy`` a single one.

``numpy.load`` allocates what a header claims, inflates a member to its end and holds the directory of a million
members. Here a member is opened by its name alone, its header is compared with what is allowed before anything is
allocated, and no more is inflated than the header announces.

Source:
    NumPy, "NPY format", numpy.lib.format; PKWARE, "APPNOTE.TXT", .ZIP File Format Specification.
"""

import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.core.array_types import Array
from pipeline.core.errors import UserError
from pipeline.formats.point_clouds import READ_ERRORS

ADVICE = "Take another copy of the published file."
# The directory of an archive is read in one piece; that of a handful of arrays has some hundred bytes.
MAX_READ_BYTES = 1 << 20
# numpy.savez stores, numpy.savez_compressed deflates; other methods take memory of a size that the file chooses.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ARCHIVE_ERRORS = (*READ_ERRORS, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, LookupError)


@dataclass(frozen=True)
class ArrayLimits:
    """Limits of an array of integers in an archive.

    Args:
        most_rows: The largest size of its first axis.
        row_shapes: The sizes that the other axes may have.
        max_item_bytes: The largest size of a number; 1 allows uint8 alone.
    """

    most_rows: int
    row_shapes: tuple[tuple[int, ...], ...]
    max_item_bytes: int = 1


class _BoundedFile(io.FileIO):
    """A file that refuses to read much at once: ``zipfile`` reads as many bytes as the file's end claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_READ_BYTES:
            raise zipfile.BadZipFile(f"its directory claims {size:,} bytes")
        return super().read(size)


def read_npz(path: Path, limits: Mapping[str, ArrayLimits]) -> dict[str, Array]:
    """Read arrays of integers from an archive; others in it are not read.

    Args:
        path: The file.
        limits: From the name of each wanted array, without ``.npy``, to its limits.

    Returns:
        The arrays under their names, in rows, each of the type that it was stored in.

    Raises:
        UserError: no such file, no whole archive, an array that is absent or twice there, of another shape or type,
            truncated or longer than its header claims, encrypted, or compressed in an unusual way.
    """
    try:
        with _BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
            return {name: _read_array(archive, name, limit, path) for name, limit in limits.items()}
    except UserError:
        raise
    except ARCHIVE_ERRORS as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: not a whole archive of arrays ({words[:200]}). {ADVICE}") from error


def read_whole_volume(path: Path, shape: tuple[int, ...]) -> Array:
    """Read a volume that already has the model's shape; nothing is resampled, turned or scaled.

    Args:
        path: ``.npy`` of an array of uint8.
        shape: The shape that it must have.

    Raises:
        UserError: no such file, a damaged one, or another shape or type.
    """
    try:
        # A map: the header may claim more numbers than memory can hold, and the file has. No archive and no pickle.
        stored = np.lib.format.open_memmap(path, mode="r")
    except READ_ERRORS as error:
        raise UserError(f"{path}: no .npy array of numbers ({' '.join(str(error).split())}).") from error
    if stored.shape != shape or stored.dtype != np.uint8:
        raise UserError(f"{path}: found {stored.shape} of {stored.dtype}, the model was trained on {shape} of uint8.")
    return np.array(stored)


def _read_array(archive: zipfile.ZipFile, name: str, limits: ArrayLimits, path: Path) -> Array:
    members = [member for member in archive.infolist() if member.filename == f"{name}.npy"]
    if len(members) != 1:
        found = "twice" if members else "no"
        raise UserError(f"{path}: {found} {name}.npy in it, allowed is one. {ADVICE}")
    if members[0].compress_type not in METHODS:
        raise UserError(f"{path}: {name} is compressed by method {members[0].compress_type}, allowed are 0 and 8.")
    with archive.open(members[0]) as file:
        shape, is_fortran, dtype = _read_header(file)
        fits = shape[1:] in limits.row_shapes and 1 <= shape[0] <= limits.most_rows
        if not fits or dtype.kind not in "iu" or dtype.itemsize > limits.max_item_bytes or dtype == np.int8:
            rows = " or ".join(str((limits.most_rows, *row)) for row in limits.row_shapes)
            numbers = "uint8" if limits.max_item_bytes == 1 else "integers"
            raise UserError(
                f"{path}: {name} is {shape} of {dtype}, allowed is {rows} of {numbers}, with fewer rows where a part "
                f"of the set is missing. {ADVICE}"
            )
        num_bytes = math.prod(shape) * dtype.itemsize
        content = bytearray()
        # To one byte more than there may be: only then is the checksum compared, and a longer member found.
        while len(content) <= num_bytes and (chunk := file.read(min(MAX_READ_BYTES, num_bytes + 1 - len(content)))):
            content += chunk
    if len(content) != num_bytes:
        found = f"truncated: {len(content):,}" if len(content) < num_bytes else f"too long: more than {num_bytes:,}"
        raise UserError(f"{path}: {name} is {found} bytes after its header, which announces {num_bytes:,}. {ADVICE}")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if is_fortran else "C")


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the array format, allowed are (1, 0) and (2, 0)")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if not shape or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError(f"an array of shape {shape}")
    return shape, bool(is_fortran), dtype
