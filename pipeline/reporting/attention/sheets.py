"""Attention maps as pictures: sheets of one checkpoint, and of one layer over the epochs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.attention.maps import AttentionMaps, measure_spread
from pipeline.core.errors import UserError
from pipeline.models.pixel_permutation import compute_pixel_order
from pipeline.reporting.attention.colours import (
    SheetRow,
    attention_sheet,
    colour_points,
    draw_input,
    draw_overlay,
    draw_weights,
    find_top,
    spread_over_pixels,
)
from pipeline.reporting.figures.point_cloud import draw_cloud

MAX_EPOCHS = 6
LARGE_TILE_PIXELS, SMALL_TILE_PIXELS = 512, 176
MAX_LARGE_MAPS = 6  # of an example; more of them are drawn small

Panel = tuple[NDArray[np.uint8], str]


def describe_maps(maps: AttentionMaps, mirror_average: bool) -> list[str]:
    """Say in words what the maps are, and what they are not.

    Args:
        maps: the maps.
        mirror_average: whether the model answers with the mean of two passes.
    """
    reader = f"the latents {', '.join(map(str, maps.latents))}" if maps.latents else "the latents, on average,"
    if maps.kind == "cross":
        sentences = [f"Each map shows how much {reader} read of each part of the input; a map's weights sum to 1."]
    else:
        reader = f"the latents {', '.join(map(str, maps.latents))}" if maps.latents else "each latent (a row)"
        sentences = [f"Each map shows how much {reader} read of each latent (a column); a row's weights sum to 1."]
    sentences.append("Attention is where the model looks, not why it answers.")
    if maps.mirrored:
        sentences.append("The model was shown the mirror images; the maps are turned back onto the pictures.")
    if mirror_average:
        seen = "mirror image" if maps.mirrored else "picture itself"
        sentences.append(f"This model answers with the mean of two passes: the maps are those over the {seen}.")
    if maps.permute_seed is not None:
        sentences.append("The model sees the pixels in another, fixed order; the maps are put back onto the pictures.")
    if maps.kind == "cross" and maps.cell_pixels > 1:
        sentences.append(
            f"An input is a square of {maps.cell_pixels} x {maps.cell_pixels} pixels; behind convolutions it also "
            "holds what lies around it."
        )
    sentences.append(
        "With each map: how many times its even share the most-read part gets, and over how many parts the reading is "
        "spread (exponential of the entropy). Colours go from dark violet (least) to yellow (most in that map)."
    )
    return sentences


def draw_maps(maps: AttentionMaps, heading: str) -> bytes:
    """Draw every map of every example: a row an example, a column a layer and head and latent.

    Args:
        maps: the maps.
        heading: on top.

    Returns:
        PNG bytes.
    """
    latents: list[int | None] = list(maps.latents) if maps.latents else [None]
    is_matrix = maps.kind == "self" and not maps.latents
    titles, rows = [], []
    for layer in maps.layers:
        for head in maps.heads:
            for latent in latents:
                tail = "" if latent is None else f", latent {latent}"
                titles.append(f"layer {layer}, head {head}{tail}")
    tile_pixels = LARGE_TILE_PIXELS if len(titles) <= MAX_LARGE_MAPS else SMALL_TILE_PIXELS
    for example in range(len(maps.example_ids)):
        panels = []
        for layer_place in range(len(maps.layers)):
            for head_place in range(len(maps.heads)):
                shown = maps.weights[example, layer_place, head_place]
                panels += [_draw_panel(maps, example, w, tile_pixels) for w in ([shown] if is_matrix else shown)]
        rows.append(_build_row(maps, example, panels, tile_pixels))
    return attention_sheet(rows, titles, heading)


def choose_maps(maps: AttentionMaps, example: int) -> AttentionMaps:
    """Return the maps of one example alone.

    Args:
        maps: of several.
        example: its place.
    """
    one = slice(example, example + 1)
    return dataclasses.replace(
        maps,
        example_ids=maps.example_ids[one],
        labels=maps.labels[one],
        examples=maps.examples[one],
        probabilities=maps.probabilities[one],
        weights=maps.weights[one],
    )


def draw_epochs(kept: Sequence[AttentionMaps], heading: str) -> bytes:
    """Draw how attention changes in training: a row an example, a column an epoch, the mean over layers and heads.

    Args:
        kept: maps of the same examples after growing epochs.
        heading: on top.

    Returns:
        PNG bytes.

    Raises:
        UserError: the examples are not the same.
    """
    if len({maps.example_ids for maps in kept}) != 1:
        raise UserError("attention: the maps kept in training show different examples. Train the run afresh.")
    rows = []
    for example in range(len(kept[0].example_ids)):
        panels: list[Panel] = []
        for maps in kept:
            picture, _ = _draw_panel(maps, example, maps.weights[example].mean(axis=(0, 1, 2)), SMALL_TILE_PIXELS)
            scores = maps.probabilities[example]
            panels.append((picture, f"says {maps.class_names[int(scores.argmax())]} {scores.max():.2f}"))
        rows.append(_build_row(kept[-1], example, panels, SMALL_TILE_PIXELS, is_answered=False))
    return attention_sheet(rows, [f"epoch {maps.epoch}" for maps in kept], heading)


def spread_over_picture(maps: AttentionMaps, weights: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Bring weights of inputs back to the pixels of the picture as the store holds it.

    Args:
        maps: where the weights come from.
        weights: (..., rows, columns) on the grid that the network saw.

    Returns:
        (..., height, width) with the same sums.
    """
    pixels = spread_over_pixels(weights, (maps.examples.shape[-2], maps.examples.shape[-1]), maps.cell_pixels)
    if maps.permute_seed is not None:
        order = np.argsort(compute_pixel_order(pixels.shape[-2] * pixels.shape[-1], maps.permute_seed))
        pixels = pixels.reshape(*pixels.shape[:-2], -1)[..., order].reshape(pixels.shape)
    return pixels[..., ::-1] if maps.mirrored else pixels


def note_weights(weights: NDArray[np.floating[Any]], kind: str) -> str:
    """Write the two numbers about a map: how far its highest weight stands out, and how far the reading is spread.

    Args:
        weights: of the inputs, in any shape; of kind self (readers, read) or (read,).
        kind: of the maps.
    """
    readers = weights if kind == "self" and weights.ndim == 2 else weights.reshape(1, -1)
    num_read = readers.shape[-1]
    return f"{readers.max(axis=-1).mean() * num_read:.1f} × even, {measure_spread(readers).mean():.0f} of {num_read}"


def choose_epochs(kept: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Choose which of the kept epochs are drawn.

    Args:
        kept: epochs whose maps are there.
        wanted: the ones to draw; none means up to ``MAX_EPOCHS``, evenly spread, with the first and the last.

    Raises:
        UserError: one is not there.
    """
    missing = sorted(set(wanted) - set(kept))
    if missing:
        raise UserError(
            f"attention.epochs: found {missing}, but maps were kept of {sorted(kept)} "
            "(attention.every_epochs in training)."
        )
    if wanted:
        return sorted(wanted)
    places = np.unique(np.linspace(0, len(kept) - 1, min(MAX_EPOCHS, len(kept))).round().astype(int))
    return [sorted(kept)[place] for place in places]


def _build_row(
    maps: AttentionMaps, example: int, panels: Sequence[Panel], tile_pixels: int, is_answered: bool = True
) -> SheetRow:
    scores = maps.probabilities[example]
    lines = [maps.example_ids[example], f"true: {maps.labels[example]}"]
    if is_answered:
        lines.append(f"says {maps.class_names[int(scores.argmax())]} {scores.max():.2f}")
    return SheetRow(
        picture=_draw_example(maps.examples[example], tile_pixels),
        caption="\n".join(lines),
        panels=[picture for picture, _ in panels],
        notes=[note for _, note in panels],
    )


def _draw_example(example: NDArray[Any], tile_pixels: int) -> NDArray[np.uint8]:
    return draw_cloud(example) if example.ndim == 2 else draw_input(example, tile_pixels)


def _draw_panel(maps: AttentionMaps, example: int, weights: NDArray[np.floating[Any]], tile_pixels: int) -> Panel:
    """Draw one map and write the two numbers about it."""
    content, note = maps.examples[example], note_weights(weights, maps.kind)
    if maps.kind == "self":
        matrix = np.atleast_2d(weights)
        readers = matrix if len(matrix) > 1 else np.repeat(matrix, matrix.shape[-1], axis=0)
        return draw_weights(readers, find_top(matrix), tile_pixels), note
    if content.ndim == 2:
        return draw_cloud(content, *colour_points(weights.reshape(-1))), note
    pixels = spread_over_picture(maps, weights)
    return draw_overlay(content, pixels, find_top(pixels), tile_pixels), note
