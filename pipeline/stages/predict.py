"""The predict stage: new scans in, one row each out; the checkpoint is all it needs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console

from pipeline.baselines import build_predictions
from pipeline.checkpoint import build_from_checkpoint, read_checkpoint
from pipeline.console import progress
from pipeline.datasets.sources import VOLUME_SUFFIXES, find_files
from pipeline.devices import choose_accelerator
from pipeline.errors import UserError, VolumeError
from pipeline.experiment import Experiment
from pipeline.metrics import aggregate
from pipeline.models import Classifier
from pipeline.scoring import compute_probabilities
from pipeline.slicing import cut_stack
from pipeline.tables import write_table
from pipeline.volumes import read_volume


def predict(experiment: Experiment, console: Console) -> None:
    """Score new volumes and write a row each: the class, its probabilities, the number of slices.

    Raises:
        UserError: nothing to score, or volumes that cannot be read; the others are written first.
    """
    options = experiment.predict
    checkpoint = read_checkpoint(options.checkpoint or experiment.paths.best_checkpoint)
    device = torch.device(choose_accelerator(experiment.train.accelerator))
    classifier = build_from_checkpoint(checkpoint, device)
    volume_paths = list(_find_volumes(options.inputs))
    rows = []
    for path in progress(volume_paths, "scoring", len(volume_paths), console):
        try:
            row = _score_volume(path, classifier, experiment, checkpoint.preprocess, checkpoint.class_names, device)
        except VolumeError as error:
            row = {"path": str(path), "reason": str(error)}
        rows.append(row)
    columns = ("path", "predicted", *(f"probability_{name}" for name in checkpoint.class_names), "num_slices", "reason")
    table = pd.DataFrame(rows, columns=list(columns))
    output = options.output or experiment.paths.report_folder / "predictions_new.csv"
    write_table(output, table, columns)
    scored = table[table["reason"].isna()]
    for row in scored.itertuples():
        confidence = getattr(row, f"probability_{row.predicted}")
        console.print(f"  {row.path}: {row.predicted} {confidence:.3f}", highlight=False)
    console.print(f"{len(scored)} of {len(table)} volumes scored -> {output}")
    refused = table.loc[table["reason"].notna(), "reason"]
    if len(refused):
        raise UserError(
            f"{output}: {len(refused)} volumes were refused, each with its reason; first: {refused.iloc[0]}"
        )


def _find_volumes(inputs: tuple[Path, ...]) -> Iterator[Path]:
    if not inputs:
        raise UserError("predict: no input. Name NIfTI files or folders: perceiver predict FILE ... --config ...")
    for path in inputs:
        if path.is_dir():
            found = [path / name for name in find_files(path, "*") if name.name.lower().endswith(VOLUME_SUFFIXES)]
            if not found:
                raise UserError(f"{path}: no NIfTI file ({', '.join(VOLUME_SUFFIXES)}) in this folder.")
            yield from found
        else:
            yield path


def _score_volume(
    path: Path,
    classifier: Classifier,
    experiment: Experiment,
    preprocess: Any,
    class_names: tuple[str, ...],
    device: torch.device,
) -> dict[str, Any]:
    """Return one row of the output: probabilities are the means over the volume's slices, as in ``evaluate``."""
    volume = read_volume(path, max_bytes=int(preprocess.max_volume_gib * 2**30))
    stack = cut_stack(volume, preprocess, str(path))
    scores = compute_probabilities(classifier, stack.images, stack.positions, device, experiment.evaluate.batch_size)
    identity = {"example_id": "", "source_id": str(path), "group_id": "", "label": "", "slice_index": 0}
    slices = pd.DataFrame([identity] * len(scores))
    table = aggregate(build_predictions(slices, scores.astype(np.float64), class_names, "new"), "volume")
    columns = ["predicted", *(f"probability_{name}" for name in class_names), "num_slices"]
    return {"path": str(path), **table.loc[0, columns].to_dict()}
