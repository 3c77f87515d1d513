"""Tables in every dialect that programs write are the same cells; hostile ones are refused in one line."""

import datetime
import sys
import zipfile

import openpyxl
import pytest

from pipeline.core.errors import UserError
from pipeline.formats.spreadsheets import MAX_COLUMNS, read_cells

HEADER, ROWS = ["path", "patient", "label"], [["a b.png", "007", "0"], ["b.png", "J\u00fcrgen", "1"]]


def write(path, delimiter=",", end="\n", quote=""):
    lines = [delimiter.join(f"{quote}{cell}{quote}" for cell in row) for row in (HEADER, *ROWS)]
    return path, end.join(lines) + end


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_separator_line_ends_and_encoding_do_not_change_the_cells(delimiter, end, encoding, tmp_path):
    path, text = write(tmp_path / "mine.csv", delimiter, end, quote='"' if delimiter == ";" else "")
    path.write_bytes(text.encode(encoding))
    cells = read_cells(path, HEADER)
    assert (cells.header, cells.rows, cells.lines) == (HEADER, ROWS, [2, 3])
    assert cells.has_decimal_commas == {",": False, ";": True}.get(delimiter)
    assert len(cells.notes) == (encoding == "cp1252")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_that_two_programs_wrote_is_no_part_of_a_name(encoding, tmp_path):
    path, text = write(tmp_path / "mine.csv")
    path.write_bytes(f"\ufeff{text}".encode(encoding))
    assert read_cells(path, HEADER).header == HEADER


def test_the_separator_is_the_one_under_which_the_wanted_columns_are_found(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("Path;Patient (a, b, c, d, e);Label\na;1;x\n")
    assert read_cells(path, HEADER).header == ["Path", "Patient (a, b, c, d, e)", "Label"]
    path.write_text("sep=;\npath;x,y\na;1\n")
    cells = read_cells(path, ("z",))
    assert (cells.header, cells.lines) == (["path", "x,y"], [3])


def test_ends_of_rows_that_excel_cuts_or_pads_are_made_even(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("path;patient;label;;\na;1\n;;;;\n\nb;2;x;;;;\n")
    cells = read_cells(path, HEADER)
    assert (cells.header, cells.rows, cells.lines) == (HEADER, [["a", "1", ""], ["b", "2", "x"]], [2, 5])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n , \n", "is empty"),
        (b"path,patient\na,1\n\nb,2,3\n", "line 4: more cells than the header .3, 2."),
        (b'path,patient\na,"1\nb,2\n', "line 3: not readable as CSV .unexpected end of data"),
        (b"path,patient\na,\x00\n", "zero bytes"),
        (b"path,patient\na,\x81\xff\n", "no cp1252 text"),
        (b"\xff\xfea", "no utf-16 text"),
        (b"sep=x\npathx1\n", "separator 'x' is not read"),
        (b"," * MAX_COLUMNS + b"a\n", "1001 columns, at most 1000"),
        (b"\xd0\xcf\x11\xe0", "Excel 97"),
        (b"PK\x03\x04", "not readable as an Excel workbook"),
    ],
)
def test_what_is_no_table_is_refused_with_its_path_and_line(content, message, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"mine\.csv.*{message}"):
        read_cells(path, HEADER)
    with pytest.raises(UserError, match="no such table"):
        read_cells(tmp_path / "absent.csv", HEADER)


def save(path, rows, change=None):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    if change is not None:
        change(book)
    book.save(path)
    return path


def test_a_workbook_has_the_cells_that_it_shows(tmp_path):
    def change(book):
        book.active["B2"].number_format = "0000000"
        book.create_sheet("notes")["A1"] = "more"
        book.create_sheet("hidden", 0).sheet_state = "hidden"

    rows = [
        ["id", "seven", "half", "day", "yes", "none"],
        ["007", 9001695, 0.5, datetime.datetime(2005, 7, 12), True, None],
        [],
        [7, 7.0, "0,5", datetime.datetime(2005, 7, 12, 8), False, "=1+1"],
    ]
    cells = read_cells(save(tmp_path / "mine.xlsx", rows, change), ("id",))
    assert cells.header == rows[0]
    assert cells.rows == [
        ["007", "9001695", "0.5", "2005-07-12", "TRUE", ""],
        ["7", "7", "0,5", "2005-07-12T08:00:00", "FALSE", ""],
    ]
    assert cells.lines == [2, 4]
    assert "2 sheets; the first, 'Sheet', is read" in cells.notes[0]


def repack(path, name, content):
    """Replace a file in a workbook."""
    with zipfile.ZipFile(path) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, old in (files | {name: content}).items():
            archive.writestr(file, content if file == name else old)
    return path


SHEET = "xl/worksheets/sheet1.xml"
NAMESPACE = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes(1 << 20), "a workbook of more than"),
        (b'<!DOCTYPE x [<!ENTITY a "b">]><worksheet/>', "defines a type"),
        (b"<worksheet", "not readable as an Excel workbook"),
        (
            f'<worksheet xmlns="{NAMESPACE}"><sheetData><row r="1"><c r="XFD1" t="str"><v>a</v></c></row>'
            "</sheetData></worksheet>".encode(),
            "more than 1000 columns",
        ),
    ],
)
def test_a_hostile_workbook_is_refused(content, message, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.formats.spreadsheets.MAX_WORKBOOK_BYTES", 1 << 20)
    path = repack(save(tmp_path / "mine.xlsx", [["path"], ["a"]]), SHEET, content)
    with pytest.raises(UserError, match=message):
        read_cells(path, HEADER)


def test_a_workbook_with_an_encrypted_part_is_refused(tmp_path):
    path = save(tmp_path / "mine.xlsx", [["path"], ["a"]])
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flags of the first part in the list of all
    path.write_bytes(content)
    with pytest.raises(UserError, match="a workbook with a password"):
        read_cells(path, HEADER)


def test_no_formula_and_no_link_of_a_workbook_is_followed(tmp_path):
    sheet = (
        f'<worksheet xmlns="{NAMESPACE}"><sheetData><row r="1"><c r="A1" t="str"><v>path</v></c></row><row r="2">'
        '<c r="A2"><f>WEBSERVICE("http://localhost:1/")</f><v>7</v></c></row></sheetData></worksheet>'
    )
    path = repack(save(tmp_path / "mine.xlsx", [["path"], ["a"]]), SHEET, sheet.encode())
    assert read_cells(path, HEADER).rows == [["7"]]


def test_without_openpyxl_a_workbook_is_refused_with_the_way_to_csv(tmp_path, monkeypatch):
    path = save(tmp_path / "mine.xlsx", [["path"], ["a"]])
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(UserError, match=r"Save it as CSV \(UTF-8\), or install openpyxl: .*\[excel\]"):
        read_cells(path, HEADER)
