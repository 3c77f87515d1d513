"""A part of a report: sentences, tables and pictures under one heading, whoever computed them."""

import re
from dataclasses import dataclass
from typing import Literal

LONG_CELL = 44  # characters from which on a column's lines are broken
# What is left of "1,234", "97.1 % (95.0 to 98.6)", "+0.01", "4 of 7", "2.0e-05" or a dash without these is nothing.
NUMBER_PARTS = re.compile(r"(?<=\d)e(?=[-+\d])|\bto\b|\bof\b|[\d\s.,;:%()±×+\-\u2013\u2212\u00a0]")

ColumnKind = Literal["number", "long", "text"]


@dataclass(frozen=True)
class Table:
    """A table as it is shown.

    Args:
        caption: what its rows are.
        columns: headings; the first column names the row, the others are right-aligned where they hold numbers.
        rows: cells as text, as many in each row as there are columns.
        note: what a reader has to know of it; may be empty.
        is_first_marked: whether the first row is the one that the others stand beside.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    is_first_marked: bool = False

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.columns), f"{self.caption}: {len(row)} cells under {len(self.columns)} headings"

    @property
    def kinds(self) -> tuple[ColumnKind, ...]:
        """How each column is set: numbers on the right, long cells broken into lines."""
        return tuple(_find_kind([row[place] for row in self.rows], place) for place in range(len(self.columns)))

    @property
    def tab_separated(self) -> str:
        """The table as a spreadsheet takes it from the clipboard: cells between tabs, a row a line."""
        lines = (self.columns, *self.rows)
        return "\n".join("\t".join(" ".join(cell.split()) for cell in line) for line in lines)


@dataclass(frozen=True)
class Picture:
    """A figure as it is shown.

    Args:
        name: of its file, without ``.png``.
        title: of the figure.
        text: what it shows; with the title also what is read out instead of it.
        png: the figure itself.
        can_shrink: whether a phone may show it as narrow as its screen, because little of it is lettering; others
            scroll where they are wide.
    """

    name: str
    title: str
    text: str
    png: bytes
    can_shrink: bool = False


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Args:
        title: its heading.
        sentences: what was found, each a paragraph.
        tables: numbers behind it.
        pictures: figures behind it.
    """

    title: str
    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()


def _find_kind(cells: list[str], place: int) -> ColumnKind:
    is_number = any(char.isdigit() for cell in cells for char in cell) and not any(
        NUMBER_PARTS.sub("", cell) for cell in cells
    )
    if place > 0 and is_number:
        return "number"
    return "long" if place > 0 and any(len(cell) > LONG_CELL for cell in cells) else "text"
