"""Style of all figures: colours, fonts and SVG files."""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Text

from pipeline.reporting.figures.fonts import FONT, find_fonts

BLUE, ORANGE, GREEN, VERMILION, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#6B7280"
INK, SOFT_INK, PAPER = "#1F2328", "#57606A", "#FFFFFF"
STYLE: dict[Any, Any] = {
    "font.family": FONT,
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
    # The same on every machine: letters as curves, images inside of the file, and names that no chance decides.
    "svg.fonttype": "path",
    "svg.image_inline": True,
    "svg.hashsalt": "perceiver",
}
DOTS_PER_INCH = 160
PERCENT = "\u00a0%"
# The width in inches up to which letters of 9 points stay 9 pixels high on a page that is 328 pixels wide, as on a
# phone of 360: 9 points are 20 pixels of 160 a inch, and 20 * 328 / 720 is 9.1.
PHONE_WIDTH = 4.5


@contextlib.contextmanager
def open_figure(width: float, height: float) -> Iterator[Figure]:
    """Give an empty figure of a size in inches, which is drawn in the style of all."""
    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor=PAPER, layout="constrained")


def save_svg(figure: Figure) -> bytes:
    """Return a figure as SVG, its letters as curves; the same figure gives the same bytes.

    ``Figure.savefig`` would draw it twice, first without ink for the layout, which drawing itself computes. It is drawn
    a second time where :data:`FONT` lacks a letter that another font has.
    """
    canvas = FigureCanvasSVG(figure)
    content, boxes = _draw(canvas)
    fonts = find_fonts(boxes)
    if fonts:
        families = [FONT, *sorted({font.name for font in fonts.values()})]
        for text in figure.findobj(Text):
            text.set_fontfamily(families)
        content, _ = _draw(canvas)
    return content


def _draw(canvas: FigureCanvasSVG) -> tuple[bytes, frozenset[str]]:
    """Draw a figure, and return the file and the letters that are boxes in it."""
    buffer = io.StringIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    letters = set()
    for warning in caught:
        lacking = re.match(r"Glyph (\d+) .* missing from", str(warning.message))
        if lacking is None:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        else:
            letters.add(chr(int(lacking[1])))
    return buffer.getvalue().encode(), frozenset(letters)


def add_legend_below(figure: Figure, title: str = "") -> None:
    """Put the legend below the axes, where no curve is, in as many columns as the width of a phone takes.

    Args:
        figure: The figure, of ``PHONE_WIDTH``, whose curves have labels.
        title: The first line of the legend; may be empty.
    """
    labels = [label for axes in figure.axes for label in axes.get_legend_handles_labels()[1]]
    longest = max((len(label) for label in labels), default=0)
    columns = 4 if longest <= 6 else 3 if longest <= 13 else 2 if longest <= 22 else 1
    figure.legend(loc="outside lower center", ncols=columns, fontsize=9, title=title or None, title_fontsize=9)


def shorten(text: str, num_letters: int) -> str:
    """Cut the middle out of a long text, so that its beginning and its end stay readable."""
    if len(text) <= num_letters:
        return text
    tail = (num_letters - 1) // 2
    return f"{text[: num_letters - 1 - tail]}…{text[len(text) - tail :]}"
