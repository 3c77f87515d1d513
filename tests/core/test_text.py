import pytest

from pipeline.core.text import clean_text, count_words, describe_difference, find_alike, make_printable


@pytest.mark.parametrize(("count", "text"), [(0, "0 scans"), (1, "1 scan"), (10_000, "10,000 scans")])
def test_a_word_has_an_s_unless_there_is_one(count, text):
    assert count_words(count, "scan") == text


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31mred", "tab\t", "\udcff", "\u202eback"])
def test_what_is_made_printable_is_one_visible_line_that_still_differs(name):
    text = make_printable(name)
    assert text.isprintable()
    assert text != make_printable(name.replace(name[0], "x"))
    text.encode()


def test_letters_of_any_language_stay():
    assert make_printable("Knie é 膝 колено") == "Knie é 膝 колено"


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
