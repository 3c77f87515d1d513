"""Pictures of inputs that several runs have in common, with what each run says of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.attention.storage import list_kept_epochs, read_maps
from pipeline.config.outputs import ReportConfig
from pipeline.data.store import Store, read_store
from pipeline.reporting.attention.sheets import choose_epochs, draw_epochs
from pipeline.reporting.comparison.runs import RunRecord
from pipeline.reporting.figures.image_grid import contact_sheet
from pipeline.reporting.figures.runs import confusion_matrices, run_curves
from pipeline.reporting.html import build_figure

COLUMNS = 4  # readable on a phone

Drawn = tuple[str, str, bytes]  # title, text, PNG

MIN_WIDE_PIXELS = 560  # of a sheet that would be too small beside another


def draw_run_epochs(run: RunRecord) -> bytes | None:
    """Draw the attention that training kept, at some epochs; None where none was kept."""
    kept = list_kept_epochs(run.paths.attention_maps)
    if not kept:
        return None
    return draw_epochs([read_maps(kept[epoch]) for epoch in choose_epochs(list(kept), ())], run.name)


def draw_test_inputs(runs: Sequence[RunRecord], num_examples: int, seed: int) -> list[Drawn]:
    """Draw test inputs with their true class and what each run says, for runs whose pictures are here.

    Two sheets for runs on the same pictures: some drawn at random, and those on which the runs do not agree or, of a
    single run, those that it got wrong.

    Args:
        runs: evaluated runs.
        num_examples: in each sheet.
        seed: of the draw.

    Returns:
        Titles, texts and pictures; none where the store is not here or is another.
    """
    drawn: list[Drawn] = []
    stores: dict[str, tuple[Store, list[RunRecord]]] = {}
    for run in runs:
        if (run.paths.prepared / "store.json").is_file() and run.training and num_examples > 0:
            store = read_store(run.paths.prepared)
            if store.fingerprint == run.training["store_fingerprint"]:
                stores.setdefault(store.fingerprint, (store, []))[1].append(run)
    for store, same in stores.values():
        tables = [run.test.set_index("example_id") for run in same]
        shared = sorted(set.intersection(*(set(table.index) for table in tables)))
        if not shared:
            continue
        generator = np.random.default_rng(seed)
        names = ", ".join(run.name for run in same)
        picked = sorted(generator.choice(len(shared), min(num_examples, len(shared)), replace=False).tolist())
        title = "Test inputs" if len(stores) == 1 else f"Test inputs: {names}"
        text = f"{len(picked)} of {len(shared):,}, drawn at random: the true class, and what each run says."
        drawn.append((title, text, _draw_sheet(store, same, tables, [shared[place] for place in picked])))
        odd = [name for name in shared if _is_odd([table.loc[name] for table in tables])]
        if odd:
            places = sorted(generator.choice(len(odd), min(num_examples, len(odd)), replace=False).tolist())
            title = "Test inputs on which the runs differ" if len(same) > 1 else "Test inputs that the run got wrong"
            text = f"{len(places)} of {len(odd):,} such rows, drawn at random."
            drawn.append((title, text, _draw_sheet(store, same, tables, [odd[place] for place in places])))
    return drawn


def _is_odd(rows: Sequence[pd.Series]) -> bool:
    """Say whether runs do not agree, or the only run is wrong."""
    said = {row["predicted"] for row in rows}
    return len(said) > 1 if len(rows) > 1 else said != {rows[0]["label"]}


def _draw_sheet(
    store: Store, runs: Sequence[RunRecord], tables: Sequence[pd.DataFrame], example_ids: Sequence[str]
) -> bytes:
    place_of = pd.Series(np.arange(len(store.index)), index=store.index["example_id"])
    pictures = [np.asarray(store.examples[place_of[name]]) for name in example_ids]
    captions, all_right = [], []
    for name in example_ids:
        rows = [table.loc[name] for table in tables]
        label = rows[0]["label"]
        lines = [f"true: {label}"]
        for run, row in zip(runs, rows, strict=True):
            probability = float(row[f"probability_{row['predicted']}"])
            mark = "✓" if row["predicted"] == label else "✗"
            who = f"{mark} {run.name}:" if len(runs) > 1 else "says"
            lines.append(f"{who} {row['predicted']} {probability:.2f}")
        captions.append("\n".join(lines))
        all_right.append(all(row["predicted"] == label for row in rows))
    return contact_sheet(pictures, captions, COLUMNS, is_right=all_right)


def describe_curves(histories: Mapping[str, pd.DataFrame]) -> str:
    """Say for each run how low its validation loss came, and when."""
    parts = []
    for name, history in histories.items():
        lowest = history.loc[history["val_loss"].idxmin()]
        parts.append(f"{name} {lowest['val_loss']:.4f} after epoch {lowest['epoch']:.0f}")
    return f"Lowest loss: {'; '.join(parts)}."


def describe_confusions(counts: Mapping[str, Sequence[Sequence[int]]]) -> str:
    """Say for each run how many rows are on the diagonal."""
    parts = []
    for name, matrix in counts.items():
        total, correct = sum(map(sum, matrix)), sum(row[place] for place, row in enumerate(matrix))
        parts.append(f"{name} {correct:,} of {total:,}")
    return f"Answered correctly: {'; '.join(parts)}."


def draw_figures(runs: Sequence[RunRecord], options: ReportConfig) -> list[dict[str, Any]]:
    """Draw what there is: curves, confusion matrices, test inputs, attention over the epochs."""
    figures = []
    histories = {run.name: run.history for run in runs if run.history is not None}
    if histories:
        best = {run.name: run.training["best"]["epoch"] for run in runs if run.training}
        text = f"Of validation, over the epochs. {describe_curves(histories)}"
        figures.append(build_figure("Curves", text, run_curves(histories, best)))
    for class_names in dict.fromkeys(run.class_names for run in runs):
        same = [run for run in runs if run.class_names == class_names]
        for level in same[0].metrics["levels"]:
            counts = {
                run.name: run.metrics["levels"][level]["confusion"] for run in same if level in run.metrics["levels"]
            }
            title = f"Confusion matrices, {level}s"
            picture = confusion_matrices(counts, class_names)
            text = f"Rows are the true class; shares of each row. {describe_confusions(counts)}"
            figures.append(build_figure(title, text, picture))
    for title, text, picture in draw_test_inputs(runs, options.num_examples, options.seed):
        figures.append(build_figure(title, text, picture, MIN_WIDE_PIXELS))
    for run in runs:
        drawn = draw_run_epochs(run)
        if drawn is not None:
            text = (
                "Validation examples after some epochs, the mean over layers, heads and latents. Attention is where "
                "the model looks, not why it answers."
            )
            figures.append(build_figure(f"Attention in training: {run.name}", text, drawn, MIN_WIDE_PIXELS))
    return figures
