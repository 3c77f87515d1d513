"""The tables of the Osteoarthritis Initiative: separated by pipes, tabs or commas, of which few columns are read.

They may be larger and wider than a table of labels (image03.txt has a row for each of 600,000 series, AllClinical00.txt
more than a thousand columns), so only the columns that are asked for are kept in memory. Everything stays text.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline.core.errors import UserError

SEPARATORS = ("|", "\t", ",", ";")
MAX_HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class TextTable:
    """A table whose header was read.

    Args:
        path: The file.
        separator: The character between its cells.
        columns: The name of each column by its name in small letters: the same variable is V00XRKL in one table and
            v00xrkl in another.
        encoding: How its bytes are letters.
    """

    path: Path
    separator: str
    columns: dict[str, str]
    encoding: str


def open_table(path: Path) -> TextTable:
    """Read the header of a table.

    Raises:
        UserError: not readable.
    """
    try:
        with path.open("rb") as file:
            head = file.readline(MAX_HEADER_BYTES)
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror or type(error).__name__}). Copy it again.") from error
    encoding = "utf-8-sig"
    try:
        text = head.decode(encoding)
    except UnicodeDecodeError:
        encoding = "cp1252"
        text = head.decode(encoding, errors="replace")
    separator = max(SEPARATORS, key=text.count)
    names = [name.strip().strip('"') for name in text.strip("\r\n").split(separator)]
    return TextTable(path, separator, {name.casefold(): name for name in names}, encoding)


def read_columns(table: TextTable, wanted: Collection[str]) -> pd.DataFrame:
    """Read columns of a table as text, without blanks at their ends.

    Args:
        table: The table.
        wanted: The names of the columns in small letters; those that the table lacks are left out.

    Returns:
        The cells under the names in small letters; the index counts the rows from 0.

    Raises:
        UserError: not readable, or a row with more cells than the header.
    """
    try:
        cells = pd.read_csv(
            table.path,
            sep=table.separator,
            dtype=str,
            keep_default_na=False,
            usecols=lambda name: name.strip().casefold() in wanted,
            encoding=table.encoding,
            encoding_errors="replace",  # a letter of a column that is not read may be of another alphabet
            index_col=False,
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, OSError, ValueError) as error:
        raise UserError(f"{table.path}: not readable as a table ({type(error).__name__}). Copy it again.") from error
    cells.columns = [name.strip().casefold() for name in cells.columns]
    if cells.columns.has_duplicates:
        twice = cells.columns[cells.columns.duplicated()][0]
        raise UserError(f"{table.path}: the column {twice} is there twice. Keep one of them.")
    return cells.fillna("").apply(lambda column: column.str.strip())
