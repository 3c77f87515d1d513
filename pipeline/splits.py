"""Dividing patients, never pictures: a picture inherits the split of its patient."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.config import SplitConfig
from pipeline.errors import UserError
from pipeline.tables import SPLIT_COLUMNS, read_table

SPLITS = ("train", "val", "test")


def collect_strata(index: pd.DataFrame) -> dict[str, list[str]]:
    """Return the patients of each stratum, sorted.

    Args:
        index: a row an example, with ``group_id`` and ``label``.

    Returns:
        From a set of labels, written ``left+right``, to the patients who have just these.
    """
    strata: dict[str, list[str]] = defaultdict(list)
    for group_id, labels in index.groupby("group_id", sort=True)["label"]:
        strata["+".join(sorted(set(labels)))].append(str(group_id))
    return dict(sorted(strata.items()))


def assign_splits(index: pd.DataFrame, options: SplitConfig) -> pd.DataFrame:
    """Give every patient a split, or a fold where ``num_folds`` is set.

    Args:
        index: a row an example, with ``group_id`` and ``label``.
        options: fractions, folds or a table; strata; seed.

    Returns:
        Columns ``group_id`` and ``split`` (train, val, test; or 0, 1, ...), sorted by patient.

    Raises:
        UserError: one label only; too few patients, in all or in a stratum; or a table that does not fit them.
    """
    labels_found = sorted(set(index["label"]))
    if len(labels_found) < 2:
        raise UserError(
            f"split: every scan has the label {labels_found[0]}; a classifier needs two or more. Add others."
        )
    if options.table is not None:
        return _read_given_splits(index, options)
    strata = collect_strata(index)
    num_patients = sum(len(patients) for patients in strata.values())
    num_needed = max(len(SPLITS), options.num_folds)
    if num_patients < num_needed:
        raise UserError(f"split: {num_patients} patients, at least {num_needed} are needed. Add scans of others.")
    if not options.stratify:
        strata = {"all": sorted(patient for patients in strata.values() for patient in patients)}
    for labels, patients in strata.items():
        if len(patients) < len(SPLITS):
            raise UserError(
                f"split: only {len(patients)} patient(s) have the labels {labels} ({', '.join(patients)}); "
                "train, val and test need at least 3. Merge the label with another, or set split.stratify: false."
            )
    generator = np.random.default_rng(options.seed)
    shuffled = [[patients[i] for i in generator.permutation(len(patients))] for patients in strata.values()]
    assigned = _deal_folds(shuffled, options.num_folds) if options.num_folds else _deal_fractions(shuffled, options)
    return pd.DataFrame(sorted(assigned.items()), columns=list(SPLIT_COLUMNS))


def resolve_roles(splits: pd.DataFrame, options: SplitConfig) -> dict[str, str]:
    """Return each patient's role: train, val or test.

    With folds, ``test_fold`` is the test, the next fold validates, the others train.
    """
    if not options.num_folds:
        return dict(zip(splits["group_id"], splits["split"], strict=True))
    roles = {str(options.test_fold): "test", str((options.test_fold + 1) % options.num_folds): "val"}
    return {row.group_id: roles.get(row.split, "train") for row in splits.itertuples()}


def read_splits(path: Path, options: SplitConfig) -> pd.DataFrame:
    """Read ``splits.csv`` and check that it is of the kind that the options ask for.

    Raises:
        UserError: absent, a patient twice, or folds where splits are wanted or the reverse.
    """
    table = read_table(path, SPLIT_COLUMNS)
    twice = table.loc[table["group_id"].duplicated(), "group_id"]
    if len(twice):
        raise UserError(f"{path}: patient {twice.iloc[0]} has more than one row. Give each patient one.")
    allowed = {str(fold) for fold in range(options.num_folds)} or set(SPLITS)
    strange = sorted(set(table["split"]) - allowed)
    if strange:
        raise UserError(
            f"{path}: found split {strange[0]!r}, allowed are {', '.join(sorted(allowed))} "
            f"(split.num_folds is {options.num_folds}). Run the split stage again, or change the option."
        )
    return table


def _read_given_splits(index: pd.DataFrame, options: SplitConfig) -> pd.DataFrame:
    assert options.table is not None
    table = read_splits(options.table, options)
    patients = sorted(set(index["group_id"]))
    missing = sorted(set(patients) - set(table["group_id"]))
    if missing:
        raise UserError(f"{options.table}: {len(missing)} patients have no row, such as {missing[0]}. Add them.")
    chosen = table[table["group_id"].isin(patients)].sort_values("group_id", ignore_index=True)
    empty = [role for role in SPLITS if role not in resolve_roles(chosen, options).values()]
    if empty:
        raise UserError(f"{options.table}: no patient of the data is in {', '.join(empty)}. Add some.")
    return chosen


def _deal_folds(strata: list[list[str]], num_folds: int) -> dict[str, str]:
    """Deal patients to the folds in turn, going on from stratum to stratum, so that sizes differ by one at most."""
    dealt = [patient for patients in strata for patient in patients]
    return {patient: str(place % num_folds) for place, patient in enumerate(dealt)}


def _deal_fractions(strata: list[list[str]], options: SplitConfig) -> dict[str, str]:
    """Give each stratum's splits their share, rounded so that the totals over the strata stay closest to theirs."""
    fractions = np.array(
        [1 - options.val_fraction - options.test_fraction, options.val_fraction, options.test_fraction]
    )
    assigned: dict[str, str] = {}
    wanted, given = np.zeros(3), np.zeros(3)
    for patients in strata:
        wanted += fractions * len(patients)
        counts = np.maximum(1, np.floor(fractions * len(patients)).astype(int))
        while counts.sum() > len(patients):
            counts[counts.argmax()] -= 1
        while counts.sum() < len(patients):
            counts[(wanted - given - counts).argmax()] += 1
        given += counts
        roles = np.repeat(SPLITS, counts)
        assigned.update(zip(patients, (str(role) for role in roles), strict=True))
    return assigned
