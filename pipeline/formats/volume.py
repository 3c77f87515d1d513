"""A scan in the axes right, anterior, superior, whatever file it came from."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pipeline.core.array_types import Array
from pipeline.core.errors import VolumeError

PIECE = 1 << 20

# Of knees: cartilage is scanned at 0.2 mm and more, and slices are a few millimetres apart.
LIKELY_SPACING_MM = (0.05, 20.0)
# A choice; turned about one axis, from 45 on another plane is the nearest.
LIKELY_OBLIQUITY_DEGREES = 30.0
# A choice: its cosine moves no slice by a thousandth of its place, and registration leaves less.
LIKELY_SHEAR_DEGREES = 2.0
# Intensities beyond this leave float32 where they are windowed and interpolated.
MAX_INTENSITY = 1e30


@dataclass(frozen=True)
class Volume:
    """A scan with axes (right, anterior, superior).

    Args:
        voxels: ``(right, anterior, superior)`` as stored; axis 0 grows towards the patient's right.
        slope: The factor in intensity = voxel * slope + intercept, in scanner units.
        intercept: The summand in the same equation.
        spacing_mm: The voxel size along the same three axes.
        centre_mm: The volume's centre in world coordinates, right, anterior and superior positive.
        stored_axes: The directions in which the stored axes grew, such as ``PIR``.
        stored_shape: The size along the stored axes.
        obliquity_degrees: The largest angle between a stored axis and its anatomical one.
        sha256: The checksum of the file (of header and data, one after the other, where they are two).
        affine: ``(4, 4)``, from voxel indices (right, anterior, superior) to world millimetres.
        orientation_known: Whether the file defines the directions of its axes, and not two that contradict each other;
            where it defines none, they were taken as right, anterior and superior.
        doubt: What the header says in two ways, and which was taken; nothing where it does not.
    """

    voxels: Array
    slope: float
    intercept: float
    spacing_mm: tuple[float, float, float]
    centre_mm: tuple[float, float, float]
    stored_axes: str
    stored_shape: tuple[int, ...]
    obliquity_degrees: float
    affine: Array
    sha256: str = ""
    orientation_known: bool = True
    doubt: str = ""


def build_volume(
    name: str,
    voxels: Array,
    affine: Array,
    scaling: tuple[float | None, float | None] = (None, None),
) -> Volume:
    """Turn an array to right, anterior, superior.

    Args:
        name: The name of the scan, for messages.
        voxels: An array with three axes, of integers or floats.
        affine: ``(4, 4)``, from voxel indices to world millimetres (right, anterior, superior).
        scaling: The slope and intercept from voxels to scanner units; None leaves them.

    Returns:
        The volume, without what only its file holds (``sha256``, ``orientation_known``).

    Raises:
        VolumeError: not three axes; NaN; constant; an affine that is singular or not finite.
    """
    # nibabel takes time to import, and training reads no scan.
    import nibabel.affines
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    if voxels.ndim != 3 or 0 in voxels.shape or voxels.dtype.kind not in "iuf":
        found = f"{'x'.join(map(str, voxels.shape))} of {voxels.dtype}"
        raise VolumeError(f"{name}: voxels are {found}; an array with three axes of integers or floats is read.")
    affine = check_matrix(name, affine)
    slope, intercept = scaling
    _check_values(name, voxels, slope, intercept)
    orientation = io_orientation(affine)
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    order = np.argsort(orientation[:, 0])
    centre = affine @ np.array([*((np.array(voxels.shape) - 1) / 2), 1.0])
    return Volume(
        voxels=apply_orientation(voxels, orientation),
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
        spacing_mm=tuple(float(spacing[axis]) for axis in order),  # type: ignore[arg-type]  # three of them
        centre_mm=tuple(float(value) for value in centre[:3]),  # type: ignore[arg-type]  # three of them
        stored_axes="".join(nibabel.aff2axcodes(affine)),
        stored_shape=voxels.shape,
        obliquity_degrees=float(np.rad2deg(nibabel.affines.obliquity(affine).max())),
        affine=affine @ inv_ornt_aff(orientation, voxels.shape),
    )


def describe_spacing(spacing_mm: Iterable[float]) -> str:
    """Doubt a voxel size that no scan of a knee has, such as one in metres; return nothing where it is likely.

    Args:
        spacing_mm: The voxel size along any axes.
    """
    low, high = LIKELY_SPACING_MM
    unlikely = [size for size in spacing_mm if not low <= size <= high]
    return f"a voxel of {unlikely[0]:.4g} mm, which no scan of a knee has; check its unit" if unlikely else ""


def describe_obliquity(degrees: float) -> str:
    """Doubt that slices of a scan lie in the plane that they are called after; return nothing where it is likely.

    Slices are cut along the stored axes, each of which counts as the anatomical one that is nearest.

    Args:
        degrees: The largest angle between a stored axis and its anatomical one.
    """
    if degrees <= LIKELY_OBLIQUITY_DEGREES:
        return ""
    return f"axes turned by {degrees:.0f} degrees against the body's: its slices lie between two planes"


def describe_shear(affine: Array) -> str:
    """Doubt the places of slices whose axes do not meet at right angles; return nothing where these do, nearly.

    Distances are taken along the stored axes: of slices tilted by 20 degrees they are 6 % longer than along the normal.

    Args:
        affine: ``(4, 4)``, from voxel indices to world millimetres.
    """
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    cosines = np.abs(axes.T @ axes - np.eye(3))
    degrees = float(np.rad2deg(np.arcsin(min(1.0, cosines.max()))))
    if degrees <= LIKELY_SHEAR_DEGREES:
        return ""
    return f"axes {degrees:.0f} degrees off a right angle, as of a tilted gantry; they are taken as right ones"


def check_matrix(name: str, affine: Array) -> Array:
    """Return the affine; refuse one from which left and right cannot be read."""
    from nibabel.orientations import io_orientation

    axes = affine[:3, :3]
    if (
        affine.shape != (4, 4)
        or not np.isfinite(affine).all()
        or abs(np.linalg.det(axes)) <= 1e-9 * np.prod(np.linalg.norm(axes, axis=0))  # voxels may be of any size
        or np.isnan(io_orientation(affine)).any()
    ):
        raise VolumeError(f"{name}: no valid affine (singular or not finite): left and right are unknown.")
    return affine


def _check_values(name: str, voxels: Array, slope: float | None, intercept: float | None) -> None:
    flat = voxels.ravel(order="K")
    # One pass without a copy is enough, because min() carries NaN along; integers have no NaN to look for.
    limits = flat if flat.dtype.kind == "f" else np.array([np.iinfo(flat.dtype).min, np.iinfo(flat.dtype).max])
    low, high = float(limits.min()), float(limits.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise VolumeError(f"{name}: NaN or infinite voxels. Repair or leave out the scan.")
    # In all but constant scans the first piece already differs from its first voxel.
    pieces = (flat[start : start + PIECE] for start in range(0, len(flat), PIECE))
    if not any((piece != flat[0]).any() for piece in pieces):
        raise VolumeError(f"{name}: constant, every voxel is {flat[0]}. There is nothing to see.")
    if slope is not None and not np.isfinite(slope + (intercept or 0.0)):
        raise VolumeError(f"{name}: scl_slope or scl_inter is not finite. Repair the header.")
    if slope == 0:
        raise VolumeError(
            f"{name}: the scale of intensities is 0, so that every voxel is {intercept or 0:g}. Repair it."
        )
    factor, largest = 1.0 if slope is None else abs(slope), max(abs(low), abs(high))
    if max(largest, factor, largest * factor, abs(intercept or 0.0)) > MAX_INTENSITY:
        raise VolumeError(f"{name}: intensities reach beyond {MAX_INTENSITY:g}. Repair the header or the voxels.")
