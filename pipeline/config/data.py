"""The options of reading, slicing and splitting."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.config.validation import require, require_at_least

Plane = Literal["axial", "coronal", "sagittal"]
# The options of preprocess that decide what a stored slice looks like.
SHAPING = ("plane", "num_slices", "slice_range", "spacing_mm", "image_size", "intensity_percentiles", "max_volume_gib")


@dataclass(frozen=True)
class DataConfig:
    """The files that are read.

    Args:
        dataset: The reader, a key of ``pipeline.datasets.DATASETS``.
        raw_folder: The folder with the files as they came; without it ``data/NAME/raw`` of the workspace, and for a
            published set ``data/DATASET/raw``, the same for all experiments on it.
        pattern: The pattern of file names that are read, such as ``*Label1*``.
        label_table: A CSV with columns ``path, patient, label`` (paths relative to the raw folder), for names
            that carry no label or for other labels than the side.
        allow_partial: Accept a published set of which a part is missing; the report then states it.
    """

    dataset: str = "akoa"
    raw_folder: Path | None = None
    pattern: str = "*"
    label_table: Path | None = None
    allow_partial: bool = False


@dataclass(frozen=True)
class PreprocessConfig:
    """The slices that a volume is cut into.

    Args:
        plane: The anatomical plane of the slices, found from the affine and never from the array's order.
        num_slices: The number of slices taken from a volume, evenly spaced.
        slice_range: The part of the slicing axis that they span, as fractions of its length counted
            from the left, the posterior or the inferior end.
        spacing_mm: The size of an output pixel; without it the whole slice is fitted into ``image_size``.
        image_size: The output height and width in pixels.
        intensity_percentiles: The intensities (in percent of the sliced voxels) that become black and white.
        max_volume_gib: The largest volume; a header that claims more is refused before anything is read.
        export_png: Also write the slices as PNG files under AKOA's own names.
        skip_refused: Continue without the files that were refused, instead of ending with exit code 2.
        num_workers: The number of processes; 0 means one a core.
        dask_scheduler: The address of a dask scheduler, ``tcp://host:8786``; its workers then cut the volumes, and
            ``num_workers`` is not read. null cuts them on this machine.
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


@dataclass(frozen=True)
class SplitConfig:
    """The split of the patients into train, validation and test.

    A published set keeps its own test rows; only validation is drawn, from its training rows, image by image.

    Args:
        val_fraction: The fraction of the patients for validation; of a published set, the fraction of its training
            rows.
        val_count: The number of a published set's rows for validation; null takes ``val_fraction``.
        test_fraction: The fraction of the patients for the test; not read where the set has published test rows.
        num_folds: The number of folds; 0 makes one split by fractions.
        test_fold: The fold that is the test, where there are folds; the next one is validation.
        split_table: A CSV with columns ``group_id, split`` that is taken as it is.
        stratify: Keep the mix of the patients' sets of labels in every split.
        seed: The seed of the random number generator.
        accept_copies: Pairs of scans, as ``leak_certificate.json`` names them, that may lie in two splits although
            they show the same: a person looked at them. The report names them.
    """

    val_fraction: float = 0.15
    val_count: int | None = None
    test_fraction: float = 0.25
    num_folds: int = 0
    test_fold: int = 0
    split_table: Path | None = None
    stratify: bool = True
    seed: int = 0
    accept_copies: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for field in ("val_fraction", "test_fraction"):
            fraction = getattr(self, field)
            require(0 < fraction < 1, f"split.{field}", fraction, "between 0 and 1")
        good_count = self.val_count is None or self.val_count >= 1
        require(good_count, "split.val_count", self.val_count, "1 or more, or null")
        total = self.val_fraction + self.test_fraction
        require(total < 1, "split.val_fraction + split.test_fraction", total, "below 1, or nothing is left to train")
        require(self.num_folds == 0 or self.num_folds >= 3, "split.num_folds", self.num_folds, "0, or 3 and more")
        good_fold = 0 <= self.test_fold < max(1, self.num_folds)
        require(good_fold, "split.test_fold", self.test_fold, f"0 to {max(1, self.num_folds) - 1}")
        for pair in self.accept_copies:
            require(pair[0] != pair[1], "split.accept_copies", pair, "pairs of two different scans")
