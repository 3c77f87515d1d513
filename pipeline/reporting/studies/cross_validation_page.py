"""The page and the tables of cross-validation: one recipe, trained on each fold or from several seeds."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from pipeline.core.data_kinds import DataKind
from pipeline.core.files import write_bytes, write_json
from pipeline.core.provenance import read_commit
from pipeline.core.tables import write_table
from pipeline.core.text import count_words, plural
from pipeline.core.workspace import Workspace
from pipeline.data.store import Store
from pipeline.evaluation.schema import Level, first_level
from pipeline.evaluation.scores import METRIC_TITLES
from pipeline.reporting.copies_page import read_colours
from pipeline.reporting.elements import Figure, Section, Table, tabulate_facts
from pipeline.reporting.evaluation.scores import describe_errors
from pipeline.reporting.figures.image_grid import Cell, Strip, draw_grid
from pipeline.reporting.figures.intervals import run_accuracies
from pipeline.reporting.formatting import (
    humanise,
    show_number,
    show_percent,
    show_percent_briefly,
    show_score,
)
from pipeline.reporting.html import write_page
from pipeline.studies.cross_validation import UNPOOLED, CrossValidation
from pipeline.studies.label_doubts import DOUBT_COLUMNS, LabelDoubts

MAX_DRAWN = 24
SHOWN_METRICS = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "nll", "brier")


def describe_pooled(study: CrossValidation, kind: DataKind) -> list[str]:
    """Describe the results over all runs: pooled accuracy, and the spread over runs and seeds.

    Args:
        study: The runs, combined.
        kind: The kind of data, with its words for rows and groups.
    """
    runs, pooled = study.runs, study.pooled
    name, level = first_level(pooled)
    num_seeds = len({run.seed for run in runs})
    folds = {run.fold for run in runs} - {None}
    rows = count_words(level["n"], f"{name} prediction" if num_seeds > 1 else name)
    groups = f" of {count_words(level['groups'], kind.group)}" if kind.has_patients else ""
    tested = f", each tested once{' with every seed' if num_seeds > 1 else ''}," if folds else ""
    right = f"{show_percent(level['metrics']['accuracy'])}{describe_errors(level, kind)}"
    sentences = [f"On {rows}{groups}{tested} the model is right for {right}."]
    for other, content_of in list(pooled.items())[1:]:
        sentences.append(
            f"Averaged per {other} ({content_of['n']:,}), {show_percent(content_of['metrics']['accuracy'])}."
        )
    spread = study.spread[name]
    over_runs = f"Over the {count_words(len(runs), 'run')} the mean is {_show_points(spread['runs']['mean'])}\u00a0%"
    if spread["runs"]["deviation"] is not None:
        over_runs += f", the standard deviation {_show_points(spread['runs']['deviation'])} points"
    sentences.append(f"{over_runs}.")
    if folds and "seeds" in spread:
        sentences.append(
            f"Over the {num_seeds} seeds, each on all folds, the standard deviation is "
            f"{_show_points(spread['seeds']['deviation'])} points."
        )
    return sentences


def describe_method(study: CrossValidation, kind: DataKind) -> list[str]:
    """Describe the method of pooling runs.

    Args:
        study: The runs, combined.
        kind: The kind of data, with its words for rows and groups.
    """
    group, has_folds = kind.group, any(run.fold is not None for run in study.runs)
    sentences = []
    if has_folds:
        sentences.append(
            f"{plural(group).capitalize()} were assigned to folds; each fold is the test split of the model that was "
            "trained without it and selected on the next fold."
        )
    names = [METRIC_TITLES[name] for name in UNPOOLED]
    sentences.append(
        f"{', '.join(names[:-1])} and {names[-1]} do not pool, because rows of several models would be compared: they "
        "are means over the runs, with the value of the pooled rows next to them."
    )
    repeated = (
        f" The rows of a {group} from all seeds count as one." if len({run.seed for run in study.runs}) > 1 else ""
    )
    shared = f", nor that of the training {plural(group)}, of whom two folds have most in common" if has_folds else ""
    sentences.append(
        f"Intervals are 95\u00a0%, over {plural(group)}.{repeated} They cover the choice of the {plural(group)} that "
        f"were tested. The variance of the training is missing from them: they cover neither the choice of the seed"
        f"{shared}."
    )
    return sentences


def write_cross_validation(
    paths: Workspace, study: CrossValidation, store: Store, doubts: LabelDoubts, synthetic_note: str
) -> None:
    """Write ``cross_validation.json``, ``.csv``, ``.svg`` and ``.html``, and ``label_doubts.csv``.

    Args:
        paths: The folders of the experiment, with the report folder of all runs together.
        study: The runs, combined.
        store: The examples, of which those whose labels are in doubt are drawn.
        doubts: The labels that the models contradict.
        synthetic_note: The note for data that are not of people; may be empty.
    """
    folder, kind = paths.report_folder, store.kind
    sentences = describe_pooled(study, kind)
    first, _ = first_level(study.pooled)
    svg = run_accuracies(
        [(run.name, run.levels[first]["accuracy"]) for run in study.runs],
        study.pooled[first]["metrics"]["accuracy"],
        f"Accuracy on test {plural(first)}, 95 % interval over {plural(kind.group)}",
    )
    named = [(run, {"run": run.name, "seed": run.seed, "fold": run.fold}) for run in study.runs]
    flat = [
        facts
        | {"level": level, "n": found["n"], "groups": found["groups"], "accuracy": found["accuracy"]["value"]}
        | {end: found["accuracy"][end] for end in ("low", "high")}
        for run, facts in named
        for level, found in run.levels.items()
    ]
    content = {
        "class_names": list(study.class_names),
        "synthetic_note": synthetic_note,
        "num_resamples": study.num_resamples,
        "runs": [facts | {"levels": run.levels} for run, facts in named],
        "spread": study.spread,
        "pooled": study.pooled,
        "means": study.means,
        "sentences": sentences,
    }
    facts = {"fingerprint of the store": store.fingerprint, "commit": read_commit()}
    facts |= {"bootstrap resamples": str(study.num_resamples)}
    write_json(folder / "cross_validation.json", content)
    write_table(folder / "cross_validation.csv", pd.DataFrame(flat), tuple(flat[0]))
    write_table(folder / "label_doubts.csv", doubts.table, DOUBT_COLUMNS)
    write_bytes(folder / "cross_validation.svg", svg)
    pooled = show_percent_briefly(study.pooled[first]["metrics"]["accuracy"])
    text = f"Each run with its 95\u00a0% interval; pooled over all runs: {pooled}."
    write_page(
        folder / "cross_validation.html",
        "study.html",
        title=paths.title,
        synthetic_note=synthetic_note,
        sentences=sentences,
        sections=[
            Section(
                "Results",
                tables=(tabulate_runs(study, kind), tabulate_pooled(study.pooled), tabulate_means(study)),
                figures=(Figure("cross_validation", "Accuracy of each run", text, svg),),
            ),
            build_doubt_section(doubts, store),
            Section(
                "Method",
                tuple(describe_method(study, kind)),
                (tabulate_facts("How to get these numbers again", facts),),
            ),
        ],
    )


def build_doubt_section(doubts: LabelDoubts, store: Store) -> Section:
    """Return a section with the labels to look at, each with the middle slice of its scan.

    Args:
        doubts: The labels that the models contradict.
        store: The examples.
    """
    kind, title = store.kind, "Labels to look at"
    if doubts.reason:
        return Section(title, (f"Labels that the models contradict were not looked for: {doubts.reason}.",))
    number, scans = len(doubts.table), count_words(doubts.num_scans, kind.source)
    sentences = [
        f"Of {scans} the models contradict {count_words(number, 'label')} with confidence, the least probable label "
        f"first in label_doubts.csv. No model had seen the {kind.group}. Look at the {plural(kind.source)} before a "
        "label is changed: the models may be wrong, and results on labels that a model chose are too good."
        if number
        else f"Of {scans} the models contradict no label with confidence."
    ]
    shown = doubts.table.iloc[:MAX_DRAWN]
    if number > len(shown):
        sentences.append(f"The first {len(shown)} are shown.")
    if number == 0:
        return Section(title, tuple(sentences))
    has_group = kind.has_patients
    rows = tuple(
        (
            scan["source_id"],
            *((scan["group_id"],) if has_group else ()),
            scan["label"],
            scan["suggested"],
            show_number(scan["probability_of_label"]),
            show_number(scan["probability_of_suggested"]),
        )
        for scan in shown.to_dict("records")
    )
    columns = (
        kind.source.capitalize(),
        *((kind.group.capitalize(),) if has_group else ()),
        *("Label", "The models say", "Probability of the label", "Of what they say"),
    )
    table = Table("Labels that the models contradict", columns, rows, "Means over rows of a scan and over seeds.")
    figures = (_draw_doubts(shown, store),) if kind.is_image else ()
    return Section(title, tuple(sentences), (table,), figures)


def _draw_doubts(shown: pd.DataFrame, store: Store) -> Figure:
    places = pd.Series(np.arange(len(store.index))).groupby(store.index["source_id"].to_numpy()).agg(list)
    cells = []
    for scan in shown.to_dict("records"):
        rows = places[scan["source_id"]]
        caption = f"{scan['source_id']}\nlabel {scan['label']}, models {scan['suggested']}"
        cells.append(Cell(read_colours(store.draw(rows[len(rows) // 2])), caption))
    where = "The middle slice of each" if store.kind.reads_scans else "Each"
    text = f"{where}, with its label and what the models say."
    return Figure("label_doubts", "Labels to look at", text, draw_grid([Strip(cells)], columns=4), is_sheet=True)


def tabulate_runs(study: CrossValidation, kind: DataKind) -> Table:
    """Return a table with a row for each run and the spread below them: the accuracy at each level."""
    levels = list(study.pooled)
    rows = []
    for run in study.runs:
        shown = [show_percent_briefly(run.levels[level]["accuracy"]) for level in levels]
        rows.append((run.name, *shown, f"{run.levels[levels[0]]['groups']:,}"))
    spread = [study.spread[level]["runs"] for level in levels]
    rows.append(("mean over runs", *(f"{_show_points(item['mean'])}\u00a0%" for item in spread), ""))
    if spread[0]["deviation"] is not None:
        rows.append(("standard deviation", *(f"{_show_points(item['deviation'])} points" for item in spread), ""))
    pooled = [show_percent_briefly(study.pooled[level]["metrics"]["accuracy"]) for level in levels]
    rows.append(("pooled", *pooled, f"{study.pooled[levels[0]]['groups']:,}"))
    columns = ("Run", *(f"Accuracy, {plural(level)}" for level in levels), f"{plural(kind.group).capitalize()}")
    note = f"In brackets: 95\u00a0% intervals over {plural(kind.group)}."
    return Table("Runs", columns, tuple(rows), note)


def tabulate_pooled(pooled: Mapping[str, Level]) -> Table:
    """Return a table of the pooled scores: a row for each score, two columns for each level."""
    rows = [
        (
            METRIC_TITLES[metric],
            *(show_score(metric, level["metrics"][metric]) for level in pooled.values()),
        )
        for metric in SHOWN_METRICS
    ]
    columns = [plural(humanise(level)) for level in pooled]
    notes = dict.fromkeys(note for level in pooled.values() for note in level["notes"])
    return Table("Pooled scores", ("Score", *columns), tuple(rows), " ".join(["With 95\u00a0% intervals.", *notes]))


def tabulate_means(study: CrossValidation) -> Table:
    """Return a table of the scores that do not pool: mean and standard deviation over runs, and the pooled value."""
    rows = [
        (
            METRIC_TITLES[name],
            *(
                cell
                for level, means in study.means.items()
                for cell in (
                    show_number(means[name]["mean"]),
                    show_number(means[name]["std"]),
                    show_number(study.pooled[level]["metrics"][name]["value"]),
                )
            ),
        )
        for name in UNPOOLED
    ]
    columns = [
        f"{plural(humanise(level))}, {text}"
        for level in study.means
        for text in ("mean over runs", "standard deviation", "pooled")
    ]
    fewest = min(mean["runs"] for means in study.means.values() for mean in means.values())
    note = "" if fewest == len(study.runs) else "A run whose test rows lack a class is left out of a mean."
    return Table("Scores that do not pool", ("Score", *columns), tuple(rows), note)


def _show_points(fraction: float | None) -> str:
    """Write a fraction in percentage points."""
    assert fraction is not None
    return f"{100 * fraction:.2f}"
