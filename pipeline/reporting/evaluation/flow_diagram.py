"""The flow diagram: from the files that were found to the rows that were tested, as boxes under each other."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.core.data_kinds import DataKind
from pipeline.core.text import count_words, plural
from pipeline.evaluation.metrics import MAX_READABLE_CLASSES
from pipeline.reporting.formatting import show_labels

SPLIT_TITLES = {"train": "Training", "val": "Validation", "test": "Test"}
MAX_REASONS = 12  # more are counted together; the manifest lists every scan


@dataclass(frozen=True)
class Box:
    """One box of the diagram.

    Args:
        title: The title, which names what is counted.
        lines: The counts, a line each.
    """

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """A box, and what is left out after it.

    Args:
        box: The files or rows at this step.
        left_out: The files or rows that are left out after it, with reasons; None where all are kept.
    """

    box: Box
    left_out: Box | None = None


@dataclass(frozen=True)
class Flow:
    """The whole diagram.

    Args:
        steps: The steps from the files that were found to the rows that were used.
        splits: A box for each split of those rows.
    """

    steps: tuple[Step, ...]
    splits: tuple[Box, ...]


def build_flow(
    manifest: pd.DataFrame, index: pd.DataFrame, split_of: np.ndarray[Any, Any], kind: DataKind, missing: str = ""
) -> Flow:
    """Count the files, scans and patients that were found, refused and used.

    Args:
        manifest: A row for each scan, cells as text: ``group_id``, ``label``, ``num_files``, ``path``, ``status``,
            ``reason``.
        index: A row for each example: ``group_id``, ``source_id``, ``label``.
        split_of: The split of each row of ``index``.
        kind: The kind of data, which names rows and groups.
        missing: What differs from the published set, in words; empty where nothing does.
    """
    splits = tuple(
        Box(title, _describe_rows(index[split_of == split], kind))
        for split, title in SPLIT_TITLES.items()
        if (split_of == split).any()
    )
    accepted = manifest[manifest["status"] == "accepted"]
    if not kind.has_patients:
        lost = Box("Different from the published set", (missing,)) if missing else None
        return Flow((Step(Box(f"{kind.source.capitalize()}s read", _describe_rows(index, kind)), lost),), splits)
    ignored, refused = (manifest[manifest["status"] == status] for status in ("ignored", "refused"))
    scans = manifest[manifest["status"] != "ignored"]
    num_files = int(manifest["num_files"].astype(int).sum())
    steps = (
        Step(
            Box("Files found", (count_words(num_files, "file"),)),
            _list_reasons(f"No {plural(kind.source)}", ignored, "file"),
        ),
        Step(
            Box(f"{plural(kind.source).capitalize()} found", _describe_sources(scans, kind)),
            _list_reasons("Refused", refused, kind.source),
        ),
        Step(
            Box(
                f"{plural(kind.source).capitalize()} used",
                (
                    *_describe_sources(accepted, kind),
                    *_show_labels(accepted),
                    *([count_words(len(index), kind.example)] if kind.has_slices else []),
                ),
            )
        ),
    )
    return Flow(steps, splits)


def describe_flow(flow: Flow) -> list[str]:
    """Describe the flow in one sentence a box, for a text without boxes."""
    sentences = []
    for step in flow.steps:
        sentences.append(f"{step.box.title}: {'; '.join(step.box.lines)}.")
        if step.left_out is not None:
            sentences.append(f"{step.left_out.title} ({'; '.join(step.left_out.lines).rstrip('.')}).")
    return sentences + [f"{box.title}: {'; '.join(box.lines)}." for box in flow.splits]


def shorten_reason(reason: str, path: str) -> str:
    """Reduce the message of one refused file to the part that it has in common with others.

    Args:
        reason: The reason in the manifest, such as "/scans/a.nii: truncated, the header claims 96 bytes and …".
        path: The path of the file, below the raw folder.

    Returns:
        The first clause without the file's name and numbers, such as "truncated".
    """
    _, found, rest = reason.partition(f"{path}: ")
    clause = re.split(r"[,;:(]|\. |\.$", rest if found else reason, maxsplit=1)[0].strip()
    return re.sub(r"\d[\dx.]*", "…", clause) or "no reason given"


def _list_reasons(title: str, rows: pd.DataFrame, word: str) -> Box | None:
    """Count rows by reason, the most frequent first; None without rows."""
    if rows.empty:
        return None
    counts = Counter(shorten_reason(row.reason, row.path) for row in rows.itertuples())
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"{count:,}: {reason}" for reason, count in ranked[:MAX_REASONS]]
    if len(ranked) > MAX_REASONS:
        lines.append(f"{sum(count for _, count in ranked[MAX_REASONS:]):,}: other reasons")
    return Box(f"{title}: {count_words(len(rows), word)}", tuple(lines))


def _describe_sources(rows: pd.DataFrame, kind: DataKind) -> tuple[str, ...]:
    groups = rows.loc[rows["group_id"] != "", "group_id"].nunique()
    return (count_words(len(rows), kind.source), count_words(groups, kind.group))


def _describe_rows(rows: pd.DataFrame, kind: DataKind) -> tuple[str, ...]:
    if not kind.has_patients:
        return (count_words(len(rows), kind.example), *_show_labels(rows))
    sources = rows.drop_duplicates("source_id")
    counts = (
        count_words(rows["group_id"].nunique(), kind.group),
        count_words(len(sources), kind.source),
        *([count_words(len(rows), kind.example)] if kind.has_slices else []),
    )
    return (*counts, *_show_labels(sources))


def _show_labels(rows: pd.DataFrame) -> Sequence[str]:
    counts = rows["label"].value_counts().sort_index()
    if counts.empty:
        return ()
    if len(counts) > MAX_READABLE_CLASSES:
        return (f"{len(counts)} classes, {counts.min():,} to {counts.max():,} a class",)
    return (show_labels(counts.to_dict()),)
