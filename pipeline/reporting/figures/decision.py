"""Figures for decisions: accuracy where the model may decline, reliability diagrams and net benefit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import PercentFormatter

from pipeline.evaluation.schema import CalibrationBin, DecisionCurve
from pipeline.reporting.figures.intervals import read_estimates
from pipeline.reporting.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PERCENT,
    PHONE_WIDTH,
    VERMILION,
    add_legend_below,
    open_figure,
    save_svg,
    shorten,
)

LEVEL_STYLES = ((BLUE, "-"), (VERMILION, "--"), (GREEN, "-."), (ORANGE, ":"))


def coverage_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]], title: str = "") -> bytes:
    """Draw the accuracy of the most confident rows over the fraction of rows that is answered.

    Args:
        curves: The ``curve`` of ``compute_coverage_curve`` for each level; at most four levels.
        title: The title, which names what was scored.
    """
    with open_figure(PHONE_WIDTH, 4.1) as figure:
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
        axes.set_ylim(max(0.0, lowest - 0.03 * (1 - lowest)), 1.0 + 0.03 * (1 - lowest))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=PERCENT))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=PERCENT))
        axes.set_title(title, fontweight="bold")
        add_legend_below(figure)
        return save_svg(figure)


@dataclass(frozen=True)
class Reliability:
    """One line of a reliability diagram.

    Args:
        label: Its name in the legend.
        bins: The bins of ``compute_bins``.
    """

    label: str
    bins: Sequence[CalibrationBin]


def reliability_diagram(lines: Sequence[Reliability], event: str, title: str = "") -> bytes:
    """Draw how often an event happened in each bin of its probability, with intervals.

    Args:
        lines: The probabilities to compare, at most two.
        event: The event, such as "right", or that an answer is correct; empty for the most probable of several classes.
        title: The title, which names what was scored.
    """
    probability, fraction = ("Probability of “{}”", "Fraction that is “{}”")
    if not event:
        probability, fraction = "Confidence (highest probability)", "Fraction predicted correctly"
    with open_figure(PHONE_WIDTH, 4.8) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (4, 3)), linewidth=1, label="perfect")
        for line, (colour, marker) in zip(lines, ((BLUE, "o"), (GREEN, "s")), strict=False):
            points = np.array([part["probability"] for part in line.bins])
            value, low, high = (
                read_estimates([part["fraction"] for part in line.bins], key) for key in ("value", "low", "high")
            )
            axes.vlines(points, low, high, color=colour, linewidth=1.2, alpha=0.7)
            axes.plot(points, value, f"{marker}-", color=colour, linewidth=1.4, label=line.label, clip_on=False)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.set(xlabel=probability.format(shorten(event, 24)), ylabel=fraction.format(shorten(event, 24)))
        axes.set_title(title, fontweight="bold")
        add_legend_below(figure)
        return save_svg(figure)


def net_benefit_curve(curve: DecisionCurve, title: str = "") -> bytes:
    """Draw the net benefit of the model, of acting on all rows and of acting on none, over the threshold.

    Args:
        curve: The result of ``compute_decision_curve``.
        title: The title, which names what was scored.
    """
    points = curve["curve"]
    thresholds = np.array([point["threshold"] for point in points])
    value, low, high = (read_estimates([point["model"] for point in points], key) for key in ("value", "low", "high"))
    with open_figure(PHONE_WIDTH, 4.2) as figure:
        axes = figure.subplots()
        axes.fill_between(thresholds, low, high, color=BLUE, alpha=0.18, linewidth=0)
        axes.plot(thresholds, value, "o-", color=BLUE, linewidth=2, markersize=4, label="model")
        treat_all = [point["treat_all"] for point in points]
        axes.plot(thresholds, treat_all, "--", color=VERMILION, linewidth=1.4, label="act on all")
        axes.axhline(0, color=GREY, linestyle=(0, (4, 3)), linewidth=1.2, label="act on none")
        prevalence = curve["prevalence"]
        axes.set(xlim=(0, 1), ylim=(-0.35 * prevalence, 1.1 * prevalence))
        axes.set(
            xlabel="Probability from which one acts", ylabel=f"Net benefit (prevalence {100 * prevalence:.1f}{PERCENT})"
        )
        axes.set_title(title, fontweight="bold")
        add_legend_below(figure)
        return save_svg(figure)
