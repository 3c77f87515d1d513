"""Style of all figures: colours, fonts and PNG files."""

import contextlib
import functools
import io
import logging
import re
import unicodedata
import warnings
from collections.abc import Collection, Iterator
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

logger = logging.getLogger(__name__)
FONT = "DejaVu Sans"
# Where this font lacks a letter, as of Chinese, Japanese and Korean, the first of these that is installed has it.
OTHER_FONTS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK KR", "Noto Sans", "Source Han Sans", "IPAexGothic",
    "WenQuanYi Zen Hei", "Hiragino Sans", "Yu Gothic", "Microsoft YaHei", "Malgun Gothic", "Arial Unicode MS",
)  # fmt: skip

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
}
DOTS_PER_INCH = 160
# The width in inches up to which letters of 9 points stay 9 pixels high on a page that is 328 pixels wide, as on a
# phone of 360: 9 points are 20 pixels of 160 a inch, and 20 * 328 / 720 is 9.1.
PHONE_WIDTH = 4.5


@contextlib.contextmanager
def open_figure(width: float, height: float) -> Iterator[Figure]:
    """Give an empty figure of a size in inches, which is drawn in the style of all."""
    with matplotlib.rc_context({**STYLE, "font.family": choose_fonts(font_manager.get_font_names())}):
        yield Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor=PAPER, layout="constrained")


def choose_fonts(installed: Collection[str]) -> list[str]:
    """Return the fonts in which a letter is looked for, one after the other.

    Args:
        installed: The names of the fonts that there are.
    """
    return [FONT, *(name for name in OTHER_FONTS if name in installed)]


def save_png(figure: Figure) -> bytes:
    """Return a figure as PNG; the same figure gives the same bytes.

    ``Figure.savefig`` would draw it twice, first without ink for the layout, which drawing itself computes.

    A letter that no font has is a box in the figure; a warning says so once.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # type: ignore[no-untyped-call]
        pixels = Image.fromarray(np.asarray(canvas.buffer_rgba()))  # type: ignore[no-untyped-call]
        pixels.save(buffer, format="png", dpi=(DOTS_PER_INCH, DOTS_PER_INCH))
    codes = set()
    for warning in caught:
        lacking = re.match(r"Glyph (\d+) .* missing from", str(warning.message))
        if lacking is None:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        else:
            codes.add(int(lacking[1]))
    if codes:
        _warn_of_boxes("".join(map(chr, sorted(codes))))
    return buffer.getvalue()


@functools.cache
def _warn_of_boxes(letters: str) -> None:
    """Say which letters are drawn as boxes, once for each such set of letters."""
    name = unicodedata.name(letters[0], "a letter without a name").lower()
    logger.warning(
        "warning: figures: no font of this machine has %s (%s); boxes stand for them. Install one that has, such as "
        "Noto Sans CJK, and run the stage again.",
        letters,
        name,
    )


def shorten(text: str, num_letters: int) -> str:
    """Cut the middle out of a long text, so that its beginning and its end stay readable."""
    if len(text) <= num_letters:
        return text
    tail = (num_letters - 1) // 2
    return f"{text[: num_letters - 1 - tail]}…{text[len(text) - tail :]}"
