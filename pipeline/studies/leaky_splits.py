"""Four ways to divide pictures, three of which leak, and labels that mean nothing.

What is divided here is for the leak demonstration alone: nothing of it is written to where training looks.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.config.data import SplitConfig
from pipeline.config.studies import LeakStudyConfig
from pipeline.core.array_types import Array
from pipeline.data.splits import SPLITS, assign_splits
from pipeline.data.store import Store

# From the one that leaks most to the one that does not.
SPLIT_UNITS = ("slice", "volume", "side", "patient")
LABELLINGS = ("true", "shuffled")


@dataclass(frozen=True)
class LeakyRun:
    """One model of the leak study: how its slices are divided, and what it learns about them.

    Args:
        unit: What is divided, one of ``SPLIT_UNITS``.
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
        """The number of training slices."""
        return int((self.splits == SPLITS[0]).sum())


def plan_leaky_runs(store: Store, options: LeakStudyConfig, split: SplitConfig) -> list[LeakyRun]:
    """List the models of the study: for each seed, each way to divide with true and with shuffled labels.

    Args:
        store: The slices.
        options: The seeds, and how many slices of each volume are taken.
        split: The fractions of the splits.

    Raises:
        UserError: too few patients, scans or slices to divide.
    """
    rows = choose_middle_slices(store.index, options.num_slices)
    index = store.index.iloc[rows].reset_index(drop=True)
    runs = []
    for seed in options.seeds:
        splits = {unit: assign_by_unit(index, unit, split, seed) for unit in SPLIT_UNITS}
        splits = equalize_training(splits, seed)
        labels = {
            "true": index["label"].to_numpy(dtype=str),
            "shuffled": shuffle_labels(index, store.class_names, seed),
        }
        runs += [
            LeakyRun(unit, labelling, seed, rows, labels[labelling], splits[unit])
            for unit, labelling in itertools.product(SPLIT_UNITS, LABELLINGS)
        ]
    return runs


def name_units(index: pd.DataFrame, unit: str) -> pd.Series:
    """Return what is divided as a whole, for each picture.

    Args:
        index: a row a picture.
        unit: ``slice``: each picture by itself. ``volume``: the pictures of a scan. ``side``: the scans of a
            patient that have the same label, so one knee. ``patient``: all pictures of a patient.
    """
    if unit == "side":
        return index["group_id"] + " " + index["label"]
    return index[{"slice": "example_id", "volume": "source_id", "patient": "group_id"}[unit]]


def choose_middle_slices(index: pd.DataFrame, number: int) -> Array:
    """Return the places of some pictures of each volume: neighbours, from its middle.

    Neighbours resemble each other as they do in the whole volume; pictures taken here and there would leak less.

    Args:
        index: a row a picture.
        number: of pictures a volume; of those with fewer, and with 0 of every one, all are taken.
    """
    ordered = index.reset_index(drop=True).sort_values(["source_id", "slice_index"], kind="stable")
    chosen = []
    for _, rows in ordered.groupby("source_id", sort=False):
        wanted = len(rows) if number == 0 else min(number, len(rows))
        start = (len(rows) - wanted) // 2
        chosen.append(rows.index.to_numpy()[start : start + wanted])
    return np.sort(np.concatenate(chosen))


def assign_by_unit(index: pd.DataFrame, unit: str, options: SplitConfig, seed: int) -> Array:
    """Give every picture a split: units are dealt by the fractions, stratified by their labels.

    Args:
        index: a row a picture.
        unit: what stays together, one of ``SPLIT_UNITS``.
        options: fractions and whether to stratify; folds and tables are not read.
        seed: the draw.

    Returns:
        ``(pictures,)``: train, val or test.

    Raises:
        UserError: too few units.
    """
    units = name_units(index, unit)
    plain = SplitConfig(
        val_fraction=options.val_fraction, test_fraction=options.test_fraction, stratify=options.stratify, seed=seed
    )
    splits = assign_splits(index.assign(group_id=units), plain)
    roles = units.map(dict(zip(splits["group_id"], splits["split"], strict=True)))
    return np.asarray(roles, dtype=str)


def equalize_training(splits: dict[str, Array], seed: int) -> dict[str, Array]:
    """Leave training pictures out at random until every unit trains on the same number.

    Then each makes the same number of steps in an epoch.

    Args:
        splits: of each unit, ``(pictures,)``.
        seed: the draw.

    Returns:
        The same, with an empty text for pictures that are left out.
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
    """Give each patient one label for all pictures, whatever they show.

    Patients are sorted by how many pictures they have, equals in random order, and each class is dealt once to every
    so many neighbours as there are classes: the numbers of patients differ by one at most, those of pictures little.

    Args:
        index: a row a picture; its labels are not read.
        class_names: what is dealt.
        seed: the draw.

    Returns:
        ``(pictures,)`` class names.
    """
    generator = np.random.default_rng(seed)
    sizes = index.groupby("group_id", sort=True).size()
    patients, numbers = sizes.index.to_numpy(dtype=str), sizes.to_numpy()
    order = np.lexsort((generator.permutation(len(patients)), numbers))
    num_blocks = -(-len(patients) // len(class_names))
    dealt = np.concatenate([generator.permutation(len(class_names)) for _ in range(num_blocks)])[: len(patients)]
    label_of = dict(zip(patients[order], np.array(class_names)[dealt], strict=True))
    return np.asarray(index["group_id"].map(label_of), dtype=str)
