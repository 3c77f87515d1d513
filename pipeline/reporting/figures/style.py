"""Style of all figures: colours, fonts and PNG files."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import matplotlib
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILION, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#6B7280"
INK, SOFT_INK, PAPER = "#1F2328", "#57606A", "#FFFFFF"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E5E7EB",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": True,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "figure.constrained_layout.h_pad": 0.09,
    "figure.constrained_layout.w_pad": 0.09,
    # A class called "$x" is a name, not a formula.
    "text.parse_math": False,
}
DOTS_PER_INCH = 160


@contextlib.contextmanager
def open_figure(width: float, height: float) -> Iterator[Figure]:
    """Give an empty figure of a size in inches, which is drawn in the style of all."""
    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def save_png(figure: Figure) -> bytes:
    """Return a figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, facecolor=PAPER, metadata={"Software": None})
    return buffer.getvalue()


def shorten(text: str, num_letters: int) -> str:
    """Cut the middle out of a long text, so that its beginning and its end stay readable."""
    if len(text) <= num_letters:
        return text
    tail = (num_letters - 1) // 2
    return f"{text[: num_letters - 1 - tail]}…{text[len(text) - tail :]}"
