"""Figures of a classifier as SVG: confusion matrix, ROC curve and precision-recall curve.

Each is a ``Figure`` object of its own: no window, no state between calls. Colours are Okabe and Ito's, which
colour-blind readers can distinguish ("Color universal design", 2008); no fact is shown by colour alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from numpy.typing import NDArray

from pipeline.evaluation.auroc import RocCurve
from pipeline.evaluation.class_scores import PrecisionRecallCurve
from pipeline.reporting.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PAPER,
    PERCENT,
    PHONE_WIDTH,
    VERMILION,
    add_legend_below,
    open_figure,
    save_svg,
    shorten,
)

MAX_CURVES = 8  # more are drawn thin, with their mean
CURVE_COLOURS = (BLUE, ORANGE, GREEN, VERMILION, "#CC79A7", "#56B4E9", "#8C6D00", INK)
MAX_WRITTEN_CLASSES = 12  # with more classes a confusion matrix has no numbers in its cells


def confusion_matrix(
    counts: Sequence[Sequence[int]] | NDArray[Any], class_names: Sequence[str], title: str = ""
) -> bytes:
    """Draw a confusion matrix twice: as counts, and as fractions of each true class.

    Args:
        counts: The counts, ``(classes, classes)``, a row for each true class.
        class_names: The names of the classes, in the order of rows and columns.
        title: The title, which names what was counted, such as "Slices, test".
    """
    matrix = np.asarray(counts, dtype=np.float64)
    fractions = compute_row_fractions(matrix)
    side = min(9.0, max(PHONE_WIDTH - 0.4, 0.5 * len(class_names) + 1.4))
    # Below each other, so that a phone shows them large; of many classes no phone can.
    with open_figure(side + 0.4, 2 * side + 0.5) as figure:
        left, right = figure.subplots(2, 1)
        draw_matrix(left, matrix, class_names, [f"{value:,.0f}" for value in matrix.flat], matrix.max())
        draw_matrix(right, fractions, class_names, [f"{100 * value:.1f}{PERCENT}" for value in fractions.flat], 1.0)
        left.set_title("Counts")
        right.set_title("Fraction of the true class")
        if len(class_names) <= MAX_WRITTEN_CLASSES:
            names = [
                f"{shorten(name, 18)}\nn = {row.sum():,.0f}" for name, row in zip(class_names, matrix, strict=True)
            ]
            right.set_yticks(range(len(class_names)), names)
        figure.suptitle(f"{title}  (n = {matrix.sum():,.0f})".strip(), fontsize=12, fontweight="bold")
        return save_svg(figure)


def compute_row_fractions(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the counts ``(classes, classes)`` as fractions of their row; 0 in a row without counts."""
    support = matrix.sum(axis=1, keepdims=True)
    fractions: NDArray[np.float64] = np.divide(matrix, support, out=np.zeros_like(matrix), where=support > 0)
    return fractions


def draw_matrix(
    axes: Axes, matrix: NDArray[np.float64], class_names: Sequence[str], texts: Sequence[str], highest: float
) -> None:
    """Draw one matrix as tinted cells, with a text in each where there are few classes.

    Args:
        axes: The axes to draw on.
        matrix: The values, ``(classes, classes)``, a row for each true class.
        class_names: The names of the classes, in the order of rows and columns.
        texts: The text of each cell, row by row.
        highest: The value that gets the darkest tint.
    """
    num_classes = len(class_names)
    # With many classes each cell holds few mistakes: the tint grows with the square root, so that they are visible.
    tint = PowerNorm(0.5 if num_classes > MAX_WRITTEN_CLASSES else 1.0, vmin=0, vmax=highest or 1)
    edges = np.arange(num_classes + 1) - 0.5
    # Thousands of cells are an image inside of the figure, which would be a file of megabytes otherwise.
    is_image = num_classes > MAX_WRITTEN_CLASSES
    axes.pcolormesh(edges, edges, matrix, cmap="Blues", norm=tint, edgecolors="face", rasterized=is_image)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set(xlabel="Predicted", ylabel="True")
    axes.grid(visible=False)
    names = [shorten(name, 18) for name in class_names]
    font_size = 9 if num_classes <= MAX_WRITTEN_CLASSES else max(4.0, 9 - num_classes / 12)
    axes.set_xticks(range(num_classes), names, fontsize=font_size)
    axes.set_yticks(range(num_classes), names, fontsize=font_size)
    longest = max(len(name) for name in names)
    if longest > 9 or longest * num_classes > 30:  # side by side they would touch
        angle = 40 if num_classes <= MAX_WRITTEN_CLASSES else 90
        for tick in axes.get_xticklabels():
            tick.set(rotation=angle, ha="right", va="center", rotation_mode="anchor")
    axes.tick_params(length=0)
    if num_classes > MAX_WRITTEN_CLASSES:
        return
    text_size = 15 if num_classes <= 3 else max(9.0, 12 - 0.5 * num_classes)
    for (row, column), value in np.ndenumerate(matrix):
        colour = PAPER if value > 0.65 * (highest or 1) else INK
        text = texts[row * num_classes + column]
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=text_size)


def roc_curve(curves: Mapping[str, RocCurve], title: str = "", auroc: str = "") -> bytes:
    """Draw ROC curves: one for each class; many classes are drawn thin, with their mean.

    Args:
        curves: The curves of ``compute_roc_curves``; may be empty.
        title: The title, which names what was scored.
        auroc: The area with its interval, written into the figure.
    """
    with open_figure(PHONE_WIDTH, 5.2) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (4, 3)), linewidth=1, label="guessing")
        if len(curves) > MAX_CURVES:
            grid = np.linspace(0, 1, 501)
            rates = [np.interp(grid, c.false_positive_rate, c.true_positive_rate) for c in curves.values()]
            for place, curve in enumerate(curves.values()):
                points, label = (curve.false_positive_rate, curve.true_positive_rate), None if place else "a class"
                axes.plot(*points, color="#9CC9E3", linewidth=0.7, label=label)
            axes.plot(grid, np.mean(rates, axis=0), color=BLUE, linewidth=2.2, label="mean of the classes")
        else:
            for (name, curve), colour in zip(curves.items(), CURVE_COLOURS, strict=False):
                points = (curve.false_positive_rate, curve.true_positive_rate)
                axes.plot(*points, color=colour, linewidth=2.2, label=_name_curve(name, len(curves)), clip_on=False)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.set(xlabel="False positive rate (1 minus specificity)", ylabel="True positive rate (sensitivity)")
        axes.set_title(title, fontweight="bold")
        add_legend_below(figure, auroc)
        return save_svg(figure)


def precision_recall_curve(
    curves: Mapping[str, PrecisionRecallCurve], title: str = "", average_precision: str = ""
) -> bytes:
    """Draw precision-recall curves: one for each class; many classes are drawn thin.

    Args:
        curves: The curves of ``compute_precision_recall_curves``; may be empty.
        title: The title, which names what was scored.
        average_precision: The average precision with its interval, written into the figure.
    """
    with open_figure(PHONE_WIDTH, 5.2) as figure:
        axes = figure.subplots()
        for (name, curve), colour in zip(curves.items(), CURVE_COLOURS * len(curves), strict=False):
            if len(curves) > MAX_CURVES:
                axes.step(curve.recall, curve.precision, color="#9CC9E3", linewidth=0.7, where="post")
                continue
            label = _name_curve(name, len(curves))
            axes.step(curve.recall, curve.precision, color=colour, linewidth=2.2, label=label, where="post")
            guessing = "guessing" if len(curves) == 1 else None
            axes.axhline(curve.fraction, color=GREY, linestyle=(0, (4, 3)), linewidth=1, label=guessing)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
        axes.set(xlabel="Recall (sensitivity)", ylabel="Precision (positive predictive value)")
        axes.set_title(title, fontweight="bold")
        if 0 < len(curves) <= MAX_CURVES:
            add_legend_below(figure, average_precision)
        return save_svg(figure)


def _name_curve(name: str, num_curves: int) -> str:
    return f"class {shorten(name, 24)}" if num_curves > 1 else f"positive class: {shorten(name, 24)}"
