"""Sheets of attention maps: of one checkpoint, and over the epochs of a training."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.attention.storage import AttentionMaps, measure_spread
from pipeline.core.array_types import Array
from pipeline.core.errors import UserError
from pipeline.core.pixel_order import compute_pixel_order
from pipeline.reporting.attention.colours import (
    colour_points,
    colour_weights,
    draw_overlay,
    draw_scale,
    find_top,
    spread_over_pixels,
)
from pipeline.reporting.figures.image_grid import MARGIN, Cell, Strip, draw_example, draw_grid, enlarge
from pipeline.reporting.figures.point_cloud import draw_cloud
from pipeline.reporting.figures.style import SOFT_INK

MAX_EPOCHS = 6
LARGE_TILE_PIXELS, SMALL_TILE_PIXELS = 512, 176
MAX_LARGE_MAPS = 6  # of an example; where there are more, all are drawn small
MAX_MAPS_IN_A_LINE = 8
MAX_SHEET_PIXELS = 1850  # the greatest width; a line holds fewer maps where they are larger

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class OneMap:
    """The attention map of one head of one layer over one example.

    Args:
        layer: The layer.
        head: The head.
        latent: The index of the latent; None for the mean over all latents, and for a matrix between latents.
        weights: The weights, as in ``AttentionMaps``.
    """

    layer: int
    head: int
    latent: int | None
    weights: Floats

    @property
    def title(self) -> str:
        """The layer, the head and the latent in words."""
        return f"layer {self.layer}, head {self.head}" + ("" if self.latent is None else f", latent {self.latent}")

    @property
    def file_name(self) -> str:
        """The layer, the head and the latent as a part of a file's name."""
        return f"layer{self.layer}_head{self.head}" + ("" if self.latent is None else f"_latent{self.latent}")


def describe_maps(maps: AttentionMaps, is_tta: bool) -> list[str]:
    """Describe in sentences what the maps show, and what they do not show.

    Args:
        maps: The maps.
        is_tta: Whether the model averages over a slice and its flipped image (test-time augmentation).
    """
    reader = f"the latents {', '.join(map(str, maps.latents))}" if maps.latents else "the latents, on average,"
    if maps.kind == "cross":
        sentences = [f"Each map shows how much {reader} read of each part of the input; a map's weights sum to 1."]
    else:
        reader = f"the latents {', '.join(map(str, maps.latents))}" if maps.latents else "each latent (a row)"
        sentences = [f"Each map shows how much {reader} read of each latent (a column); a row's weights sum to 1."]
    sentences.append("Attention is where the model looks, not why it answers.")
    if maps.mirrored:
        sentences.append("The inputs were flipped images; the maps are flipped back onto the stored ones.")
    if is_tta:
        seen = "flipped image" if maps.mirrored else "image as stored"
        sentences.append(
            f"This model averages two passes (test-time augmentation): the maps are those over the {seen}."
        )
    if maps.permute_seed is not None:
        sentences.append(
            "The model sees the pixels in another, fixed order; the maps are put back in the order of the image."
        )
    if maps.kind == "cross" and maps.cell_pixels > 1:
        sentences.append(
            f"An input is a square of {maps.cell_pixels} x {maps.cell_pixels} pixels; after convolutions it also "
            "holds some of the pixels around it."
        )
    sentences.append(
        "Each map has two numbers: the weight of the most-read part as a multiple of an even weight, and over how many "
        "parts the attention is spread (exponential of the entropy). Colours range from dark violet (least) to yellow "
        "(most in that map)."
    )
    return sentences


def list_maps(maps: AttentionMaps, example: int) -> list[OneMap]:
    """List the maps of an example: layer by layer, head by head, latent by latent.

    Args:
        maps: The maps of several examples.
        example: The index of the example.
    """
    latents = maps.latents or (None,)
    is_matrix = maps.kind == "self" and not maps.latents
    listed = []
    for layer_index, layer in enumerate(maps.layers):
        for head_index, head in enumerate(maps.heads):
            weights = maps.weights[example, layer_index, head_index]
            by_latent = zip(latents, [weights] if is_matrix else weights, strict=True)
            listed += [OneMap(layer, head, latent, part) for latent, part in by_latent]
    return listed


def draw_maps(maps: AttentionMaps, heading: str) -> bytes:
    """Draw every map of every example: a row for each example, a column for each layer, head and latent.

    Args:
        maps: The maps.
        heading: The line on top.

    Returns:
        PNG bytes.
    """
    strips = []
    for example in range(len(maps.example_ids)):
        listed = list_maps(maps, example)
        tile_pixels = LARGE_TILE_PIXELS if len(listed) <= MAX_LARGE_MAPS else SMALL_TILE_PIXELS
        cells = [
            Cell(
                _draw_map(maps, example, one.weights, tile_pixels),
                note_weights(one.weights, maps.kind),
                one.title,
                SOFT_INK,
            )
            for one in listed
        ]
        strips.append(Strip(cells, _build_lead(maps, example, tile_pixels, name_answer(maps, example))))
    return _draw_sheet(strips, heading)


def choose_maps(maps: AttentionMaps, example: int) -> AttentionMaps:
    """Return the maps of one example.

    Args:
        maps: The maps of several examples.
        example: The index of the example.
    """
    by_example = ("example_ids", "labels", "examples", "probabilities", "weights")
    return dataclasses.replace(maps, **{name: getattr(maps, name)[example : example + 1] for name in by_example})


def draw_epochs(kept: Sequence[AttentionMaps], heading: str) -> bytes:
    """Draw attention over the epochs: a row for each example, a column for each epoch, the mean over layers and heads.

    Args:
        kept: The maps of the same examples, in the order of the epochs.
        heading: The line on top.

    Returns:
        PNG bytes.

    Raises:
        UserError: The examples are not the same.
    """
    if len({maps.example_ids for maps in kept}) != 1:
        raise UserError(
            "attention: the maps kept in training are of different examples. Train the run again from scratch."
        )
    strips = []
    for example in range(len(kept[0].example_ids)):
        cells = [
            Cell(
                _draw_map(maps, example, maps.weights[example].mean(axis=(0, 1, 2)), SMALL_TILE_PIXELS),
                name_answer(maps, example),
                f"epoch {maps.epoch}",
                SOFT_INK,
            )
            for maps in kept
        ]
        strips.append(Strip(cells, _build_lead(kept[-1], example, SMALL_TILE_PIXELS)))
    return _draw_sheet(strips, heading)


def name_answer(maps: AttentionMaps, example: int) -> str:
    """Return the predicted class of an example, with its probability."""
    scores = maps.probabilities[example]
    return f"predicted: {maps.class_names[int(scores.argmax())]} {scores.max():.2f}"


def spread_over_image(maps: AttentionMaps, weights: Floats) -> NDArray[np.float64]:
    """Map the weights of inputs back to the pixels of the image as the store holds it.

    Args:
        maps: The maps that the weights come from.
        weights: The weights on the grid that the network saw, (..., rows, columns).

    Returns:
        The weights of the pixels, (..., height, width), with the same sums.
    """
    pixels = spread_over_pixels(weights, (maps.examples.shape[-2], maps.examples.shape[-1]), maps.cell_pixels)
    if maps.permute_seed is not None:
        order = np.argsort(compute_pixel_order(pixels.shape[-2] * pixels.shape[-1], maps.permute_seed))
        pixels = pixels.reshape(*pixels.shape[:-2], -1)[..., order].reshape(pixels.shape)
    return pixels[..., ::-1] if maps.mirrored else pixels


def note_weights(weights: Floats, kind: str) -> str:
    """Write the two numbers of a map: its highest weight as a multiple of an even one, and the spread of the attention.

    Args:
        weights: The weights of the inputs, in any shape; for the kind self (readers, read) or (read,).
        kind: The kind of the maps.
    """
    readers = weights if kind == "self" and weights.ndim == 2 else weights.reshape(1, -1)
    num_read = readers.shape[-1]
    peak = readers.max(axis=-1).mean() * num_read
    return f"most: {peak:.1f} × the mean\nread: {measure_spread(readers).mean():.0f} of {num_read} parts"


def choose_epochs(kept: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Choose the epochs to draw among those with maps.

    Args:
        kept: The epochs whose maps were kept.
        wanted: The epochs to draw; none means up to ``MAX_EPOCHS``, evenly spread, with the first and the last.

    Raises:
        UserError: The maps of an epoch were not kept.
    """
    missing = sorted(set(wanted) - set(kept))
    if missing:
        raise UserError(
            f"attention.epochs: found {missing}, but maps were kept of {sorted(kept)} "
            "(train.keep_attention_every_epochs in training)."
        )
    if wanted:
        return sorted(wanted)
    places = np.unique(np.linspace(0, len(kept) - 1, min(MAX_EPOCHS, len(kept))).round().astype(int))
    return [sorted(kept)[place] for place in places]


def draw_matrix(weights: Floats, tile_pixels: int) -> Array:
    """Draw the weights between latents, or the row of one latent as a band, as (height, width, 3)."""
    matrix = np.atleast_2d(weights)
    readers = matrix if len(matrix) > 1 else np.repeat(matrix, matrix.shape[-1], axis=0)
    colours = colour_weights(readers, find_top(matrix))
    return enlarge(np.round(colours * 255).astype(np.uint8), tile_pixels)


def _build_lead(maps: AttentionMaps, example: int, tile_pixels: int, answer: str = "") -> Cell:
    lines = [maps.example_ids[example], f"true: {maps.labels[example]}", *([answer] if answer else [])]
    return Cell(draw_example(maps.examples[example], tile_pixels), "\n".join(lines), "input")


def _draw_map(maps: AttentionMaps, example: int, weights: Floats, tile_pixels: int) -> Array:
    content = maps.examples[example]
    if maps.kind == "self":
        return draw_matrix(weights, tile_pixels)
    if content.ndim == 2:
        return draw_cloud(content, *colour_points(weights.reshape(-1)))
    pixels = spread_over_image(maps, weights)
    return draw_overlay(content, pixels, find_top(pixels), tile_pixels)


def _draw_sheet(strips: Sequence[Strip], heading: str) -> bytes:
    """Lay out the examples below each other, each with its maps to the right, as many in a line as fit the sheet."""
    width = max(cell.image.shape[1] for strip in strips for cell in (strip.lead, *strip.cells) if cell is not None)
    in_a_line = max(1, MAX_SHEET_PIXELS // (width + MARGIN) - 1)  # next to the input
    columns = min(MAX_MAPS_IN_A_LINE, len(strips[0].cells), in_a_line)
    return draw_grid(strips, columns, heading, draw_scale())
