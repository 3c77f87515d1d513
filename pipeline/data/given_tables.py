"""Tables of the user: columns found by name, cells and ids cleaned, everything else left in the file."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline.core.collector import pause_collector
from pipeline.core.errors import UserError
from pipeline.core.tables import clean_text, find_alike, refuse_alike
from pipeline.formats.spreadsheets import read_cells

# A number with a decimal comma; points group the digits before it.
COMMA_NUMBER = re.compile(r"[+-]?(?:[0-9]+|[0-9]{1,3}(?:\.[0-9]{3})+)(?:,[0-9]+)?")
# Excel shows, and saves, a number of more than eleven digits in this way.
SHORTENED_NUMBER = re.compile(r"[0-9][.,]?[0-9]*[eE]\+[0-9]{2,}")
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


@pause_collector()
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
    notes, columns_read, with_commas = list(cells.notes), {}, []
    for name, place in places.items():
        given = cleaned = [row[place] for row in cells.rows]
        if name != "path":
            cleaned = _respell(given, {text: clean_text(text) for text in set(given)})
        if name in numbers:
            with_points = use_points(cleaned, cells.has_decimal_commas)
            if with_points != cleaned:
                with_commas.append(clean_text(cells.header[place]))
            given, cleaned = use_points(given, cells.has_decimal_commas), with_points
        if name in ids:
            notes += _check_ids(path, name, cells.lines, given, cleaned)
        columns_read[name] = cleaned
    guessed = [f"{cells.guessed_separator} between cells"] if cells.guessed_separator else []
    guessed += [f"decimal commas in {', '.join(with_commas)}"] if with_commas else []
    if guessed:
        notes.append(
            f"{path}: read with {' and '.join(guessed)}, a guess. If cells look wrong, save it with commas between "
            "cells and decimal points."
        )
    table = pd.DataFrame(columns_read, index=pd.Index(cells.lines, dtype="int64"), dtype=object)
    return GivenTable(path, table, tuple(notes))


def use_points(values: Sequence[str], has_decimal_commas: bool | None) -> list[str]:
    """Write numbers with a decimal point, where all cells of a column are numbers and some have a comma.

    ``0,5``, ``1.200`` and ``7`` become ``0.5``, ``1200`` and ``7``. Where it is not known whether a comma is that of a
    decimal or groups digits, as in ``1,200``, one that does not stand before three digits shows it.

    Args:
        values: The cells.
        has_decimal_commas: Whether the program that wrote them uses decimal commas; None where it is not known.
    """
    unique = set(values)
    texts = [text.strip() for text in unique if text.strip()]
    if has_decimal_commas is False or not all(COMMA_NUMBER.fullmatch(text) for text in texts):
        return list(values)
    decimals = {len(text.partition(",")[2]) for text in texts if "," in text}
    if not decimals or (has_decimal_commas is None and decimals == {3}):
        return list(values)
    return _respell(values, {text: text.replace(".", "").replace(",", ".") for text in unique})


def _respell(values: Sequence[str], respelled: Mapping[str, str]) -> list[str]:
    """Replace cells; mostly there is nothing to replace, and there may be 100,000."""
    changed = {old: new for old, new in respelled.items() if old != new}
    return [changed.get(value, value) for value in values] if changed else list(values)


def _check_ids(path: Path, name: str, lines: list[int], given: list[str], cleaned: list[str]) -> list[str]:
    """Check a column of ids.

    Args:
        path: The table, for messages.
        name: The column.
        lines: The line of each row.
        given: The cells as they were given.
        cleaned: The cells as they are read.

    Returns:
        A sentence where cells were cleaned; nothing otherwise.

    Raises:
        UserError: two ids differ only in spelling, or a spreadsheet program shortened one.
    """
    unique = dict.fromkeys(cleaned)
    if find_alike(unique) is not None:
        first_lines = dict(zip(reversed(cleaned), reversed(lines), strict=True))
        refuse_alike(f"{path}", f"{name}s", {text: f"line {first_lines[text]}" for text in unique})
    shortened = next((text for text in unique if "+" in text and SHORTENED_NUMBER.fullmatch(text)), None)
    if shortened is not None:
        raise UserError(
            f"{path}, line {lines[cleaned.index(shortened)]}: {name} {shortened} is a long number that a spreadsheet "
            "program shortened. Format the column as text or as a number without decimals, and save it again."
        )
    changed = [place for place in range(len(given)) if given[place] != cleaned[place]] if given != cleaned else []
    if not changed:
        return []
    return [
        f"{path}: blanks at the ends or another Unicode form in {len(changed)} of {len(given)} cells of {name}, first "
        f"in line {lines[changed[0]]} ({given[changed[0]]!r}); read as {cleaned[changed[0]]!r}."
    ]


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
