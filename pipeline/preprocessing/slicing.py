"""From an oriented volume to a stack of grey images of one size.

Images are turned as a radiologist sees them: the patient's right is on the
left of an axial or coronal image, anterior or superior is on top; a sagittal
image has anterior on its left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from einops import rearrange

from pipeline.config.data import Plane, PreprocessConfig
from pipeline.core.array_types import Array
from pipeline.core.data_kinds import IMAGE_SUFFIXES
from pipeline.core.errors import VolumeError
from pipeline.data.resampling import choose_spacing, resample
from pipeline.formats.archives import is_archive
from pipeline.formats.dicom import is_dicom, read_series
from pipeline.formats.image_files import read_pixels, turn_grey
from pipeline.formats.nifti import SUFFIXES as NIFTI_SUFFIXES
from pipeline.formats.nifti import read_volume
from pipeline.formats.volume import Volume

PLANE_AXIS: dict[Plane, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
# A percentile from so many voxels is exact to a fraction of a grey level.
MAX_PERCENTILE_VOXELS = 1 << 18


@dataclass(frozen=True)
class Stack:
    """The images of one source.

    Args:
        images: ``(slices, height, width)`` uint8.
        positions: ``(slices,)`` float32, the place along the slicing axis: -1 its left, posterior
            or inferior end, 1 the other.
        places_mm: ``(slices, 3)`` float32: the position along the slicing axis from the centre of the volume, and the
            height and width of the image; NaN where the slices came as images.
        low: The intensity that became black, in scanner units.
        high: The intensity that became white.
    """

    images: Array
    positions: Array
    places_mm: Array
    low: float
    high: float


def read_stack(
    paths: tuple[Path, ...], options: PreprocessConfig, needs_orientation: bool = True
) -> tuple[Stack, Volume | None]:
    """Read a scan and cut it into slices, as for the store.

    Args:
        paths: One NIfTI file; the image files of one scan in the order of their slices; or the files of one DICOM
            series, their folder, or an archive of them.
        options: The options of slicing, and the largest size of a volume.
        needs_orientation: Whether to refuse a volume whose file does not define the directions of its axes.

    Returns:
        The slices, and the volume that they were cut from; None where they came as image files.

    Raises:
        VolumeError: a file that cannot be used as a scan.
    """
    if paths[0].name.lower().endswith(IMAGE_SUFFIXES):
        return read_image_stack(paths, options), None
    volume = read_scan(paths, options.max_volume_bytes, needs_orientation)
    return cut_stack(volume, options, str(paths[0] if len(paths) == 1 else paths[0].parent)), volume


def read_scan(paths: tuple[Path, ...], max_bytes: int, needs_orientation: bool = True) -> Volume:
    """Read a volume from a NIfTI file, or from a DICOM series.

    Args:
        paths: One NIfTI file; or the files of one series, their folder, or an archive of them.
        max_bytes: The largest size of a volume.
        needs_orientation: Whether to refuse a NIfTI file that does not define the directions of its axes.

    Raises:
        VolumeError: it cannot be used as a volume.
    """
    path = paths[0]
    is_nifti = path.name.lower().endswith(NIFTI_SUFFIXES)
    if path.is_dir() or is_archive(path) or (not is_nifti and is_dicom(path)):
        return read_series(str(path if len(paths) == 1 else path.parent), paths, max_bytes)
    return read_volume(path, max_bytes, needs_orientation)


def choose_slices(num_available: int, num_slices: int, span: tuple[float, float]) -> Array:
    """Return the indices of evenly spaced slices, growing and all different.

    Args:
        num_available: The number of slices that the volume has.
        num_slices: The number of slices to return; fewer are returned where the span holds fewer.
        span: The fractions of the axis between which they lie.
    """
    start, end = (fraction * (num_available - 1) for fraction in span)
    wanted = np.linspace(start, end, num_slices) if num_slices > 1 else np.array([(start + end) / 2])
    return np.unique(np.floor(wanted + 0.5).astype(int))


def find_slice_axis(shape: Sequence[int], plane: Plane) -> int:
    """Return the axis along which the slices of a volume follow each other.

    Args:
        shape: Its voxels along (right, anterior, superior). One that is one voxel thick is its own only slice.
        plane: The plane of the slices of the others.
    """
    return list(shape).index(1) if 1 in shape else PLANE_AXIS[plane]


def cut_stack(volume: Volume, options: PreprocessConfig, name: str) -> Stack:
    """Cut a volume into images.

    Args:
        volume: A volume with axes (right, anterior, superior).
        options: The plane, number, span, spacing, size and percentiles. A volume one voxel thick is
            its own only slice, axial where they say coronal, or the other way round.
        name: The name of the file, for messages.

    Raises:
        VolumeError: the chosen slices are constant, or the only slice is sagittal and others are not, or the other way
            round: their flips exchange left and right, or they do not.
    """
    shape = volume.voxels.shape
    axis = find_slice_axis(shape, options.plane)
    if (axis == PLANE_AXIS["sagittal"]) != (options.plane == "sagittal"):
        found = next(plane for plane, number in PLANE_AXIS.items() if number == axis)
        raise VolumeError(
            f"{name}: its only slice is {found}, and preprocess.plane is {options.plane}; left and right do not lie "
            f"alike in the two. Set preprocess.plane: {found}, or leave it out."
        )
    indices = choose_slices(shape[axis], options.num_slices, options.slice_range)
    slices = np.moveaxis(volume.voxels, axis, 0)[indices]
    # The two axes left are in the order right, anterior, superior; an image's rows run down the later one.
    slices = rearrange(slices[:, ::-1, ::-1], "slice column row -> slice row column").astype(np.float32)
    if (volume.slope, volume.intercept) != (1, 0):
        slices = slices * np.float32(volume.slope) + np.float32(volume.intercept)
    column_axis, row_axis = (other for other in range(3) if other != axis)
    low, high = choose_window(slices, options.intensity_percentiles)
    if not low < high:
        raise VolumeError(f"{name}: the {options.plane} slices are constant ({low:g}). Widen preprocess.slice_range.")
    pixel_mm = (volume.spacing_mm[row_axis], volume.spacing_mm[column_axis])
    images = resample(slices, (low, high), pixel_mm, options.spacing_mm, options.image_size, options.fit)
    fitted_mm = choose_spacing((shape[row_axis], shape[column_axis]), pixel_mm, options.image_size, options.fit)
    output_mm = fitted_mm if options.spacing_mm is None else (options.spacing_mm, options.spacing_mm)
    places_mm = np.empty((len(indices), 3), np.float32)
    places_mm[:, 0] = (indices - (shape[axis] - 1) / 2) * volume.spacing_mm[axis]
    places_mm[:, 1:] = np.multiply(options.image_size, output_mm)
    return Stack(images, _positions(indices, shape[axis]), places_mm, low, high)


def read_image_stack(paths: tuple[Path, ...], options: PreprocessConfig) -> Stack:
    """Read the already sliced images of one source, turned grey.

    Grey levels of 8 bits are kept as they are; of more, percentiles of the scan's slices become black and white.

    Args:
        paths: The image files, in the order of the slices.
        options: The size, fit, number of slices, span and percentiles.

    Raises:
        VolumeError: unreadable, of several sizes, or all constant.
    """
    chosen = choose_slices(
        len(paths), options.num_slices, options.slice_range if len(paths) > options.num_slices else (0.0, 1.0)
    )
    read = [read_pixels(paths[index]) for index in chosen]
    grey_images = [turn_grey(pixels.values)[0] for pixels in read]
    if len({image.shape for image in grey_images}) > 1:
        sizes = sorted({f"{image.shape[1]}x{image.shape[0]}" for image in grey_images})
        raise VolumeError(f"{paths[0]}: the slices of this scan have several sizes ({', '.join(sizes)}).")
    stack = np.stack(grey_images).astype(np.float32)
    if stack.min() == stack.max():
        raise VolumeError(f"{paths[0]}: every pixel of this scan is {stack.max():.0f}. There is nothing to see.")
    limits = {pixels.limits for pixels in read}
    low, high = limits.pop() or (0.0, 0.0) if len(limits) == 1 else (0.0, 0.0)
    if not low < high:
        low, high = choose_window(stack, options.intensity_percentiles)
    images = resample(stack, (low, high), (1.0, 1.0), None, options.image_size, options.fit)
    return Stack(images, _positions(chosen, len(paths)), np.full((len(images), 3), np.nan, np.float32), low, high)


def _positions(indices: Array, num_available: int) -> Array:
    return (indices * (2 / max(1, num_available - 1)) - (num_available > 1)).astype(np.float32)


def choose_window(slices: Array, percentiles: tuple[float, float]) -> tuple[float, float]:
    """Return the intensities at the percentiles, or the whole range where these coincide (masks do that).

    Args:
        slices: ``(slices, rows, columns)``.
        percentiles: The percentages that become black and white.
    """
    step = max(1, round((slices.size / MAX_PERCENTILE_VOXELS) ** 0.5))
    low, high = np.percentile(slices[:, ::step, ::step], percentiles)
    return (float(low), float(high)) if low < high else (float(slices.min()), float(slices.max()))
