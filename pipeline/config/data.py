"""The options of slicing."""

import re
from dataclasses import dataclass
from typing import Literal

from pipeline.config.validation import require, require_at_least

Plane = Literal["axial", "coronal", "sagittal"]
Fit = Literal["pad", "crop", "stretch"]
Unit = Literal["slice", "volume"]
# The options of preprocess that decide what a stored slice looks like.
SHAPING = (
    "unit", "plane", "num_slices", "slice_range", "spacing_mm", "image_size", "fit", "colour", "intensity_percentiles",
    "max_volume_gib",
)  # fmt: skip


@dataclass(frozen=True)
class PreprocessConfig:
    """The slices that a volume is cut into, or the size that an image is fitted into.

    Args:
        unit: What one example of a scan is. slice: each slice by itself. volume: all its slices together, with the
            place of each in millimetres, of published volumes in voxels; images are not affected.
        plane: The anatomical plane of the slices, found from the affine and never from the array's order; of images
            the plane that they show, which decides whether a mirror image is one of the other side.
        num_slices: The number of slices taken from a volume, evenly spaced; all of the range where it has fewer.
        slice_range: The part of the slicing axis that they span, as fractions of its length counted
            from the left, the posterior or the inferior end.
        spacing_mm: The size of an output pixel; without it, or where a file does not hold the size of its pixels, the
            slice or image is fitted into ``image_size``.
        image_size: The output height and width in pixels.
        fit: How it is fitted. pad: the whole of it, black around it. crop: so that it fills the frame, and
            what sticks out is lost. stretch: height and width by themselves.
        colour: The colour of images. keep: three channels where any image is in colour. grey: all turned grey.
        intensity_percentiles: The intensities (in percent of the sliced voxels) that become black and white; of
            images those of more than 8 bits, where no header says so.
        max_volume_gib: The largest volume; a header that claims more is refused before anything is read.
        export_png: Also write the slices as PNG files under AKOA's own names.
        skip_refused: Continue without the files that were refused, instead of ending with exit code 2.
        num_workers: The number of processes; 0 means one a core.
        dask_scheduler: The address of a dask scheduler, ``tcp://host:8786``; its workers then cut the volumes, and
            ``num_workers`` is not read. null cuts them on this machine.
    """

    unit: Unit = "slice"
    plane: Plane = "axial"
    num_slices: int = 40
    slice_range: tuple[float, float] = (0.1, 0.9)
    spacing_mm: float | None = None
    image_size: tuple[int, int] = (64, 64)
    fit: Fit = "pad"
    colour: Literal["keep", "grey"] = "keep"
    intensity_percentiles: tuple[float, float] = (1.0, 99.0)
    max_volume_gib: float = 4.0
    export_png: bool = False
    skip_refused: bool = False
    num_workers: int = 0
    dask_scheduler: str | None = None

    @property
    def max_volume_bytes(self) -> int:
        return int(self.max_volume_gib * 2**30)

    def __post_init__(self) -> None:
        require_at_least("preprocess", self, 1, "num_slices")
        for field, largest in (("slice_range", 1), ("intensity_percentiles", 100)):
            low, high = getattr(self, field)
            allowed = f"two growing numbers, 0 to {largest}"
            require(0 <= low < high <= largest, f"preprocess.{field}", (low, high), allowed)
        require(min(self.image_size) >= 1, "preprocess.image_size", self.image_size, "two numbers of pixels, 1 or more")
        good_spacing = self.spacing_mm is None or self.spacing_mm > 0
        require(good_spacing, "preprocess.spacing_mm", self.spacing_mm, "a length above 0 mm, or null")
        require(self.max_volume_gib > 0, "preprocess.max_volume_gib", self.max_volume_gib, "above 0")
        require(self.num_workers >= 0, "preprocess.num_workers", self.num_workers, "0 (one a core) or more")
        address = self.dask_scheduler
        good_address = address is None or re.fullmatch(r"(tcp|tls)://\S+:\d+", address) is not None
        require(good_address, "preprocess.dask_scheduler", address, "an address as tcp://host:8786, or null")
