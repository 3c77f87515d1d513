"""The example store: slices, images or point clouds that need no decoding, with their index.

A folder with ``examples.npy`` (memory-mapped), ``index.csv`` (a row an example,
in the same order) and ``store.json``, which is written last and holds the
checksums, of the tables next to them too: a store without it is not complete.

An example can be a scan with all its slices (``preprocess.unit: volume``). All then have the number of slices of the
largest; what a scan lacks is black, and its place in ``places_mm.npy`` is NaN.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.core.array_types import Array
from pipeline.core.data_kinds import DATA_KINDS, VOLUMES, DataKind, InputSpec
from pipeline.core.errors import UserError
from pipeline.core.files import open_atomically, read_checksummed_json, read_json, write_checksummed_json
from pipeline.core.tables import INDEX_COLUMNS, read_table, write_table

FORMAT = 5
EXAMPLES, INDEX, PLACES = "examples.npy", "index.csv", "places_mm.npy"
# Scans that come later, and turns of augmentation, may reach a little further than those of the store.
FIELD_OF_VIEW_MARGIN = 1.25
# Tables that stages read as they read the store; not every store has them.
TABLES = ("manifest.csv", "official_splits.csv")


@dataclass(frozen=True)
class Store:
    """Examples on disk.

    Args:
        examples: ``(examples, height, width)``, ``(examples, channels, height, width)`` or of whole scans
            ``(examples, slices, height, width)`` uint8, or ``(examples, points, 3)`` float32; memory-mapped and
            read-only.
        index: One row per example: ids, label, ``slice_index`` and ``slice_position``; ``weight`` too where the table
            of labels has weights.
        class_names: The labels: sorted as texts, or as grades from the lowest to the highest.
        settings: The options that made the examples.
        fingerprint: A text that changes with any value, id or label.
        kind: The kind of data; slices are ``volumes``.
        missing: The part of a published set that is not there, and how its files differ from the published ones, in
            sentences; empty where all is there and the same.
        is_ordinal: Whether the classes are grades (``data.label_type``). The files do not say so, and the class names
            are grades only after ``order_classes``.
        places_mm: Of whole scans ``(examples, slices, 3)`` float32: the position of each slice along the normal, from
            the centre of the volume, and the height and width of its image; NaN where a scan has fewer slices. Of
            volumes of a published set, whose voxels have no known size, in voxels. None for other kinds.
    """

    examples: np.ndarray[Any, Any]
    index: pd.DataFrame
    class_names: tuple[str, ...]
    settings: dict[str, Any]
    fingerprint: str
    kind: DataKind = VOLUMES
    missing: str = ""
    is_ordinal: bool = False
    places_mm: Array | None = None

    @property
    def places(self) -> Array:
        """The place of each example: of a slice in [-1, 1], ``(examples,)`` float32; of whole scans ``places_mm``."""
        return self.index["slice_position"].to_numpy() if self.places_mm is None else self.places_mm

    def draw(self, row: int) -> Array:
        """Return an example as figures show it: of a whole scan its middle slice, of others all."""
        example: Array = np.asarray(self.examples[row])
        return example if self.places_mm is None else example[int((~np.isnan(self.places_mm[row, :, 0])).sum()) // 2]

    def as_slices(self) -> "Store":
        """Return whole scans as a store of their slices, which share the ids of their scan; other data as they are.

        Where scans have different numbers of slices, they are copied into memory.
        """
        if self.places_mm is None or not self.kind.reads_scans:
            return self
        is_slice = ~np.isnan(self.places_mm[..., 0])
        counts, flat = is_slice.sum(axis=1), self.examples.reshape(-1, *self.examples.shape[2:])
        index = self.index.loc[self.index.index.repeat(counts)].reset_index(drop=True)
        index["slice_index"] = np.concatenate([np.arange(count) for count in counts])
        index["slice_position"] = self.places_mm[..., 0][is_slice]
        index["example_id"] = index["source_id"] + "_" + index["slice_index"].astype(str)
        slices = flat if is_slice.all() else flat[is_slice.ravel()]
        return replace(self, examples=slices, index=index, kind=VOLUMES, places_mm=None)

    def input_spec(self, num_slices: int) -> InputSpec:
        """Describe the examples to a network.

        Args:
            num_slices: The slices of a volume (``preprocess.num_slices``); a published set has no such setting. Of
                whole scans those of the largest one are counted instead.
        """
        if self.kind.has_places:
            _, num_slices, height, width = self.examples.shape
            return InputSpec(
                self.kind,
                1,
                (int(height), int(width)),
                int(num_slices),
                self.class_names,
                measure_field_of_view(self.places),
                self.settings.get("plane") == "sagittal",
            )
        num_channels = 1 if self.examples.ndim == 3 else int(self.examples.shape[1])
        height, width = self.examples.shape[-2:]
        return InputSpec(self.kind, num_channels, (int(height), int(width)), num_slices, self.class_names)


def measure_field_of_view(places_mm: Array) -> float:
    """Return the field of view that the scans of a store need, with a margin for others, in whole mm.

    Args:
        places_mm: The places of their slices, ``(examples, slices, 3)``, NaN for padding.
    """
    return float(np.ceil(FIELD_OF_VIEW_MARGIN * measure_reach(places_mm).max()))


def measure_reach(places_mm: Array) -> Array:
    """Return the length of the shortest axes that hold a scan around its centre, ``(examples,)``, in mm.

    Args:
        places_mm: The places of the slices, ``(examples, slices, 3)``, NaN for padding.
    """
    # From the centre a slice reaches half of its height and width.
    reach: Array = 2 * np.nanmax(np.abs(places_mm) * (1.0, 0.5, 0.5), axis=(1, 2))
    return reach


def check_field_of_view(
    origin: str, store: Store, field_of_view_mm: float, advice: str = "Leave its row out of the table."
) -> None:
    """Refuse whole scans that a network's positions do not reach around.

    Args:
        origin: The table that names the scans, or the network, for messages.
        store: The scans.
        field_of_view_mm: The field of view of the network.
        advice: What to do, for messages.

    Raises:
        UserError: a scan is larger.
    """
    reach_mm = measure_reach(store.places)
    if reach_mm.max() > field_of_view_mm:
        name = store.index["source_id"].iloc[int(reach_mm.argmax())]
        raise UserError(
            f"{origin}: {name} takes {reach_mm.max():.0f} mm along an axis, and the model's field of view is "
            f"{field_of_view_mm:.0f} mm. {advice}"
        )


def place_voxels(num_slices: int, height: int, width: int) -> Array:
    """Place the slices of a volume whose voxels have no known size, in voxels, as ``Store.places_mm`` has them in mm.

    Of three slices of 4 x 5 pixels they are (-1, 4, 5), (0, 4, 5) and (1, 4, 5).

    Args:
        num_slices: The slices of the volume.
        height: The height of a slice.
        width: The width of a slice.
    """
    along = np.arange(num_slices) - (num_slices - 1) / 2
    return np.stack(np.broadcast_arrays(along, height, width), axis=1).astype(np.float32)


def write_store(
    folder: Path,
    stacks: Iterable[np.ndarray[Any, Any]],
    index: pd.DataFrame,
    settings: dict[str, Any],
    kind: DataKind = VOLUMES,
    missing: str = "",
    *,
    places_mm: Array | None = None,
) -> str:
    """Write a store; an earlier one in the folder stops being valid first.

    Args:
        folder: The folder to write into; a manifest and official splits that are there already become part of it.
        stacks: Arrays of one type, ``(examples, ...)``, that follow each other as the index does.
        index: A table with the columns ``INDEX_COLUMNS``, and with ``weight`` or without.
        settings: The options that made the examples, kept for ``predict``.
        kind: The kind of data.
        missing: The part of a published set that is not there, and how its files differ from the published ones.
        places_mm: The places of the slices of whole scans, as :class:`Store` has them; None for other kinds.

    Returns:
        The store's fingerprint.
    """
    (folder / "store.json").unlink(missing_ok=True)
    # Written as a stream and not through a memory map: on a full disk a map ends the process without a message.
    filled = 0
    with open_atomically(folder / EXAMPLES) as file:
        for stack in stacks:
            if filled == 0:
                dtype, shape = stack.dtype, (len(index), *stack.shape[1:])
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            assert (stack.dtype, stack.shape[1:]) == (dtype, shape[1:]), (stack.dtype, stack.shape, dtype, shape)
            file.write(np.ascontiguousarray(stack).data)
            filled += len(stack)
    assert filled == len(index), (filled, len(index))
    (folder / PLACES).unlink(missing_ok=True)
    if places_mm is not None:
        with open_atomically(folder / PLACES) as file:
            np.save(file, places_mm)
    write_table(folder / INDEX, index, (*INDEX_COLUMNS, *(name for name in ("weight",) if name in index.columns)))
    checksums = _compute_checksums(folder)
    class_names = sorted(set(index["label"]))
    contents = "".join(checksums[name] for name in (EXAMPLES, INDEX, PLACES) if name in checksums)
    fingerprint = hashlib.sha256(contents.encode()).hexdigest()[:16]
    content = {
        "format": FORMAT,
        "num_examples": len(index),
        "class_names": class_names,
        "settings": settings,
        "kind": kind.name,
        "missing": missing,
        "checksums": checksums,
        "fingerprint": fingerprint,
    }
    write_checksummed_json(folder / "store.json", content)
    return fingerprint


def read_store(folder: Path, verify: bool = False) -> Store:
    """Open a store.

    Args:
        folder: The folder that ``preprocess`` wrote it to.
        verify: Whether to compare the checksums as well (:func:`check_store`), which reads every byte.

    Raises:
        UserError: there is no complete store, or its files are not those that were written.
    """
    record = _read_record(folder)
    if verify:
        check_store(folder, record["fingerprint"])
    assert record["kind"] in DATA_KINDS, record["kind"]
    kind = DATA_KINDS[record["kind"]]
    try:
        examples = np.load(folder / EXAMPLES, mmap_mode="r", allow_pickle=False)
        places_mm = np.load(folder / PLACES, allow_pickle=False) if kind.has_places else None
    except (OSError, ValueError) as error:
        name = getattr(error, "filename", None) or folder / EXAMPLES
        raise UserError(f"{name}: not readable ({error}). Delete the folder and preprocess again.") from error
    index = read_table(folder / INDEX, INDEX_COLUMNS)
    if not len(index) == len(examples) == record["num_examples"]:
        raise UserError(f"{folder}: {len(examples)} examples but {len(index)} rows in index.csv. Preprocess again.")
    index["slice_index"] = index["slice_index"].astype(int)
    index["slice_position"] = index["slice_position"].astype(np.float32)
    if "weight" in index.columns:
        index["weight"] = index["weight"].astype(np.float32)
    names = tuple(record["class_names"])
    return Store(
        examples,
        index,
        names,
        record["settings"],
        record["fingerprint"],
        kind,
        record["missing"],
        places_mm=places_mm,
    )


def has_store(folder: Path) -> bool:
    """Return whether a complete store is there; it may be of another format."""
    return (folder / "store.json").is_file()


def check_store(folder: Path, fingerprint: str) -> None:
    """Refuse a store whose files are not those that were written: a flipped bit, a copy that went wrong, an edit.

    Args:
        folder: The folder that ``preprocess`` wrote it to.
        fingerprint: The fingerprint that it had when it was opened.

    Raises:
        UserError: it is gone, is another store now, or a file of it changed.
    """
    record = _read_record(folder)
    found = _compute_checksums(folder)
    for name, checksum in record["checksums"].items():
        if found.get(name) != checksum:
            raise UserError(
                f"{folder / name}: the store's files changed since they were written. Delete the folder and "
                "preprocess again."
            )
    if record["fingerprint"] != fingerprint:
        raise UserError(f"{folder}: preprocessed again in the meantime. Run the stage again.")


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / "store.json"
    if not has_store(folder):
        raise UserError(f"{folder}: no complete example store. Run the preprocess stage first.")
    record = read_json(path)
    if isinstance(record, dict) and record.get("format") != FORMAT:
        raise UserError(
            f"{path}: format {record.get('format')!r}, this version reads {FORMAT}. Run the preprocess stage again."
        )
    return read_checksummed_json(path)


def _compute_checksums(folder: Path) -> dict[str, str]:
    checksums = {}
    for name in (EXAMPLES, INDEX, PLACES, *TABLES):
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                checksums[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return checksums
