"""What the leak demonstration found: numbers, and the sentences that say what they mean."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config.experiment import Experiment
from pipeline.core.files import write_bytes, write_json
from pipeline.core.provenance import read_commit, read_hardware, read_versions
from pipeline.core.tables import write_table
from pipeline.core.text import plural
from pipeline.data.store import Store
from pipeline.datasets import DATASETS
from pipeline.reporting.elements import Figure, Section, Table
from pipeline.reporting.figures.intervals import labelled_accuracies
from pipeline.reporting.formatting import show_share
from pipeline.reporting.html import write_page
from pipeline.studies.leaky_splits import DIVISIONS, LABELLINGS

# What is divided, in the plural; with left and right as labels a side of a patient is one knee.
UNITS = {"slice": "slices", "volume": "scans", "side": "patients and labels", "patient": "patients"}

METHOD = (
    "One model, one recipe and the same number of steps for all; four ways to divide, by the same fractions: slices, "
    "scans, the scans of a patient that have the same label (one knee), and patients. With shuffled labels each "
    "patient has one label for all slices, drawn at random without looking at the knees: only who has seen the "
    "patient can know it. The divisions that share patients exist on this page alone; training never reads them.",
    "Everything that would keep a model from learning by heart is off: random changes of the pictures, dropout, weight "
    "decay, label smoothing. So are the mirror that exchanges labels and the mirror average, because shuffled labels "
    "have no mirror image. The weights after the last step are judged; nothing is chosen on validation or test.",
)

AGAIN = "How to get these numbers again"


def name_units_in_words(division: str, class_names: Sequence[str]) -> str:
    """Return what a division deals out, in the plural."""
    return "knees" if division == "side" and tuple(class_names) == ("left", "right") else UNITS[division]


def describe_outcomes(rows: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> list[str]:
    """Say what the demonstration shows, and what it does not.

    Args:
        rows: of ``summarise_outcomes``.
        class_names: all classes.
    """
    chance = 1 / len(class_names)
    found = {(row["division"], row["labels"]): row["accuracy"] for row in rows}
    shuffled = {division: found[division, "shuffled"] for division in DIVISIONS}
    units = {division: name_units_in_words(division, class_names) for division in DIVISIONS}
    listed = [f"{show_share(shuffled[division])} where {units[division]} were divided" for division in DIVISIONS]
    sentences = [
        "With labels that were shuffled between patients, and so mean nothing, the model is right for "
        f"{', '.join(listed[:-1])}, and {listed[-1]}; chance is {100 * chance:.0f}\u00a0%. In brackets are 95\u00a0% "
        "intervals over patients."
    ]
    leaky = [d for d in DIVISIONS[:-1] if shuffled[d]["low"] is not None and shuffled[d]["low"] > chance]
    if leaky:
        sentences.append(
            f"Where {_join([units[division] for division in leaky])} were divided it can only have recognised patients "
            "that it was trained on: a score from such a split also counts what was learned by heart."
        )
    quiet = [division for division in DIVISIONS[:-1] if division not in leaky]
    if quiet:
        sentences.append(
            f"Where {_join([units[division] for division in quiet])} were divided no score above chance is shown with "
            "this recipe; that does not make the split a clean one, because its patients are on both sides."
        )
    clean = shuffled["patient"]
    if clean["low"] is None:
        sentences.append("There is no interval for divided patients, so nothing can be said about them.")
    elif clean["low"] <= chance <= clean["high"]:
        sentences.append(
            "Where patients were divided, chance lies in the interval: what was learned by heart does not help there."
        )
    else:
        sentences.append(
            "Where patients were divided the interval leaves chance out, which a clean split does once in twenty "
            "times by luck; with other seeds (audit.seeds) it should come back."
        )
    true = {division: found[division, "true"] for division in DIVISIONS}
    listed = [f"{units[division]} {show_share(true[division])}" for division in DIVISIONS]
    gap = 100 * (true["slice"]["value"] - true["patient"]["value"])
    compared = f"{abs(gap):.1f} points {'above' if gap >= 0 else 'below'}"
    sentences.append(
        f"With true labels and the same recipe: {', '.join(listed)}. Dividing slices gives a score {compared} that of "
        "dividing patients."
    )
    return sentences


def tabulate_outcomes(rows: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> Table:
    """Return the table of the page: a row a division, true labels beside shuffled ones."""
    cells = []
    for division in DIVISIONS:
        true, shuffled = (
            next(row for row in rows if (row["division"], row["labels"]) == (division, labelling))
            for labelling in LABELLINGS
        )
        units = name_units_in_words(division, class_names)
        texts = [show_share(row["accuracy"]) for row in (true, shuffled)]
        cells.append((units, *texts, f"{true['n']:,}", f"{true['groups']:,}"))
    num_seeds = rows[0]["seeds"]
    return Table(
        caption="Accuracy on test slices",
        columns=("Divided are", "True labels", "Shuffled labels", "Test slices", "Patients"),
        rows=tuple(cells),
        note="In brackets: 95\u00a0% intervals from a bootstrap over patients."
        + (f" Over {num_seeds} {plural('seed', num_seeds)} together." if num_seeds > 1 else ""),
    )


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def write_audit(
    folder: Path,
    experiment: Experiment,
    store: Store,
    settings: dict[str, Any],
    outcomes: list[dict[str, Any]],
    records: list[dict[str, Any]],
) -> None:
    """Write ``audit.json``, ``audit.csv``, ``audit.png`` and ``audit.html``.

    Args:
        folder: where they go.
        experiment: all options.
        store: the pictures.
        settings: what shaped the models.
        outcomes: of ``summarise_outcomes``.
        records: what is known of each model.
    """
    names = store.class_names
    sentences = describe_outcomes(outcomes, names)
    chance = 1 / len(names)
    by_key = {(row["division"], row["labels"]): row["accuracy"] for row in outcomes}
    drawn = [(name_units_in_words(d, names), by_key[d, "true"], by_key[d, "shuffled"]) for d in DIVISIONS]
    picture = labelled_accuracies(drawn, chance)
    note = DATASETS[experiment.data.dataset].synthetic_note
    content = {"synthetic_note": note, "class_names": list(names), "chance": chance, "seeds": experiment.audit.seeds}
    content |= {"outcomes": outcomes, "sentences": sentences, "runs": records, "settings": settings}
    content |= {"commit": read_commit(), "hardware": read_hardware(), "versions": read_versions()}
    flat = [
        {name: value for name, value in row.items() if name != "accuracy"}
        | {"accuracy": row["accuracy"]["value"], "low": row["accuracy"]["low"], "high": row["accuracy"]["high"]}
        for row in outcomes
    ]
    write_json(folder / "audit.json", content)
    write_table(folder / "audit.csv", pd.DataFrame(flat), tuple(flat[0]))
    write_bytes(folder / "audit.png", picture)
    seconds = sum(record["seconds"] for record in records)
    facts = {
        "models": str(len(records)),
        "training slices of each": f"{records[0]['num_train']:,}",
        "steps of each": f"{records[0]['num_steps']:,}",
        "seeds": ", ".join(map(str, experiment.audit.seeds)),
        "time of training and scoring": f"{seconds / 60:.1f} minutes, {read_hardware()}",
        "pictures": store.fingerprint,
        "commit": read_commit(),
    }
    text = "Dots with their 95\u00a0% intervals over patients; the dashed line is chance."
    shown = Figure("audit", "Accuracy by what was divided", text, picture)
    rows = tuple((name, str(value)) for name, value in (facts | settings).items())
    write_page(
        folder / "audit.html",
        "study.html",
        title=f"{experiment.paths.title}: leak demonstration",
        synthetic_note=note,
        sentences=sentences,
        sections=[
            Section("What was found", tables=(tabulate_outcomes(outcomes, names),), figures=(shown,)),
            Section("How it was done", METHOD, (Table(AGAIN, ("What", "Value"), rows),)),
        ],
    )
