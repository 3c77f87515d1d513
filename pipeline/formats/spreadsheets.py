"""Tables as people have them: CSV in the dialects that programs write, and Excel's XLSX, as cells of text.

Only the cells of one sheet are taken: no formula is computed, no link is followed. pandas guesses types, and a
patient 007 would be 7; so the csv module of Python reads the text, and openpyxl the sheet.
"""

import csv
import datetime
import io
import itertools
import re
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError  # the class alone; XML is parsed by openpyxl

from pipeline.core.errors import UserError
from pipeline.core.files import describe_absence

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
MAX_FILE_BYTES = 256 << 20
# What a workbook may unpack to, in all and in one file, and how wide a sheet may be.
MAX_WORKBOOK_BYTES = 128 << 20
MAX_COLUMNS = 1000
# What openpyxl ends with on a workbook that is damaged, and the errors of zip and XML.
DAMAGED = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, ParseError, OSError, NotImplementedError),
    *(ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError, AssertionError),
)


@dataclass(frozen=True)
class Cells:
    """A table as it stands in a file.

    Args:
        header: The names of the columns.
        rows: The cells of each row that is not empty, as many as the header has.
        lines: The line of each row in the file; of a sheet the number of the row.
        has_decimal_commas: Whether the program that wrote it writes 1,5 for one and a half, as far as its separator
            shows: True after a semicolon, False after a comma, None where both may be.
        guessed_separator: What stands between the cells, in the plural, where it was guessed and is no comma.
        notes: What else was guessed, in a sentence each.
    """

    header: list[str]
    rows: list[list[str]]
    lines: list[int]
    has_decimal_commas: bool | None
    notes: tuple[str, ...] = ()
    guessed_separator: str = ""


def read_cells(path: Path, wanted: Collection[str]) -> Cells:
    """Read a table of a user.

    Args:
        path: A CSV, or an XLSX whatever its name.
        wanted: Names of columns; of several separators the one under which more of these are found is taken.

    Raises:
        UserError: no such file, one that is no table, or a row that is longer than the header.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UserError(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB. Split the table, or drop columns.")
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: {describe_absence(path, 'table')}. Check the path.") from error
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror}). A table is a CSV or XLSX file.") from error
    if content.startswith(b"PK\x03\x04"):
        return _read_workbook(path, content)
    if content.startswith(b"\xd0\xcf\x11\xe0"):
        raise UserError(f"{path}: a workbook of Excel 97. Save it as CSV (UTF-8) or XLSX.")
    text, notes = _decode(path, content)
    first, _, rest = text.partition("\n")
    named = re.fullmatch(r"sep=(.)\r?", first)  # Excel's own way to name the separator
    text = rest if named else text
    delimiter = named[1] if named else _find_delimiter(text, wanted)
    if delimiter not in DELIMITERS:
        raise UserError(f"{path}: the separator {delimiter!r} is not read; allowed are comma, semicolon, tab and |.")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    numbered = _number(path, reader, 1 if named else 0)
    has_decimal_commas = {";": True, ",": False}.get(delimiter)
    is_plain = named or delimiter == "," or (delimiter == "\t" and path.suffix.lower() == ".tsv")
    cells = _build(path, numbered, has_decimal_commas, notes)
    return cells if is_plain else replace(cells, guessed_separator=DELIMITERS[delimiter])


def _decode(path: Path, content: bytes) -> tuple[str, tuple[str, ...]]:
    """Return the text of a file, and what was guessed about it."""
    notes: tuple[str, ...] = ()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):  # Excel's "Unicode text"
        encoding = "utf-16"
    else:
        try:
            content.decode("utf-8")
            encoding = "utf-8-sig"
        except UnicodeDecodeError:
            encoding = "cp1252"
            notes = (
                f"{path}: not UTF-8; read as Windows-1252, a guess. If letters such as ä look wrong, save it as UTF-8.",
            )
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not readable as CSV: no {encoding} text. Save it as CSV (UTF-8).") from error
    if "\x00" in text:
        raise UserError(f"{path}: not readable as CSV: it holds zero bytes. Save it as CSV (UTF-8).")
    # Two programs may each have put a mark in front.
    return text.lstrip("\ufeff"), notes


def _find_delimiter(text: str, wanted: Collection[str]) -> str:
    """Return the separator under which the header has more of the wanted names, then more cells."""
    head = "\n".join(text[:1_000_000].lstrip().splitlines()[:1])
    names = {name.strip().casefold() for name in wanted}

    def count(delimiter: str) -> tuple[int, int]:
        cells = next(csv.reader([head], delimiter=delimiter), [])
        return len(names & {cell.strip().casefold() for cell in cells}), len(cells)

    try:
        return max(DELIMITERS, key=count)
    except csv.Error:  # the reader of the whole text refuses it
        return ","


def _number(path: Path, reader: Any, num_skipped: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows with their lines.

    Raises:
        UserError: a quotation mark that does not close, a cell that is too long.
    """
    try:
        for row in reader:
            yield reader.line_num + num_skipped, row
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num + num_skipped}: not readable as CSV ({error}). Check its quotation marks."
        ) from error


def _build(
    path: Path, numbered: Iterable[tuple[int, list[str]]], has_decimal_commas: bool | None, notes: tuple[str, ...]
) -> Cells:
    """Separate the header from the rows, and leave out empty ones; programs also cut or pad a row's end.

    Raises:
        UserError: no row, too many columns, or a row with more cells than the header.
    """
    header = next((row for _, row in numbered if any(cell.strip() for cell in row)), [])
    if not header:
        raise UserError(f"{path}: not readable as CSV: it is empty. A table has a row with the names of its columns.")
    while not header[-1].strip():
        header.pop()
    width = len(header)
    if width > MAX_COLUMNS:
        raise UserError(f"{path}: {width} columns, at most {MAX_COLUMNS} are read. Drop those that are not needed.")
    lines, rows = [], []
    for line, row in numbered:
        if not row or not (row[0].strip() or any(cell.strip() for cell in row[1:])):
            continue
        if len(row) > width:
            if any(cell.strip() for cell in row[width:]):
                raise UserError(
                    f"{path}, line {line}: more cells than the header ({len(row)}, {width}). Put cells that hold the "
                    "separator into quotes."
                )
            row = row[:width]
        elif len(row) < width:
            row = row + [""] * (width - len(row))
        lines.append(line)
        rows.append(row)
    return Cells(header, rows, lines, has_decimal_commas, notes)


def _read_workbook(path: Path, content: bytes) -> Cells:
    try:
        import openpyxl
    except ImportError as error:
        raise UserError(
            f"{path}: an Excel workbook. Save it as CSV (UTF-8), or install openpyxl: pip install "
            "'perceiver-knees[excel]'."
        ) from error
    try:
        _check_archive(path, content)
        # data_only: the results that the spreadsheet program stored, no formulas.
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True, keep_links=False)
        sheets = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]
        if not sheets:
            raise UserError(f"{path}: a workbook without a visible sheet. Save the table as CSV (UTF-8).")
        sheet = sheets[0]
        sheet.reset_dimensions()  # a size that the file claims is not believed
        numbered = ((number, _to_texts(path, row)) for number, row in enumerate(sheet.iter_rows(), start=1))
        others = f"{path}: the workbook has {len(sheets)} sheets; the first, {sheet.title!r}, is read."
        return _build(path, numbered, False, (others,) if len(sheets) > 1 else ())
    except UserError:
        raise
    except DAMAGED as error:
        raise UserError(
            f"{path}: not readable as an Excel workbook ({type(error).__name__}). Save the table as CSV (UTF-8)."
        ) from error


def _check_archive(path: Path, content: bytes) -> None:
    """Refuse a workbook that has a password, unpacks to too much or defines entities, before anything of it is parsed.

    Raises:
        UserError: it is one of these.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = archive.infolist()
        if sum(file.file_size for file in files) > MAX_WORKBOOK_BYTES:
            raise UserError(f"{path}: a workbook of more than {MAX_WORKBOOK_BYTES >> 20} MiB. Save the table as CSV.")
        if any(file.flag_bits & 1 for file in files):  # the ZIP specification, 4.4.4
            raise UserError(f"{path}: a workbook with a password. Save the table as CSV (UTF-8).")
        for file in files:
            # Reading ends at the size that was added up above; what is longer fails its checksum.
            if b"<!DOCTYPE" in archive.read(file):
                raise UserError(f"{path}: a workbook whose XML defines a type. Save the table as CSV (UTF-8).")


def _to_texts(path: Path, row: Iterable[Any]) -> list[str]:
    texts = [_to_text(cell) for cell in itertools.islice(row, MAX_COLUMNS + 1)]
    if len(texts) > MAX_COLUMNS:
        raise UserError(f"{path}: more than {MAX_COLUMNS} columns. Drop those that are not needed.")
    return texts


def _to_text(cell: Any) -> str:
    """Return what a cell shows: a whole number without a decimal point, with the zeros of its format."""
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    if isinstance(value, int):
        zeros = re.fullmatch("0{1,40}", str(cell.number_format))
        return f"{value:0{len(zeros[0])}d}" if zeros else str(value)
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        value = value.date()
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value)
