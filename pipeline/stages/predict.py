"""The predict stage: new scans, images or objects in, one row each out; the checkpoint is all it needs."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console

from pipeline.baselines import build_predictions
from pipeline.checkpoint import Checkpoint, build_from_checkpoint, read_checkpoint
from pipeline.console import progress
from pipeline.datasets.sources import PICTURE_SUFFIXES, VOLUME_SUFFIXES, find_files
from pipeline.datasets.surfaces import CLOUD_SUFFIXES, read_cloud
from pipeline.devices import choose_accelerator
from pipeline.errors import UserError
from pipeline.experiment import Experiment
from pipeline.kinds import Kind, plural
from pipeline.metrics import aggregate
from pipeline.models import Classifier
from pipeline.pictures import read_picture
from pipeline.scoring import compute_probabilities
from pipeline.slicing import cut_stack
from pipeline.tables import write_table
from pipeline.volumes import read_volume

Row = dict[str, Any]
# What is called a file of each kind, and how its name ends.
INPUTS: dict[Kind, tuple[str, tuple[str, ...]]] = {
    "volumes": ("volume", VOLUME_SUFFIXES),
    "images": ("image", PICTURE_SUFFIXES),
    "points": ("object", CLOUD_SUFFIXES),
}


def predict(experiment: Experiment, console: Console) -> None:
    """Score new volumes, PNG images, or meshes and point clouds, and write a row each: the class and the probabilities.

    Raises:
        UserError: nothing to score, or files that cannot be read; the others are written first.
    """
    options = experiment.predict
    checkpoint = read_checkpoint(options.checkpoint or experiment.paths.best_checkpoint)
    word, suffixes = INPUTS[checkpoint.kind]
    device = torch.device(choose_accelerator(experiment.train.accelerator))
    classifier = build_from_checkpoint(checkpoint, device)
    paths = list(_find_inputs(options.inputs, suffixes))
    score = _score_volumes if checkpoint.kind == "volumes" else _score_single_examples
    rows = list(progress(score(paths, classifier, checkpoint, experiment, device), "scoring", len(paths), console))
    per_volume = ("num_slices",) if checkpoint.kind == "volumes" else ()
    columns = ("path", "predicted", *(f"probability_{name}" for name in checkpoint.class_names), *per_volume, "reason")
    table = pd.DataFrame(rows, columns=list(columns))
    output = options.output or experiment.paths.report_folder / "predictions_new.csv"
    write_table(output, table, columns)
    scored = [row for row in rows if "reason" not in row]
    for row in scored:
        console.print(
            f"  {row['path']}: {row['predicted']} {row['probability_' + row['predicted']]:.3f}", highlight=False
        )
    console.print(f"{len(scored)} of {len(table)} {plural(word)} scored -> {output}")
    refused = [row["reason"] for row in rows if "reason" in row]
    if refused:
        raise UserError(
            f"{output}: {len(refused)} {plural(word)} were refused, each with its reason; first: {refused[0]}"
        )


def _find_inputs(inputs: tuple[Path, ...], suffixes: tuple[str, ...]) -> Iterator[Path]:
    allowed = ", ".join(suffixes)
    if not inputs:
        raise UserError(
            f"predict: no input. Name files ({allowed}) or folders of them: perceiver predict FILE ... --config ..."
        )
    for path in inputs:
        if path.is_dir():
            found = [path / name for name in find_files(path, "*") if name.name.lower().endswith(suffixes)]
            if not found:
                raise UserError(f"{path}: no file that the model reads ({allowed}) in this folder.")
            yield from found
        else:
            yield path


def _attempt(path: Path, read: Callable[[], Any]) -> tuple[Any, Row | None]:
    """Return what was read, or the row that says why it was not."""
    try:
        return read(), None
    except UserError as error:
        return None, {"path": str(path), "reason": str(error)}


def _score_volumes(
    paths: list[Path], classifier: Classifier, checkpoint: Checkpoint, experiment: Experiment, device: torch.device
) -> Iterator[Row]:
    """Yield one row a volume: probabilities are the means over its slices, as in ``evaluate``."""
    options = checkpoint.preprocess

    def cut(path: Path) -> Any:
        return cut_stack(read_volume(path, max_bytes=int(options.max_volume_gib * 2**30)), options, str(path))

    for path in paths:
        stack, refusal = _attempt(path, partial(cut, path))
        if refusal is not None:
            yield refusal
            continue
        scores = compute_probabilities(
            classifier, stack.images, stack.positions, device, experiment.evaluate.batch_size
        )
        table = aggregate(_tabulate([path] * len(scores), scores, checkpoint), "volume")
        yield {"path": str(path)} | _take(table.iloc[0], checkpoint) | {"num_slices": int(table.loc[0, "num_slices"])}


def _read_example(path: Path, checkpoint: Checkpoint) -> np.ndarray[Any, Any]:
    """Read an image or a point cloud as a store holds it, of a cloud only the points that the model takes."""
    if checkpoint.kind == "images":
        return read_picture(path, checkpoint.num_channels, checkpoint.image_size)
    num_stored = checkpoint.image_size[0]
    return read_cloud(path, checkpoint.model.num_points or num_stored, num_stored)


def _score_single_examples(
    paths: list[Path], classifier: Classifier, checkpoint: Checkpoint, experiment: Experiment, device: torch.device
) -> Iterator[Row]:
    """Yield one row an image or point cloud, scored in batches."""
    batch_size = experiment.evaluate.batch_size
    for start in range(0, len(paths), batch_size):
        read: list[tuple[Path, Any, Row | None]] = []
        for path in paths[start : start + batch_size]:
            example, refusal = _attempt(path, partial(_read_example, path, checkpoint))
            read.append((path, example, refusal))
        good = [(path, example) for path, example, refusal in read if refusal is None]
        scored: Iterator[Row] = iter(())
        if good:
            examples = np.stack([example for _, example in good])
            scores = compute_probabilities(classifier, examples, np.zeros(len(examples)), device, batch_size)
            table = _tabulate([path for path, _ in good], scores, checkpoint)
            scored = ({"path": row["source_id"]} | _take(row, checkpoint) for _, row in table.iterrows())
        for _, _, refusal in read:
            yield next(scored) if refusal is None else refusal


def _tabulate(paths: list[Path], scores: np.ndarray[Any, Any], checkpoint: Checkpoint) -> pd.DataFrame:
    identity = {"example_id": "", "group_id": "", "label": "", "slice_index": 0}
    rows = pd.DataFrame([identity | {"source_id": str(path)} for path in paths])
    return build_predictions(rows, scores.astype(np.float64), checkpoint.class_names, "new")


def _take(row: Any, checkpoint: Checkpoint) -> Row:
    columns = ["predicted", *(f"probability_{name}" for name in checkpoint.class_names)]
    return {column: row[column] for column in columns}
