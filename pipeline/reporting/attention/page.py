"""The page of the attention stage: each map drawn large, with its numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from pipeline.attention.storage import AttentionMaps, tabulate_maps
from pipeline.config.experiment import Experiment
from pipeline.datasets import DATASETS
from pipeline.reporting.attention.overlays import Overlay, draw_plain, name_example
from pipeline.reporting.attention.sheets import describe_maps
from pipeline.reporting.elements import Figure, Table, tabulate_facts
from pipeline.reporting.html import write_page
from pipeline.training.checkpoint import Checkpoint

MAX_SHOWN = 60  # large maps on the page; a page of hundreds would be slow to open
CHOICE = "by their position in the list, spread over classes and patients, not by appearance"
INTERPOLATIONS = {
    "nearest": "Each input's weight is drawn as a flat square.",
    "smooth": "Weights are interpolated linearly between the centres of the inputs; the model has no finer ones.",
}


@dataclass(frozen=True)
class DrawnMaps:
    """Attention maps with their drawings.

    Args:
        maps: The maps.
        sheets: The PNG files of many maps each: ``attention``, and where training kept maps ``epochs`` and the last
            one.
        below: The images that the maps of each example are drawn over.
        overlays: The maps, drawn large.
    """

    maps: AttentionMaps
    sheets: Mapping[str, bytes]
    below: Sequence[NDArray[Any]]
    overlays: Sequence[Overlay]


def write_attention_page(path: Path, experiment: Experiment, checkpoint: Checkpoint, drawn: DrawnMaps) -> None:
    """Write the page atomically.

    Args:
        path: The HTML file to write.
        experiment: All options.
        checkpoint: The checkpoint whose attention is drawn.
        drawn: The maps and their drawings.
    """
    options, maps, below, overlays = experiment.attention, drawn.maps, drawn.below, drawn.overlays
    shown = list(overlays[:MAX_SHOWN])
    sentences = describe_maps(maps, checkpoint.model.mirror_tta)
    sentences += _describe_drawing(maps, below, options.interpolation, options.native_resolution)
    if len(overlays) > len(shown):
        sentences.append(
            f"The first {len(shown)} of {len(overlays)} maps are drawn large here; overlays holds all of them."
        )
    facts = {
        "split of the examples": options.split,
        "choice of examples": "named by the user" if options.examples else CHOICE,
        "weights": str(options.checkpoint or experiment.paths.best_checkpoint),
        "epoch of the weights": str(checkpoint.epoch),
        "commit of the training": checkpoint.commit,
    }
    write_page(
        path,
        "attention.html",
        title=f"{experiment.paths.title}: attention",
        synthetic_note=DATASETS[experiment.data.dataset].synthetic_note,
        sentences=sentences,
        examples=[
            _show_example(maps, place, below[place], [overlay for overlay in shown if overlay.example == place])
            for place in sorted({overlay.example for overlay in shown})
        ],
        sheets=_show_sheets(drawn.sheets, maps, checkpoint.epoch, is_cut=len(overlays) > len(shown)),
        summary=_summarise(tabulate_maps(maps)),
        facts=tabulate_facts("Examples and weights", facts),
    )


def _describe_drawing(
    maps: AttentionMaps, below: Sequence[NDArray[Any]], interpolation: str, is_native: bool
) -> list[str]:
    if maps.kind == "self" or maps.examples[0].ndim == 2:
        return []
    height, width = below[0].shape[-2:]
    image = "the slice in the scan's own pixels" if is_native else "the stored image"
    return [
        f"Below the colours is {image} ({height} x {width} pixels over the field that the model saw as "
        f"{maps.examples.shape[-2]} x {maps.examples.shape[-1]}), interpolated. {INTERPOLATIONS[interpolation]}"
    ]


def _show_example(maps: AttentionMaps, place: int, below: NDArray[Any], overlays: Sequence[Overlay]) -> dict[str, Any]:
    scores = maps.probabilities[place]
    answer = f"true: {maps.labels[place]}; predicted: {maps.class_names[int(scores.argmax())]} {scores.max():.2f}"
    name = maps.example_ids[place]
    return {
        "title": name,
        "figures": [
            Figure(f"{name_example(maps, place)}_input", "Input", f"{name}, {answer}.", draw_plain(below)),
            *(Figure(one.name, one.title.capitalize(), f"{one.note}.", one.png) for one in overlays),
        ],
    }


def _show_sheets(sheets: Mapping[str, bytes], maps: AttentionMaps, epoch: int, is_cut: bool) -> list[Figure]:
    """Return the sheets of the page; the sheet of all maps is left out where each map has a figure."""
    texts = {
        "attention": (f"Epoch {epoch}, {maps.kind}-attention", "One example a row."),
        "epochs": (
            "In training",
            "The mean over layers and heads; below each map the predicted class after that epoch.",
        ),
    }
    figures = []
    for name, png in sheets.items():
        if name == "attention" and not is_cut:
            continue
        title, text = texts.get(name, (f"In training: epoch {name.removeprefix('epoch_').lstrip('0')}", "All layers."))
        figures.append(Figure(name, title, text, png, is_sheet=True))
    return figures


def _summarise(table: pd.DataFrame) -> Table:
    """Return a table with a row for each layer and head: means over examples and latents."""
    means = table.groupby(["layer", "head"], sort=True)[["num_read", "effective_read", "highest_over_even"]].mean()
    rows = tuple(
        (
            f"layer {layer}",
            str(head),
            f"{row.num_read:.0f}",
            f"{row.effective_read:.1f}",
            f"{row.highest_over_even:.1f}",
        )
        for (layer, head), row in zip(means.index, means.itertuples(index=False), strict=True)
    )
    columns = ("Layer", "Head", "Parts read", "Spread over", "Highest, times even")
    note = "Means over the examples. The maps themselves are in maps.npz, a row for each in maps.csv."
    return Table("Spread of attention by layer and head", columns, rows, note)
