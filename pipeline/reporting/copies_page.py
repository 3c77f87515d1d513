"""The page of scans that show the same, each pair side by side."""

from pathlib import Path

import numpy as np
from einops import rearrange, repeat

from pipeline.core.array_types import Array
from pipeline.core.data_kinds import DATA_KINDS, DataKind
from pipeline.core.text import count_words, plural
from pipeline.data.leak_certificate import Certificate, CopiedScan, CopyPair, CopyPairs
from pipeline.data.store import Store
from pipeline.reporting.elements import Figure, Section
from pipeline.reporting.figures.image_grid import Cell, Strip, draw_grid
from pipeline.reporting.html import write_page

# Of each group so many pairs are drawn; the certificate lists a hundred.
MAX_DRAWN = 24


def write_copies(path: Path, store: Store, certificate: Certificate) -> None:
    """Draw the pairs of the certificate.

    Args:
        path: The HTML file to write.
        store: The examples that the certificate was made for, of whole scans their slices.
        certificate: The content of leak_certificate.json.
    """
    kind, copies = DATA_KINDS[certificate["kind"]], certificate["copies"]
    scans, groups = plural(kind.source), plural(kind.group)
    titles = [
        ("across_splits", f"Copies across splits: {scans} of two {groups}", copies["across_splits"]),
        ("accepted", "Copies across splits that were accepted by split.accept_copies", copies["accepted"]),
        ("within_split", f"Copies within a split: {scans} of two {groups}", copies["within_split"]),
        (
            "unverified",
            f"{scans.capitalize()} of two {groups} that look alike and are no verified copies",
            copies["unverified"],
        ),
    ]
    titles.append(("labels_disagree", f"Copied {scans} with different labels", copies["labels_disagree"]))
    if kind.has_patients:
        titles.append(("within_patient", f"Copies within one {kind.group}", copies["within_patient"]))
    write_page(
        path,
        "study.html",
        title=f"Copied {scans}",
        synthetic_note=None,
        sentences=[
            f"{count_words(copies['num_sources'], kind.source)} were compared; of {copies['num_candidates']:,} pairs "
            f"whose descriptors are close, {copies['num_compared']:,} were aligned. A pair is a copy where its "
            "similarity is more significant than that of either scan with the others that look most like it; where "
            "these are too few to compare with, from a significance of "
            f"{copies['threshold']:.1f} standard deviations on.",
        ],
        sections=[_build_section(name, title, found, store, kind) for name, title, found in titles if found["count"]],
    )


def _build_section(name: str, title: str, found: CopyPairs, store: Store, kind: DataKind) -> Section:
    drawn = found["pairs"][:MAX_DRAWN]
    rest = found["count"] - len(drawn)
    figure = Figure(
        name=name,
        title=count_words(found["count"], "pair"),
        text=f"Each line is a pair; of a volume the {store.kind.example} that was compared is shown.",
        content=draw_grid([Strip(_build_cells(pair, store, kind)) for pair in drawn], columns=2),
        is_sheet=True,
    )
    more = (f"{rest:,} more are not drawn.",) if rest else ()
    return Section(title, more, figures=(figure,))


def _build_cells(pair: CopyPair, store: Store, kind: DataKind) -> list[Cell]:
    alteration = f"{pair['alteration']}, similarity {pair['similarity']:.2f}"
    return [
        Cell(read_colours(store.examples[scan["row"]]), f"{_name(scan, kind)}\nlabel {scan['label']}{text}")
        for scan, text in ((pair["first"], ""), (pair["second"], f"; {alteration}"))
    ]


def _name(scan: CopiedScan, kind: DataKind) -> str:
    patient = f", {kind.group} {scan['group_id']}" if kind.has_patients else ""
    return f"{scan['source_id']}{patient} ({scan['split']})"


def read_colours(example: Array) -> Array:
    """Return an example of the store as ``(height, width, 3)`` uint8; of a whole volume its middle slice."""
    if example.ndim == 2 or len(example) != 3:
        grey = np.asarray(example if example.ndim == 2 else example[len(example) // 2])
        return repeat(grey, "height width -> height width colours", colours=3)
    return np.asarray(rearrange(example, "colours height width -> height width colours"))
