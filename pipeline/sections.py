"""A part of a report: sentences, tables and pictures under one heading, whoever computed them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table as it is shown.

    Args:
        caption: what its rows are.
        columns: headings; the first column names the row, the others are right-aligned where they hold numbers.
        rows: cells as text, as many in each row as there are columns.
        note: what a reader has to know of it; may be empty.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.columns), f"{self.caption}: {len(row)} cells under {len(self.columns)} headings"


@dataclass(frozen=True)
class Picture:
    """A figure as it is shown.

    Args:
        name: of its file, without ``.png``.
        title: of the figure.
        text: what it shows; with the title also what is read out instead of it.
        png: the figure itself.
    """

    name: str
    title: str
    text: str
    png: bytes


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
