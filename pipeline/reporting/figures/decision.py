"""Figures for decisions: accuracy where the model may decline, and calibration before and after scaling."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas
from matplotlib.collections import PathCollection
from matplotlib.ticker import PercentFormatter

from pipeline.reporting.figures.intervals import read_estimates
from pipeline.reporting.figures.style import BLUE, GREEN, GREY, ORANGE, VERMILION, open_figure, save_png

MIN_ROWS_IN_LINE = 20
LEVEL_STYLES = ((BLUE, "-"), (VERMILION, "--"), (GREEN, "-."), (ORANGE, ":"))


def coverage_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]], title: str = "") -> bytes:
    """Draw the accuracy of the most confident rows over the fraction of rows that is answered.

    Args:
        curves: The ``curve`` of ``compute_coverage_curve`` for each level; at most four levels.
        title: The title, which names what was scored.
    """
    with open_figure(6.2, 4.4) as figure:
        axes = figure.subplots()
        lowest = 0.98
        for (level, curve), (colour, line) in zip(curves.items(), LEVEL_STYLES, strict=False):
            coverage = np.array([point["coverage"] for point in curve])
            accuracies = [point["accuracy"] for point in curve]
            values, low, high = (read_estimates(accuracies, key) for key in ("value", "low", "high"))
            axes.fill_between(coverage, low, high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(coverage, values, line, color=colour, linewidth=2.2, label=f"{level}s", clip_on=False)
            lowest = min(lowest, float(np.nanmin([*values, *low])))
        axes.set(xlim=(0, 1), xlabel="Coverage: fraction answered, most confident first", ylabel="Accuracy")
        axes.set_ylim(max(0.0, lowest - 0.25 * (1 - lowest)), 1.0 + 0.03 * (1 - lowest))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        axes.set_title(title, fontweight="bold")
        axes.legend(loc="lower left", title="band: 95 % interval", alignment="left")
        return save_png(figure)


def calibration_before_and_after(before: pandas.DataFrame, after: pandas.DataFrame, title: str = "") -> bytes:
    """Draw two calibration curves, and below them the fraction of rows at each confidence.

    Args:
        before: The bins of ``compute_calibration_bins`` for the model's own probabilities.
        after: The bins for the scaled probabilities.
        title: The title, which names what was scored.
    """
    styles = ((before, "as it is", VERMILION, "s", "--"), (after, "with temperature", BLUE, "o", "-"))
    with open_figure(5.6, 5.8) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
        upper.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (4, 3)), linewidth=1, label="perfect")
        for place, (bins, label, colour, marker, line) in enumerate(styles):
            filled = bins[bins["count"] > 0]
            fraction = filled["count"] / bins["count"].sum()
            # A point of few rows is small and has no line: its accuracy may be chance.
            many = filled[filled["count"] >= MIN_ROWS_IN_LINE]
            upper.plot(many["confidence"], many["accuracy"], line, color=colour, linewidth=1.4)
            sizes = 10 + 110 * np.sqrt(fraction)
            points = (filled["confidence"], filled["accuracy"], sizes, colour)
            upper.scatter(*points, marker=marker, label=label, clip_on=False, zorder=3)
            width = (bins["high"] - bins["low"]) / 2
            left = bins["low"] + place * width
            lower.bar(left, bins["count"] / bins["count"].sum(), width=width, align="edge", color=colour)
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="Fraction that is right")
        upper.set_title(title, fontweight="bold")
        legend = figure.legend(loc="outside lower center", ncols=3, fontsize=9)
        for handle in legend.legend_handles:
            if isinstance(handle, PathCollection):
                handle.set_sizes([45])
        lower.set(xlabel="Confidence (highest probability)", ylabel="Fraction of rows", ylim=(0, 1))
        lower.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        return save_png(figure)
