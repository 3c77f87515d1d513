"""From a published set to manifest, official splits and example store."""

import hashlib
from functools import partial

import numpy as np
import pandas as pd
from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.config.sources import DataConfig
from pipeline.core.array_types import Array
from pipeline.core.console import warn, working
from pipeline.core.data_kinds import VOXEL_VOLUMES, WHOLE_VOLUMES
from pipeline.core.errors import UserError
from pipeline.core.files import read_json, write_json
from pipeline.core.provenance import compute_fingerprint
from pipeline.core.serialization import flatten
from pipeline.core.tables import INDEX_COLUMNS, MANIFEST_COLUMNS, OFFICIAL_SPLIT_COLUMNS, write_table
from pipeline.core.text import count_words
from pipeline.core.workspace import Workspace
from pipeline.data.sources import find_files
from pipeline.data.store import FORMAT, place_voxels, write_store
from pipeline.datasets import Dataset, find_dataset, find_raw_folder
from pipeline.datasets.base import OFFICIAL_SPLITS, PublishedSet, require_folder
from pipeline.preprocessing.preparation import Preparation

# Changes when the same files make other tables; it makes old ones invalid.
VERSION = 1
PIECE_ROWS = 1024


def plan_published_set(experiment: Experiment) -> Preparation:
    """Plan the way of a published set into a store.

    Args:
        experiment: The experiment: its folders, and whether a part of the set is allowed.

    Raises:
        UserError: options that are for volumes alone, or no raw folder.
    """
    _refuse_volume_options(experiment)
    dataset, _ = find_dataset(experiment.data)
    plan = _fingerprint_plan(experiment)
    return Preparation(
        experiment.paths.prepared,
        plan,
        build=partial(_build, experiment, dataset, plan),
        report=partial(_report, experiment.paths, dataset),
    )


def _build(experiment: Experiment, dataset: Dataset, plan: str, console: Console) -> bool:
    """Write manifest, official splits, store and coverage report.

    Raises:
        UserError: what the reader refuses, or files that changed while they were read.
    """
    assert dataset.read is not None
    raw = find_raw_folder(experiment)
    with working(f"reading {raw}", console):
        found = dataset.read(raw, experiment.data)
        if _fingerprint_plan(experiment) != plan:
            raise UserError(f"{raw}: files changed while they were read. Run the preprocess stage again.")
        _write_all(experiment, found, dataset)
    return True


def name_examples(official_splits: Array) -> list[str]:
    """Name the examples ``train-00000``, ``test-00003``: the official split and the place within it.

    Args:
        official_splits: ``(examples,)``, ``train``, ``val`` or ``test``.

    Returns:
        ``(examples,)`` names, all different.
    """
    names = np.empty(len(official_splits), dtype=object)
    for split in np.unique(official_splits):
        rows = np.flatnonzero(official_splits == split)
        names[rows] = [f"{split}-{number:05d}" for number in range(len(rows))]
    return [str(name) for name in names]


def _refuse_volume_options(experiment: Experiment) -> None:
    for field in ("label_table", "pattern"):
        found = getattr(experiment.data, field)
        if found != getattr(DataConfig, field):
            raise UserError(
                f"data.{field}: found {found}; {experiment.data.dataset} is read whole, with its own labels. "
                "Take the option away."
            )


def _fingerprint_plan(experiment: Experiment) -> str:
    """Return what changes with the options and with the raw files' names, sizes and times; of a collection one file."""
    raw = find_raw_folder(experiment)
    require_folder(raw)
    _, variant = find_dataset(experiment.data)
    # The sets of a collection share a folder; another one that is fetched later changes nothing here.
    paths = [path for path in find_files(raw, "*") if variant is None or path.name == variant.file_name]
    statuses = {str(path): (raw / path).stat() for path in paths}
    files = [[name, status.st_size, status.st_mtime_ns] for name, status in statuses.items()]
    # The order of the labels is read with the store, and does not change it.
    unread = ("raw_folder", "label_type", "label_order")
    options = {name: value for name, value in flatten(experiment.data).items() if name not in unread}
    options |= {"unit": "volume"} if experiment.preprocess.unit == "volume" else {}
    return compute_fingerprint(VERSION, FORMAT, options, files)


def _write_all(experiment: Experiment, found: PublishedSet, dataset: Dataset) -> None:
    paths = experiment.paths
    names = name_examples(found.official_splits)
    digests = [hashlib.sha256(np.ascontiguousarray(example).data).hexdigest() for example in found.examples]
    shape = "x".join(str(size) for size in found.examples.shape[1:])
    ids = {"source_id": names, "group_id": names, "label": found.labels.astype(str)}
    facts = {"path": list(found.origins), "num_files": 1, "sha256": digests, "status": "accepted", "shape": shape}
    manifest = pd.DataFrame(dict.fromkeys(MANIFEST_COLUMNS, "") | ids | facts | {"num_examples": 1})
    write_table(paths.manifest, manifest, MANIFEST_COLUMNS)
    official = pd.DataFrame({"group_id": names, "split": found.official_splits, "sha256": digests})
    write_table(paths.official_splits, official, OFFICIAL_SPLIT_COLUMNS)
    index = pd.DataFrame({"example_id": names} | ids | {"slice_index": 0, "slice_position": 0.0})
    # In pieces, because each is copied where the channels of the file come last.
    pieces = (found.examples[start : start + PIECE_ROWS] for start in range(0, len(found.examples), PIECE_ROWS))
    kind, settings, places = dataset.kind, {}, None
    if kind is WHOLE_VOLUMES:
        settings = {"unit": experiment.preprocess.unit}
        if experiment.preprocess.unit == "volume":
            volume = place_voxels(*found.examples.shape[1:])
            kind, places = VOXEL_VOLUMES, np.broadcast_to(volume, (len(index), *volume.shape))
    write_store(paths.prepared, pieces, index[list(INDEX_COLUMNS)], settings, kind, found.missing, places_mm=places)
    counts = pd.crosstab(official["split"], manifest["label"])
    counts = counts.loc[[split for split in OFFICIAL_SPLITS if split in counts.index]]
    coverage = {
        "examples_by_split_and_label": {
            str(split): {str(label): int(number) for label, number in row.items()} for split, row in counts.iterrows()
        },
        "missing": found.missing,
    }
    write_json(paths.prepared / "coverage.json", coverage)


def _report(paths: Workspace, dataset: Dataset, console: Console) -> None:
    coverage = read_json(paths.prepared / "coverage.json")
    word = dataset.kind.example
    for split, counts in coverage["examples_by_split_and_label"].items():
        total, present = sum(counts.values()), [number for number in counts.values() if number > 0]
        console.print(
            f"  {split:5s} {count_words(total, word)} of {len(present)} classes, {min(present):,} to {max(present):,} "
            "a class",
            highlight=False,
        )
    if coverage["missing"]:
        warn(console, coverage["missing"])
    console.print(f"-> {paths.prepared}")
