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
    find_known,
    is_blank,
    read_table,
    refuse_alike,
    write_table,
)

# Unicode's Default_Ignorable_Code_Point in parts, and an empty cell of Braille.
UNSEEN_SYMBOLS = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b\u180e\u180f\u200b\u200c\u200d\u200e\u200f\u202a\u202e\u2060\u2064\u2066"
    "\u2069\u206f\u2800\u3164\ufe00\ufe0f\ufeff\uffa0\ufffc\U0001d173\U000e0001\U000e007f\U000e0100\U000e01ef"
)
# Characters that most fonts draw as the one before them.
TWINS = {
    "a": "\u0430", "e": "\u0435", "i": "\u0456", "j": "\u0458", "p": "\u0440", "o": "\u043e\u03bf", "x": "\u0445",
    "A": "\u0410\u0391", "B": "\u0412\u0392", "E": "\u0415\u0395", "H": "\u041d\u0397", "I": "\u0406\u0399",
    "K": "\u041a\u039a\u212a", "M": "\u041c\u039c", "O": "\u041e\u039f", "P": "\u0420\u03a1", "T": "\u0422\u03a4",
    "X": "\u0425\u03a7", "0": "\uff10\u0660", "1": "\u0661\u06f1\uff11", "7": "\u0667\U0001d7d5",
    "-": "\u2010\u2011\u2013\u2014\u2212\uff0d", "'": "\u2018\u2019\u02bc",
}  # fmt: skip

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
        ("\u3164a\u2800", "a", "invisible characters"),
        ("P\u20117", "P-7", "digits, dashes or quotation marks that look the same"),
        ("\u22121", "-1", "digits, dashes or quotation marks that look the same"),
        ("\u0667", "7", "digits, dashes or quotation marks that look the same"),
        ("grade \u201c1\u201d", 'grade "1"', "digits, dashes or quotation marks that look the same"),
        ("\u0420\u04101", "PA1", "letters of another script that look the same"),
        ("\u041d\u0410", "ha", "letters of another script that look the same and upper and lower case"),
        ("\u0391\u0392", "\u03b1\u03b2", "upper and lower case"),
        ("\u0130Z", "iz", "the dot of an i and upper and lower case"),
        ("ISI", "\u0131s\u0131", "the dot of an i and upper and lower case"),
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
        "5 \u03bcm",
        "5 mm",
        "1.10",
        "1.1",
        "-1",
        "\u0432",
        "b",
    ]
    assert find_alike([*texts, *texts]) is None


@settings(max_examples=300, deadline=None)
@given(text=TEXTS.map(clean_text), place=st.integers(0, 6), symbol=st.sampled_from(sorted(UNSEEN_SYMBOLS)))
def test_what_cannot_be_seen_makes_no_other_text(text, place, symbol):
    """All that Unicode calls ignorable in print, put anywhere into any text."""
    other = text[:place] + symbol + text[place:]
    assert find_alike([text, other]) == (text, other)
    assert find_known([other], [text]) == {other: text}
    assert is_blank(other) == is_blank(text)


@settings(max_examples=300, deadline=None)
@given(text=st.text("abeijpoxABEHIKMOPTX017-'", min_size=1, max_size=6), draw=st.data())
def test_a_character_that_looks_the_same_makes_no_other_text(text, draw):
    """Letters of other scripts, other dashes and digits in any places: no two that nobody can tell apart stay two."""
    other = "".join(draw.draw(st.sampled_from(TWINS.get(symbol, symbol) + symbol)) for symbol in text)
    assert other == text or find_alike([text, other]) == (text, other)
    assert find_known([other], [text]) == {other: text}


def test_two_texts_that_look_the_same_are_shown_by_their_codes():
    with pytest.raises(UserError, match=r"'\\u04201' \(line 3\) differ only in letters of another script"):
        refuse_alike("t.csv", "patients", {"P1": "line 2", "\u04201": "line 3"})


def test_the_first_two_that_are_alike_are_named_of_many():
    assert find_alike(["7", "Left", "8", "left", "007"]) == ("Left", "left")
