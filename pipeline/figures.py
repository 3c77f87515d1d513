"""Pictures of a report, as PNG bytes: the one door to matplotlib.

Every picture is its own ``Figure`` object: no window, no state shared between
calls. Colours are Okabe and Ito's, told apart by colour-blind readers
("Color universal design", 2008); nothing is said by colour alone.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas
from einops import rearrange
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.clouds import draw_cloud
from pipeline.curves import RocCurve
from pipeline.errors import UserError
from pipeline.printable import make_printable

BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#6B7280"
INK, PAPER = "#1F2328", "#FFFFFF"
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
MAX_ROC_CURVES = 8  # more are drawn thin, with their mean
MAX_WRITTEN_CLASSES = 12  # a larger confusion matrix has no numbers in its cells
MIN_TILE_PIXELS = 176
CAPTION_PIXELS = 13
MAX_LETTERS = 500


def save_png(figure: Figure) -> bytes:
    """Return a figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, facecolor=PAPER, metadata={"Software": None})
    return buffer.getvalue()


def confusion_matrix(
    counts: Sequence[Sequence[int]] | NDArray[Any], class_names: Sequence[str], title: str = ""
) -> bytes:
    """Draw a confusion matrix twice: counts, and the share of each true class.

    Args:
        counts: ``(classes, classes)``, a row for each true class.
        class_names: in the order of rows and columns.
        title: what was counted, such as "Slices, test".
    """
    matrix = np.asarray(counts, dtype=np.float64)
    support = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, support, out=np.zeros_like(matrix), where=support > 0)
    side = min(9.0, max(3.6, 0.42 * len(class_names) + 1.4))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2 * side + 0.6, side + 0.5), layout="constrained")
        left, right = figure.subplots(1, 2)
        draw_matrix(left, matrix, class_names, [f"{value:,.0f}" for value in matrix.flat], matrix.max())
        draw_matrix(right, shares, class_names, [f"{value:.1%}" for value in shares.flat], 1.0)
        left.set_title("Counts")
        right.set_title("Share of the true class")
        if len(class_names) <= MAX_WRITTEN_CLASSES:
            names = [
                f"{shorten(name, 18)}\nn = {row.sum():,.0f}" for name, row in zip(class_names, matrix, strict=True)
            ]
            right.set_yticks(range(len(class_names)), names)
        figure.suptitle(f"{title}  (n = {matrix.sum():,.0f})".strip(), fontsize=12, fontweight="bold")
        return save_png(figure)


def draw_matrix(
    axes: Axes, matrix: NDArray[np.float64], class_names: Sequence[str], texts: Sequence[str], highest: float
) -> None:
    """Draw one matrix as tinted cells, with a text in each where there are few classes."""
    num_classes = len(class_names)
    # Of many classes the mistakes are few in each cell: the tint grows with the square root, so that they are seen.
    tint = PowerNorm(0.5 if num_classes > MAX_WRITTEN_CLASSES else 1.0, vmin=0, vmax=highest or 1)
    axes.imshow(matrix, cmap="Blues", norm=tint, aspect="equal")
    axes.set(xlabel="Predicted", ylabel="True")
    axes.grid(visible=False)
    names = [shorten(name, 18) for name in class_names]
    font_size = 9 if num_classes <= MAX_WRITTEN_CLASSES else max(4.0, 9 - num_classes / 12)
    axes.set_xticks(range(num_classes), names, fontsize=font_size)
    axes.set_yticks(range(num_classes), names, fontsize=font_size)
    if num_classes > 3 or max(len(name) for name in names) > 9:
        angle = 40 if num_classes <= MAX_WRITTEN_CLASSES else 90
        for tick in axes.get_xticklabels():
            tick.set(rotation=angle, ha="right", va="center", rotation_mode="anchor")
    axes.tick_params(length=0)
    if num_classes > MAX_WRITTEN_CLASSES:
        return
    text_size = 15 if num_classes <= 3 else max(6.0, 12 - 0.5 * num_classes)
    for (row, column), value in np.ndenumerate(matrix):
        colour = PAPER if value > 0.65 * (highest or 1) else INK
        text = texts[row * num_classes + column]
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=text_size)


def shorten(text: str, num_letters: int) -> str:
    """Cut the middle out of a long text, so that its beginning and its end stay readable."""
    if len(text) <= num_letters:
        return text
    tail = (num_letters - 1) // 2
    return f"{text[: num_letters - 1 - tail]}…{text[len(text) - tail :]}"


def roc_curve(curves: Mapping[str, RocCurve], title: str = "", auroc: str = "") -> bytes:
    """Draw ROC curves: one a class, or for many classes all thin with their mean.

    Args:
        curves: what ``compute_roc_curves`` returns; may be empty.
        title: what was scored.
        auroc: the area with its interval, written into the picture.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 5.0), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (4, 3)), linewidth=1, label="guessing")
        colours = [BLUE, ORANGE, GREEN, VERMILION, "#CC79A7", "#56B4E9", "#8C6D00", INK]
        if len(curves) > MAX_ROC_CURVES:
            grid = np.linspace(0, 1, 501)
            rates = [np.interp(grid, c.false_positive_rate, c.true_positive_rate) for c in curves.values()]
            for curve in curves.values():
                axes.plot(curve.false_positive_rate, curve.true_positive_rate, color="#9CC9E3", linewidth=0.7)
            axes.plot(grid, np.mean(rates, axis=0), color=BLUE, linewidth=2.2, label="mean of the classes")
        else:
            for (name, curve), colour in zip(curves.items(), colours, strict=False):
                points = (curve.false_positive_rate, curve.true_positive_rate)
                label = f"{shorten(name, 24)} against the rest" if len(curves) > 1 else f"positive class: {name}"
                axes.plot(*points, color=colour, linewidth=2.2, label=label, clip_on=False)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.set(xlabel="False positive rate (1 minus specificity)", ylabel="True positive rate (sensitivity)")
        axes.set_title(title, fontweight="bold")
        axes.legend(loc="lower right", title=auroc or None, alignment="left")
        return save_png(figure)


def calibration_curve(bins: pandas.DataFrame, title: str = "") -> bytes:
    """Draw how often the model is right at each confidence, above how many rows have it.

    Args:
        bins: what ``compute_calibration_bins`` returns.
        title: what was scored.
    """
    filled = bins[bins["count"] > 0]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 5.6), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
        upper.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (4, 3)), linewidth=1, label="perfectly calibrated")
        gaps = np.stack([filled["confidence"], filled["accuracy"]])
        upper.vlines(filled["confidence"], gaps.min(axis=0), gaps.max(axis=0), color=ORANGE, linewidth=2)
        upper.plot(
            filled["confidence"],
            filled["accuracy"],
            "o-",
            color=BLUE,
            linewidth=1.6,
            label="model",
            clip_on=False,
        )
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="Share that is right")
        upper.set_title(title, fontweight="bold")
        upper.legend(loc="upper left")
        widths = bins["high"] - bins["low"]
        bars = lower.bar(bins["low"], bins["count"], width=widths, align="edge", color=BLUE, edgecolor=PAPER)
        lower.bar_label(bars, [f"{count:,}" if count else "" for count in bins["count"]], fontsize=6.5, padding=1)
        lower.set(xlabel="Confidence (highest probability)", ylabel="Rows")
        lower.margins(y=0.2)
        lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        return save_png(figure)


def training_curves(history: pandas.DataFrame, best_epoch: int | None = None) -> bytes:
    """Draw loss, accuracy and learning rate over the epochs.

    Args:
        history: one row an epoch with epoch, train_loss, train_accuracy, val_loss,
            val_accuracy and learning_rate; a missing value leaves a gap.
        best_epoch: the epoch whose weights were kept, marked if given.
    """
    epochs = history["epoch"].to_numpy()
    marker = "o" if len(epochs) <= 40 else ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.5, 3.5), layout="constrained")
        loss, accuracy, rate = figure.subplots(1, 3)
        for axes, quantity in ((loss, "loss"), (accuracy, "accuracy")):
            for split, colour, line in (("train", BLUE, "-"), ("val", VERMILION, "--")):
                values = history[f"{split}_{quantity}"].to_numpy(dtype=np.float64)
                name = {"train": "training", "val": "validation"}[split]
                axes.plot(epochs, values, line, color=colour, marker=marker, markersize=3.5, label=name)
            axes.set_title(quantity.capitalize(), fontweight="bold")
        accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        rate.plot(epochs, history["learning_rate"], color=GREEN, marker=marker, markersize=3.5)
        rate.set_title("Learning rate", fontweight="bold")
        rate.set_ylim(bottom=0)
        rate.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
        for axes in (loss, accuracy, rate):
            axes.set_xlabel("Epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if best_epoch is not None:
                axes.axvline(best_epoch, color=GREY, linewidth=1, linestyle=":", label="kept weights")
        loss.legend(loc="upper right")
        return save_png(figure)


def contact_sheet(
    images: Sequence[NDArray[Any]] | NDArray[Any],
    captions: Sequence[str],
    columns: int = 6,
    is_right: Sequence[bool] | None = None,
    title: str = "",
) -> bytes:
    """Lay images out in a grid, a caption below each.

    Small images are enlarged by a whole factor, so that their pixels stay visible.

    Args:
        images: ``(height, width)`` or ``(channels, height, width)`` uint8 each; 1 or 3 channels. A point cloud,
            ``(points, 3)`` float32, is drawn as seen from the front right.
        captions: one an image; its lines are shortened in the middle to fit.
        columns: images in a row.
        is_right: for each image whether the answer was right: a blue border and a tick,
            or a red one and a cross.
        title: written on top.

    Raises:
        UserError: no images, or another number of captions.
    """
    if len(images) == 0 or len(images) != len(captions):
        raise UserError(f"contact sheet: found {len(images)} images and {len(captions)} captions; needs as many.")
    pictures = [to_picture(image) for image in images]
    font, bold = load_font("DejaVuSans.ttf"), load_font("DejaVuSans-Bold.ttf")
    columns, margin, border = min(columns, len(pictures)), 10, 4
    tile_width = max(MIN_TILE_PIXELS, *(picture.width for picture in pictures))
    tile_height = max(picture.height for picture in pictures)
    line_height = CAPTION_PIXELS + 5
    num_lines = max(caption.count("\n") + 1 for caption in captions)
    step_x, step_y = (
        tile_width + 2 * border + margin,
        tile_height + 2 * border + num_lines * line_height + margin,
    )
    top = margin + (line_height + margin if title else 0)
    size = (columns * step_x + margin, math.ceil(len(pictures) / columns) * step_y + top)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((margin, margin), fit_text(title, bold, size[0] - 2 * margin), fill=INK, font=bold)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = margin + index % columns * step_x, top + index // columns * step_y
        colour, mark = "#9CA3AF", ""
        if is_right is not None:
            colour, mark = (BLUE, "✓ ") if is_right[index] else (VERMILION, "✗ ")
        box = (x, y, x + tile_width + 2 * border - 1, y + tile_height + 2 * border - 1)
        draw.rectangle(box, fill="#000000", outline=colour, width=border if is_right is not None else 1)
        offset_x, offset_y = (tile_width - picture.width) // 2, (tile_height - picture.height) // 2
        sheet.paste(picture, (x + border + offset_x, y + border + offset_y))
        for line_index, line in enumerate((mark + caption).split("\n")):
            place = (x, y + tile_height + 2 * border + 3 + line_index * line_height)
            text = fit_text(line, font, tile_width + 2 * border)
            draw.text(place, text, fill=colour if mark and line_index == 0 else INK, font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def to_picture(image: NDArray[np.uint8] | NDArray[np.float32]) -> Image.Image:
    """Turn an array into an RGB picture, enlarged by a whole factor to at least a tile's width.

    Args:
        image: as for :func:`contact_sheet`.
    """
    array = np.asarray(image)
    if array.dtype == np.float32:
        return Image.fromarray(draw_cloud(array))
    if array.ndim == 3:
        array = rearrange(
            array[:3] if len(array) >= 3 else array[[0, 0, 0]], "channel row column -> row column channel"
        )
    picture = Image.fromarray(array).convert("RGB")
    factor = max(1, math.ceil(MIN_TILE_PIXELS / picture.width))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def load_font(name: str) -> ImageFont.FreeTypeFont:
    """Load a font that comes with matplotlib, so that captions look the same everywhere."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(str(path), CAPTION_PIXELS)


def fit_text(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Cut the middle out of a text until it is at most ``width`` pixels wide."""
    # The font's engine ends on commands to a terminal and the like; and no picture has room for more letters.
    text = shorten(make_printable(text), MAX_LETTERS)
    for num_letters in range(len(text), 1, -1):
        shorter = shorten(text, num_letters)
        if font.getlength(shorter) <= width:
            return shorter
    return text[:1]
