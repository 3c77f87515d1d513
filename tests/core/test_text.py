import pytest

from pipeline.core.text import count_labels, count_words, make_printable


@pytest.mark.parametrize(("count", "text"), [(0, "0 scans"), (1, "1 scan"), (10_000, "10,000 scans")])
def test_a_word_has_an_s_unless_there_is_one(count, text):
    assert count_words(count, "scan") == text


def test_counts_of_labels_that_are_numbers_are_not_two_numbers_in_a_row():
    assert count_labels({"left": 1200, "right": 2}) == "1,200 left, 2 right"
    assert count_labels({"0": 46, "1": 27}) == "0: 46, 1: 27"
    assert count_labels({}) == ""


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31mred", "tab\t", "\udcff", "\u202eback"])
def test_what_is_made_printable_is_one_visible_line_that_still_differs(name):
    text = make_printable(name)
    assert text.isprintable()
    assert text != make_printable(name.replace(name[0], "x"))
    text.encode()


def test_letters_of_any_language_stay():
    assert make_printable("Knie é 膝 колено") == "Knie é 膝 колено"
