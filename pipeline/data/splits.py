"""Splits of patients, never of images: an image has the split of its patient.

A published set keeps its own test rows; there each image or object is a group of its own.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.config.sources import SplitConfig
from pipeline.core.errors import UserError
from pipeline.core.tables import SPLIT_COLUMNS, read_table, refuse_alike
from pipeline.data.given_tables import GivenTable, read_given_table

SPLITS = ("train", "val", "test")


def collect_strata(index: pd.DataFrame) -> dict[str, list[str]]:
    """Return the patients of each stratum, sorted.

    Args:
        index: A row an example, with ``group_id`` and ``label``.

    Returns:
        From a set of labels, written ``left+right``, to the patients who have just these.
    """
    strata: dict[str, list[str]] = defaultdict(list)
    for group_id, labels in index.groupby("group_id", sort=True)["label"]:
        strata["+".join(sorted(set(labels)))].append(str(group_id))
    return dict(sorted(strata.items()))


def assign_splits(
    index: pd.DataFrame, options: SplitConfig, published: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Give every patient a split, or a fold where ``num_folds`` is set.

    Args:
        index: A row an example, with ``group_id`` and ``label``.
        options: Fractions, folds or a table; strata; seed.
        published: The published split of each patient. A part that it lacks is drawn from the patients of train.

    Returns:
        Columns ``group_id`` and ``split`` (train, val, test; or 0, 1, ...), sorted by patient.

    Raises:
        UserError: one label only; too few patients, in all or in a stratum; or a table that does not fit them.
    """
    _check_labels(index)
    if options.val_count is not None:
        raise UserError(
            f"split.val_count: found {options.val_count}; it is for sets with published test rows. Patients are "
            "split by split.val_fraction; set val_count to null."
        )
    if options.split_table is not None:
        return _read_given_splits(index, options)
    fractions = {
        "train": 1 - options.val_fraction - options.test_fraction,
        "val": options.val_fraction,
        "test": options.test_fraction,
    }
    strata = collect_strata(index)
    if published:
        assigned = _complete_published(strata, published, fractions, options)
    else:
        shuffled = _shuffle(strata, options, list(fractions))
        if options.num_folds:
            assigned = _assign_folds(shuffled, options.num_folds)
        else:
            assigned = _assign_fractions(shuffled, fractions)
    return pd.DataFrame(sorted(assigned.items()), columns=list(SPLIT_COLUMNS))


def _complete_published(
    strata: dict[str, list[str]], published: Mapping[str, str], fractions: Mapping[str, float], options: SplitConfig
) -> dict[str, str]:
    """Keep a published split, and draw the parts that it lacks from the patients of train.

    Of 80 patients in train and 20 in test, with ``val_fraction`` 0.1, 8 of the 80 become val.

    Raises:
        UserError: folds, no patient in train, or too few of them.
    """
    if options.num_folds:
        raise UserError(
            f"split.num_folds: found {options.num_folds}, but the table has a published split, and folds would train "
            "on its test. Set it to 0, or data.columns.split: null, and preprocess again."
        )
    assigned = {patient: published[patient] for patients in strata.values() for patient in patients}
    lacking = [role for role in SPLITS if role not in assigned.values()]
    if "train" in lacking:
        raise UserError("split: the published split has no patient in train. Rename one with data.split_values.")
    if not lacking:
        return assigned
    in_train = {labels: [name for name in names if assigned[name] == "train"] for labels, names in strata.items()}
    in_train = {labels: names for labels, names in in_train.items() if names}
    drawn = {role: fractions[role] for role in lacking}
    parts = {"train": 1 - sum(drawn.values()), **drawn}
    return assigned | _assign_fractions(_shuffle(in_train, options, list(parts)), parts)


def _shuffle(strata: dict[str, list[str]], options: SplitConfig, roles: list[str]) -> list[list[str]]:
    """Shuffle the patients of each stratum, or all of them where ``stratify`` is false.

    Raises:
        UserError: fewer patients than roles or folds, or in a stratum than roles.
    """
    num_patients = sum(len(patients) for patients in strata.values())
    num_needed = max(len(roles), options.num_folds)
    if num_patients < num_needed:
        raise UserError(f"split: {num_patients} patients, at least {num_needed} are needed. Add scans of others.")
    if not options.stratify:
        strata = {"all": sorted(patient for patients in strata.values() for patient in patients)}
    for labels, patients in strata.items():
        if len(patients) < len(roles):
            raise UserError(
                f"split: only {len(patients)} patient(s) have the labels {labels} ({', '.join(patients)}); "
                f"{', '.join(roles[:-1])} and {roles[-1]} need at least {len(roles)}. Merge the label with another, or "
                "set split.stratify: false."
            )
    generator = np.random.default_rng(options.seed)
    return [[patients[i] for i in generator.permutation(len(patients))] for patients in strata.values()]


def draw_validation(index: pd.DataFrame, val_fraction: float, seed: int) -> dict[str, str]:
    """Give every patient of a training part train or val; of each set of labels about the same fraction is val.

    Of four patients with the label left, three with right and one with both, with a fraction of 1/3, one of left and
    one of right are val; whoever is the only one with a set of labels stays in train.

    Args:
        index: A row an example, with ``group_id`` and ``label``.
        val_fraction: The fraction of the patients for validation, between 0 and 1.
        seed: The seed of the random number generator.

    Returns:
        From a patient to ``train`` or ``val``.

    Raises:
        UserError: one label only, or no two patients with the same labels.
    """
    _check_labels(index)
    generator = np.random.default_rng(seed)
    shuffled = [[names[i] for i in generator.permutation(len(names))] for names in collect_strata(index).values()]
    several = [names for names in shuffled if len(names) > 1]
    if not several:
        raise UserError("split: no two patients have the same labels, so that none can be val. Add others.")
    roles = {names[0]: "train" for names in shuffled if len(names) == 1}
    return roles | _assign_fractions(several, {"train": 1 - val_fraction, "val": val_fraction})


def assign_official_splits(index: pd.DataFrame, official: pd.DataFrame, options: SplitConfig) -> pd.DataFrame:
    """Keep the publisher's test rows, and validation rows where there are any; else draw them from the training rows.

    A training row that has an exact duplicate among the training rows stays in train, so that validation and
    train have no example in common.

    Args:
        index: A row an example, with ``group_id`` and ``label``; each group once.
        official: Columns ``group_id``, ``split`` (train, test, perhaps val) and ``sha256`` of the content; a row each.
        options: The fraction or number of the training rows that become validation; strata; seed; or a table.

    Returns:
        Columns ``group_id`` and ``split``, sorted by group.

    Raises:
        UserError: one label only, folds, too many or too few rows for validation, a number of them where they are
            published, or a table with other test rows.
    """
    _check_labels(index)
    if options.num_folds:
        raise UserError(
            f"split.num_folds: found {options.num_folds}, but the set has published test rows, and folds would train "
            "on them. Set it to 0."
        )
    if options.split_table is not None:
        return _read_given_official_splits(index, official, options)
    if (official["split"] == "val").any():
        if options.val_count is not None:
            raise UserError(
                f"split.val_count: found {options.val_count}, but the set has published validation rows, and they are "
                "kept. Set it to null."
            )
        return official[["group_id", "split"]].sort_values("group_id", ignore_index=True)
    rows = official.merge(index[["group_id", "label"]], on="group_id", validate="one_to_one")
    rows = rows.sort_values("group_id", ignore_index=True)
    train = rows[rows["split"] == "train"]
    count = options.val_count if options.val_count is not None else round(options.val_fraction * len(train))
    free = train[~train["sha256"].duplicated(keep=False)]
    strata = [free.index[free["label"] == label] for label in sorted(set(train["label"]))]
    if not options.stratify:
        strata = [free.index]
    # One row of each label stays to train on.
    largest = [max(0, len(stratum) - 1) for stratum in strata]
    if not 1 <= count <= sum(largest):
        name = "split.val_fraction" if options.val_count is None else "split.val_count"
        raise UserError(
            f"{name}: {count} of {len(train)} training rows for validation; allowed are 1 to {sum(largest)} "
            "(one of each label stays to train on)."
        )
    generator = np.random.default_rng(options.seed)
    counts = _allocate(count, np.array(largest), np.array([len(stratum) for stratum in strata]))
    splits = rows["split"].to_numpy(dtype=object, copy=True)
    for stratum, number in zip(strata, counts, strict=True):
        splits[generator.permutation(stratum.to_numpy())[:number]] = "val"
    return pd.DataFrame({"group_id": rows["group_id"], "split": splits.astype(str)})


def resolve_roles(splits: pd.DataFrame, options: SplitConfig) -> dict[str, str]:
    """Return each patient's role: train, val or test.

    With folds, ``test_fold`` is the test, the next fold validates, the others train.
    """
    if not options.num_folds:
        return dict(zip(splits["group_id"], splits["split"], strict=True))
    roles = {str(options.test_fold): "test", str((options.test_fold + 1) % options.num_folds): "val"}
    return {row.group_id: roles.get(row.split, "train") for row in splits.itertuples()}


def read_splits(path: Path, options: SplitConfig) -> pd.DataFrame:
    """Read ``splits.csv`` and check that it fits the options.

    Raises:
        UserError: absent, a patient twice, or folds where the options name splits or the reverse.
    """
    return check_splits(read_table(path, SPLIT_COLUMNS), path, options)


def read_given_splits(path: Path) -> GivenTable:
    """Read a user's table of splits: columns ``group_id`` or ``patient``, and ``split``."""
    return read_given_table(path, {"group_id": ("group_id", "patient"), "split": ("split",)}, ids=SPLIT_COLUMNS)


def check_splits(table: pd.DataFrame, path: Path, options: SplitConfig) -> pd.DataFrame:
    """Check that a table of splits fits the options, and return it.

    Args:
        table: Columns ``group_id`` and ``split``.
        path: The file that it was read from, for messages.
        options: The folds, or none.

    Raises:
        UserError: a patient twice, or folds where the options name splits or the reverse.
    """
    twice = table.loc[table["group_id"].duplicated(), "group_id"]
    if len(twice):
        raise UserError(f"{path}: patient {twice.iloc[0]} has more than one row. Give each patient one.")
    allowed = {str(fold) for fold in range(options.num_folds)} or set(SPLITS)
    strange = sorted(set(table["split"]) - allowed)
    if strange:
        advice = "Correct the table" if path == options.split_table else "Run the split stage again"
        raise UserError(
            f"{path}: found split {strange[0]!r}, allowed are {', '.join(sorted(allowed))} "
            f"(split.num_folds is {options.num_folds}). {advice}, or change the option."
        )
    return table


def _check_labels(index: pd.DataFrame) -> None:
    labels_found = sorted(set(index["label"]))
    if len(labels_found) < 2:
        raise UserError(
            f"split: every scan has the label {labels_found[0]}; a classifier needs two or more. Add others."
        )


def _allocate(total: int, largest: np.ndarray[Any, Any], sizes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Split a number in proportion to sizes, in whole parts that sum to it; no part exceeds its largest."""
    quotas = total * sizes / sizes.sum()
    counts: np.ndarray[Any, Any] = np.minimum(np.floor(quotas).astype(int), largest)
    while counts.sum() < total:
        lacking = np.where(counts < largest, quotas - counts, -np.inf)
        counts[lacking.argmax()] += 1
    return counts


def _read_given_official_splits(index: pd.DataFrame, official: pd.DataFrame, options: SplitConfig) -> pd.DataFrame:
    chosen = _read_given_splits(index, options)
    published = official.set_index("group_id")["split"].reindex(chosen["group_id"])
    moved = chosen["group_id"][(chosen["split"] == "test").to_numpy() != (published == "test").to_numpy()]
    if len(moved):
        raise UserError(
            f"{options.split_table}: {moved.iloc[0]} is {published[moved.iloc[0]]} in the published set. A "
            "table may split the training rows into train and val; the test rows stay test."
        )
    return chosen


def _read_given_splits(index: pd.DataFrame, options: SplitConfig) -> pd.DataFrame:
    assert options.split_table is not None
    table = check_splits(read_given_splits(options.split_table).table, options.split_table, options)
    patients = sorted(set(index["group_id"]))
    places = dict.fromkeys(patients, "in the data") | dict.fromkeys(table["group_id"], "in the table")
    refuse_alike(str(options.split_table), "patients", places)
    missing = sorted(set(patients) - set(table["group_id"]))
    if missing:
        lack = "1 patient has" if len(missing) == 1 else f"{len(missing):,} patients have"
        raise UserError(f"{options.split_table}: {lack} no row, such as {missing[0]}. Add one for each.")
    chosen = table[table["group_id"].isin(patients)].sort_values("group_id", ignore_index=True)
    empty = [role for role in SPLITS if role not in resolve_roles(chosen, options).values()]
    if empty:
        raise UserError(f"{options.split_table}: no patient of the data is in {', '.join(empty)}. Add some.")
    return chosen


def _assign_folds(strata: list[list[str]], num_folds: int) -> dict[str, str]:
    """Assign patients to the folds in turn, continuing from stratum to stratum, so that sizes differ by one at most."""
    ordered = [patient for patients in strata for patient in patients]
    return {patient: str(index % num_folds) for index, patient in enumerate(ordered)}


def _assign_fractions(strata: list[list[str]], fractions: Mapping[str, float]) -> dict[str, str]:
    """Give each stratum's splits their fraction, rounded so that the totals over the strata stay closest to theirs.

    Of strata of 7, 7 and 7 patients, and fractions of 0.6, 0.15 and 0.25, val has 3 in all (3.15) and test 5 (5.25).
    """
    parts = np.array(list(fractions.values()))
    assigned: dict[str, str] = {}
    wanted, given = np.zeros(len(parts)), np.zeros(len(parts))
    for patients in strata:
        wanted += parts * len(patients)
        counts = np.maximum(1, np.floor(parts * len(patients)).astype(int))
        while counts.sum() > len(patients):
            counts[counts.argmax()] -= 1
        while counts.sum() < len(patients):
            counts[(wanted - given - counts).argmax()] += 1
        given += counts
        roles = np.repeat(list(fractions), counts)
        assigned.update(zip(patients, (str(role) for role in roles), strict=True))
    return assigned
