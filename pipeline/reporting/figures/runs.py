"""Figures of training runs: the curves of one run or several, and their confusion matrices in rows."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from pipeline.reporting.figures.classification import MAX_WRITTEN_CLASSES, compute_row_fractions, draw_matrix
from pipeline.reporting.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PERCENT,
    PHONE_WIDTH,
    VERMILION,
    open_figure,
    save_svg,
    shorten,
)

# Colour and line together distinguish runs; a colour is used again with another line.
RUN_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, "#CC79A7", INK)
RUN_LINES = ("-", "--", ":", "-.")
MATRICES_IN_A_ROW = 3


def training_curves(history: pd.DataFrame, best_epoch: int) -> bytes:
    """Draw loss, accuracy and learning rate over the epochs.

    Args:
        history: A row for each epoch with epoch, train_loss, train_accuracy, val_loss, val_accuracy and
            learning_rate; a missing value leaves a gap.
        best_epoch: The epoch whose weights were kept.
    """
    epochs = history["epoch"].to_numpy()
    marker = "o" if len(epochs) <= 40 else ""
    with open_figure(PHONE_WIDTH, 8.1) as figure:
        loss, accuracy, rate = figure.subplots(3, 1)
        for axes, quantity in ((loss, "loss"), (accuracy, "accuracy")):
            for split, colour, line in (("train", BLUE, "-"), ("val", VERMILION, "--")):
                values = history[f"{split}_{quantity}"].to_numpy(dtype=np.float64)
                name = {"train": "training", "val": "validation"}[split]
                axes.plot(epochs, values, line, color=colour, marker=marker, markersize=3.5, label=name)
            axes.set_title(quantity.capitalize(), fontweight="bold")
        accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=PERCENT))
        rate.plot(epochs, history["learning_rate"], color=GREEN, marker=marker, markersize=3.5)
        rate.set_title("Learning rate", fontweight="bold")
        rate.set_ylim(bottom=0)
        rate.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
        for axes in (loss, accuracy, rate):
            axes.set_xlabel("Epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.axvline(best_epoch, color=GREY, linewidth=1, linestyle=":", label="kept weights")
        figure.legend(*loss.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
        return save_svg(figure)


def run_curves(histories: Mapping[str, pd.DataFrame], best_epochs: Mapping[str, int]) -> bytes:
    """Draw validation loss and accuracy of several runs over the epochs.

    Args:
        histories: A table for each run, with a row for each epoch: epoch, val_loss and val_accuracy.
        best_epochs: The epoch whose weights each run kept, marked; runs may be missing.
    """
    num_legend_rows = math.ceil(len(histories) / 2)
    with open_figure(9.6, 3.7 + 0.22 * num_legend_rows) as figure:
        axes = figure.subplots(1, 2)
        for index, (name, history) in enumerate(histories.items()):
            style: dict[str, Any] = {
                "color": RUN_COLOURS[index % len(RUN_COLOURS)],
                "linestyle": RUN_LINES[index % len(RUN_LINES)],
            }
            kept = history[history["epoch"] == best_epochs.get(name)]
            for place, column in zip(axes, ("val_loss", "val_accuracy"), strict=True):
                marker = "." if len(history) <= 40 else ""
                label = shorten(name, 48) if column == "val_loss" else None
                place.plot(history["epoch"], history[column], marker=marker, label=label, **style)
                place.plot(kept["epoch"], kept[column], "o", color=style["color"], markersize=8, fillstyle="none")
        for place, title in zip(axes, ("Validation loss", "Validation accuracy"), strict=True):
            place.set_title(title, fontweight="bold")
            place.set_xlabel("Epoch (circle: kept weights)")
            place.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=PERCENT))
        figure.legend(loc="outside lower center", ncols=2)
        return save_svg(figure)


def confusion_matrices(counts: Mapping[str, Sequence[Sequence[int]]], class_names: Sequence[str]) -> bytes:
    """Draw the confusion matrices of several runs, as fractions of each true class.

    Args:
        counts: The counts of each run, (classes, classes), a row for each true class.
        class_names: The names of the classes, in the order of rows and columns.
    """
    num_columns = min(MATRICES_IN_A_ROW, len(counts))
    num_rows = math.ceil(len(counts) / num_columns)
    side = min(6.0, max(2.9, 0.36 * len(class_names) + 1.4))
    with open_figure(num_columns * side, num_rows * (side + 0.3)) as figure:
        places = figure.subplots(num_rows, num_columns, squeeze=False).flat
        for place, (name, matrix) in zip(places, counts.items(), strict=False):
            fractions, texts = _describe_cells(np.asarray(matrix, dtype=np.float64), len(class_names))
            draw_matrix(place, fractions, class_names, texts, 1.0)
            place.set_title(shorten(name, 24), fontweight="bold")
        for place in list(figure.axes)[len(counts) :]:
            place.set_axis_off()
        return save_svg(figure)


def _describe_cells(matrix: NDArray[np.float64], num_classes: int) -> tuple[NDArray[np.float64], list[str]]:
    """Return the fractions of each true class, and the text of each cell."""
    fractions = compute_row_fractions(matrix)
    if num_classes > 4:
        return fractions, [f"{100 * fraction:.0f}" for fraction in fractions.flat]
    assert num_classes <= MAX_WRITTEN_CLASSES
    return fractions, [
        f"{100 * fraction:.1f}{PERCENT}\n{count:,.0f}"
        for fraction, count in zip(fractions.flat, matrix.flat, strict=True)
    ]
