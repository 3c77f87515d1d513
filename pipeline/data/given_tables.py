"""Tables of the user: columns found by name, cells and ids cleaned, everything else left in the file."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline.core.errors import UserError
from pipeline.core.tables import clean_text, find_alike, refuse_alike
from pipeline.formats.spreadsheets import read_cells

# A number with a decimal comma; points group the digits before it.
COMMA_NUMBER = re.compile(r"[+-]?(?:[0-9]+|[0-9]{1,3}(?:\.[0-9]{3})+)(?:,[0-9]+)?")
# Excel shows, and saves, a number of more than eleven digits in this way.
SHORTENED_NUMBER = r"[0-9][.,]?[0-9]*[eE]\+[0-9]{2,}"
MAX_LISTED_COLUMNS = 20


@dataclass(frozen=True)
class GivenTable:
    """A table of the user.

    Args:
        path: The file, for messages.
        table: The cells of the columns that were asked for, all text and without blanks at their ends; the index is
            the line of each row.
        notes: A sentence about each thing that was guessed, and each column of ids whose cells were cleaned.
    """

    path: Path
    table: pd.DataFrame
    notes: tuple[str, ...]


def read_given_table(
    path: Path,
    columns: Mapping[str, Sequence[str]],
    ids: Collection[str] = (),
    optional: Collection[str] = (),
    numbers: Collection[str] = (),
) -> GivenTable:
    """Read columns of a table of the user, in which what looks the same is the same.

    Blanks at the ends and the two Unicode forms of a letter are removed from names of columns and from cells, but for
    those of ``path``, whose file may have them in its name. Columns that are not asked for may hold anything, also
    names and birth dates: they are not kept.

    Args:
        path: The file, a CSV or XLSX.
        columns: The columns to read: the name that each gets, and the names that it may have in the file, in upper or
            lower case.
        ids: Those of them that hold patients, labels and the like, where two spellings of one text are refused.
        optional: Those of them that may be absent; the table then lacks them.
        numbers: Those of them that may hold numbers, which get a decimal point where they have a comma.

    Raises:
        UserError: not a readable table, a missing column, a column twice, or two ids that differ only in a way in
            which one text is respelled, such as upper and lower case.
    """
    cells = read_cells(path, {name for names in columns.values() for name in names})
    places = _find_columns(path, cells.header, columns, optional)
    table = pd.DataFrame(
        {name: [row[place] for row in cells.rows] for name, place in places.items()},
        index=pd.Index(cells.lines, dtype="int64"),
        dtype=object,
    )
    notes = list(cells.notes)
    for name in places:
        given = table[name]
        if name != "path":
            table[name] = given.map({text: clean_text(text) for text in given.unique()})
        if name in numbers:
            given, table[name] = (use_points(column, cells.has_decimal_commas) for column in (given, table[name]))
        if name not in ids or table.empty:
            continue
        changed = given.index[given != table[name]]
        if len(changed):
            before, after = given[changed[0]], table.at[changed[0], name]
            notes.append(
                f"{path}: blanks at the ends or another Unicode form in {len(changed)} of {len(table)} cells of "
                f"{name}, first in line {changed[0]} ({before!r}); read as {after!r}."
            )
        first_lines = table[name].drop_duplicates()
        if find_alike(first_lines) is not None:
            refuse_alike(f"{path}", f"{name}s", {text: f"line {line}" for line, text in first_lines.items()})
        shortened = first_lines[first_lines.str.fullmatch(SHORTENED_NUMBER)]
        if len(shortened):
            raise UserError(
                f"{path}, line {shortened.index[0]}: {name} {shortened.iloc[0]} is a long number that a spreadsheet "
                "program shortened. Format the column as text or as a number without decimals, and save it again."
            )
    return GivenTable(path, table, tuple(notes))


def use_points(values: "pd.Series[str]", has_decimal_commas: bool | None) -> "pd.Series[str]":
    """Write numbers with a decimal point, where all cells of a column are numbers and some have a comma.

    ``0,5``, ``1.200`` and ``7`` become ``0.5``, ``1200`` and ``7``. Where it is not known whether a comma is that of a
    decimal or groups digits, as in ``1,200``, one that does not stand before three digits shows it.

    Args:
        values: The cells, all text.
        has_decimal_commas: Whether the program that wrote them uses decimal commas; None where it is not known.
    """
    texts = [text for text in values.unique() if text.strip()]
    if has_decimal_commas is False or not all(COMMA_NUMBER.fullmatch(text.strip()) for text in texts):
        return values
    decimals = [len(text.strip().partition(",")[2]) for text in texts if "," in text]
    if not decimals or (has_decimal_commas is None and set(decimals) == {3}):
        return values
    return values.map({text: text.replace(".", "").replace(",", ".") for text in values.unique()})


def _find_columns(
    path: Path, header: list[str], columns: Mapping[str, Sequence[str]], optional: Collection[str]
) -> dict[str, int]:
    """Return the place of each column in the header.

    Raises:
        UserError: one is missing or there twice, or a name differs from one that is needed in invisible characters.
    """
    names = [clean_text(name) for name in header]
    twice = [name for place, name in enumerate(names) if name and name in names[:place]]
    if twice:
        raise UserError(f"{path}: the column {twice[0]} is there twice. Keep one of them.")
    folded = [name.casefold() for name in names]
    places, missing = {}, []
    for column, allowed in columns.items():
        wanted = [clean_text(name).casefold() for name in allowed]
        found = [place for place, name in enumerate(folded) if name in wanted]
        if len(found) > 1:
            raise UserError(
                f"{path}: the columns {names[found[0]]} ({found[0] + 1}) and {names[found[1]]} ({found[1] + 1}) may "
                f"both be {allowed[0]}. Keep one of them, or rename one."
            )
        if found:
            places[column] = found[0]
        elif column not in optional:
            missing.append(allowed[0])
    if missing:
        numbered = {name: f"column {number}" for number, name in enumerate(names, start=1) if name}
        for name in missing:
            for other, place in numbered.items():
                if find_alike([name, other]) is not None:
                    refuse_alike(f"{path}", "columns", {name: "needed", other: place})
        more = ", ..." if len(names) > MAX_LISTED_COLUMNS else ""
        found_names = ", ".join(name for name in names[:MAX_LISTED_COLUMNS] if name)
        raise UserError(f"{path}: columns {', '.join(missing)} are missing; found {found_names}{more}.")
    return places
