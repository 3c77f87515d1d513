"""Forms that are filled in from the facts of a run; entries that the authors have to complete are marked as open.

The forms themselves are YAML files next to this module. A form names, for each entry, the facts that answer it and
the part that only the authors can give. Nothing is guessed: an entry whose facts are absent is open as a whole.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from pipeline.core.serialization import build_record
from pipeline.reporting.elements import Table

OPEN = "To be filled in by the authors"


@dataclass(frozen=True)
class Question:
    """An entry of a form.

    Args:
        name: The name of the entry.
        facts: The keys of the facts that answer it, in this order.
        authors: The part that only the authors can give; empty where the facts are the whole answer.
        number: The number as published; 0 where the form has none.
    """

    name: str
    facts: tuple[str, ...] = ()
    authors: str = ""
    number: int = 0


@dataclass(frozen=True)
class Part:
    """Questions under one heading.

    Args:
        title: The heading.
        questions: The questions in their order.
    """

    title: str
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Form:
    """A form before it is filled in.

    Args:
        title: The heading of the form.
        introduction: The origin of the form, and the meaning of its marks.
        parts: The questions, by heading.
    """

    title: str
    introduction: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Entry:
    """An answered question.

    Args:
        number: The number as published; 0 where the form has none.
        name: The name of the entry.
        known: The facts from the run; may be empty.
        open: The part that the authors have to add; may be empty.
    """

    number: int
    name: str
    known: str
    open: str


@dataclass(frozen=True)
class Document:
    """A form that was filled in.

    Args:
        title: The heading of the form.
        introduction: The origin of the form, and the meaning of its marks.
        parts: The headings with their entries.
    """

    title: str
    introduction: str
    parts: tuple[tuple[str, tuple[Entry, ...]], ...]

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All entries in their order."""
        return tuple(entry for _, entries in self.parts for entry in entries)

    @property
    def num_open(self) -> int:
        """The number of entries that the authors have to fill in or to complete."""
        return sum(bool(entry.open) for entry in self.entries)


@cache
def read_form(name: str) -> Form:
    """Read one of the forms next to this module: ``model_card`` or ``claim_checklist``."""
    text = (Path(__file__).parent / f"{name}.yaml").read_text(encoding="utf-8")
    return build_record(Form, yaml.safe_load(text))


def fill_form(form: Form, facts: Mapping[str, str]) -> Document:
    """Fill in the entries that the facts answer, and mark the rest as open.

    Args:
        form: The form with its questions.
        facts: The sentences by key; a key that is absent or empty is not known.
    """
    parts = tuple((part.title, tuple(_answer(question, facts) for question in part.questions)) for part in form.parts)
    return Document(form.title, form.introduction, parts)


def tabulate_document(document: Document) -> Table:
    """Turn a document into one table: a row an entry."""
    rows = tuple(
        (
            f"{entry.number} {entry.name}" if entry.number else entry.name,
            part,
            entry.known,
            f"{OPEN}: {entry.open}" if entry.open else "",
        )
        for part, entries in document.parts
        for entry in entries
    )
    return Table(document.title, ("Item", "Part", "From this run", "Open"), rows)


def render_markdown(document: Document) -> str:
    """Write a document as Markdown: a heading a part, a row an entry."""
    lines = [f"# {_escape(document.title)}", "", _escape(document.introduction), ""]
    for title, entries in document.parts:
        has_numbers = any(entry.number for entry in entries)
        lines += [f"## {_escape(title)}", ""]
        lines += ["| no. | item | from this run | open |" if has_numbers else "| item | from this run | open |"]
        lines += ["|---|---|---|---|" if has_numbers else "|---|---|---|"]
        for entry in entries:
            mark = f"**{OPEN}:** {_escape(entry.open)}" if entry.open else ""
            cells = [str(entry.number)] * has_numbers + [_escape(entry.name), _escape(entry.known), mark]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _answer(question: Question, facts: Mapping[str, str]) -> Entry:
    known = " ".join(facts[key] for key in question.facts if facts.get(key))
    open_part = question.authors or ("" if known else "the whole entry; the run has no facts on it.")
    return Entry(question.number, question.name, known, open_part)


def _escape(text: str) -> str:
    """Keep a name such as ``a|b`` or ``<b>`` from becoming a cell or a tag."""
    return re.sub(r"([\\|*_`<>\[\]])", r"\\\1", " ".join(text.split()))
