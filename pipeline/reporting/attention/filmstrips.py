"""Filmstrips: the slices of a scan in their order, with what the answer loses without each, on the attention page."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from einops import repeat

from pipeline.attention.slices import SliceWeights
from pipeline.config.experiment import Experiment
from pipeline.core.array_types import Array
from pipeline.core.text import make_printable
from pipeline.datasets import DATASETS
from pipeline.reporting.elements import Figure, Table, tabulate_facts
from pipeline.reporting.figures.image_grid import BORDER_PIXELS, Border, Cell, Strip, draw_grid, enlarge
from pipeline.reporting.figures.style import BLUE
from pipeline.reporting.html import write_page
from pipeline.training.checkpoint import Checkpoint

NUM_MARKED = 3
SMALLEST_LOSS = 0.0005  # which is shown as 0.1 points
COLUMNS = 8
MIN_PIXELS = 128


def choose_marked(weights: SliceWeights) -> list[int]:
    """Return the slices without which the answer loses most, the first one first.

    Those without which it loses less than is shown are left out: they are noise in an answer that is certain.
    """
    order = np.argsort(-weights.lost, kind="stable")[:NUM_MARKED]
    return [int(index) for index in order if weights.lost[index] >= SMALLEST_LOSS]


def show_points(lost: float) -> str:
    """Show a loss of probability in percentage points; 0.0, and not -0.0, where it is less than is shown."""
    return f"{round(100 * lost, 1) + 0.0:.1f}"


def draw_filmstrip(images: Array, weights: SliceWeights, unit: str = "mm") -> bytes:
    """Draw the slices of a scan; those that carry the answer have a border.

    Args:
        images: The slices, ``(slices, height, width)`` uint8, in the order of the weights.
        weights: Their weights.
        unit: The unit of their places.

    Returns:
        PNG bytes.
    """
    marked, cells = choose_marked(weights), []
    for index, image in enumerate(images):
        lines = [f"{weights.places_mm[index, 0]:+.0f} {unit}"]
        if not np.isnan(weights.lost[index]):
            lines.append(f"loses {show_points(weights.lost[index])} points")
        if weights.attention is not None:
            lines.append(f"attention {100 * weights.attention[index].sum():.1f} %")
        pixels = enlarge(repeat(image, "row column -> row column colour", colour=3), MIN_PIXELS)
        border = Border(BLUE, BORDER_PIXELS) if index in marked else Border("#9CA3AF", 1)
        cells.append(Cell(pixels, "\n".join(lines), title=f"slice {index}", border=border))
    return draw_grid([Strip(cells)], min(COLUMNS, len(cells)))


def write_slice_page(
    path: Path,
    experiment: Experiment,
    checkpoint: Checkpoint,
    weighed: Sequence[SliceWeights],
    strips: Sequence[bytes],
) -> None:
    """Write the page of the attention stage for whole scans.

    Args:
        path: The HTML file to write.
        experiment: All options.
        checkpoint: The weights.
        weighed: The weights of the slices of each scan.
        strips: The filmstrip of each.
    """
    names, options = checkpoint.spec.class_names, experiment.attention
    examples = []
    for weights, strip in zip(weighed, strips, strict=True):
        scores = weights.probabilities
        answer = f"true: {weights.label}; predicted: {names[int(scores.argmax())]} {scores.max():.2f}"
        figure = Figure(f"filmstrip_{weights.example_id}", "Slices", f"{answer}.", strip, is_sheet=True)
        examples.append({"title": make_printable(weights.example_id), "figures": [figure]})
    pixels = "the scans' own pixels" if options.native_resolution else "the stored pixels"
    write_page(
        path,
        "attention.html",
        title=f"{experiment.paths.title}: slices",
        synthetic_note=DATASETS[experiment.data.dataset].synthetic_note,
        sentences=[
            f"Each scan is answered from all its slices at once; they are drawn in {pixels}, in their order along the "
            "normal, with the place of each from the centre of the volume.",
            "Below each slice is what the probability of the predicted class loses where the slice is left out, in "
            f"percentage points; the {NUM_MARKED} slices without which it loses most have a border, where it loses "
            "anything: a certain answer may not, and of two slices that show the same each can be left out.",
            "Attention is the fraction of the weights of all latents, heads and layers that a slice gets. It shows "
            "what is read and explains no answer.",
        ],
        examples=examples,
        sheets=[],
        summary=_summarise(weighed, names),
        facts=tabulate_facts(
            "Examples and weights",
            {
                "split of the examples": options.split,
                "weights": str(options.checkpoint or experiment.paths.best_checkpoint),
                "epoch of the weights": str(checkpoint.epoch),
                "commit of the training": checkpoint.commit,
            },
        ),
    )


def _summarise(weighed: Sequence[SliceWeights], names: Sequence[str]) -> Table:
    rows = []
    for weights in weighed:
        marked = choose_marked(weights)
        lost = ", ".join(f"{index} ({show_points(weights.lost[index])})" for index in marked) or "none"
        predicted = names[int(weights.probabilities.argmax())]
        rows.append((make_printable(weights.example_id), weights.label, predicted, str(len(weights.lost)), lost))
    columns = ("Scan", "Label", "Predicted", "Slices", "Slices that carry the answer (points lost)")
    return Table("Slices that carry the answer", columns, tuple(rows), "All slices are in slices.csv.")
