"""The predict stage: a row for each new scan, image or object, from the checkpoint alone."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from pipeline.config.experiment import Experiment
from pipeline.config.outputs import PredictConfig
from pipeline.core.console import progress, warn_all
from pipeline.core.data_kinds import VOLUMES
from pipeline.core.errors import UserError
from pipeline.core.locks import lock_output
from pipeline.core.predictions import probability_columns
from pipeline.core.provenance import compute_fingerprint
from pipeline.core.text import count_words, make_printable, plural
from pipeline.formats.nifti import list_files
from pipeline.inference.ensembles import Ensemble, choose_reader, read_members
from pipeline.inference.inputs import Scan, find_scans, list_passed_over
from pipeline.inference.predictions import score_examples, score_volumes
from pipeline.inference.resumable_table import Row, RowWriter, write_rows
from pipeline.stages.base import exclusive
from pipeline.training.checkpoint import Checkpoint, build_from_checkpoint, read_checkpoint
from pipeline.training.devices.selection import choose_device

FORMAT = 1
# With more scans only the totals are printed; the table has a row for each.
MAX_PRINTED_ROWS = 40


def choose_output(experiment: Experiment) -> Path:
    """Return the file of the table."""
    return experiment.predict.output or experiment.paths.report_folder / "predictions_new.csv"


@exclusive(choose_output, lock_output)
def predict(experiment: Experiment, console: Console) -> None:
    """Score new volumes, images, or meshes and point clouds, and write a row each: class, probabilities, warnings.

    Each row is written as soon as it is scored; an interrupted call resumes after the last row.

    Raises:
        UserError: Nothing to score, or files that cannot be read; the others are written first.
    """
    options = experiment.predict
    paths, checkpoint, classifier, device = _load(experiment, console)
    scans, notes = find_scans(options.inputs, checkpoint.spec.kind, experiment.data.columns.path, options.keep_columns)
    warn_all(console, notes)
    if options.slice_output is not None and checkpoint.spec.kind is not VOLUMES:
        raise UserError(
            f"predict.slice_output: found {options.slice_output}, and the model reads "
            f"{plural(checkpoint.spec.kind.example)} as a whole. Leave it out, or take a model of slices."
        )
    score = score_volumes if checkpoint.spec.kind.reads_scans else score_examples
    per_volume = ("num_slices",) if checkpoint.spec.kind.reads_scans else ()
    probabilities = probability_columns(checkpoint.spec.class_names)
    scores = ("path", *options.keep_columns, "predicted", *probabilities)
    columns = (*scores, *per_volume, "abstained", "warnings", "reason")
    output = choose_output(experiment)
    passed_over = list_passed_over(options.inputs, scans)
    if passed_over:
        such = make_printable(f"such as {passed_over[0]}")
        console.print(f"{count_words(len(passed_over), 'file')} passed over, {such}: not read by this model.")
    if output.exists():
        console.print(f"{output}: an earlier table, which is replaced. predict.output names another file.")
    with RowWriter(output, _identify(paths, scans, options)) as writer:
        if writer.num_rows > 0:
            console.print(f"{writer.num_rows} of {len(scans)} were scored before; resuming.")
        rest = scans[writer.num_rows :]
        rows = score(rest, classifier, checkpoint, experiment, device)
        for scan, row in zip(rest, progress(rows, "scoring", len(rest), console), strict=True):
            writer.write({**row, **scan.kept})
            if len(scans) <= MAX_PRINTED_ROWS and "reason" not in row:
                console.print(make_printable(_describe_row(row)), highlight=False, markup=False)
        counts, first_reason = _count(writer.read())
        if options.slice_output is not None:
            slice_columns = ("path", *options.keep_columns, "slice_index", *probabilities)
            write_rows(options.slice_output, _list_slices(writer.read(), slice_columns), slice_columns)
        writer.finish(columns)
    word = checkpoint.spec.kind.file
    marked = "".join(f", {counts[key]} {words}" for key, words in _MARKS.items() if counts[key] > 0)
    console.print(f"{counts['scored']} of {len(scans)} {plural(word)} scored{marked} -> {output}")
    if counts["refused"] > 0:
        refused = f"{count_words(counts['refused'], word)} {'was' if counts['refused'] == 1 else 'were'} refused"
        raise UserError(f"{output}: {refused}, each with its reason; first: {first_reason}")


def _load(experiment: Experiment, console: Console) -> tuple[list[Path], Checkpoint, nn.Module, torch.device]:
    """Return the files of the weights, the checkpoint whose options the scans are read by, the model and its device."""
    options = experiment.predict
    device = choose_device(experiment.train.accelerator)
    if not options.ensemble:
        path = options.checkpoint or experiment.paths.best_checkpoint
        checkpoint = read_checkpoint(path)
        return [path], checkpoint, build_from_checkpoint(checkpoint, device), device
    members = read_members(options.ensemble, experiment.paths, "predict.ensemble")
    console.print(f"ensemble of {len(members)} models: {', '.join(member.name for member in members)}", highlight=False)
    classifier = Ensemble([build_from_checkpoint(member.checkpoint, device) for member in members]).eval()
    return [member.path for member in members], choose_reader(members), classifier, device


_MARKS = {"abstained": "abstained from", "warned": "with a warning"}


def _list_slices(rows: Iterator[Row], columns: tuple[str, ...]) -> Iterator[Row]:
    """Yield a row for each slice of the volumes; refused ones have none."""
    for row in rows:
        cells = {name: row.get(name) for name in columns[: columns.index("slice_index")]}
        for slice_index, scores in enumerate(row.get("slices", ())):
            yield cells | dict(zip(columns[len(cells) :], (slice_index, *scores), strict=True))


def _identify(paths: list[Path], scans: list[Scan], options: PredictConfig) -> str:
    """Return a fingerprint of the weights, the options, and every file's name, size and time."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    for scan in scans:
        for file in itertools.chain.from_iterable(map(list_files, scan.paths)):
            status = file.stat() if file.exists() else None
            facts = None if status is None else (status.st_size, status.st_mtime_ns)
            digest.update(repr((scan.name, str(file), facts, scan.kept)).encode("utf-8", "backslashreplace"))
    return compute_fingerprint(FORMAT, digest.hexdigest(), options.min_confidence, options.slice_output is not None)


def _describe_row(row: Row) -> str:
    marks = [*row["warnings"], *(["abstained"] if row["abstained"] else [])]
    noted = f" ({'; '.join(marks)})" if marks else ""
    return f"  {row['path']}: {row['predicted']} {row['probability_' + row['predicted']]:.3f}{noted}"


def _count(rows: Iterator[Row]) -> tuple[Counter[str], str]:
    """Count the scans by outcome; return also the reason of the first refusal."""
    counts: Counter[str] = Counter()
    first_reason = ""
    for row in rows:
        if "reason" in row:
            counts["refused"] += 1
            first_reason = first_reason or row["reason"]
        else:
            counts.update(scored=1, abstained=int(row["abstained"]), warned=int(len(row["warnings"]) > 0))
    return counts, first_reason
