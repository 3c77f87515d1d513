"""Figures of accuracies with their intervals: of subgroups, of several trainings, of the leak study."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pipeline.evaluation.schema import Estimate
from pipeline.reporting.figures.style import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PERCENT,
    PHONE_WIDTH,
    VERMILION,
    add_legend_below,
    open_figure,
    save_svg,
    shorten,
)

Estimates = Sequence[Estimate]


@dataclass(frozen=True)
class Panel:
    """Accuracies of subgroups, next to each other.

    Args:
        title: The title, which names the kind of subgroup.
        names: The names of the subgroups.
        accuracies: The accuracy (value, low, high) of each subgroup.
    """

    title: str
    names: tuple[str, ...]
    accuracies: Estimates


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
        return save_svg(figure)


def model_and_baselines(model: Estimate, baselines: Mapping[str, Estimate], chance: str, axis_title: str) -> bytes:
    """Draw the accuracy of the model and of its baselines with their intervals, narrow enough for a phone.

    Args:
        model: The accuracy of the model.
        baselines: The accuracy of each baseline by its title; one without an interval is a point.
        chance: The title of the baseline that has seen no image, which gets the colour of chance.
        axis_title: The title of the axis of accuracies.
    """
    rows = {"This model": model, **{name: found for name, found in baselines.items() if found["value"] is not None}}
    with open_figure(PHONE_WIDTH, 0.9 + 0.45 * len(rows)) as figure:
        axes = figure.subplots()
        for place, (name, found) in enumerate(rows.items()):
            colour = BLUE if place == 0 else GREY if name == chance else ORANGE
            _draw_interval(axes, found, place, colour, "o" if place == 0 else "D", None)
        axes.set_yticks(range(len(rows)), [textwrap.fill(name, 18) for name in rows])
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))  # "97.5 %" is half an inch wide
        _finish(axes, len(rows), axis_title)
        return save_svg(figure)


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
        return save_svg(figure)


def accuracy_over_index(indices: Sequence[int], accuracies: Estimates, overall: float, title: str = "") -> bytes:
    """Draw accuracy over the slice index as a line, its interval as a band.

    Args:
        indices: The slice indices, in rising order.
        accuracies: The accuracy (value, low, high) at each index; without an interval the band has a gap.
        overall: The accuracy over all rows, drawn as a dashed line.
        title: The title, which names what was scored.
    """
    values, low, high = (read_estimates(accuracies, key) for key in ("value", "low", "high"))
    with open_figure(PHONE_WIDTH, 3.4) as figure:
        axes = figure.subplots()
        axes.fill_between(indices, low, high, color=BLUE, alpha=0.22, linewidth=0, label="95 % interval over patients")
        marker = "o" if len(indices) <= 60 else ""
        axes.plot(indices, values, "-", color=BLUE, marker=marker, markersize=3.5, linewidth=1.6, label="accuracy")
        _show_overall(axes, overall, [values, low], "all rows")
        axes.set(xlabel="Slice index", ylabel="Accuracy")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(title, fontweight="bold")
        add_legend_below(figure)
        return save_svg(figure)


def accuracy_of_parts(panels: Sequence[Panel], overall: float) -> bytes:
    """Draw accuracies as points with their intervals, a panel for each kind of subgroup.

    Args:
        panels: The panels, at least one.
        overall: The accuracy over all rows, drawn as a dashed line.
    """
    widths = [max(4, len(panel.names)) for panel in panels]
    with open_figure(1.2 + 0.62 * sum(widths) + 0.6 * len(panels), 3.9) as figure:
        drawn = figure.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=widths)[0]
        every = [read_estimates(panel.accuracies, key) for panel in panels for key in ("value", "low")]
        for place, (axes, panel) in enumerate(zip(drawn, panels, strict=True)):
            values, low, high = (read_estimates(panel.accuracies, key) for key in ("value", "low", "high"))
            at = np.arange(len(values))
            labels = ("95 % interval", "accuracy") if place == 0 else (None, None)
            axes.vlines(at, low, high, color=BLUE, linewidth=2.2, label=labels[0])
            axes.plot(at, values, "o", color=BLUE, markersize=6, label=labels[1], clip_on=False)
            names = [shorten(name, 14) for name in panel.names]
            axes.set_xticks(at, names)
            if max(len(name) for name in names) > 6 and len(names) > 4:
                for tick in axes.get_xticklabels():
                    tick.set(rotation=40, ha="right", va="center", rotation_mode="anchor")
            axes.set_xlim(-0.6, len(values) - 0.4)
            axes.grid(visible=False, axis="x")
            _show_overall(axes, overall, every, "all rows" if place == 0 else None)
            axes.set_title(panel.title, fontweight="bold")
        drawn[0].set_ylabel("Accuracy")
        add_legend_below(figure)
        return save_svg(figure)


def read_estimates(accuracies: Estimates, key: Literal["value", "low", "high"]) -> Any:
    """Return one number of each accuracy, NaN where it is None."""
    return np.array([np.nan if accuracy[key] is None else accuracy[key] for accuracy in accuracies], dtype=np.float64)


def _show_overall(axes: Axes, overall: float, drawn: Sequence[Any], label: str | None) -> None:
    """Mark the accuracy of all rows, and leave a little room below the lowest number."""
    axes.axhline(overall, color=GREY, linestyle=(0, (4, 3)), linewidth=1, label=label)
    lowest = float(np.nanmin(np.concatenate([*drawn, [overall, 0.98]])))
    axes.set_ylim(max(0.0, lowest - 0.1 * (1.0 - lowest)), 1.0 + 0.04 * (1.0 - lowest))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=PERCENT))


def _draw_interval(
    axes: Any, accuracy: Mapping[str, Any], place: float, colour: str, marker: str, label: str | None
) -> None:
    if accuracy["low"] is not None:
        axes.plot([accuracy["low"], accuracy["high"]], [place, place], color=colour, linewidth=2, alpha=0.55)
    axes.plot([accuracy["value"]], [place], marker, color=colour, markersize=7, linestyle="none", label=label)


def _finish(axes: Any, num_rows: int, axis_title: str) -> None:
    axes.set_ylim(num_rows - 0.5, -0.5)
    axes.set_xlabel(axis_title)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g}{PERCENT}")  # 25 % and 97.5 %
    axes.grid(visible=False, axis="y")
