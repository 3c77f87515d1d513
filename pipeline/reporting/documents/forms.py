"""Forms that a run fills in as far as it can: what is known stands there, the rest is marked as open.

A form names, for each entry, the facts that answer it and what only the authors can say. Nothing is guessed: an
entry whose facts are not there is open as a whole.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.reporting.elements import Table

OPEN = "To be filled in by the authors"


@dataclass(frozen=True)
class Question:
    """An entry of a form.

    Args:
        name: what is asked for.
        facts: keys of the facts that answer it, in this order.
        authors: what only the authors can say; empty where the facts are the whole answer.
        number: as published; empty where the form has none.
    """

    name: str
    facts: tuple[str, ...] = ()
    authors: str = ""
    number: str = ""


@dataclass(frozen=True)
class Form:
    """A form before it is filled in.

    Args:
        title: its heading.
        introduction: what it is, and what the marks mean.
        parts: headings with their questions.
    """

    title: str
    introduction: str
    parts: tuple[tuple[str, tuple[Question, ...]], ...]


@dataclass(frozen=True)
class Entry:
    """An answered question.

    Args:
        number: as published; may be empty.
        name: what was asked for.
        known: what the run says; empty where nothing.
        open: what the authors have to add; empty where nothing.
    """

    number: str
    name: str
    known: str
    open: str


@dataclass(frozen=True)
class Document:
    """A form that was filled in.

    Args:
        title: its heading.
        introduction: what it is.
        parts: headings with their entries.
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
        """How many entries the authors have to fill in or to complete."""
        return sum(bool(entry.open) for entry in self.entries)


def fill_form(form: Form, facts: Mapping[str, str]) -> Document:
    """Answer what the facts answer, and mark the rest.

    Args:
        form: the questions.
        facts: sentences by key; a key that is absent or empty is not known.
    """
    parts = tuple((title, tuple(_answer(question, facts) for question in questions)) for title, questions in form.parts)
    return Document(form.title, form.introduction, parts)


def tabulate_document(document: Document) -> Table:
    """Turn a document into one table: a row an entry."""
    rows = tuple(
        (f"{entry.number} {entry.name}".strip(), part, entry.known, f"{OPEN}: {entry.open}" if entry.open else "")
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
            cells = [entry.number] * has_numbers + [_escape(entry.name), _escape(entry.known), mark]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _answer(question: Question, facts: Mapping[str, str]) -> Entry:
    known = " ".join(facts[key] for key in question.facts if facts.get(key))
    open_part = question.authors or ("" if known else "nothing of this is known to the run.")
    return Entry(question.number, question.name, known, open_part)


def _escape(text: str) -> str:
    """Keep a name such as ``a|b`` or ``<b>`` from becoming a cell or a tag."""
    return re.sub(r"([\\|*_`<>\[\]])", r"\\\1", " ".join(text.split()))


def list_missing_facts(forms: Sequence[Form], facts: Mapping[str, str]) -> list[str]:
    """Return the keys that forms ask for and that are not there."""
    asked = {key for form in forms for _, questions in form.parts for question in questions for key in question.facts}
    return sorted(asked - set(facts))


CHECKLIST = Form(
    title="CLAIM check-list (2024 update)",
    introduction=(
        "The items of Tejani et al., Radiology: Artificial Intelligence 2024, doi:10.1148/ryai.240300, in short words, "
        "with what this run knows of each. Statements on the study as a whole belong to its authors and are marked."
    ),
    parts=(
        (
            "Title and abstract",
            (
                Question("Kind of method named in the title or abstract", ("method",), "the title.", "1"),
                Question("Summary of design, methods, results, conclusions", (), "the abstract.", "2"),
            ),
        ),
        (
            "Introduction",
            (
                Question("Background, and the part that the method shall play", (), "both.", "3"),
                Question("Aims and hypotheses", ("task",), "the aims and hypotheses of the study.", "4"),
            ),
        ),
        (
            "Methods: design",
            (
                Question("Prospective or retrospective", (), "which of the two.", "5"),
                Question("What the study is for", (), "its goal, such as feasibility or development.", "6"),
            ),
        ),
        (
            "Methods: data",
            (
                Question("Where the data come from", ("source",), "sites, dates, ethics approval and consent.", "7"),
                Question("Who was taken in, who was left out", ("refused",), "the clinical criteria.", "8"),
                Question("Preprocessing", ("preprocessing",), "", "9"),
                Question("Choice of parts of the data", ("selection",), "", "10"),
                Question("De-identification", ("identity",), "how the files were de-identified.", "11"),
                Question("Missing data", ("missing",), "", "12"),
                Question("Acquisition", ("acquisition",), "scanner, coil, sequence and their settings.", "13"),
            ),
        ),
        (
            "Methods: reference standard",
            (
                Question("How the reference was obtained", ("reference",), "how labels came about originally.", "14"),
                Question("Why this reference", (), "the reasons, and what else there was.", "15"),
                Question("Who annotated", ("annotators",), "the annotators and their experience.", "16"),
                Question("Annotation of the test rows", ("test_reference",), "", "17"),
                Question("Agreement between and within readers", (), "agreement, or that one reading was made.", "18"),
            ),
        ),
        (
            "Methods: partitions",
            (
                Question("How rows were assigned", ("partition",), "", "19"),
                Question("The level at which partitions are disjoint", ("disjoint",), "", "20"),
                Question("Intended number of test cases", ("test_size",), "the number planned, and why.", "21"),
            ),
        ),
        (
            "Methods: model",
            (
                Question("The model", ("model",), "", "22"),
                Question("Software", ("software",), "", "23"),
                Question("First weights", ("initialisation",), "", "24"),
            ),
        ),
        (
            "Methods: training",
            (
                Question("Training", ("training", "augmentation"), "", "25"),
                Question("Choice of the final model", ("choice",), "how options were chosen before this run.", "26"),
                Question("Ensembles", ("ensemble",), "", "27"),
            ),
        ),
        (
            "Methods: evaluation",
            (
                Question("Measures", ("measures",), "", "28"),
                Question("Uncertainty and significance", ("intervals",), "", "29"),
                Question("Robustness", ("robustness",), "", "30"),
                Question("Explanations", ("explanation",), "", "31"),
                Question("Test on internal data", ("internal",), "", "32"),
                Question("Test on external data", ("external",), "a test elsewhere, or that there was none.", "33"),
                Question("Registration of a trial", (), "the registration, or that it does not apply.", "34"),
            ),
        ),
        (
            "Results: data",
            (
                Question("How many were included and left out", ("flow",), "", "35"),
                Question("Who is in each partition", ("counts",), "age, sex and disease in each partition.", "36"),
            ),
        ),
        (
            "Results: performance",
            (
                Question("Measures with their uncertainty", ("results",), "", "37"),
                Question("Diagnostic performance and its precision", ("diagnostic",), "", "38"),
                Question("Failures", ("failures",), "what the mistakes have in common.", "39"),
            ),
        ),
        (
            "Discussion",
            (
                Question("Limits", ("limits",), "limits of the study.", "40"),
                Question("What it means for practice", (), "the intended use and part in care.", "41"),
            ),
        ),
        (
            "Other",
            (
                Question("Protocol and further details", ("details",), "the study's protocol.", "42"),
                Question("Availability of software, model, data", ("availability",), "where each can be had.", "43"),
                Question("Funding and the part of the funders", (), "both.", "44"),
            ),
        ),
    ),
)

MODEL_CARD = Form(
    title="Model card",
    introduction=(
        "What this run knows of its model, in the order of Mitchell et al. 2019 (doi:10.1145/3287560.3287596). What "
        "only the people behind it can say is marked as open."
    ),
    parts=(
        (
            "The model",
            (
                Question("Made by", (), "names, contact, date and licence."),
                Question("Task", ("task",)),
                Question("Network", ("model",)),
                Question("Weights", ("weights", "initialisation")),
                Question("Software", ("software",)),
            ),
        ),
        (
            "What it is for",
            (
                Question("Intended use", ("status",), "for what and by whom it may be used."),
                Question("Not for", ("not_for",), "further uses to be ruled out."),
            ),
        ),
        (
            "Groups and conditions",
            (
                Question("Conditions that may matter", ("acquisition",), "age, sex, disease, machine, site."),
                Question("Conditions that were looked at", ("robustness",)),
            ),
        ),
        (
            "Data",
            (
                Question("Source", ("source",), "sites, dates, consent."),
                Question("Labels", ("reference", "test_reference")),
                Question("Preprocessing", ("preprocessing",)),
                Question("Flow", ("flow",)),
                Question("Split", ("partition", "disjoint")),
                Question("Rows of each split", ("counts",)),
            ),
        ),
        ("Training", (Question("Training", ("training", "augmentation")), Question("Choice", ("choice", "ensemble")))),
        (
            "What it is worth",
            (
                Question("Measures", ("measures", "intervals")),
                Question("Results", ("results", "diagnostic")),
                Question("Beside baselines", ("baselines",)),
                Question("Failures", ("failures",)),
                Question("External data", ("external",), "a test elsewhere, or that there was none."),
            ),
        ),
        (
            "Care",
            (
                Question("Limits", ("limits",), "further limits."),
                Question("Persons in the data", ("identity",), "ethics approval, consent, data-use agreement."),
                Question("Harm by mistakes", (), "who is harmed by which mistake, and what is done against it."),
            ),
        ),
    ),
)
