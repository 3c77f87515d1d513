"""The pictures of the page that compares runs, each with what it shows in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.config import ReportConfig
from pipeline.figures_runs import confusion_matrices, run_curves
from pipeline.pages import build_figure
from pipeline.run_pictures import draw_run_epochs, draw_test_inputs
from pipeline.run_records import RunRecord

MIN_WIDE_PIXELS = 560  # of a sheet that would be too small beside another


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
