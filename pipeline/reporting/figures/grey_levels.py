"""Figure of grey levels: the histograms of training, test and external images over each other."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import PercentFormatter

from pipeline.reporting.figures.style import BLUE, GREY, PERCENT, VERMILION, open_figure, save_svg

LINES = ((GREY, "-"), (BLUE, "--"), (VERMILION, "-"))


def draw_histograms(histograms: Mapping[str, Sequence[float]], title: str = "") -> bytes:
    """Draw the fraction of pixels by grey level, a line for each part.

    Args:
        histograms: The fractions in equally wide ranges from black to white, by the name of the part; at most three.
        title: The title, which names what was measured.
    """
    with open_figure(6.2, 4.0) as figure:
        axes = figure.subplots()
        for (name, fractions), (colour, line) in zip(histograms.items(), LINES, strict=False):
            edges = np.linspace(0, 255, len(fractions) + 1)
            axes.stairs(fractions, edges, color=colour, linestyle=line, linewidth=2.0, label=name)
        # Of images with a black frame nearly all pixels would be in the first range, and the others not be seen.
        axes.set_yscale("log")
        axes.set(xlim=(0, 255), xlabel="Grey level: black 0, white 255", ylabel="Fraction of the pixels")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=PERCENT))
        axes.set_title(title, fontweight="bold")
        figure.legend(loc="outside lower center", ncols=3)
        return save_svg(figure)
