"""Figures of stages that train several models: the leak study and cross-validation."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import PercentFormatter

from pipeline.reporting.figures.style import BLUE, GREY, INK, VERMILION, open_figure, save_png, shorten


def labelled_accuracies(rows: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]], chance: float) -> bytes:
    """Draw accuracies with true and with shuffled labels, with their intervals.

    Args:
        rows: The name of each row, and its accuracy (value, low, high) with true and with shuffled labels.
        chance: The accuracy of guessing, drawn as a dashed line.
    """
    with open_figure(7.4, 1.5 + 0.62 * len(rows)) as figure:
        axes = figure.subplots()
        for place, (_, true, shuffled) in enumerate(rows):
            labels = ("true labels", "shuffled labels") if place == 0 else (None, None)
            _draw_interval(axes, true, place - 0.13, BLUE, "o", labels[0])
            _draw_interval(axes, shuffled, place + 0.13, VERMILION, "D", labels[1])
        axes.axvline(chance, color=GREY, linestyle="--", linewidth=1.2, label="chance")
        axes.set_yticks(range(len(rows)), [shorten(row[0], 32) for row in rows])
        _finish(axes, len(rows), "Accuracy on test slices, 95 % interval over patients")
        figure.legend(loc="outside lower center", ncols=3)
        return save_png(figure)


def run_accuracies(rows: Sequence[tuple[str, Mapping[str, Any]]], pooled: Mapping[str, Any], axis_title: str) -> bytes:
    """Draw the accuracy of each run with its interval, and the pooled accuracy below.

    Args:
        rows: The name and the accuracy (value, low, high) of each run.
        pooled: The accuracy over all patients.
        axis_title: The title of the axis of accuracies.
    """
    with open_figure(7.4, 1.3 + 0.36 * (len(rows) + 1)) as figure:
        axes = figure.subplots()
        for place, (_, accuracy) in enumerate(rows):
            _draw_interval(axes, accuracy, place, BLUE, "o", None)
        _draw_interval(axes, pooled, len(rows), INK, "D", None)
        axes.axhline(len(rows) - 0.5, color=GREY, linewidth=0.8)
        axes.set_yticks(range(len(rows) + 1), [*(shorten(name, 32) for name, _ in rows), "pooled"])
        _finish(axes, len(rows) + 1, axis_title)
        return save_png(figure)


def _draw_interval(
    axes: Any, accuracy: Mapping[str, Any], place: float, colour: str, marker: str, label: str | None
) -> None:
    if accuracy["low"] is not None:
        axes.plot([accuracy["low"], accuracy["high"]], [place, place], color=colour, linewidth=2, alpha=0.55)
    axes.plot([accuracy["value"]], [place], marker, color=colour, markersize=7, linestyle="none", label=label)


def _finish(axes: Any, num_rows: int, axis_title: str) -> None:
    axes.set_ylim(num_rows - 0.5, -0.5)
    axes.set_xlabel(axis_title)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.grid(visible=False, axis="y")
