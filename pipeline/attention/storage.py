"""Attention maps on disk: one file without pickle, and a table of the maps in it."""

import dataclasses
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.core.array_types import Floats
from pipeline.core.errors import UserError
from pipeline.core.files import open_atomically
from pipeline.core.serialization import build_record
from pipeline.core.tables import write_table

ARRAYS = ("examples", "probabilities", "weights")
MAP_COLUMNS = (
    "example_place", "layer_place", "head_place", "latent_place", "example_id", "label", "predicted", "probability",
    "kind", "layer", "head", "latent", "seen", "epoch", "num_read", "effective_read", "highest_over_even",
)  # fmt: skip


@dataclass(frozen=True)
class AttentionMaps:
    """Attention weights of some examples, with the facts that a figure of them needs.

    Args:
        kind: The kind of attention. cross: from latents to inputs. self: from latents to latents.
        layers: The attentions of this kind, counted from 0.
        heads: The heads.
        latents: The latents; none means that the mean over all was taken.
        mirrored: Whether the model saw the mirror images.
        permute_seed: The seed of the order in which the network saw the pixels; None where they were in place.
        cell_pixels: The side of the square of pixels that an input stands for; 0 where it is no square.
        epoch: The number of epochs that the weights were trained.
        class_names: The names of the classes.
        example_ids: The names of the examples.
        labels: The true classes of the examples.
        examples: The examples as the store holds them, (examples, channels, height, width) uint8, or the points that
            the model reads, (examples, points, 3) float32.
        probabilities: The model's answers, (examples, classes), of both passes where it takes two.
        weights: The weights (examples, layers, heads, latents or 1, rows, columns) on the grid of the inputs as the
            network saw them, or (examples, layers, heads, latents or 1, points); of kind self (examples, layers, heads,
            latents or all, all latents). Sums over the inputs or latents that are read are 1.
    """

    kind: str
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    latents: tuple[int, ...]
    mirrored: bool
    permute_seed: int | None
    cell_pixels: int
    epoch: int
    class_names: tuple[str, ...]
    example_ids: tuple[str, ...]
    labels: tuple[str, ...]
    examples: NDArray[Any]
    probabilities: Floats
    weights: Floats


def write_maps(path: Path, maps: AttentionMaps) -> None:
    """Write maps as ``.npz``, whole or not at all.

    Args:
        path: The file to write; its name ends with ``.npz``. It holds ``examples``, ``probabilities`` and ``weights``,
            as in ``AttentionMaps``, and ``facts``, the rest as JSON.
        maps: The maps.
    """
    facts = {field.name: getattr(maps, field.name) for field in dataclasses.fields(maps) if field.name not in ARRAYS}
    with open_atomically(path) as file:
        arrays: dict[str, Any] = {name: getattr(maps, name) for name in ARRAYS}
        np.savez_compressed(file, facts=np.array(json.dumps(facts)), **arrays)


def read_maps(path: Path) -> AttentionMaps:
    """Read maps that ``write_maps`` wrote.

    Raises:
        UserError: the file is not there or not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            facts = json.loads(str(file["facts"]))
            arrays = {name: file[name] for name in ARRAYS}
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such file. Run the attention stage, or train with train.keep_attention_every_epochs."
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a file of attention maps ({error}). Delete it and make it again.") from error
    return build_record(AttentionMaps, facts | arrays)


def list_kept_epochs(folder: Path) -> dict[int, Path]:
    """Return the files that training kept, by epoch."""
    return {int(path.stem.removeprefix("epoch_")): path for path in sorted(folder.glob("epoch_*.npz"))}


def name_kept_epoch(folder: Path, epoch: int) -> Path:
    """Return the file of one epoch."""
    return folder / f"epoch_{epoch:04d}.npz"


def tabulate_maps(maps: AttentionMaps) -> pd.DataFrame:
    """Return a row for each map: its place in ``weights``, its description, and two numbers about it.

    ``effective_read`` is ``measure_spread``; ``highest_over_even`` is the highest weight over the weight that each
    input would have if all had the same. Of kind self with all latents, these are means over the latents that read.
    """
    rows = []
    latents: list[int | str] = list(maps.latents) or ["mean" if maps.kind == "cross" else "all"]
    listed = [enumerate(items) for items in (maps.example_ids, maps.layers, maps.heads, latents)]
    for (example, example_id), (layer_place, layer), (head_place, head), (place, latent) in itertools.product(*listed):
        scores = maps.probabilities[example]
        shown = maps.weights[example, layer_place, head_place]
        readers = shown if latent == "all" else shown[place : place + 1]
        flat = readers.reshape(len(readers), -1)
        rows.append(
            {
                "example_place": example,
                "layer_place": layer_place,
                "head_place": head_place,
                "latent_place": place,
                "example_id": example_id,
                "label": maps.labels[example],
                "predicted": maps.class_names[int(scores.argmax())],
                "probability": float(scores.max()),
                "kind": maps.kind,
                "layer": layer,
                "head": head,
                "latent": latent,
                "seen": "mirror image" if maps.mirrored else "example",
                "epoch": maps.epoch,
                "num_read": flat.shape[1],
                "effective_read": float(measure_spread(flat).mean()),
                "highest_over_even": float(flat.max(axis=1).mean() * flat.shape[1]),
            }
        )
    return pd.DataFrame(rows, columns=list(MAP_COLUMNS))


def write_map_table(path: Path, maps: AttentionMaps) -> None:
    """Write ``tabulate_maps`` as CSV, whole or not at all."""
    write_table(path, tabulate_maps(maps), MAP_COLUMNS)


def measure_spread(weights: NDArray[Any]) -> NDArray[np.float64]:
    """Return the effective number of inputs that weights are spread over: the exponential of their entropy.

    One input that has all the weight gives 1, the same weight for each of n inputs gives n.

    Args:
        weights: The weights (..., inputs); each row sums to 1.

    Returns:
        (...).
    """
    fractions = np.asarray(weights, dtype=np.float64)
    logarithms = np.log(fractions, out=np.zeros_like(fractions), where=fractions > 0)
    spread: NDArray[np.float64] = np.exp(-(fractions * logarithms).sum(axis=-1))
    return spread
