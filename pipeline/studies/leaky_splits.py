"""Ways to split slices, images or whole scans, all but one of which leak, and labels that mean nothing.

These splits are for the leak study alone: none of them is written to a folder that training reads.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.config.sources import SplitConfig
from pipeline.config.studies import LeakStudyConfig
from pipeline.core.array_types import Array
from pipeline.core.data_kinds import DataKind
from pipeline.core.errors import UserError
from pipeline.core.text import plural
from pipeline.data.splits import SPLITS, assign_splits
from pipeline.data.store import Store

# From the one that leaks most to the one that does not. Images have no slices, so that image and scan are one; whole
# scans are split as slices are, but for the first way.
SPLIT_UNITS = ("slice", "volume", "side", "patient")
IMAGE_UNITS = ("image", "side", "patient")
LABELLINGS = ("true", "shuffled")


@dataclass(frozen=True)
class LeakyRun:
    """One model of the leak study: the splits of its slices or images, and the labels that it learns.

    Args:
        unit: The unit that is kept in one split, one of ``SPLIT_UNITS`` or ``IMAGE_UNITS``.
        labelling: The kind of labels, one of ``LABELLINGS``.
        seed: The seed of the split, the shuffled labels, the first weights and the order of training.
        rows: ``(slices,)``, the rows of the store.
        labels: ``(slices,)``, the class names to be learned.
        splits: ``(slices,)``: train, val, test, or an empty text for none.
    """

    unit: str
    labelling: str
    seed: int
    rows: Array
    labels: Array
    splits: Array

    @property
    def name(self) -> str:
        """The name of the model's files."""
        return f"{self.unit}-{self.labelling}-seed-{self.seed}"

    @property
    def num_train(self) -> int:
        """The number of training examples."""
        return int((self.splits == SPLITS[0]).sum())


def plan_leaky_runs(store: Store, options: LeakStudyConfig, split: SplitConfig) -> list[LeakyRun]:
    """List the models of the study: for each seed, each way to split with true and with shuffled labels.

    Args:
        store: The slices, or images of patients.
        options: The seeds, and the number of slices of each volume.
        split: The fractions of the splits.

    Raises:
        UserError: Too few patients, scans or slices to split, or one image of each patient.
    """
    rows = choose_middle_slices(store.index, options.num_slices)
    index = store.index.iloc[rows].reset_index(drop=True)
    units = list_units(index, store.kind)
    runs = []
    for seed in options.seeds:
        splits = {unit: assign_by_unit(index, unit, split, seed) for unit in units}
        splits = equalize_training(splits, seed)
        labels = {
            "true": index["label"].to_numpy(dtype=str),
            "shuffled": shuffle_labels(index, store.class_names, seed),
        }
        runs += [
            LeakyRun(unit, labelling, seed, rows, labels[labelling], splits[unit])
            for unit, labelling in itertools.product(units, LABELLINGS)
        ]
    return runs


def list_units(index: pd.DataFrame, kind: DataKind) -> tuple[str, ...]:
    """List the units to split by, from the one that leaks most to patients.

    Of images and whole scans a unit is left out that is the same as a finer one, as one knee of each patient is the
    patient; of slices all are kept, so that studies can be compared.

    Args:
        index: One row for each slice, image or whole scan.
        kind: The kind of data.

    Raises:
        UserError: Each patient has one image, and no way to split can leak.
    """
    if kind.has_slices:
        return SPLIT_UNITS
    units = SPLIT_UNITS[1:] if kind.has_places else IMAGE_UNITS
    whole, what = units[0], kind.source
    counts = {unit: name_units(index, unit).nunique() for unit in units}
    if counts[whole] == counts["patient"]:
        raise UserError(
            f"leak-study: each of the {counts['patient']} patients has one {what}, so that no split by {what} can "
            f"leak. The study needs several {plural(what)} of a patient."
        )
    # Each unit consists of finer ones, so that equal numbers are equal units.
    is_new = counts[whole] > counts["side"] > counts["patient"]
    return units if is_new else (whole, "patient")


def name_units(index: pd.DataFrame, unit: str) -> pd.Series:
    """Return the name of the unit that each slice belongs to.

    Args:
        index: One row for each slice.
        unit: ``slice`` or ``image``: each by itself. ``volume``: the slices of a scan. ``side``: the scans or images of
            a patient that have the same label, so one knee. ``patient``: all of a patient.
    """
    if unit == "side":
        return index["group_id"] + " " + index["label"]
    return index[{"slice": "example_id", "image": "example_id", "volume": "source_id", "patient": "group_id"}[unit]]


def choose_middle_slices(index: pd.DataFrame, number: int) -> Array:
    """Return the row numbers of some slices of each volume: neighbours, from its middle.

    Neighbours resemble each other as they do in the whole volume; slices taken here and there would leak less.

    Args:
        index: One row for each slice.
        number: The number of slices of each volume; all of a volume that has fewer, and all of every volume where it
            is 0.
    """
    ordered = index.reset_index(drop=True).sort_values(["source_id", "slice_index"], kind="stable")
    chosen = []
    for _, rows in ordered.groupby("source_id", sort=False):
        wanted = len(rows) if number == 0 else min(number, len(rows))
        start = (len(rows) - wanted) // 2
        chosen.append(rows.index.to_numpy()[start : start + wanted])
    return np.sort(np.concatenate(chosen))


def assign_by_unit(index: pd.DataFrame, unit: str, options: SplitConfig, seed: int) -> Array:
    """Assign every slice to a split: units are split by the fractions, stratified by their labels.

    Args:
        index: One row for each slice.
        unit: The unit that is kept in one split, one of ``SPLIT_UNITS`` or ``IMAGE_UNITS``.
        options: The fractions, and whether to stratify; folds and tables are not read.
        seed: The seed of the random number generator.

    Returns:
        ``(slices,)``: train, val or test.

    Raises:
        UserError: Too few units.
    """
    units = name_units(index, unit)
    plain = SplitConfig(
        val_fraction=options.val_fraction, test_fraction=options.test_fraction, stratify=options.stratify, seed=seed
    )
    splits = assign_splits(index.assign(group_id=units), plain)
    roles = units.map(dict(zip(splits["group_id"], splits["split"], strict=True)))
    return np.asarray(roles, dtype=str)


def equalize_training(splits: dict[str, Array], seed: int) -> dict[str, Array]:
    """Leave training slices out at random until every way to split trains on the same number.

    Then each makes the same number of steps in an epoch.

    Args:
        splits: The splits ``(slices,)`` for each unit.
        seed: The seed of the random number generator.

    Returns:
        The same, with an empty text for slices that are left out.
    """
    number = min(int((split == SPLITS[0]).sum()) for split in splits.values())
    kept = {}
    for unit, split in splits.items():
        rows = np.flatnonzero(split == SPLITS[0])
        dropped = np.random.default_rng(seed).permutation(rows)[number:]
        kept[unit] = split.copy()
        kept[unit][dropped] = ""
    return kept


def shuffle_labels(index: pd.DataFrame, class_names: tuple[str, ...], seed: int) -> Array:
    """Assign one label to all slices of a patient, whatever they show.

    Patients are sorted by their number of slices, equals in random order, and cut into blocks of as many patients as
    there are classes. Within a block each class is assigned once. So the numbers of patients of the classes differ by
    one at most, and those of slices little.

    Args:
        index: One row for each slice; its labels are not read.
        class_names: The classes to assign.
        seed: The seed of the random number generator.

    Returns:
        ``(slices,)`` class names.
    """
    generator = np.random.default_rng(seed)
    sizes = index.groupby("group_id", sort=True).size()
    patients, numbers = sizes.index.to_numpy(dtype=str), sizes.to_numpy()
    order = np.lexsort((generator.permutation(len(patients)), numbers))
    num_blocks = -(-len(patients) // len(class_names))
    assigned = np.concatenate([generator.permutation(len(class_names)) for _ in range(num_blocks)])[: len(patients)]
    label_of = dict(zip(patients[order], np.array(class_names)[assigned], strict=True))
    return np.asarray(index["group_id"].map(label_of), dtype=str)
