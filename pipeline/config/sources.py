"""The options of the files that are read, and of the split of their patients."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.config.validation import require

# A word of a table where YAML may read another kind of value, such as 0 for the text "0".
Word = str | int | float | bool
PARTS = ("train", "val", "test")
# The visits of the Osteoarthritis Initiative and their months after baseline.
VISIT_MONTHS = {
    "V00": 0, "V01": 12, "V02": 18, "V03": 24, "V04": 30, "V05": 36, "V06": 48, "V08": 72, "V10": 96,
}  # fmt: skip


@dataclass(frozen=True)
class ColumnsConfig:
    """The names of the columns of the table of labels, in upper or lower case.

    ``path``, ``patient`` and ``label`` are needed. Of the others one that is named as its option may be absent, and
    null leaves it unread; a column that is named otherwise must be there.

    Args:
        path: The column of the files: images, volumes, or folders of a DICOM series.
        patient: The column of the patients; one that is called ``group_id`` is taken as well.
        label: The column of the labels.
        side: The column of the sides: left or right, also L or R. Without it the side is the label where that is one.
        visit: The column of the visits.
        site: The column of the sites.
        split: The column of a published split: train, val or test for each patient. A part that it lacks is drawn
            from the patients of train.
        weight: The column of the weights, which multiply the loss of their rows in training.
    """

    path: str = "path"
    patient: str = "patient"
    label: str = "label"
    side: str | None = "side"
    visit: str | None = "visit"
    site: str | None = "site"
    split: str | None = "split"
    weight: str | None = "weight"


def to_texts(words: Mapping[Word, Word | None]) -> dict[str, str | None]:
    """Return the names of an option as the texts that stand in a table; YAML reads some of them as numbers."""
    return {str(old): None if new is None else str(new) for old, new in words.items()}


@dataclass(frozen=True)
class OaiConfig:
    """The scans that are taken of a delivery of the Osteoarthritis Initiative.

    Args:
        series: The series, as its description names it before the side, such as ``SAG_3D_DESS`` or ``COR_IW_TSE``.
        visits: The visits that are taken: V00 (baseline), V01 (12 months), V02 (18), V03 (24), V04 (30), V05 (36), V06
            (48), V08 (72), V10 (96); none takes all.
        sides: The sides that are taken.
        min_extent_mm: The smallest extent of a volume that is taken: a scan that was broken off after a few slices
            shows no knee, which is 80 mm wide and more. 0 takes all.
        label: ``side``; ``akoa`` for accelerated osteoarthritis (``accelerated`` where the Kellgren-Lawrence grade
            rises from 0 or 1 at baseline to 3 or 4 within 48 months, else ``not accelerated``); or a column of a
            clinical table. A column with the visit in front may be named without it, as XRKL for V00XRKL and V03XRKL:
            each scan gets the value of its own visit. ``{side}`` stands for R and L, as in V00WOMKP{side}.
        clinical_tables: The folder of the clinical tables (kxr_sq_bu00.txt, Enrollees.txt, ...); null looks for them
            in the raw folder.
    """

    series: str = "SAG_3D_DESS"
    visits: tuple[str, ...] = ()
    sides: tuple[str, ...] = ("left", "right")
    min_extent_mm: float = 60.0
    label: str = "side"
    clinical_tables: Path | None = None

    def __post_init__(self) -> None:
        require(
            all(visit in VISIT_MONTHS for visit in self.visits), "data.oai.visits", self.visits, ", ".join(VISIT_MONTHS)
        )
        good_sides = bool(self.sides) and set(self.sides) <= {"left", "right"}
        require(good_sides, "data.oai.sides", self.sides, "left, right or both")
        require(self.min_extent_mm >= 0, "data.oai.min_extent_mm", self.min_extent_mm, "a length of 0 mm or more")
        require(bool(self.series.strip()), "data.oai.series", self.series, "the name of a series, such as SAG_3D_DESS")
        require(bool(self.label.strip()), "data.oai.label", self.label, "side, akoa or the name of a column")


@dataclass(frozen=True)
class DataConfig:
    """The files that are read.

    Args:
        dataset: The reader, a key of ``pipeline.datasets.DATASETS``.
        variant: The set of a collection that ``dataset`` names: of MedMNIST the name of its file, such as
            ``breastmnist`` for 28 pixels or ``breastmnist_64``.
        raw_folder: The folder with the files as they came; without it ``data/NAME/raw`` of the workspace, and for a
            published set ``data/DATASET/raw``, the same for all experiments on it.
        pattern: The pattern of file names that are read, such as ``*Label1*``.
        label_table: A CSV (comma, semicolon, tab or pipe) or XLSX with columns ``path, patient, label``, for files
            whose names carry no label or for other labels than the side. Paths are relative to the raw folder, or to
            the table where nothing is there; the table itself may lie in the raw folder.
        columns: The names of the columns of the table.
        covariates: Further columns of the table that are kept in manifest and predictions; all others are dropped.
        bins: The growing limits of the classes that are made of a label that is a number: [50, 60] makes below 50, 50
            to below 60, and 60 and above.
        label_type: The kind of the labels. nominal: classes without an order. ordinal: grades, from the lowest to the
            highest, which are scored by how far apart they are; ``train.loss: corn`` learns their order.
        label_order: The grades from the lowest to the highest, as ``[none, mild, severe]``; without it labels that
            are numbers are sorted as such, and so are the classes of ``bins``.
        merge: New names of labels: two with the same name become one class, and null leaves a label's rows out.
        split_values: New names of the values of a published split: train, val or test, or null to leave rows out.
        oai: The scans that are taken of a delivery of the Osteoarthritis Initiative, where ``dataset`` is ``oai``.
        allow_partial: Accept a published set of which a part is missing; the report then states it.
    """

    dataset: str = "akoa"
    variant: str | None = None
    raw_folder: Path | None = None
    pattern: str = "*"
    label_table: Path | None = None
    columns: ColumnsConfig = dataclasses.field(default_factory=ColumnsConfig)
    covariates: tuple[str, ...] = ()
    bins: tuple[float, ...] = ()
    label_type: Literal["nominal", "ordinal"] = "nominal"
    label_order: tuple[Word, ...] = ()
    merge: dict[Word, Word | None] = dataclasses.field(default_factory=dict)
    split_values: dict[Word, Word | None] = dataclasses.field(default_factory=dict)
    oai: OaiConfig = dataclasses.field(default_factory=OaiConfig)
    allow_partial: bool = False

    def __post_init__(self) -> None:
        growing = list(self.bins) == sorted(set(self.bins)) and all(map(math.isfinite, self.bins))
        require(growing, "data.bins", list(self.bins), "growing numbers, such as [50, 60]")
        for name in ("merge", "split_values"):
            given = getattr(self, name)
            quoted = None not in given and not any(isinstance(word, bool) for word in (*given, *given.values()))
            words = "yes, no, on and off as true and false, and ~ and null as nothing"
            require(quoted, f"data.{name}", given, f"texts; YAML reads {words}: quote them")
        good_order = not self.label_order or self.label_type == "ordinal"
        require(good_order, "data.label_order", list(self.label_order), "nothing where data.label_type is nominal")
        once = len(set(map(str, self.label_order))) == len(self.label_order)
        require(once, "data.label_order", list(self.label_order), "each label once")
        parts = set(to_texts(self.split_values).values()) - {None}
        require(parts <= set(PARTS), "data.split_values", self.split_values, f"{', '.join(PARTS)} or null as new names")
        twice = len({name.strip().casefold() for name in self.covariates}) < len(self.covariates)
        require(not twice, "data.covariates", list(self.covariates), "each column once")


@dataclass(frozen=True)
class SplitConfig:
    """The split of the patients into train, validation and test.

    A published set keeps its own test rows, and its validation rows where it has any; else validation is drawn from its
    training rows, image by image. A published split of a table of
    labels is kept too, and a part that it lacks drawn from the patients of its train, of whom ``val_fraction`` and
    ``test_fraction`` then are the fractions.

    Args:
        val_fraction: The fraction of the patients for validation; of a published set, the fraction of its training
            rows.
        val_count: The number of a published set's rows for validation; null takes ``val_fraction``.
        test_fraction: The fraction of the patients for the test; not read where the set has published test rows.
        num_folds: The number of folds; 0 makes one split by fractions.
        test_fold: The fold that is the test, where there are folds; the next one is validation.
        split_table: A table with columns ``group_id`` (or ``patient``) and ``split`` that is taken as it is.
        stratify: Keep the mix of the patients' sets of labels in every split.
        seed: The seed of the random number generator.
        accept_copies: Pairs of scans, as ``leak_certificate.json`` names them, that may lie in two splits although
            they show the same: a person looked at them. The report names them. Of scans that are not in the data, as
            where a part of a set is taken, there is a warning.
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
