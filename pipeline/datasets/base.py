"""Data sets that come as examples and need no slicing: the record that a reader gives, and its checks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.core.array_types import Array
from pipeline.core.errors import UserError
from pipeline.core.text import count_words, plural
from pipeline.data.sources import check_folder

# In their order; few publishers give validation rows.
OFFICIAL_SPLITS = ("train", "val", "test")

# Written into a folder before the first download: the folder may be half complete, and is not a user's own.
MARK_NAME = "download.json"


@dataclass(frozen=True)
class PublishedSet:
    """The examples of a published set, in the order in which it has them.

    Args:
        examples: ``(examples, height, width)`` or ``(examples, channels, height, width)`` uint8, or
            ``(examples, points, 3)`` float32.
        labels: ``(examples,)`` class names.
        official_splits: ``(examples,)``, ``train``, ``test`` and, where the publisher gives them, ``val``.
        origins: ``(examples,)``, where each came from: a file relative to the raw folder, with ``#`` and the
            row after it where the file holds several.
        missing: Sentences about the part of the published set that is not there, and about files that differ from
            the published ones; empty where all is there and the same.
    """

    examples: Array
    labels: Array
    official_splits: Array
    origins: Sequence[str] | Array
    missing: str = ""

    def __post_init__(self) -> None:
        lengths = {len(self.examples), len(self.labels), len(self.official_splits), len(self.origins)}
        assert len(lengths) == 1, lengths
        assert set(np.unique(self.official_splits)) <= set(OFFICIAL_SPLITS), np.unique(self.official_splits)


def require_folder(raw: Path) -> None:
    """Refuse a raw folder that is not there."""
    check_folder(
        raw,
        "Run the fetch stage, or name the folder that holds the files with --data.raw_folder (make: DATA=folder).",
    )


def find_raw_file(raw: Path, names: Sequence[str]) -> Path | None:
    """Find a file of the published set in the raw folder or a folder below it.

    Args:
        raw: The folder, as downloaded or as a user gave it.
        names: The spellings that the file may have; the first one that is there is taken.

    Returns:
        Its path, or None where there is none.

    Raises:
        UserError: no such folder, or two files of the same name.
    """
    require_folder(raw)
    for name in names:
        found = sorted(path for path in raw.rglob(name) if path.is_file())
        if len(found) > 1:
            raise UserError(
                f"{raw}: two files named {name}: {found[0].relative_to(raw)} and {found[1].relative_to(raw)}. "
                "Keep one, or name the folder of one set with --data.raw_folder."
            )
        if found:
            return found[0]
    return None


def describe_missing(
    raw: Path,
    found: Mapping[str, int],
    published: Mapping[str, int],
    word: str,
    allow_partial: bool,
    absent: Sequence[str] = (),
) -> str:
    """Compare what was found with what was published.

    Args:
        raw: The folder, for the message.
        found: From an official split to the number of its examples.
        published: The numbers of the whole set.
        word: The name of an example, in the singular.
        allow_partial: Whether a part is good enough.
        absent: The names of files that are not there, for the message.

    Returns:
        What is missing, as a sentence; empty where nothing is.

    Raises:
        UserError: more than was published, nothing at all of a split, or a part that the config does not allow.
    """
    for split, number in found.items():
        if number > published[split]:
            raise UserError(
                f"{raw}: {count_words(number, word)} for {split}, but the published set has {published[split]:,}. "
                "Bring the files as they were published."
            )
        if number == 0:
            names = f" ({', '.join(absent)})" if absent else ""
            raise UserError(
                f"{raw}: no {word} for {split}{names}. Run the fetch stage with an empty folder, or name the folder "
                "that holds the published files with --data.raw_folder."
            )
    short = [split for split in published if found[split] < published[split]]
    if not short:
        return ""
    counts = " and ".join(f"{found[split]:,} of {published[split]:,} {split} {plural(word)}" for split in short)
    names = f" ({', '.join(absent)} not there)" if absent else ""
    if not allow_partial:
        raise UserError(
            f"{raw}: only {counts}{names}. Bring the whole set, or set data.allow_partial: true; the report then "
            "states that it is a part."
        )
    return f"This is a part of the published set: {counts}{names}. Scores on it are not those of the whole set."


@dataclass(frozen=True)
class Part:
    """The examples of one file of a published set.

    Args:
        path: The file.
        split: The official split, ``train``, ``val`` or ``test``.
        examples: ``(examples, ...)``, as in :class:`PublishedSet`.
        labels: ``(examples,)``.
    """

    path: Path
    split: str
    examples: Array
    labels: Array


def join_parts(
    raw: Path,
    parts: Sequence[Part],
    published: Mapping[str, int],
    word: str,
    allow_partial: bool,
    absent: Sequence[str] = (),
) -> PublishedSet:
    """Join the files of a published set, in their order; arguments and errors as for :func:`describe_missing`."""
    numbers = [len(part.labels) for part in parts]
    found = dict.fromkeys(published, 0)
    for part, number in zip(parts, numbers, strict=True):
        found[part.split] += number
    missing = describe_missing(raw, found, published, word, allow_partial, absent)
    places = [part.path.relative_to(raw).as_posix() for part in parts]
    return PublishedSet(
        np.concatenate([part.examples for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.repeat([part.split for part in parts], numbers),
        [f"{place}#{row}" for place, number in zip(places, numbers, strict=True) for row in range(number)],
        missing,
    )


@dataclass(frozen=True)
class RemoteFile:
    """A published file.

    Args:
        name: The name of the file here.
        urls: The addresses of the file; the first that works is taken.
        checksum: ``md5:`` or ``sha256:`` and the digest.
        gives: The files that are taken from it: of an archive its members, by their bare names, or none for all;
            of another file a spelling that a user may have put there in its place.
    """

    name: str
    urls: tuple[str, ...]
    checksum: str
    gives: tuple[str, ...] = ()

    @property
    def is_archive(self) -> bool:
        return self.name.endswith((".tar.gz", ".tgz", ".zip"))

    @property
    def unpacked_name(self) -> str:
        """Name of the file that marks that all members of an archive are there."""
        return f"{self.name}.unpacked"
