"""CIFAR-10 and CIFAR-100: 60,000 colour images of 32 x 32 pixels, the binary version.

Source:
    https://www.cs.toronto.edu/~kriz/cifar.html: a record is one label byte (CIFAR-10) or the coarse and the
    fine one (CIFAR-100), then 1,024 bytes each of red, green and blue, row by row.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from einops import rearrange

from pipeline.config.sources import DataConfig
from pipeline.core.array_types import Array
from pipeline.core.errors import UserError
from pipeline.datasets.base import Part, PublishedSet, RemoteFile, find_raw_file, join_parts

PUBLISHED = {"train": 50_000, "test": 10_000}
SIDE = 32
NUM_CHANNELS = 3
ADVICE = "Take another copy of the published file."

MIRRORS = ("https://www.cs.toronto.edu/~kriz", "https://cave.cs.toronto.edu/kriz")


def _locate(name: str, md5: str, layout: "Layout") -> RemoteFile:
    """Describe the archive, whose checksum stands on the set's page."""
    members = (*(file for files in layout.files.values() for file in files), layout.names_file)
    return RemoteFile(name, tuple(f"{mirror}/{name}" for mirror in MIRRORS), f"md5:{md5}", gives=members)


@dataclass(frozen=True)
class Layout:
    """The storage layout of one of the two sets.

    Args:
        files: From an official split to its files, in order.
        records_per_file: The largest number of records that a file of each split holds.
        num_labels: The number of values that each label of a record may take; the last label is the class.
        names_file: The file with the names of the classes, one a line.
    """

    files: dict[str, tuple[str, ...]]
    records_per_file: dict[str, int]
    num_labels: tuple[int, ...]
    names_file: str


CIFAR10 = Layout(
    files={"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)},
    records_per_file={"train": 10_000, "test": 10_000},
    num_labels=(10,),
    names_file="batches.meta.txt",
)
CIFAR100 = Layout(
    files={"train": ("train.bin",), "test": ("test.bin",)},
    records_per_file={"train": 50_000, "test": 10_000},
    num_labels=(20, 100),
    names_file="fine_label_names.txt",
)
REMOTE_CIFAR10 = _locate("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", CIFAR10)
REMOTE_CIFAR100 = _locate("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", CIFAR100)


def read_cifar10(raw: Path, config: DataConfig) -> PublishedSet:
    """Read CIFAR-10; see :func:`read_cifar`."""
    return read_cifar(raw, config, CIFAR10)


def read_cifar100(raw: Path, config: DataConfig) -> PublishedSet:
    """Read CIFAR-100 with its 100 fine classes; see :func:`read_cifar`."""
    return read_cifar(raw, config, CIFAR100)


def read_cifar(raw: Path, config: DataConfig, layout: Layout) -> PublishedSet:
    """Read the records of all files that are there.

    Args:
        raw: The folder that holds them, or one above it.
        config: Whether a part of the set is good enough.
        layout: The layout of one of the two sets.

    Raises:
        UserError: a file is truncated, too long or holds what is no label; the class names are absent; or the set is
            not whole and the config does not allow it.
    """
    parts, absent = [], []
    for split, names in layout.files.items():
        for name in names:
            path = find_raw_file(raw, [name])
            if path is None:
                absent.append(name)
                continue
            images, labels = read_records(path, layout.num_labels, layout.records_per_file[split])
            parts.append(Part(path, split, images, labels))
    joined = join_parts(raw, parts, PUBLISHED, "image", config.allow_partial, absent)
    return replace(joined, labels=np.array(read_class_names(raw, layout))[joined.labels])


def read_records(path: Path, num_labels: tuple[int, ...], most: int) -> tuple[Array, Array]:
    """Read one file.

    Args:
        path: The file.
        num_labels: The number of values that each label of a record may take.
        most: The number of records that the published file has.

    Returns:
        Images ``(records, 3, 32, 32)`` uint8 and the last label of each, ``(records,)``.

    Raises:
        UserError: the file does not end with a record, has more than ``most``, none, or a label out of range.
    """
    record_bytes = len(num_labels) + NUM_CHANNELS * SIDE * SIDE
    num_bytes = path.stat().st_size
    if num_bytes == 0 or num_bytes > most * record_bytes or num_bytes % record_bytes != 0:
        raise UserError(
            f"{path}: {num_bytes:,} bytes; allowed is a whole number of records of {record_bytes:,} bytes, from 1 to "
            f"{most:,} of them. {ADVICE}"
        )
    records = rearrange(np.fromfile(path, np.uint8), "(record byte) -> record byte", byte=record_bytes)
    for place, number in enumerate(num_labels):
        wrong = np.flatnonzero(records[:, place] >= number)
        if len(wrong):
            raise UserError(
                f"{path}: record {wrong[0]} has the label {records[wrong[0], place]}; allowed are 0 to {number - 1}. "
                f"{ADVICE}"
            )
    images = rearrange(
        records[:, len(num_labels) :],
        "record (channel row column) -> record channel row column",
        channel=NUM_CHANNELS,
        row=SIDE,
    )
    return images, records[:, len(num_labels) - 1]


def read_class_names(raw: Path, layout: Layout) -> list[str]:
    """Read the names of the classes, in the order of their labels.

    Raises:
        UserError: the file is absent, or holds another number of different names.
    """
    path = find_raw_file(raw, [layout.names_file])
    if path is None:
        raise UserError(f"{raw}: no {layout.names_file}, which names the classes. It is part of the published set.")
    names = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if len(names) != layout.num_labels[-1] or len(set(names)) != len(names):
        raise UserError(
            f"{path}: {len(names)} names, {len(set(names))} of them different; the set has {layout.num_labels[-1]} "
            f"classes. {ADVICE}"
        )
    return names
