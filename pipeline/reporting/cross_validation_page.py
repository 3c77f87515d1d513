"""The page and the tables of a recipe that was trained on every fold or from several seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.core.data_kinds import DataKind
from pipeline.core.files import write_bytes, write_json
from pipeline.core.tables import write_table
from pipeline.core.text import count_words, plural
from pipeline.reporting.elements import Figure, Section, Table
from pipeline.reporting.figures.intervals import run_accuracies
from pipeline.reporting.formatting import METRIC_TITLES, humanise, show_interval, show_number, show_percent, show_share
from pipeline.reporting.html import write_page

SHOWN_METRICS = ("accuracy", "balanced_accuracy", "auroc", "sensitivity", "specificity", "nll")


def describe_pooled(content: Mapping[str, Any], kind: DataKind) -> list[str]:
    """Say what was found over all runs: pooled accuracy, and how much runs and seeds differ.

    Args:
        content: of folds.json.
        kind: The kind of data, which names rows and groups.
    """
    runs, pooled = content["runs"], content["pooled"]
    name, level = next(iter(pooled.items()))
    num_seeds = len({run["seed"] for run in runs})
    folds = {run["fold"] for run in runs} - {None}
    rows = count_words(level["n"], f"{name} prediction" if num_seeds > 1 else name)
    groups = f" of {count_words(level['groups'], kind.group)}" if kind.has_patients else ""
    tested = f", each tested once{' with every seed' if num_seeds > 1 else ''}," if folds else ""
    sentences = [f"On {rows}{groups}{tested} the model is right for {show_percent(level['metrics']['accuracy'])}."]
    for other, content_of in list(pooled.items())[1:]:
        sentences.append(
            f"Averaged per {other} ({content_of['n']:,}), {show_percent(content_of['metrics']['accuracy'])}."
        )
    spread = content["spread"][name]
    told = f"Over the {count_words(len(runs), 'run')} the mean is {100 * spread['runs']['mean']:.2f}\u00a0%"
    if spread["runs"]["deviation"] is not None:
        told += f", the standard deviation {100 * spread['runs']['deviation']:.2f} points"
    sentences.append(f"{told}.")
    if folds and "seeds" in spread:
        sentences.append(
            f"Over the {num_seeds} seeds, each on all folds, the standard deviation is "
            f"{100 * spread['seeds']['deviation']:.2f} points."
        )
    return sentences


def describe_method(content: Mapping[str, Any], kind: DataKind) -> list[str]:
    """Say how runs were pooled.

    Args:
        content: of folds.json.
        kind: The kind of data, which names rows and groups.
    """
    num_seeds = len({run["seed"] for run in content["runs"]})
    group = kind.group
    sentences = []
    if any(run["fold"] is not None for run in content["runs"]):
        sentences.append(
            f"{plural(group).capitalize()} were dealt to folds; each fold is the test of the model that was trained "
            "without it and chosen on the next fold. AUROC and log-likelihood of pooled rows compare probabilities of "
            "several models."
        )
    sentences.append(
        f"Intervals are 95\u00a0%, from a bootstrap over {plural(group)}"
        + (
            f": a {group} is drawn with the rows of all seeds, so the pooled score is the mean over the seeds and the "
            f"interval says what other {plural(group)} might have changed, not what another seed might."
            if num_seeds > 1
            else "."
        )
    )
    return sentences


def write_folds(
    folder: Path, content: dict[str, Any], kind: DataKind, title: str, synthetic_note: str, facts: Mapping[str, str]
) -> None:
    """Write ``folds.json``, ``folds.csv``, ``folds.png`` and ``folds.html``.

    Args:
        folder: where they go.
        content: ``runs``, ``spread`` and ``pooled``; sentences are added.
        kind: The kind of data, which names rows and groups.
        title: of the page.
        synthetic_note: shown where the data are not of people.
        facts: names and values that say how to get the numbers again.
    """
    sentences = describe_pooled(content, kind)
    first = next(iter(content["pooled"]))
    picture = run_accuracies(
        [(run["run"], run["levels"][first]["accuracy"]) for run in content["runs"]],
        content["pooled"][first]["metrics"]["accuracy"],
        f"Accuracy on test {plural(first)}, 95 % interval over {plural(kind.group)}",
    )
    flat = [
        {"run": run["run"], "seed": run["seed"], "fold": run["fold"], "level": level, "n": found["n"]}
        | {"groups": found["groups"], "accuracy": found["accuracy"]["value"]}
        | {end: found["accuracy"][end] for end in ("low", "high")}
        for run in content["runs"]
        for level, found in run["levels"].items()
    ]
    write_json(folder / "folds.json", content | {"sentences": sentences})
    write_table(folder / "folds.csv", pd.DataFrame(flat), tuple(flat[0]))
    write_bytes(folder / "folds.png", picture)
    pooled = show_share(content["pooled"][first]["metrics"]["accuracy"])
    text = f"Each run with its 95\u00a0% interval, and all of them pooled: {pooled}."
    write_page(
        folder / "folds.html",
        "study.html",
        title=title,
        synthetic_note=synthetic_note,
        sentences=sentences,
        sections=[
            Section(
                "What was found",
                tables=(tabulate_runs(content, kind), tabulate_pooled(content["pooled"])),
                figures=(Figure("folds", "Accuracy of each run", text, picture),),
            ),
            Section(
                "How it was done",
                tuple(describe_method(content, kind)),
                (Table("How to get these numbers again", ("What", "Value"), tuple(facts.items())),),
            ),
        ],
    )


def tabulate_runs(content: Mapping[str, Any], kind: DataKind) -> Table:
    """Return a row a run and the spread below them, with the accuracy of each level."""
    levels = list(content["pooled"])
    rows = []
    for run in content["runs"]:
        shown = [show_share(run["levels"][level]["accuracy"]) for level in levels]
        rows.append((run["run"], *shown, f"{run['levels'][levels[0]]['groups']:,}"))
    spread = [content["spread"][level]["runs"] for level in levels]
    rows.append(("mean over runs", *(f"{100 * item['mean']:.2f}\u00a0%" for item in spread), ""))
    if spread[0]["deviation"] is not None:
        rows.append(("standard deviation", *(f"{100 * item['deviation']:.2f} points" for item in spread), ""))
    pooled = [show_share(content["pooled"][level]["metrics"]["accuracy"]) for level in levels]
    rows.append(("pooled", *pooled, f"{content['pooled'][levels[0]]['groups']:,}"))
    columns = ("Run", *(f"Accuracy, {plural(level)}" for level in levels), f"{plural(kind.group).capitalize()}")
    note = f"In brackets: 95\u00a0% intervals from a bootstrap over {plural(kind.group)}."
    return Table("Runs", columns, tuple(rows), note)


def tabulate_pooled(pooled: Mapping[str, Any]) -> Table:
    """Return the pooled scores, a row a score, two columns a level."""
    rows = [
        (
            METRIC_TITLES[metric],
            *(
                cell
                for level in pooled.values()
                for cell in (show_number(level["metrics"][metric]["value"]), show_interval(level["metrics"][metric]))
            ),
        )
        for metric in SHOWN_METRICS
    ]
    columns: Sequence[str] = [text for level in pooled for text in (plural(humanise(level)), "95\u00a0% interval")]
    notes = dict.fromkeys(note for level in pooled.values() for note in level["notes"])
    return Table("Pooled scores", ("Score", *columns), tuple(rows), " ".join(notes))
