"""The export stage: from a checkpoint to files that other programs read."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.core.console import working
from pipeline.core.errors import UserError
from pipeline.core.files import write_json
from pipeline.core.locks import lock_output
from pipeline.core.provenance import read_versions
from pipeline.core.text import plural
from pipeline.export.hub_folder import read_handover, write_hub_folder
from pipeline.export.monai_bundle import BUNDLED, write_bundle
from pipeline.export.programs import PROBABILITIES, TOLERANCE, describe_inputs, trace, write_onnx, write_torch_program
from pipeline.preprocessing.parts import describe_options
from pipeline.stages.base import exclusive
from pipeline.training.checkpoint import Checkpoint, compute_weights_digest, read_checkpoint

FORMAT = 1
RECORD = "model.json"
PROGRAMS = {"torch": ("model.pt2", write_torch_program), "onnx": ("model.onnx", write_onnx)}
BUNDLE, HUB = "bundle", "hub"
OWN_NAMES = {RECORD, BUNDLE, HUB, *(name for name, _ in PROGRAMS.values())}


def choose_output(experiment: Experiment) -> Path:
    """Return the folder of the export."""
    return experiment.export.output or experiment.paths.export_folder


@exclusive(choose_output, lock_output)
def export(experiment: Experiment, console: Console) -> None:
    """Write the trained model as torch.export program, ONNX model and MONAI bundle, checked, and as a folder for hubs.

    The folder appears when all files are written and checked; an earlier export is replaced.

    Raises:
        UserError: A format gives other probabilities than the checkpoint, needs a package that is not installed, or
            the folder holds something else.
    """
    options, paths = experiment.export, experiment.paths
    path = options.checkpoint or paths.best_checkpoint
    checkpoint = read_checkpoint(path)
    folder = choose_output(experiment)
    _check_folder(folder)
    wanted = [PROGRAMS[name] for name in options.formats if name in PROGRAMS]
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        differences = {}
        with working("tracing the model", console):
            traced = trace(checkpoint) if wanted else None
        for file_name, write in wanted:
            assert traced is not None
            with working(f"writing and checking {file_name}", console):
                difference = write(unfinished / file_name, checkpoint, traced)
            differences[file_name] = difference
            console.print(f"  {file_name}: probabilities within {difference:.1e} of the checkpoint's", highlight=False)
        if "bundle" in options.formats and checkpoint.spec.kind in BUNDLED:
            write_bundle(unfinished / BUNDLE, checkpoint, experiment.name)
            console.print(f"  {BUNDLE}: runs with python -m monai.bundle", highlight=False)
        elif "bundle" in options.formats:
            what = plural(checkpoint.spec.kind.file)
            console.print(f"  {BUNDLE}: left out, because a bundle reads scans and images, no {what}")
        if "hub" in options.formats:
            digest = compute_weights_digest(checkpoint.weights)
            handover = read_handover(paths, options.licence, digest, is_best=options.checkpoint is None)
            write_hub_folder(unfinished / HUB, path, checkpoint, handover)
            console.print(f"  {HUB}: load_model reads it", highlight=False)
        write_json(unfinished / RECORD, _describe(checkpoint, path, differences))
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    console.print(f"-> {folder}")


def _check_folder(folder: Path) -> None:
    """Refuse a folder with files that an export does not write, because the folder is replaced."""
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in OWN_NAMES) if folder.exists() else []
    if foreign:
        raise UserError(
            f"{folder}: holds {foreign[0]}, which is no part of an export. Choose another folder with --export.output."
        )


def _describe(checkpoint: Checkpoint, path: Path, differences: dict[str, float]) -> dict[str, Any]:
    """Describe the inputs, the outputs and the origin of the exported files."""
    is_volume = checkpoint.spec.kind.has_slices
    return {
        "format": FORMAT,
        "kind": checkpoint.spec.kind.name,
        "class_names": list(checkpoint.spec.class_names),
        "inputs": [
            {"name": item.name, "dtype": item.dtype, "shape": ["batch", *item.shape], "meaning": item.meaning}
            for item in describe_inputs(checkpoint)
        ],
        "output": {
            "name": PROBABILITIES,
            "dtype": "float32",
            "shape": ["batch", len(checkpoint.spec.class_names)],
            "meaning": "the probability of each class, in the order of class_names"
            + ("; of a volume, the mean over its slices" if is_volume else ""),
        },
        "inside_the_model": {
            "mean": list(checkpoint.mean),
            "std": list(checkpoint.std),
            "local_contrast": checkpoint.model.local_contrast,
            "mirror_average": checkpoint.model.mirror_tta,
            "loss": checkpoint.settings["train.loss"],
        },
        "preprocessing": describe_options(checkpoint.preprocess) if checkpoint.spec.kind.has_patients else None,
        "largest_difference_to_the_checkpoint": differences,
        "tolerance": TOLERANCE,
        "checkpoint_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "store_fingerprint": checkpoint.store_fingerprint,
        "split_fingerprint": checkpoint.split_fingerprint,
        "epoch": checkpoint.epoch,
        "trained_with": checkpoint.versions | {"commit": checkpoint.commit},
        "exported_with": read_versions(),
        "intended_use": "research; no diagnosis, no medical device",
    }
