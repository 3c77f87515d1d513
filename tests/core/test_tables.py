import gc

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import UserError
from pipeline.core.tables import (
    SPLIT_COLUMNS,
    clean_text,
    describe_difference,
    find_alike,
    find_formula,
    pause_collector,
    read_table,
    write_table,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=6)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(TEXTS, TEXTS), max_size=4))
def test_a_table_of_any_texts_is_read_as_it_was_written(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "splits.csv"
    table = pd.DataFrame(rows, columns=list(SPLIT_COLUMNS), dtype=str)
    write_table(path, table, SPLIT_COLUMNS)
    found = read_table(path, SPLIT_COLUMNS)
    assert found.to_numpy().tolist() == table.to_numpy().tolist()


def test_ids_stay_text_and_floats_keep_all_their_digits(tmp_path):
    table = pd.DataFrame({"group_id": ["007", "NA", ""], "split": [0.1 + 0.2, 1 / 3, 1e-300]})
    write_table(tmp_path / "table.csv", table, SPLIT_COLUMNS)
    found = read_table(tmp_path / "table.csv", SPLIT_COLUMNS)
    assert list(found["group_id"]) == ["007", "NA", ""]
    assert [float(value) for value in found["split"]] == list(table["split"])


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("manifest.csv", "Run the preprocess stage"),
        ("splits.csv", "Run the split stage"),
        ("splits-5-folds.csv", "Run the split stage"),
        ("predictions.csv", "Run the evaluate stage"),
        ("mine.csv", "Check the path"),
    ],
)
def test_a_table_that_is_not_there_names_the_stage_that_writes_it(name, advice, tmp_path):
    with pytest.raises(UserError, match=rf"{name}: no such table\. {advice}"):
        read_table(tmp_path / name, SPLIT_COLUMNS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"group_id\n1\n", "columns split are missing"),
        (b"group_id,split\n1,train,more\n", "more cells"),
        (b"", "not readable as CSV"),
        (b"group_id,split\n\xff\xfe,a\n", "not readable as CSV"),
    ],
)
def test_what_is_no_table_is_refused_with_its_path(content, message, tmp_path):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(UserError, match=rf"table\.csv: .*{message}"):
        read_table(tmp_path / "table.csv", SPLIT_COLUMNS)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
@pytest.mark.parametrize("column", ["group_id", "source_id", "label", "path"])
def test_a_cell_that_a_spreadsheet_runs_is_found(start, column):
    table = pd.DataFrame({name: ["a", "b=1"] for name in ("group_id", "source_id", "label", "path")})
    assert find_formula(table) == ""
    table.loc[1, column] = f"{start}1+1"
    assert find_formula(table) == f"{start}1+1"


def test_blanks_at_the_ends_and_the_unicode_form_are_removed_and_nothing_else():
    assert clean_text("\u00a0Fa\u0308ll 0\t\u3000") == "F\u00e4ll 0"
    for text in ("Left", "007", "a\u200bb", "\uff11", "7.0", "OAI9014797", "a  b"):
        assert clean_text(text) == text


@pytest.mark.parametrize(
    ("text", "other", "difference"),
    [
        ("Stra\u00dfe", "STRASSE", "upper and lower case"),
        ("a\u00adb", "ab", "invisible characters"),
        ("\ufeffa", "a", "invisible characters"),
        ("P\uff10\uff11", "P01", "the width or form of characters"),
        ("oai_9014797", "9014797", "the prefix OAI"),
        ("0007", "7", "leading zeros"),
        ("P7", "P07", "leading zeros"),
        ("KL 0", "KL 00", "leading zeros"),
        ("9014797.0", "9014797", "a decimal .0"),
        ("LEFT\u200b", "left", "invisible characters and upper and lower case"),
    ],
)
def test_spellings_of_one_text_are_alike(text, other, difference):
    assert find_alike(["x", text, "y", other]) == (text, other)
    assert describe_difference(text, other) == difference


def test_other_texts_are_not_alike():
    texts = [
        "0.5",
        "0.05",
        "1.0.1",
        "1.1",
        "70",
        "7",
        "P10",
        "P1",
        "OAI",
        "oaix",
        "a-b",
        "a b",
        "ab",
        "\u00e4b",
        "7.5",
        "75",
    ]
    assert find_alike([*texts, *texts]) is None


def test_the_first_two_that_are_alike_are_named_of_many():
    assert find_alike(["7", "Left", "8", "left", "007"]) == ("Left", "left")


def test_the_collector_is_paused_and_then_as_it_was_also_after_an_error():
    with pause_collector():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(UserError), pause_collector():
        raise UserError("x")
    assert gc.isenabled()
    gc.disable()
    try:
        with pause_collector():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
