"""The table contracts: the columns of each table, reading and writing.

Ids are text and stay text: a patient may be called ``007`` or ``NA``.
"""

import csv
import io
from pathlib import Path

import pandas as pd

from pipeline.core.errors import UserError
from pipeline.core.files import write_bytes
from pipeline.core.predictions import probability_columns

MANIFEST_COLUMNS = (
    "source_id", "group_id", "label", "path", "num_files", "sha256", "status", "reason", "visit", "side", "spelling",
    "shape", "spacing_mm", "stored_axes", "obliquity_degrees", "centre_right_mm", "side_by_position",
    "num_examples", "intensity_low", "intensity_high",
)  # fmt: skip
INDEX_COLUMNS = ("example_id", "source_id", "group_id", "label", "slice_index", "slice_position")
SPLIT_COLUMNS = ("group_id", "split")
OFFICIAL_SPLIT_COLUMNS = ("group_id", "split", "sha256")
SOURCE_TABLE_COLUMNS = ("path", "patient", "label")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def prediction_columns(class_names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the columns of the predictions table for these classes."""
    identity = ("example_id", "source_id", "group_id", "split", "slice_index", "label", "predicted")
    return (*identity, *probability_columns(class_names))


def read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a CSV whose cells are all text.

    Args:
        path: The file.
        columns: The columns that must be there; others are kept.

    Raises:
        UserError: no such file, not a CSV, a missing column, or an empty cell in one of ``columns``
            when the table comes from a user.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such table. Check the path, or run the stage that writes it.") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as CSV ({error}). Save it as UTF-8, comma-separated.") from error
    if not isinstance(table.index, pd.RangeIndex):
        raise UserError(f"{path}: rows have more cells than the header. Put cells with a comma into quotes.")
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise UserError(f"{path}: columns {', '.join(missing)} are missing; found {', '.join(table.columns)}.")
    return table


def find_formula(table: pd.DataFrame) -> str:
    """Return the first id, label or path that a spreadsheet program would run as a formula; nothing where none is.

    Tables hold such cells as they are: an apostrophe before them, as some advise, would make them other ids.

    Args:
        table: A table with the columns of a manifest.
    """
    for column in ("group_id", "source_id", "label", "path"):
        starts = table[column].str.startswith(FORMULA_STARTS)
        if starts.any():
            return str(table.loc[starts, column].iloc[0])
    return ""


def write_table(path: Path, table: pd.DataFrame, columns: tuple[str, ...]) -> None:
    """Write a table as CSV, whole or not at all; floats keep all their digits.

    Args:
        path: The file to write.
        table: The table; it may have other columns as well.
        columns: The columns to write, in order.
    """
    buffer = io.StringIO()
    table.loc[:, list(columns)].to_csv(buffer, index=False, lineterminator="\n")
    if "\r" in buffer.getvalue():
        # It is no line's end to the writer and one to the reader, except in quotes.
        buffer = io.StringIO()
        table.loc[:, list(columns)].to_csv(buffer, index=False, lineterminator="\n", quoting=csv.QUOTE_ALL)
    # Bytes of a name that are no Unicode text become \\xNN.
    write_bytes(path, buffer.getvalue().encode("utf-8", "backslashreplace"))
