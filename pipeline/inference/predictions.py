"""A row of predictions for each new scan, image or point cloud."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.config.experiment import Experiment
from pipeline.core.array_types import Array
from pipeline.core.data_kinds import VOXEL_VOLUMES, WHOLE_VOLUMES, are_sides
from pipeline.core.errors import UserError
from pipeline.core.predictions import choose_class, probability_columns
from pipeline.data.statistics import describe_distance
from pipeline.formats.dicom_sides import find_side
from pipeline.formats.npz import read_whole_volume
from pipeline.formats.point_clouds import read_cloud
from pipeline.formats.volume import Volume, describe_obliquity, describe_spacing
from pipeline.inference.arrays import place_examples
from pipeline.inference.inputs import Scan
from pipeline.inference.probabilities import check_places, compute_probabilities, score_slices
from pipeline.inference.resumable_table import Row
from pipeline.preprocessing.images import read_stored
from pipeline.preprocessing.slicing import Stack, read_stack
from pipeline.training.checkpoint import Checkpoint


def score_volumes(
    scans: list[Scan], classifier: nn.Module, checkpoint: Checkpoint, experiment: Experiment, device: torch.device
) -> Iterator[Row]:
    """Yield one row a volume: probabilities are the means over its slices, as in ``evaluate``, or of all of them.

    Where a table of slices is asked for, ``slices`` of a row holds the probabilities of each.

    Args:
        scans: The scans of volumes; each is read when its row is computed.
        classifier: The classifier of the checkpoint, or an ensemble with others, on the device.
        checkpoint: The checkpoint; its options are those by which volumes are cut into slices.
        experiment: All options; the batch size and the least confidence are read here.
        device: The device of the classifier.
    """
    for scan in scans:
        read, refusal = _attempt(scan, partial(_read_stack, scan, checkpoint))
        if refusal is not None:
            yield refusal
            continue
        stack, volume = read
        orientation_known = volume is None or volume.orientation_known
        scores = score_slices(classifier, stack, checkpoint.spec, device, experiment.evaluate.batch_size)
        row = _describe(scan, scores.mean(axis=0), checkpoint, experiment.predict.min_confidence)
        row["num_slices"] = len(stack.images)
        if experiment.predict.slice_output is not None:
            row["slices"] = scores.tolist()
        row["warnings"] += _warn(scan, stack, volume, row["predicted"], checkpoint)
        row["abstained"] |= not orientation_known  # left and right are then a guess, whatever the model's confidence
        yield row


def score_examples(
    scans: list[Scan], classifier: nn.Module, checkpoint: Checkpoint, experiment: Experiment, device: torch.device
) -> Iterator[Row]:
    """Yield one row an image or point cloud, read and scored in batches.

    Args:
        scans: The scans of images or objects.
        classifier: The classifier of the checkpoint, or an ensemble with others, on the device.
        checkpoint: The checkpoint, with the shape of the examples.
        experiment: All options; the batch size and the least confidence are read here.
        device: The device of the classifier.
    """
    batch_size = experiment.evaluate.batch_size
    for start in range(0, len(scans), batch_size):
        batch = scans[start : start + batch_size]
        read = [_attempt(scan, partial(_read_example, scan.paths[0], checkpoint)) for scan in batch]
        good = [example for example, refusal in read if refusal is None]
        scores = iter(())
        if good:
            places = place_examples(checkpoint.spec, len(good))
            scores = iter(compute_probabilities(classifier, np.stack(good), places, device, batch_size))
        for scan, (_, refusal) in zip(batch, read, strict=True):
            yield refusal or _describe(scan, next(scores), checkpoint, experiment.predict.min_confidence)


def _attempt(scan: Scan, read: Callable[[], Any]) -> tuple[Any, Row | None]:
    """Return the result of a read, or the row with the reason that it failed."""
    try:
        if scan.refusal:
            raise UserError(scan.refusal)
        return read(), None
    except UserError as error:
        reason = str(error)
    except MemoryError:
        reason = f"{scan.name}: does not fit into memory. Take a machine with more."
    except OSError as error:  # one bad file among thousands, or a damaged disk, shall not lose the others
        reason = f"{scan.name}: {error.strerror or type(error).__name__}. Copy it again, or change its permissions."
    return None, {"path": scan.name, "reason": reason}


def _read_stack(scan: Scan, checkpoint: Checkpoint) -> tuple[Stack, Volume | None]:
    """Return the slices of a volume, and the volume; None where its slices came as images."""
    stack, volume = read_stack(scan.paths, checkpoint.preprocess, needs_orientation=False)
    check_places(scan.name, stack, checkpoint.spec)
    return stack, volume


def _read_example(path: Path, checkpoint: Checkpoint) -> Array:
    """Read an image, volume or point cloud as a store holds it, of a cloud only the points that the model takes."""
    if checkpoint.spec.kind in (WHOLE_VOLUMES, VOXEL_VOLUMES):
        return read_whole_volume(path, checkpoint.spec.stored_shape)
    if checkpoint.spec.kind.is_image:
        return read_stored(path, checkpoint.spec, checkpoint.preprocess)
    num_stored = checkpoint.spec.image_size[0]
    return read_cloud(path, checkpoint.model.num_points or num_stored, num_stored)


def _describe(scan: Scan, scores: Array, checkpoint: Checkpoint, min_confidence: float) -> Row:
    """Make the row of a scan from its probabilities (classes,)."""
    row: Row = {"path": scan.name, "predicted": checkpoint.spec.class_names[choose_class(scores)]}
    row |= dict(zip(probability_columns(checkpoint.spec.class_names), scores.tolist(), strict=True))
    return row | {"abstained": max(scores.tolist()) < min_confidence, "warnings": []}


def _warn(scan: Scan, stack: Stack, volume: Volume | None, predicted: str, checkpoint: Checkpoint) -> list[str]:
    """List the reasons for which a row is not to be trusted."""
    warnings: list[str] = []
    if volume is not None:
        warnings += [describe_spacing(volume.spacing_mm), describe_obliquity(volume.obliquity_degrees), volume.doubt]
    if volume is not None and not volume.orientation_known:
        warnings.append("orientation unknown: no sform and no qform, or two of different sides; sides are a guess")
    warnings.append(describe_distance(stack.images, checkpoint.intensities))
    if are_sides(checkpoint.spec.class_names):
        side = find_side(Path(scan.name).name)
        warnings.append(
            f"the file's name has {side}, the model's answer is {predicted}"
            if side not in ("", predicted.casefold())
            else ""
        )
    return [warning for warning in warnings if warning]
