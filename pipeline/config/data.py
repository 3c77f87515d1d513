"""The options of what is read, sliced and divided, and of where records are kept."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.config.validation import require

Plane = Literal["axial", "coronal", "sagittal"]


@dataclass(frozen=True)
class DataConfig:
    """Which files are read.

    Args:
        dataset: the reader, a key of ``pipeline.datasets.DATASETS``.
        raw_folder: the folder with the files as they came; without it ``data/NAME/raw`` of the workspace, and for a
            published set ``data/DATASET/raw``, which all experiments on it share.
        pattern: only file names that match are read, e.g. ``*Label1*``.
        label_table: a CSV with columns ``path, patient, label`` (paths relative to the raw folder), for names
            that carry no label or for other labels than the side.
        allow_partial: take a published set of which a part is missing; the report then says so.
    """

    dataset: str = "akoa"
    raw_folder: Path | None = None
    pattern: str = "*"
    label_table: Path | None = None
    allow_partial: bool = False


@dataclass(frozen=True)
class PreprocessConfig:
    """How a volume becomes pictures.

    Args:
        plane: the anatomical plane of the pictures, found from the affine and never from the array's order.
        num_slices: pictures taken from a volume, evenly spaced.
        slice_range: the part of the slicing axis that they span, as fractions of its length counted
            from the left, the posterior or the inferior end.
        spacing_mm: the size of an output pixel; without it the whole slice is fitted into ``image_size``.
        image_size: output height and width in pixels.
        intensity_percentiles: the intensities (in percent of the sliced voxels) that become black and white.
        max_volume_gib: a header that claims more than this is refused before anything is read.
        export_png: also write the pictures as PNG files under AKOA's own names.
        skip_refused: go on without the files that were refused, instead of ending with exit code 2.
        num_workers: processes; 0 means one a core.
        dask_scheduler: volumes are cut on the workers of the dask scheduler at this address, ``tcp://host:8786``, and
            ``num_workers`` is not read; null cuts them on this machine.
    """

    plane: Plane = "axial"
    num_slices: int = 40
    slice_range: tuple[float, float] = (0.1, 0.9)
    spacing_mm: float | None = None
    image_size: tuple[int, int] = (64, 64)
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
        require(self.num_slices >= 1, "preprocess.num_slices", self.num_slices, "1 or more")
        start, end = self.slice_range
        require(
            0 <= start < end <= 1, "preprocess.slice_range", self.slice_range, "two growing fractions between 0 and 1"
        )
        low, high = self.intensity_percentiles
        require(
            0 <= low < high <= 100,
            "preprocess.intensity_percentiles",
            self.intensity_percentiles,
            "two growing numbers, 0 to 100",
        )
        require(min(self.image_size) >= 1, "preprocess.image_size", self.image_size, "two numbers of pixels, 1 or more")
        good_spacing = self.spacing_mm is None or self.spacing_mm > 0
        require(good_spacing, "preprocess.spacing_mm", self.spacing_mm, "a length above 0 mm, or null")
        require(self.max_volume_gib > 0, "preprocess.max_volume_gib", self.max_volume_gib, "above 0")
        require(self.num_workers >= 0, "preprocess.num_workers", self.num_workers, "0 (one a core) or more")
        good_address = (
            self.dask_scheduler is None or re.fullmatch(r"(tcp|tls)://\S+:\d+", self.dask_scheduler) is not None
        )
        require(
            good_address, "preprocess.dask_scheduler", self.dask_scheduler, "an address as tcp://host:8786, or null"
        )


@dataclass(frozen=True)
class SplitConfig:
    """How patients are divided.

    A published set keeps its own test rows; only validation is drawn, from its training rows, image by image.

    Args:
        val_fraction: share of the patients for validation; of a published set, share of its training rows.
        val_count: of a published set, the number of rows for validation; null takes ``val_fraction``.
        test_fraction: share of the patients for the test; not read where the set has published test rows.
        num_folds: 0 for one split by fractions; k for k folds.
        test_fold: with folds, the one that is the test; the next one is validation.
        split_table: a CSV with columns ``group_id, split`` that is taken as it is.
        stratify: keep the mix of the patients' sets of labels in every split.
        seed: the draw.
        near_duplicate_max_bits: pictures of two splits whose 256-bit perceptual hashes differ
            in at most so many bits, and whose pixels correlate, are listed as near-identical.
    """

    val_fraction: float = 0.15
    val_count: int | None = None
    test_fraction: float = 0.25
    num_folds: int = 0
    test_fold: int = 0
    split_table: Path | None = None
    stratify: bool = True
    seed: int = 0
    near_duplicate_max_bits: int = 6

    def __post_init__(self) -> None:
        require(0 < self.val_fraction < 1, "split.val_fraction", self.val_fraction, "between 0 and 1")
        require(0 < self.test_fraction < 1, "split.test_fraction", self.test_fraction, "between 0 and 1")
        good_count = self.val_count is None or self.val_count >= 1
        require(good_count, "split.val_count", self.val_count, "1 or more, or null")
        total = self.val_fraction + self.test_fraction
        require(total < 1, "split.val_fraction + split.test_fraction", total, "below 1, or nothing is left to train")
        require(self.num_folds == 0 or self.num_folds >= 3, "split.num_folds", self.num_folds, "0, or 3 and more")
        good_fold = 0 <= self.test_fold < max(1, self.num_folds)
        require(good_fold, "split.test_fold", self.test_fold, f"0 to {max(1, self.num_folds) - 1}")
        require(
            0 <= self.near_duplicate_max_bits <= 255,
            "split.near_duplicate_max_bits",
            self.near_duplicate_max_bits,
            "0 to 255",
        )
