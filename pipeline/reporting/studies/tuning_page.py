"""The page and the tables of a search for a recipe."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config.experiment import Experiment
from pipeline.core.files import write_json
from pipeline.core.provenance import read_commit, read_versions
from pipeline.core.tables import write_table
from pipeline.core.text import count_words, plural
from pipeline.data.certified_data import CertifiedData
from pipeline.datasets import DATASETS
from pipeline.reporting.elements import Section, Table, tabulate_facts
from pipeline.reporting.formatting import DASH, show_number
from pipeline.reporting.html import write_page
from pipeline.studies.tuning import Search, TrialResult

METHOD = (
    "Each recipe is trained from scratch on the training rows and compared by its best epoch on validation; no test "
    "row is read. Optuna proposes recipes by a tree-structured Parzen estimator and ends those that are worse than the "
    "median of the others after as many epochs. A trial whose process died is tried again; no recipe is tried twice.",
    "The best of many recipes looks better on validation than it is, and the more so the more were tried. Their number "
    "is kept with the recipe (train.recipes_tried) in every run that is trained from it, and stands next to its "
    "results.",
)


def describe_search(search: Search, experiment: Experiment, data: CertifiedData) -> list[str]:
    """Describe the best recipe, and how many were compared on how few patients.

    Args:
        search: The search, with a best trial.
        experiment: All options.
        data: All examples and their splits.
    """
    best, kind = search.best, data.store.kind
    assert best is not None
    num_ended = sum(trial.state == "ended" for trial in search.trials)
    num_refused = sum(trial.state == "refused" for trial in search.trials)
    refused = f" Not counted: {count_words(num_refused, 'refused recipe')}." if num_refused else ""
    groups = sum(role == "val" for role in data.roles.values())
    recipe = ", ".join(f"{name} {_show_value(value)}" for name, value in best.params.items())
    return [
        f"{count_words(search.num_tried, 'recipe')} tried in {search.seconds / 60:.1f} minutes of training, "
        f"{num_ended} of them ended early, and compared on {count_words(groups, kind.group)} of validation.{refused}",
        f"The best by {experiment.train.monitor.replace('val_', 'validation ')}: {recipe} (validation loss "
        f"{show_number(best.val_loss)}, accuracy {show_number(best.val_accuracy)}, trial {best.number}).",
    ]


def describe_trial(trial: TrialResult) -> str:
    """Write a trial in a line."""
    recipe = ", ".join(f"{name} {_show_value(value)}" for name, value in trial.params.items())
    if trial.state == "refused":
        return f"trial {trial.number}: {recipe}: refused: {trial.reason}"
    scores = f"val loss {show_number(trial.val_loss)}, accuracy {show_number(trial.val_accuracy)}"
    return f"trial {trial.number}: {recipe}: {scores}, {count_words(trial.epochs, 'epoch')}, {trial.state}"


def _show_value(value: Any) -> str:
    """Return a value as a config has it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def tabulate_trials(search: Search, monitor: str) -> Table:
    """Return the table of the trials, the best first, those without a score last.

    Args:
        search: The search.
        monitor: The number that the trials are compared by.
    """
    names = list(dict.fromkeys(name for trial in search.trials for name in trial.params))
    shown = [trial for trial in search.trials if trial.state != "repeated"]

    def rank(trial: TrialResult) -> tuple[bool, float, int]:
        score = trial.val_loss if monitor == "val_loss" else None if trial.val_accuracy is None else -trial.val_accuracy
        return trial.state != "complete", float("inf") if score is None else score, trial.number

    rows = tuple(
        (
            str(trial.number),
            f"refused: {trial.reason}" if trial.state == "refused" else trial.state,
            *(_show_value(trial.params[name]) if name in trial.params else DASH for name in names),
            show_number(trial.val_loss),
            show_number(trial.val_accuracy),
            str(trial.epochs),
            f"{trial.seconds:.0f}",
        )
        for trial in sorted(shown, key=rank)
    )
    last = [name.rpartition(".")[2] for name in names]
    short = [end if last.count(end) == 1 else name for name, end in zip(names, last, strict=True)]
    columns = ("Trial", "State", *short, "Validation loss", "Validation accuracy", "Epochs", "Seconds")
    note = "Scores are those of the best epoch. ended: worse than the median of the others. failed: its process died."
    return Table("Trials", columns, rows, note, is_first_marked=True)


def write_search(folder: Path, experiment: Experiment, data: CertifiedData, search: Search) -> None:
    """Write ``tune.json``, ``tune.csv`` and the page.

    Args:
        folder: The folder to write to.
        experiment: All options.
        data: All examples and their splits.
        search: The search, with a best trial.
    """
    note = DATASETS[experiment.data.dataset].synthetic_note
    sentences, best = describe_search(search, experiment, data), search.best
    trials = [vars(trial) for trial in search.trials]
    content: dict[str, Any] = {"synthetic_note": note, "sentences": sentences, "recipes_tried": search.num_tried}
    content |= {"seconds": search.seconds, "best": None if best is None else vars(best), "trials": trials}
    content |= {"commit": read_commit(), "versions": read_versions()}
    write_json(folder / "tune.json", content)
    table = pd.DataFrame(
        [{**trial.params, **{k: v for k, v in vars(trial).items() if k != "params"}} for trial in search.trials]
    )
    table = table[["number", "state", *(name for name in table.columns if name not in ("number", "state"))]]
    write_table(folder / "tune.csv", table, tuple(table))
    space = {name: str(list(values)) for name, values in experiment.tune.space.items()}
    facts = {
        **space,
        f"{plural(data.store.kind.group)} of validation": f"{sum(role == 'val' for role in data.roles.values()):,}",
        "seed of the search": str(experiment.tune.seed),
        "fingerprint of the store": data.store.fingerprint,
        "commit": read_commit(),
    }
    write_page(
        folder / "tune.html",
        "study.html",
        title=f"{experiment.paths.title}: search for a recipe",
        synthetic_note=note,
        sentences=sentences,
        sections=[
            Section("Results", tables=(tabulate_trials(search, experiment.train.monitor),)),
            Section("Method", METHOD, (tabulate_facts("How to get these numbers again", facts),)),
        ],
    )
