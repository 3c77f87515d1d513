"""The page, figure and tables of the leak demonstration."""

from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.audit_divisions import DIVISIONS
from pipeline.audit_results import describe_outcomes, name_units_in_words, tabulate_outcomes
from pipeline.datasets import DATASETS
from pipeline.experiment import Experiment
from pipeline.figures_studies import labelled_accuracies
from pipeline.files import write_bytes, write_json
from pipeline.pages import write_page
from pipeline.provenance import read_commit, read_hardware, read_versions
from pipeline.sections import Picture, Section, Table
from pipeline.store import Store
from pipeline.tables import write_table

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
    shown = Picture("audit", "Accuracy by what was divided", text, picture)
    rows = tuple((name, str(value)) for name, value in (facts | settings).items())
    write_page(
        folder / "audit.html",
        "study.html",
        title=f"{' / '.join(part for part in (experiment.name, experiment.run_name) if part)}: leak demonstration",
        synthetic_note=note,
        sentences=sentences,
        sections=[
            Section("What was found", tables=(tabulate_outcomes(outcomes, names),), pictures=(shown,)),
            Section("How it was done", METHOD, (Table(AGAIN, ("What", "Value"), rows),)),
        ],
    )
