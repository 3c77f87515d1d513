"""Rows are in the file when they are written, in no memory, and an interrupted table is resumed."""

import csv
import json
import weakref

import pytest

from pipeline.inference.resumable_table import RowWriter

COLUMNS = ("path", "value", "sure", "notes", "reason")
ROWS = [
    {"path": "a, b.nii", "value": 0.1 + 0.2, "sure": True, "notes": ["one", "two"]},
    {"path": "c.nii", "reason": 'broken: "x"'},
    {"path": "d\udcff.nii", "value": 1.0, "sure": False, "notes": []},
]


def write(path, rows, identity="x"):
    with RowWriter(path, identity) as writer:
        for row in rows:
            writer.write(row)
        writer.finish(COLUMNS)


def test_both_forms_hold_the_same_rows(tmp_path):
    write(tmp_path / "rows.csv", ROWS)
    write(tmp_path / "rows.json", ROWS)
    with (tmp_path / "rows.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert table[0] == {"path": "a, b.nii", "value": repr(0.1 + 0.2), "sure": "true", "notes": "one; two", "reason": ""}
    assert table[1] == {"path": "c.nii", "value": "", "sure": "", "notes": "", "reason": 'broken: "x"'}
    assert table[2]["path"] == r"d\udcff.nii"
    assert json.loads((tmp_path / "rows.json").read_text()) == [dict.fromkeys(COLUMNS) | row for row in ROWS]
    write(tmp_path / "empty.json", [])
    assert json.loads((tmp_path / "empty.json").read_text()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"rows.csv", "rows.json", "empty.json"}


def test_each_row_is_on_disk_before_the_next_is_asked_for_and_then_forgotten(tmp_path):
    class Row(dict):
        """A row that can be watched."""

    watched = []
    with RowWriter(tmp_path / "rows.csv", "x") as writer:
        for number in range(50):
            row = Row(path=f"{number}.nii")
            watched.append(weakref.ref(row))
            writer.write(row)
            lines = (tmp_path / "rows.csv.partial").read_text().splitlines()
            assert json.loads(lines[-1]) == row
            assert len(lines) == number + 2
            del row
            assert watched[-1]() is None
        assert len(list(writer.read())) == 50


@pytest.mark.parametrize("torn", [b"", b'{"path": "half'])
def test_an_interrupted_table_is_resumed(torn, tmp_path):
    with RowWriter(tmp_path / "rows.json", "x") as writer:
        for row in ROWS[:2]:
            writer.write(row)
    with (tmp_path / "rows.json.partial").open("ab") as file:
        file.write(torn)
    assert not (tmp_path / "rows.json").exists()
    with RowWriter(tmp_path / "rows.json", "x") as writer:
        assert writer.num_rows == 2
        writer.write(ROWS[2])
        assert list(writer.read()) == ROWS
        writer.finish(COLUMNS)
    assert len(json.loads((tmp_path / "rows.json").read_text())) == 3


def test_rows_of_another_call_are_not_taken(tmp_path):
    with RowWriter(tmp_path / "rows.csv", "x") as writer:
        writer.write(ROWS[0])
    with RowWriter(tmp_path / "rows.csv", "y") as writer:
        assert writer.num_rows == 0
        assert list(writer.read()) == []
