"""Parts of a page: tables, figures, and sections of both under one heading."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

LONG_CELL = 44  # characters; lines of a column with longer cells are broken
MOST_PHONE_COLUMNS = 4  # of a table on a phone; the rows of others become lists
SHORT_NAME = 12  # characters of a name that needs no width of its own
MIN_WIDE_PIXELS = 1000  # a figure that needs the width of the page
MIN_WIDE_SHEET_PIXELS = 560  # a sheet of many images would be too small next to another figure
# The pixels of a screen that a point of an SVG file gets, so that its letters of 9 points have 20.
PIXELS_PER_POINT = 160 / 72
# The part of its pixels that a figure keeps on a phone, where it scrolls: the smallest letters, of 20 pixels in figures
# (9 points) and of 13 in sheets of images, then have 9 of the screen's.
SMALLEST_SCALE, SMALLEST_SHEET_SCALE = 9 / 20, 9 / 13
PHONE_PIXELS = 324  # what a page has for a figure on a screen of 360 pixels, without the scroll bar of a desktop
# Nothing else is in a number such as "1,234", "97.1 % (95.0 to 98.6)", "+0.01", "4 of 7", "2.0e-05" or a dash.
NUMBER_PARTS = re.compile(r"(?<=\d)e(?=[-+\d])|\bto\b|\bof\b|[\d\s.,;:%()±×+\-\u2013\u2212\u00a0]")
PNG_START = b"\x89PNG"
SVG_SIZE = re.compile(rb'viewBox="0 0 ([\d.]+) ([\d.]+)"')

# The parts of a report, in its order.
Part = Literal["answer", "whom", "decisions", "looks", "data"]
ColumnKind = Literal["number", "long", "short", "text"]


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Args:
        caption: The caption, which names the rows.
        columns: The headings; the first column names the row, the others are right-aligned where they hold numbers.
        rows: The cells as text, in each row as many as there are columns.
        note: A note below the table; may be empty.
        is_first_marked: Whether the first row is in bold, because the others are compared with it.
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
        """The kind of each column: numbers are right-aligned, long cells broken into lines, short names kept narrow."""
        return tuple(_find_kind([row[place] for row in self.rows], place) for place in range(len(self.columns)))

    @property
    def is_stacked(self) -> bool:
        """True where a phone shows each row as a list, because so many cells have no room next to each other."""
        return len(self.columns) > MOST_PHONE_COLUMNS

    @property
    def tab_separated(self) -> str:
        """The table as text for a spreadsheet: a line for each row, a tab between cells."""
        lines = (self.columns, *self.rows)
        return "\n".join("\t".join(" ".join(cell.split()) for cell in line) for line in lines)


def tabulate_facts(caption: str, facts: Mapping[str, str]) -> Table:
    """Return a table with a row for each fact."""
    return Table(caption, ("What", "Value"), tuple(facts.items()))


@dataclass(frozen=True)
class Figure:
    """A figure of a page.

    Args:
        name: The name of its file, without its ending.
        title: The title above the figure.
        text: The text next to the title; with the title also the alternative text for screen readers.
        content: The file: SVG of lines and text, PNG of images.
        is_sheet: Whether it holds many images, and so gets the width of the page sooner than other figures.
    """

    name: str
    title: str
    text: str
    content: bytes
    is_sheet: bool = False

    @property
    def width(self) -> int:
        return _measure(self.content)[0]

    @property
    def height(self) -> int:
        return _measure(self.content)[1]

    @property
    def is_wide(self) -> bool:
        """True where it gets the width of the page."""
        return self.width >= (MIN_WIDE_SHEET_PIXELS if self.is_sheet else MIN_WIDE_PIXELS)

    @property
    def smallest_width(self) -> int:
        """The pixels of a screen below which it scrolls; 0 where it never does."""
        smallest = round((SMALLEST_SHEET_SCALE if self.is_sheet else SMALLEST_SCALE) * self.width)
        return smallest if smallest > PHONE_PIXELS else 0

    @property
    def address(self) -> str:
        """The figure itself as a data URI."""
        kind = {"png": "png", "svg": "svg+xml"}[find_suffix(self.content)]
        return f"data:image/{kind};base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Args:
        title: The heading.
        sentences: The results, a paragraph each.
        tables: The tables of the section.
        figures: The figures of the section.
        part: The part of a report that it belongs to: what the answer is, whom it fails on, what it decides, where the
            model looks, or what the data are. Other pages do not read it.
    """

    title: str
    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    part: Part = "answer"


def find_suffix(content: bytes) -> Literal["png", "svg"]:
    """Return the ending of the file that holds a figure."""
    return "png" if content.startswith(PNG_START) else "svg"


def _measure(content: bytes) -> tuple[int, int]:
    """Return the width and the height in pixels of a figure's file."""
    if find_suffix(content) == "png":  # they are in bytes 16 to 24 (PNG specification, IHDR)
        return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    size = SVG_SIZE.search(content)
    assert size is not None, "an SVG file without a viewBox"
    return round(float(size[1]) * PIXELS_PER_POINT), round(float(size[2]) * PIXELS_PER_POINT)


def _find_kind(cells: list[str], place: int) -> ColumnKind:
    if place == 0:
        return "short" if all(len(cell) <= SHORT_NAME for cell in cells) else "text"
    is_number = any(char.isdigit() for cell in cells for char in cell) and not any(
        NUMBER_PARTS.sub("", cell) for cell in cells
    )
    if is_number:
        return "number"
    return "long" if any(len(cell) > LONG_CELL for cell in cells) else "text"
