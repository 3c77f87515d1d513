"""Tables of the user: columns in any case, numbers in either style, all that is not asked for left in the file."""

import pytest

from pipeline.core.errors import UserError
from pipeline.data.given_tables import read_given_table, use_points

COLUMNS = {"group_id": ("group_id", "patient"), "split": ("split",)}


def read(tmp_path, text, columns=COLUMNS, **options):
    path = tmp_path / "mine.csv"
    path.write_text(text, encoding="utf-8")
    return read_given_table(path, columns, **options)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("group_id,split,split", "the column split is there twice"),
        ("group_id,split, split", "the column split is there twice"),
        ("group_id,split,age,age", "the column age is there twice"),
        ("group_id,split,Split", r"columns split \(2\) and Split \(3\) may both be split"),
        ("group_id,split,patient", r"columns group_id \(1\) and patient \(3\) may both be group_id"),
        ("group_id,sp\u200blit,age", "invisible characters"),
        ("scan,split,age", "columns group_id are missing; found scan, split, age"),
    ],
)
def test_columns_of_a_given_table_that_can_be_mistaken_are_refused(header, message, tmp_path):
    with pytest.raises(UserError, match=rf"mine\.csv: .*{message}"):
        read(tmp_path, f"{header}\n1,train,3\n")


@pytest.mark.parametrize(
    "header", ["group_id,split", "GROUP_ID, Split ", "\ufeffPatient\u00a0,SPLIT,,", "patient,split,Age"]
)
def test_columns_are_found_in_any_case_and_with_blanks_and_no_other_is_kept(header, tmp_path):
    given = read(tmp_path, f"{header}\n 1,train \n", ids=("group_id",))
    assert given.table.to_dict("list") == {"group_id": ["1"], "split": ["train"]}
    (note,) = given.notes
    assert "1 of 1 cells of group_id, first in line 2" in note


def test_cells_know_their_line_in_the_file(tmp_path):
    given = read(tmp_path, 'group_id,split,x\n1,train,"a\nb"\n\n,,\n2,val\n')
    assert given.table["group_id"].to_dict() == {3: "1", 6: "2"}


@pytest.mark.parametrize(
    ("has_decimal_commas", "cells", "read_as"),
    [
        (True, ["0,5", "1.200", "7", ""], ["0.5", "1200", "7", ""]),
        (True, ["1.5", "7"], ["1.5", "7"]),
        (True, ["0,5", "high"], ["0,5", "high"]),
        (False, ["0,5"], ["0,5"]),
        (None, ["1,200", "3,100"], ["1,200", "3,100"]),
        (None, ["1,200", "3,1"], ["1.200", "3.1"]),
        (True, ["1,2,3"], ["1,2,3"]),
    ],
)
def test_numbers_get_a_point_where_all_cells_are_numbers_and_some_have_a_decimal_comma(
    has_decimal_commas, cells, read_as
):
    assert use_points(cells, has_decimal_commas) == read_as


def test_an_id_that_a_spreadsheet_shortened_is_refused(tmp_path):
    with pytest.raises(UserError, match="line 3: group_id 9,01443E\\+13 is a long number"):
        read(tmp_path, "group_id;split\n1E5;train\n9,01443E+13;val\n", ids=("group_id",))


@pytest.mark.parametrize(
    ("name", "text", "guessed"),
    [
        ("a.csv", "patient,split,Age\n1,train,5\n", ""),
        ("a.csv", "patient;split;Age\n1;train;5\n", "semicolons between cells"),
        ("a.csv", "patient;split;Age\n1;train;0,5\n", "semicolons between cells and decimal commas in Age"),
        ("a.csv", "patient|split|Age\n1|train|0,5\n", "vertical bars between cells and decimal commas in Age"),
        ("a.csv", "patient\tsplit\tAge\n1\ttrain\t5\n", "tabs between cells"),
        ("a.tsv", "patient\tsplit\tAge\n1\ttrain\t5\n", ""),
        ("a.csv", "sep=;\npatient;split;Age\n1;train;5\n", ""),
        ("a.csv", "sep=;\npatient;split;Age\n1;train;0,5\n", "decimal commas in Age"),
    ],
)
def test_what_was_guessed_of_separator_and_decimals_is_one_note(name, text, guessed, tmp_path):
    (tmp_path / name).write_text(text)
    given = read_given_table(tmp_path / name, COLUMNS | {"age": ("age",)}, numbers=("age",))
    expected = f"{tmp_path / name}: read with {guessed}, a guess. If cells look wrong, save it with commas"
    assert [note[: len(expected)] for note in given.notes] == ([expected] if guessed else [])
