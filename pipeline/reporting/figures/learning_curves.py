"""The figure of a learning curve: the accuracy by the number of training patients."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from pipeline.evaluation.schema import Estimate
from pipeline.reporting.figures.intervals import read_estimates
from pipeline.reporting.figures.style import BLUE, GREEN, GREY, PERCENT, PURPLE, VERMILION, open_figure, save_svg

COLOURS = {"perceiver": BLUE, "distilled": PURPLE, "cnn": VERMILION, "logistic_regression": GREEN}
MARKERS = {"perceiver": "o", "distilled": "^", "cnn": "D", "logistic_regression": "s"}
SPREAD = 0.035  # of the sizes, by which the models stand next to each other


@dataclass(frozen=True)
class Curve:
    """The curve of one model.

    Args:
        model: The kind of the model.
        title: Its name in the legend.
        sizes: The numbers of training patients.
        over_draws: The mean accuracy at each of them, with its interval over draws.
        over_patients: The same with its interval over test patients.
        draws: The accuracy of each draw, at each size.
    """

    model: str
    title: str
    sizes: tuple[int, ...]
    over_draws: tuple[Estimate, ...]
    over_patients: tuple[Estimate, ...]
    draws: tuple[tuple[float, ...], ...]


def draw_learning_curves(curves: Sequence[Curve], wanted: float, group: str) -> bytes:
    """Draw the mean accuracy of each model with both intervals, and each draw as a dot.

    Args:
        curves: The curves.
        wanted: The wanted accuracy, a dashed line.
        group: The word for training patients, in the plural.
    """
    with open_figure(7.4, 4.6) as figure:
        axes = figure.subplots()
        for place, curve in enumerate(curves):
            colour, shift = COLOURS[curve.model], 1 + SPREAD * (place - (len(curves) - 1) / 2)
            sizes = [size * shift for size in curve.sizes]
            means, marker = read_estimates(curve.over_draws, "value"), MARKERS[curve.model]
            axes.plot(sizes, means, f"{marker}-", color=colour, markersize=6, linewidth=1.6, label=curve.title)
            for estimates, width, alpha in ((curve.over_patients, 1.2, 0.7), (curve.over_draws, 4.5, 0.35)):
                low, high = read_estimates(estimates, "low"), read_estimates(estimates, "high")
                axes.vlines(sizes, low, high, color=colour, linewidth=width, alpha=alpha)
            for size, values in zip(sizes, curve.draws, strict=True):
                axes.plot([size] * len(values), values, ".", color=colour, markersize=3.5, alpha=0.6)
        axes.axhline(wanted, color=GREY, linestyle="--", linewidth=1.2, label="wanted")
        axes.set_xscale("log")
        every = sorted({size for curve in curves for size in curve.sizes})
        axes.xaxis.set_major_locator(FixedLocator([float(size) for size in every]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([f"{size:,}" for size in every])
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=PERCENT))
        axes.set(xlabel=f"Training {group}", ylabel="Accuracy on the test rows")
        figure.legend(loc="outside lower center", ncols=4)
        return save_svg(figure)
