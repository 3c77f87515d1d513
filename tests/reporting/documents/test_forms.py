import re

import pytest

from pipeline.reporting.documents.forms import (
    OPEN,
    Form,
    Part,
    Question,
    fill_form,
    read_form,
    render_markdown,
    tabulate_document,
)

CHECKLIST, MODEL_CARD = read_form("claim_checklist"), read_form("model_card")

FORM = Form(
    "Form",
    "What is asked.",
    (
        Part(
            "Part",
            (
                Question("Whole", ("a", "b"), "", 1),
                Question("Half", ("a",), "the rest.", 2),
                Question("Unknown", ("c",), "", 3),
                Question("Theirs", (), "all of it.", 4),
            ),
        ),
    ),
)


def test_known_facts_are_filled_in_and_the_rest_is_marked_as_open():
    entries = fill_form(FORM, {"a": "First.", "b": "Second.", "c": ""}).entries
    assert [(entry.known, entry.open) for entry in entries] == [
        ("First. Second.", ""),
        ("First.", "the rest."),
        ("", "the whole entry; the run has no facts on it."),
        ("", "all of it."),
    ]


@pytest.mark.parametrize("form", [CHECKLIST, MODEL_CARD])
def test_without_facts_every_entry_is_open(form):
    document = fill_form(form, {})
    assert document.num_open == len(document.entries)
    assert not any(entry.known for entry in document.entries)


def test_claim_has_its_44_items_once_each_in_order():
    assert [entry.number for entry in fill_form(CHECKLIST, {}).entries] == list(range(1, 45))


def test_statements_that_no_run_can_make_are_left_to_the_authors():
    """Design, goal, rationale, agreement, registration, practice, funding: no file holds them."""
    everything = dict.fromkeys(
        (key for part in CHECKLIST.parts for question in part.questions for key in question.facts), "Known."
    )
    document = fill_form(CHECKLIST, everything)
    blank = {entry.number for entry in document.entries if not entry.known}
    assert blank == {2, 3, 5, 6, 15, 18, 34, 41, 44}
    assert all(entry.open for entry in document.entries if entry.number in blank)


def test_the_table_and_the_markdown_hold_every_entry_with_its_mark():
    document = fill_form(CHECKLIST, {"source": "Knees of a|b <i>."})
    table = tabulate_document(document)
    assert len(table.rows) == 44
    assert all(row[3].startswith(OPEN) for row in table.rows)
    text = render_markdown(document)
    rows = [line for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(rows) == 44
    assert sum(f"**{OPEN}:**" in row for row in rows) == 44
    assert r"Knees of a\|b \<i\>." in rows[6]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}, "a bar in a name does not start a cell"
