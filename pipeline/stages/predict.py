"""The predict stage: new scans, images or objects in, one row each out; the checkpoint is all it needs."""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from pipeline.checkpoint import Checkpoint, build_from_checkpoint, read_checkpoint
from pipeline.classifier import Classifier
from pipeline.console import progress
from pipeline.datasets.akoa import find_side
from pipeline.datasets.surfaces import read_cloud
from pipeline.devices import choose_accelerator
from pipeline.dicom import read_series
from pipeline.errors import UserError
from pipeline.experiment import Experiment
from pipeline.intensities import describe_distance
from pipeline.kinds import plural
from pipeline.pictures import read_picture
from pipeline.printable import make_printable
from pipeline.provenance import compute_fingerprint
from pipeline.row_files import Row, RowWriter
from pipeline.scans import INPUTS, Scan, find_scans
from pipeline.scoring import compute_probabilities, score_stack
from pipeline.slicing import Stack, cut_stack, read_picture_stack
from pipeline.ties import choose_class
from pipeline.volumes import list_files, read_volume

FORMAT = 1
# Of more scans the console tells the sum alone; each is in the table.
MAX_TOLD = 40


def predict(experiment: Experiment, console: Console) -> None:
    """Score new volumes, PNG images, or meshes and point clouds, and write a row each: class, probabilities, warnings.

    Rows are written as they come; a call that was cut off goes on where it was.

    Raises:
        UserError: nothing to score, or files that cannot be read; the others are written first.
    """
    options = experiment.predict
    path = options.checkpoint or experiment.paths.best_checkpoint
    checkpoint = read_checkpoint(path)
    scans = find_scans(options.inputs, checkpoint.kind)
    device = torch.device(choose_accelerator(experiment.train.accelerator))
    classifier = build_from_checkpoint(checkpoint, device)
    score = score_volumes if checkpoint.kind == "volumes" else score_examples
    per_volume = ("num_slices",) if checkpoint.kind == "volumes" else ()
    probabilities = tuple(f"probability_{name}" for name in checkpoint.class_names)
    columns = ("path", "predicted", *probabilities, *per_volume, "abstained", "warnings", "reason")
    output = options.output or experiment.paths.report_folder / "predictions_new.csv"
    with RowWriter(output, _identify(path, scans, options.min_confidence)) as writer:
        if writer.num_rows > 0:
            console.print(f"{writer.num_rows} of {len(scans)} were scored before; going on.")
        rest = scans[writer.num_rows :]
        rows = score(rest, classifier, checkpoint, experiment, device)
        for row in progress(rows, "scoring", len(rest), console):
            writer.write(row)
            if len(scans) <= MAX_TOLD and "reason" not in row:
                console.print(make_printable(_tell(row)), highlight=False, markup=False)
        counts, first_reason = _count(writer.read())
        writer.finish(columns)
    word = INPUTS[checkpoint.kind][0]
    notes = "".join(f", {counts[key]} {said}" for key, said in _NOTES.items() if counts[key] > 0)
    console.print(f"{counts['scored']} of {len(scans)} {plural(word)} scored{notes} -> {output}")
    if counts["refused"] > 0:
        raise UserError(
            f"{output}: {counts['refused']} {plural(word)} were refused, each with its reason; first: {first_reason}"
        )


_NOTES = {"abstained": "abstained from", "warned": "with a warning"}


def _identify(path: Path, scans: list[Scan], min_confidence: float) -> str:
    """Return what changes with the checkpoint, the options, or any file's name, size or time."""
    digest = hashlib.sha256(path.read_bytes())
    for scan in scans:
        for file in itertools.chain.from_iterable(map(list_files, scan.paths)):
            status = file.stat() if file.exists() else None
            facts = None if status is None else (status.st_size, status.st_mtime_ns)
            digest.update(repr((scan.name, str(file), facts)).encode("utf-8", "backslashreplace"))
    return compute_fingerprint(FORMAT, digest.hexdigest(), min_confidence)


def score_volumes(
    scans: list[Scan], classifier: Classifier, checkpoint: Checkpoint, experiment: Experiment, device: torch.device
) -> Iterator[Row]:
    """Yield one row a volume: probabilities are the means over its slices, as in ``evaluate``.

    Args:
        scans: of volumes; each is read when its row is asked for.
        classifier: of the checkpoint, on the device.
        checkpoint: says how volumes are cut.
        experiment: for the batch size and the confidence that is asked for.
        device: where the classifier is.
    """
    for scan in scans:
        read, refusal = _attempt(scan, partial(_read_stack, scan, checkpoint))
        if refusal is not None:
            yield refusal
            continue
        stack, orientation_known = read
        scores = score_stack(classifier, stack, device, experiment.evaluate.batch_size)
        row = _describe(scan, scores, checkpoint, experiment.predict.min_confidence)
        row["num_slices"] = len(stack.images)
        row["warnings"] += _warn(scan, stack, orientation_known, row["predicted"], checkpoint)
        row["abstained"] |= not orientation_known  # left and right are then a guess, however sure the model is
        yield row


def score_examples(
    scans: list[Scan], classifier: Classifier, checkpoint: Checkpoint, experiment: Experiment, device: torch.device
) -> Iterator[Row]:
    """Yield one row an image or point cloud, read and scored in batches; arguments as of ``score_volumes``.

    Args:
        scans: of images or objects.
        classifier: of the checkpoint, on the device.
        checkpoint: says what shape examples have.
        experiment: for the batch size and the confidence that is asked for.
        device: where the classifier is.
    """
    batch_size = experiment.evaluate.batch_size
    for start in range(0, len(scans), batch_size):
        batch = scans[start : start + batch_size]
        read = [_attempt(scan, partial(_read_example, scan.paths[0], checkpoint)) for scan in batch]
        good = [example for example, refusal in read if refusal is None]
        scores = iter(())
        if good:
            scores = iter(compute_probabilities(classifier, np.stack(good), np.zeros(len(good)), device, batch_size))
        for scan, (_, refusal) in zip(batch, read, strict=True):
            yield refusal or _describe(scan, next(scores), checkpoint, experiment.predict.min_confidence)


def _attempt(scan: Scan, read: Callable[[], Any]) -> tuple[Any, Row | None]:
    """Return what was read, or the row that says why it was not."""
    try:
        if scan.refusal:
            raise UserError(scan.refusal)
        return read(), None
    except UserError as error:
        reason = str(error)
    except MemoryError:
        reason = f"{scan.name}: does not fit into memory. Take a machine with more."
    except OSError as error:  # one bad file among thousands, or a damaged disk, shall not lose the others
        reason = f"{scan.name}: {error.strerror or type(error).__name__}. Copy it anew, or mend its permissions."
    return None, {"path": scan.name, "reason": reason}


def _read_stack(scan: Scan, checkpoint: Checkpoint) -> tuple[Stack, bool]:
    """Return the slices of a volume, and whether its orientation is known."""
    options = checkpoint.preprocess
    max_bytes = int(options.max_volume_gib * 2**30)
    if scan.form == "pictures":
        return read_picture_stack(scan.paths, options), True
    if scan.form == "series":
        volume = read_series(scan.name, scan.paths, max_bytes)
    else:
        volume = read_volume(scan.paths[0], max_bytes, needs_orientation=False)
    return cut_stack(volume, options, scan.name), volume.orientation_known


def _read_example(path: Path, checkpoint: Checkpoint) -> np.ndarray[Any, Any]:
    """Read an image or a point cloud as a store holds it, of a cloud only the points that the model takes."""
    if checkpoint.kind == "images":
        return read_picture(path, checkpoint.num_channels, checkpoint.image_size)
    num_stored = checkpoint.image_size[0]
    return read_cloud(path, checkpoint.model.num_points or num_stored, num_stored)


def _describe(scan: Scan, scores: np.ndarray[Any, Any], checkpoint: Checkpoint, min_confidence: float) -> Row:
    """Make the row of a scan from its probabilities (classes,)."""
    values = [float(value) for value in scores]
    row: Row = {"path": scan.name, "predicted": checkpoint.class_names[choose_class(scores)]}
    row |= {f"probability_{name}": value for name, value in zip(checkpoint.class_names, values, strict=True)}
    return row | {"abstained": max(values) < min_confidence, "warnings": []}


def _warn(scan: Scan, stack: Stack, orientation_known: bool, predicted: str, checkpoint: Checkpoint) -> list[str]:
    """List what should make a reader doubt a row."""
    warnings = []
    if not orientation_known:
        warnings.append("orientation unknown: no sform and no qform, axes taken as right, anterior, superior")
    warnings.append(describe_distance(stack.images, checkpoint.intensities))
    if set(checkpoint.class_names) == {"left", "right"}:
        side = find_side(Path(scan.name).name)
        warnings.append(f"the name says {side}, the model {predicted}" if side not in ("", predicted) else "")
    return [warning for warning in warnings if warning]


def _tell(row: Row) -> str:
    marks = [*row["warnings"], *(["abstained"] if row["abstained"] else [])]
    noted = f" ({'; '.join(marks)})" if marks else ""
    return f"  {row['path']}: {row['predicted']} {row['probability_' + row['predicted']]:.3f}{noted}"


def _count(rows: Iterator[Row]) -> tuple[dict[str, int], str]:
    """Count what became of the scans; return also why the first one was refused."""
    counts = {"scored": 0, "refused": 0, "abstained": 0, "warned": 0}
    first_reason = ""
    for row in rows:
        if "reason" in row:
            counts["refused"] += 1
            first_reason = first_reason or row["reason"]
        else:
            counts["scored"] += 1
            counts["abstained"] += row["abstained"]
            counts["warned"] += len(row["warnings"]) > 0
    return counts, first_reason
