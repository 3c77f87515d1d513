"""Figures of a comparison: curves, confusion matrices, test inputs and attention of several runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.attention.storage import list_kept_epochs, read_maps
from pipeline.config.outputs import CompareConfig
from pipeline.data.store import Store, read_store
from pipeline.evaluation.schema import count_correct
from pipeline.reporting.attention.sheets import choose_epochs, draw_epochs
from pipeline.reporting.comparison.runs import RunRecord
from pipeline.reporting.elements import Figure
from pipeline.reporting.figures.image_grid import contact_sheet
from pipeline.reporting.figures.runs import confusion_matrices, run_curves

COLUMNS = 4  # readable on a phone


@dataclass(frozen=True)
class SharedInputs:
    """Test rows that several runs have scored, with the store that holds them.

    Args:
        store: The examples.
        runs: The runs that were trained on this store.
        tables: The predictions of each run, by ``example_id``.
        example_ids: The test rows that all of the runs have scored, sorted.
    """

    store: Store
    runs: list[RunRecord]
    tables: list[pd.DataFrame]
    example_ids: list[str]


def draw_comparison(runs: Sequence[RunRecord], options: CompareConfig) -> list[Figure]:
    """Draw the figures that the runs have data for: curves, confusion matrices, test inputs, attention."""
    return [
        *draw_run_curves(runs),
        *draw_confusions(runs),
        *draw_test_inputs(runs, options.num_examples, options.seed),
        *(figure for run in runs for figure in draw_run_epochs(run)),
    ]


def draw_run_curves(runs: Sequence[RunRecord]) -> list[Figure]:
    """Draw the validation curves of all runs in one figure; no figure where no run has a history."""
    histories = {run.name: run.history for run in runs if run.history is not None}
    if not histories:
        return []
    best = {run.name: run.training["best"]["epoch"] for run in runs if run.training}
    text = f"Validation scores over the epochs. {describe_curves(histories)}"
    return [Figure("curves", "Curves", text, run_curves(histories, best))]


def draw_confusions(runs: Sequence[RunRecord]) -> list[Figure]:
    """Draw confusion matrices next to each other, a figure for each level, of runs with the same classes."""
    figures = []
    for class_names in dict.fromkeys(run.class_names for run in runs):
        same = [run for run in runs if run.class_names == class_names]
        for level in same[0].metrics["levels"]:
            counts = {
                run.name: run.metrics["levels"][level]["confusion"] for run in same if level in run.metrics["levels"]
            }
            text = f"Rows are the true class; cells are fractions of a row. {describe_confusions(counts)}"
            svg = confusion_matrices(counts, class_names)
            figures.append(Figure(f"confusion_{level}", f"Confusion matrices, {level}s", text, svg))
    return figures


def draw_test_inputs(runs: Sequence[RunRecord], num_examples: int, seed: int) -> list[Figure]:
    """Draw test inputs with their true class and the predictions of the runs whose store exists.

    Two sheets for runs on the same store: inputs drawn at random, and inputs for which the runs predict different
    classes or, with a single run, wrong predictions.

    Args:
        runs: The evaluated runs.
        num_examples: The number of inputs in each sheet; 0 draws none.
        seed: The seed of the random number generator.
    """
    figures = []
    shared = list_shared_inputs(runs) if num_examples > 0 else []
    for inputs in shared:
        generator = np.random.default_rng(seed)
        chosen = _draw_some(inputs.example_ids, num_examples, generator)
        title = "Test inputs" if len(shared) == 1 else f"Test inputs: {', '.join(run.name for run in inputs.runs)}"
        text = f"{len(chosen)} of {len(inputs.example_ids):,}, drawn at random: the true class and the predicted ones."
        figures.append(Figure("test_inputs", title, text, _draw_sheet(inputs, chosen), is_sheet=True))
        odd = [name for name in inputs.example_ids if _is_odd([table.loc[name] for table in inputs.tables])]
        if odd:
            chosen = _draw_some(odd, num_examples, generator)
            many = len(inputs.runs) > 1
            title = "Test inputs on which the runs differ" if many else "Test inputs with wrong predictions"
            text = f"{len(chosen)} of {len(odd):,} such rows, drawn at random."
            figures.append(Figure("odd_inputs", title, text, _draw_sheet(inputs, chosen), is_sheet=True))
    return figures


def list_shared_inputs(runs: Sequence[RunRecord]) -> list[SharedInputs]:
    """Group runs by the store that they were trained on; runs whose store is missing or has changed are left out."""
    stores: dict[str, tuple[Store, list[RunRecord]]] = {}
    for run in runs:
        if (run.paths.prepared / "store.json").is_file() and run.training:
            store = read_store(run.paths.prepared)
            if store.fingerprint == run.training["store_fingerprint"]:
                stores.setdefault(store.fingerprint, (store, []))[1].append(run)
    shared = []
    for store, same in stores.values():
        tables = [run.test.set_index("example_id") for run in same]
        example_ids = sorted(set.intersection(*(set(table.index) for table in tables)))
        if example_ids:
            shared.append(SharedInputs(store, same, tables, example_ids))
    return shared


def draw_run_epochs(run: RunRecord) -> list[Figure]:
    """Draw the attention maps that training kept, at up to six epochs; no figure where none were kept."""
    kept = list_kept_epochs(run.paths.attention_maps)
    if not kept:
        return []
    png = draw_epochs([read_maps(kept[epoch]) for epoch in choose_epochs(list(kept), ())], run.name)
    text = (
        "Validation examples after some epochs, the mean over layers, heads and latents. Attention is where the model "
        "looks, not why it answers."
    )
    return [Figure("attention_epochs", f"Attention in training: {run.name}", text, png, is_sheet=True)]


def _draw_some(names: Sequence[str], number: int, generator: np.random.Generator) -> list[str]:
    chosen = generator.choice(len(names), min(number, len(names)), replace=False)
    return [names[index] for index in sorted(chosen.tolist())]


def _is_odd(rows: Sequence[pd.Series]) -> bool:
    """Return whether runs predict different classes, or the only run is wrong."""
    predicted = {row["predicted"] for row in rows}
    return len(predicted) > 1 if len(rows) > 1 else predicted != {rows[0]["label"]}


def _draw_sheet(inputs: SharedInputs, example_ids: Sequence[str]) -> bytes:
    row_of = pd.Series(np.arange(len(inputs.store.index)), index=inputs.store.index["example_id"])
    images = [inputs.store.draw(row_of[name]) for name in example_ids]
    captions, all_right = [], []
    for name in example_ids:
        rows = [table.loc[name] for table in inputs.tables]
        captions.append(_write_caption(inputs.runs, rows))
        all_right.append(all(row["predicted"] == rows[0]["label"] for row in rows))
    return contact_sheet(images, captions, COLUMNS, is_right=all_right)


def _write_caption(runs: Sequence[RunRecord], rows: Sequence[pd.Series]) -> str:
    label = rows[0]["label"]
    lines = [f"true: {label}"]
    for run, row in zip(runs, rows, strict=True):
        predicted = row["predicted"]
        who = f"{'✓' if predicted == label else '✗'} {run.name}:" if len(runs) > 1 else "predicted:"
        lines.append(f"{who} {predicted} {float(row[f'probability_{predicted}']):.2f}")
    return "\n".join(lines)


def describe_curves(histories: Mapping[str, pd.DataFrame]) -> str:
    """Describe the lowest validation loss of each run, with its epoch."""
    parts = []
    for name, history in histories.items():
        lowest = history.loc[history["val_loss"].idxmin()]
        parts.append(f"{name} {lowest['val_loss']:.4f} after epoch {lowest['epoch']:.0f}")
    return f"Lowest loss: {'; '.join(parts)}."


def describe_confusions(counts: Mapping[str, Sequence[Sequence[int]]]) -> str:
    """Describe the number of rows on the diagonal for each run."""
    parts = []
    for name, matrix in counts.items():
        total, correct = count_correct(matrix)
        parts.append(f"{name} {correct:,} of {total:,}")
    return f"Answered correctly: {'; '.join(parts)}."
