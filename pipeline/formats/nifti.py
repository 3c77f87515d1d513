"""NIfTI files: a file becomes a volume whose axes have anatomical names.

Only the voxels and the geometry of a header are read; its free text (names,
institutions, remarks, extensions) never leaves this module.
"""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel.affines
import numpy as np
from isal import igzip, isal_zlib
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError

from pipeline.core.array_types import Array
from pipeline.core.errors import VolumeError
from pipeline.core.files import describe_absence, open_atomically
from pipeline.formats.volume import Volume, build_volume, check_matrix, describe_shear

GZIP_MAGIC = b"\x1f\x8b"
HEADER_CLASSES = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}

GZIP_PIECE = 1 << 14
# NIfTI-1, "units of spatial and temporal dimensions": metre, millimetre and micron; unknown ones are millimetres.
UNIT_MM = {1: 1000.0, 2: 1.0, 3: 0.001}

SUFFIXES = (".nii", ".nii.gz", ".hdr", ".hdr.gz")
HEADER_MAGIC = {b"n+1", b"ni1", b"n+2", b"ni2"}


def read_volume(path: Path, max_bytes: int = 4 << 30, needs_orientation: bool = True) -> Volume:
    """Read a NIfTI scan and turn its axes to right, anterior, superior.

    The same knee can be stored in 48 axis orders. Afterwards axis 0 grows towards
    the patient's right, so "sagittal slice" always means axis 0. Axes are swapped
    and flipped only; nothing is resampled and voxels keep their stored type.

    Args:
        path: ``.nii`` or ``.hdr`` (with its ``.img`` next to it), each also as ``.gz``; NIfTI-1 or -2,
            either byte order. A 2-D image counts as one voxel thick; trailing axes of one are dropped.
        max_bytes: The largest size in bytes: a header that claims more than this for the voxels and what lies before
            them is refused before anything is unpacked.
        needs_orientation: Whether to refuse a file whose sform and qform are both marked unknown, or name different
            sides. Otherwise its axes are taken as the standard defines for it: along right, anterior and superior,
            without a rotation; of two the sform is taken.

    Returns:
        The oriented volume.

    Raises:
        VolumeError: not NIfTI; truncated; claims more than the file or the memory holds; more than one
            frame; complex or colour; NaN; constant; no usable affine, or two that name different sides.

    Source:
        NIfTI-1 standard, https://nifti.nimh.nih.gov/nifti-1, "3D image orientation".
    """
    content = _read_file(path)
    header = _parse_header(path, content)
    shape = _check_shape(path, header)
    dtype = _check_dtype(path, header)
    has_any = int(header["sform_code"]) != 0 or int(header["qform_code"]) != 0
    affine = _check_affine(path, header) if has_any or needs_orientation else _assume_affine(header)
    unit = int(header["xyzt_units"]) & 7
    affine[:3] *= UNIT_MM.get(unit, 1.0)
    is_known = has_any and not _name_different_sides(header)
    if has_any and needs_orientation and not is_known:
        raise VolumeError(
            f"{path}: sform and qform name different sides, so left and right are unknown. Set the code of the wrong "
            "one to 0."
        )
    num_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
    is_pair = bytes(header["magic"])[:2] == b"ni"
    offset = _check_offset(path, header, 0 if is_pair else int(header["sizeof_hdr"]))
    # What lies before the voxels is unpacked with them.
    if num_bytes + offset > max_bytes:
        raise VolumeError(
            f"{path}: the header claims {(num_bytes + offset) / 2**30:.1f} GiB of voxels "
            f"({'x'.join(map(str, shape))}), at most {max_bytes / 2**30:.1f} GiB are read. "
            "Raise preprocess.max_volume_gib if that is meant."
        )
    digest = hashlib.sha256(content)
    if is_pair:
        if ".hdr" not in path.name.lower():
            raise VolumeError(
                f"{path}: the header puts the voxels in an .img file next to it, so its name must end in .hdr or "
                ".hdr.gz. Rename it and put the .img next to it, or export one .nii file."
            )
        data_path = find_data_path(path)
        content = _read_file(data_path)
        digest.update(content)
    raw = _read_voxels(path, content, offset, num_bytes)
    voxels = np.frombuffer(raw, dtype, count=num_bytes // dtype.itemsize, offset=offset).reshape(shape, order="F")
    return replace(
        build_volume(str(path), voxels, affine, _check_scaling(path, header)),
        stored_shape=tuple(int(size) for size in header.get_data_shape()),
        sha256=digest.hexdigest(),
        orientation_known=is_known,
        doubt=_compare_sizes(header) or _doubt_unit(unit) or describe_shear(affine),
    )


def write_volume(path: Path, intensity: Array, affine: Array, stored_axes: str) -> None:
    """Write a NIfTI-1 file, compressed where the name ends in ``.gz``; the same input gives the same bytes.

    Args:
        path: The file to write; its name ends in ``.nii`` or ``.nii.gz``.
        intensity: An array with three axes, of a type that NIfTI can hold.
        affine: ``(4, 4)``, from voxel indices to world millimetres (right, anterior, superior).
        stored_axes: The axis order and directions in the file, such as ``PIR``.
    """
    image = nibabel.Nifti1Image(intensity, affine)
    image = image.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(stored_axes)))
    image.set_sform(image.affine, code=1)
    image.set_qform(None, code=0)
    content = image.to_bytes()
    with open_atomically(path) as file:
        if path.suffix == ".gz":
            # Neither time nor name in the gzip header, so that equal volumes are equal files.
            with igzip.IGzipFile(filename="", mode="wb", compresslevel=1, fileobj=file, mtime=0) as compressed:
                compressed.write(content)
        else:
            file.write(content)


def _read_file(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        pair = " A .hdr needs its .img next to it." if path.name.lower().endswith((".img", ".img.gz")) else ""
        raise VolumeError(f"{path}: {describe_absence(path)}.{pair}") from error
    if not content:
        raise VolumeError(f"{path}: the file is empty. Copy or export it again.")
    return content


def list_pair(path: Path) -> tuple[Path, ...]:
    """Return a path, and of a header the file with its voxels too."""
    return (path, find_data_path(path)) if path.name.lower().endswith((".hdr", ".hdr.gz")) else (path,)


def list_files(path: Path) -> tuple[Path, ...]:
    """Return the files that are read for a scan's path: itself, with a header's voxels; of a folder those in it."""
    if os.path.isdir(path):  # noqa: PTH112 (pathlib's fails for a name that is too long for any file)
        return tuple(sorted(child for child in path.iterdir() if not child.name.startswith(".") and child.is_file()))
    return list_pair(path)


def find_data_path(header_path: Path) -> Path:
    """Return where the voxels of a two-file image are: ``.img``, or ``.img.gz`` where only that is there."""
    stem = header_path.name[: header_path.name.lower().rindex(".hdr")]
    candidates = [header_path.with_name(stem + suffix) for suffix in (".img", ".img.gz", ".IMG", ".IMG.GZ")]
    return next((candidate for candidate in candidates if candidate.is_file()), candidates[0])


def _inflate(path: Path, content: bytes, max_bytes: int) -> bytes:
    """Return at most ``max_bytes`` of a gzip file's content, over all its members."""
    parts: list[bytes] = []
    missing, view, start = max_bytes, memoryview(content), 0
    # Nearly every file is one member. What is left of a piece is copied: small ones serve a header, or many members.
    size = len(content) if max_bytes > GZIP_PIECE else GZIP_PIECE
    try:
        while missing > 0 and view[start : start + 2] == GZIP_MAGIC:
            member = isal_zlib.decompressobj(wbits=31)
            while missing > 0 and start < len(view) and not member.eof:
                piece = view[start : start + size]
                parts.append(member.decompress(piece, missing))
                missing -= len(parts[-1])
                start += len(piece) - len(member.unused_data)
            size = GZIP_PIECE
    except isal_zlib.error as error:  # type: ignore[misc]  # its stub lacks the base class
        raise VolumeError(f"{path}: damaged gzip data ({error}). Copy or export it again.") from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _parse_header(path: Path, content: bytes) -> Any:
    start = _inflate(path, content, 1024) if content.startswith(GZIP_MAGIC) else content[:1024]
    sizes = {int.from_bytes(start[:4], order) for order in ("little", "big")} & set(HEADER_CLASSES)
    if not sizes or len(start) < max(sizes):
        raise VolumeError(f"{path}: not a NIfTI file (no NIfTI-1 or -2 header at its start).")
    size = sizes.pop()
    try:
        header = HEADER_CLASSES[size](start[:size], check=False)
    except (HeaderDataError, ValueError) as error:
        raise VolumeError(f"{path}: not a NIfTI file ({error}).") from error
    magic = bytes(header["magic"])[:3]
    if magic not in HEADER_MAGIC:
        raise VolumeError(f"{path}: not a NIfTI file (magic {magic!r}; Analyze has no reliable orientation).")
    return header


def _check_shape(path: Path, header: Any) -> tuple[int, int, int]:
    try:
        stored = [int(size) for size in header.get_data_shape()]
    except (HeaderDataError, ValueError) as error:
        raise VolumeError(f"{path}: damaged header, the shape cannot be read ({error}).") from error
    shape = list(stored)
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) == 2:
        shape.append(1)
    if len(shape) != 3 or min(shape) < 1:
        found = "x".join(map(str, stored)) or "nothing"
        raise VolumeError(f"{path}: an image of {found}; one frame of 2-D or 3-D is read. Write each frame to a file.")
    return shape[0], shape[1], shape[2]


def _check_dtype(path: Path, header: Any) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        raise VolumeError(f"{path}: damaged header, unknown data type ({error}).") from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        found = "colour" if dtype.names else str(dtype)
        raise VolumeError(f"{path}: voxels are {found}; grey levels (integers or floats up to 64 bit) are read.")
    return dtype


def _check_affine(path: Path, header: Any) -> Array:
    if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        raise VolumeError(f"{path}: no valid affine (sform_code and qform_code are 0): left and right are unknown.")
    try:
        affine: Array = np.asarray(header.get_best_affine(), dtype=np.float64)
    except (HeaderDataError, ValueError) as error:
        raise VolumeError(f"{path}: no valid affine ({error}): left and right are unknown.") from error
    try:
        return check_matrix(str(path), affine)
    except VolumeError as error:
        if _has_usable_qform(path, header):
            raise VolumeError(f"{error} The qform is valid: set sform_code to 0 to take it.") from error
        raise


def _has_usable_qform(path: Path, header: Any) -> bool:
    if int(header["qform_code"]) == 0:
        return False
    try:
        check_matrix(str(path), np.asarray(header.get_qform(), dtype=np.float64))
    except (HeaderDataError, ValueError, VolumeError):
        return False
    return True


def _name_different_sides(header: Any) -> bool:
    """Return whether sform and qform are both valid and their voxels grow towards opposite sides of the body."""
    if int(header["sform_code"]) == 0 or int(header["qform_code"]) == 0:
        return False
    try:
        rights = [np.asarray(form, dtype=np.float64)[0, :3] for form in (header.get_sform(), header.get_qform())]
    except (HeaderDataError, ValueError):  # of a damaged qform nothing is read
        return False
    return bool(np.isfinite(rights).all() and rights[0] @ rights[1] < 0)


def _compare_sizes(header: Any) -> str:
    """Return how large voxels are by the sform and by ``pixdim``, where these differ by more than rounding."""
    sizes = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    by_sform = np.linalg.norm(np.asarray(header.get_sform(), dtype=np.float64)[:3, :3], axis=0)
    if int(header["sform_code"]) == 0 or np.allclose(by_sform, sizes, rtol=0.02):
        return ""
    shown = ["x".join(f"{size:.4g}" for size in each) for each in (by_sform, sizes)]
    return f"voxels are {shown[0]} by the sform and {shown[1]} by pixdim; the sform is taken"


def _doubt_unit(unit: int) -> str:
    """Return that a code of ``xyzt_units`` names no unit of length; nothing where it does, or is 0 for unknown."""
    known = unit == 0 or unit in UNIT_MM
    return "" if known else f"xyzt_units has the code {unit}, which is no unit of length; millimetres are taken"


def _check_scaling(path: Path, header: Any) -> tuple[float | None, float | None]:
    try:
        scaling: tuple[float | None, float | None] = header.get_slope_inter()
    except HeaderDataError as error:
        raise VolumeError(f"{path}: scl_slope or scl_inter is not finite ({error}). Repair the header.") from error
    return scaling


def _assume_affine(header: Any) -> Array:
    """Return the affine of a file without sform and qform, by the standard's method 1: voxel sizes, no rotation."""
    spacing = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    # Zero stands for an axis of which nothing is known.
    return np.diag([*np.where(np.isfinite(spacing) & (spacing > 0), spacing, 1.0), 1.0])


def _check_offset(path: Path, header: Any, lowest: int) -> int:
    offset = float(header["vox_offset"])
    if not lowest <= offset < 2**40:
        raise VolumeError(f"{path}: damaged header, voxels cannot begin at byte {offset:g}. Export it again.")
    return int(offset)


def _read_voxels(path: Path, content: bytes, offset: int, num_bytes: int) -> bytes:
    """Return the file's first ``offset + num_bytes`` bytes or more, unpacked."""
    needed = offset + num_bytes
    if content.startswith(GZIP_MAGIC):
        content = _inflate(path, content, needed)
    if len(content) < needed:
        raise VolumeError(
            f"{path}: truncated, the header claims {needed} bytes and the file holds fewer. Copy it again."
        )
    return content
