"""The slices of the store in the pixels that their scans have, over the same field of view."""

import dataclasses
import hashlib
import math
from pathlib import Path

from pipeline.config.data import PreprocessConfig
from pipeline.core.array_types import Array
from pipeline.core.errors import UserError
from pipeline.data.resampling import choose_spacing
from pipeline.data.sources import Source
from pipeline.formats.image_files import read_pixels
from pipeline.formats.volume import Volume
from pipeline.preprocessing.slicing import cut_stack, find_slice_axis, read_image_stack, read_scan

MAX_RATIO = 16  # native pixels along a side of a stored one; finer scans are drawn at this ratio


def read_native(raw: Path, source: Source, options: PreprocessConfig, sha256: str) -> tuple[Array, Volume | None]:
    """Cut slices again as they were cut for the store, into as many more pixels as the scan has.

    Plane, slices, window and field of view are those of the stored slices: each of their pixels is replaced by a square
    of whole pixels, of which one is no larger than the scan's own.

    Args:
        raw: The folder that the source's paths are relative to.
        source: The scan.
        options: The options that the store was made with.
        sha256: The checksum of the scan when it was cut, as in the manifest.

    Returns:
        (slices, height, width) uint8, whole multiples of ``options.image_size``, and the volume that they were cut
        from; None where they came as image files.

    Raises:
        UserError: the scan is not there, cannot be read, or is another than the one that was cut.
    """
    paths = [raw / path for path in source.paths]
    for path in paths:
        if not path.exists():
            raise UserError(
                f"{path}: no such file, so the slice cannot be drawn. Set attention.native_resolution: false."
            )
    volume = None
    if source.is_volume:
        volume = read_scan(tuple(paths), options.max_volume_bytes)
        shape = volume.voxels.shape
        axis = find_slice_axis(shape, options.plane)
        column_axis, row_axis = (other for other in range(3) if other != axis)
        pixel_mm = (volume.spacing_mm[row_axis], volume.spacing_mm[column_axis])
        fine = refine(options, (shape[row_axis], shape[column_axis]), pixel_mm)
        check_digest(paths[0], volume.sha256, sha256)
        images = cut_stack(volume, fine, str(paths[0])).images
    else:
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
        _, height, width = read_pixels(paths[0]).values.shape
        fine = refine(dataclasses.replace(options, spacing_mm=None), (height, width), (1.0, 1.0))
        # Image files have no millimetres: they are fitted whole, as for the store.
        fine = dataclasses.replace(fine, spacing_mm=None)
        check_digest(paths[0], digest, sha256)
        images = read_image_stack(tuple(paths), fine).images
    return images, volume


def check_digest(path: Path, digest: str, sha256: str) -> None:
    """Refuse a scan that is another than the one in the store.

    Args:
        path: Its first file, for the message.
        digest: Its checksum now.
        sha256: The checksum when it was cut, as in the manifest.

    Raises:
        UserError: the two differ.
    """
    if digest != sha256:
        raise UserError(f"{path}: not the file that was cut for the store. Restore it, or run preprocess again.")


def refine(options: PreprocessConfig, num_pixels: tuple[int, int], pixel_mm: tuple[float, float]) -> PreprocessConfig:
    """Choose a size that is a whole multiple of the stored one and has pixels as small as the scan's.

    Args:
        options: The options that the store was made with.
        num_pixels: The rows and columns of the slice.
        pixel_mm: The height and the width of its pixels.

    Returns:
        The same options with ``image_size`` and ``spacing_mm`` replaced, the field of view kept.
    """
    fitted = choose_spacing(num_pixels, pixel_mm, options.image_size, options.fit)
    stored_mm = options.spacing_mm or max(fitted)
    # A ratio that is whole but for rounding is not raised to the next.
    ratio = min(MAX_RATIO, max(1, math.ceil(stored_mm / min(pixel_mm) - 1e-6)))
    size = (options.image_size[0] * ratio, options.image_size[1] * ratio)
    spacing_mm = None if options.spacing_mm is None and options.fit == "stretch" else stored_mm / ratio
    return dataclasses.replace(options, image_size=size, spacing_mm=spacing_mm)
