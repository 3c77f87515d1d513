"""The state of a run's folder: not started, interrupted or finished, and under which options.

``started.json`` is written first and holds the options that shape the weights; ``training.json`` is
written last.
"""

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.config.data import PreprocessConfig
from pipeline.config.experiment import Experiment
from pipeline.config.renames import REMOVED_OPTIONS, RENAMED_OPTIONS, find_removed_option
from pipeline.core.errors import UserError
from pipeline.core.files import read_json, write_json
from pipeline.core.serialization import build_record, flatten
from pipeline.core.workspace import Workspace
from pipeline.data.certified_data import CertifiedData, load_certified_data
from pipeline.data.store import Store
from pipeline.models.classifier import Classifier
from pipeline.training.checkpoint import Checkpoint, build_from_checkpoint, read_checkpoint, write_checkpoint
from pipeline.training.devices.selection import choose_accelerator, choose_device, choose_precision

# Options that are read with a teacher alone.
OF_A_TEACHER = ("train.distillation_weight", "train.distillation_temperature", "train.guidance_weight")
# Options of the execution, not of the result: these may change when a run is resumed.
EXECUTION = (
    "train.accelerator",
    "train.devices",
    "train.num_nodes",
    "train.strategy",
    "train.compile",
    "train.resume",
    "train.keep_attention_every_epochs",
)


# The name in a run's settings for each time that its number of epochs was raised.
EXTENDED = "extended"
# What a run was trained on, as messages call another one; no option holds these.
DATA_SETTINGS = {"store fingerprint": "other examples", "split fingerprint": "another split"}


def describe_settings(experiment: Experiment, store: Store, split_fingerprint: str) -> dict[str, Any]:
    """List all options and fingerprints that shape a run's weights, ``section.field`` -> value.

    Args:
        experiment: All options; those of model, augmentation and training are listed.
        store: The examples.
        split_fingerprint: The fingerprint of the split of the patients.
    """
    settings = flatten(experiment.model, "model") | flatten(experiment.augment, "augment")
    left_out = EXECUTION if experiment.train.teacher is not None else (*EXECUTION, "train.teacher", *OF_A_TEACHER)
    if experiment.train.auxiliary_weight > 0:
        settings |= {f"pretrain.{name}": getattr(experiment.pretrain, name) for name in ("mask_fraction", "patch_size")}
    else:
        left_out = (*left_out, "train.auxiliary_weight")
    settings |= {name: value for name, value in flatten(experiment.train, "train").items() if name not in left_out}
    if experiment.train.compile == "graphs":  # an epoch then leaves out some examples
        settings["train.compile"] = "graphs"
    accelerator = choose_accelerator(experiment.train.accelerator)
    settings["train.precision"] = choose_precision(experiment.train.precision, accelerator)
    settings |= {"store fingerprint": store.fingerprint, "split fingerprint": split_fingerprint}
    if store.is_ordinal:
        settings["data.label_order"] = list(store.class_names)
    settings |= {"split.num_folds": experiment.split.num_folds, "split.test_fold": experiment.split.test_fold}
    return settings


def read_preprocess(experiment: Experiment, store: Store) -> PreprocessConfig:
    """Return the options that the store's examples were made with, and refuse an experiment that has others.

    Raises:
        UserError: an option that shapes examples changed after the store was made.
    """
    wanted = flatten(experiment.preprocess)
    for name, value in store.settings.items():
        if name in wanted and wanted[name] != value:
            raise UserError(
                f"preprocess.{name}: the examples in {experiment.paths.prepared} were made with {value}, the "
                f"config has {wanted[name]}. Run the preprocess stage again, or set the option back."
            )
    # A checkpoint is published, and the address of a cluster is private.
    return build_record(PreprocessConfig, wanted | {"dask_scheduler": None})


def read_started(paths: Workspace) -> dict[str, Any] | None:
    """Return the content of ``started.json``, or None where no run was started."""
    path = paths.run_folder / "started.json"
    started: dict[str, Any] | None = read_json(path) if path.is_file() else None
    return started


def is_finished(paths: Workspace) -> bool:
    """Return whether the run was trained to its end and its result is there."""
    return paths.training_record.is_file() and paths.best_checkpoint.is_file()


def list_finished_runs(paths: Workspace, store_fingerprint: str, split_fingerprint: str | None = None) -> list[str]:
    """List the names of an experiment's finished runs that were trained on a store.

    Args:
        paths: The folders of the experiment.
        store_fingerprint: The fingerprint of the store.
        split_fingerprint: The fingerprint of the split of the patients; None for runs of any split.
    """
    wanted = {"store fingerprint": store_fingerprint}
    if split_fingerprint is not None:
        wanted["split fingerprint"] = split_fingerprint
    root = paths.root / "runs" / paths.name
    names = []
    for path in sorted(root.glob("**/started.json")):
        name = path.parent.relative_to(root).as_posix()
        run = Workspace(paths.root, paths.name, "" if name == "." else name)
        started = read_started(run)
        if started is not None and is_finished(run) and wanted.items() <= started["settings"].items():
            names.append(run.title)
    return names


def note_extension(paths: Workspace, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Add to the settings of a run how often its number of epochs was raised after it was started.

    Args:
        paths: The folders of the experiment.
        settings: The settings of now.

    Returns:
        The settings, with a list ``[epochs done, epochs planned before, epochs planned then]`` for each time.
    """
    started = read_started(paths)
    if started is None or not paths.last_checkpoint.is_file():
        return dict(settings)
    extended = list(started["settings"].get(EXTENDED, []))
    before, now = started["settings"].get("train.epochs", 0), settings["train.epochs"]
    if now > before > 0:
        extended.append([read_checkpoint(paths.last_checkpoint).epoch, before, now])
    return {**settings, EXTENDED: extended} if extended else dict(settings)


def is_extended(paths: Workspace, settings: Mapping[str, Any]) -> bool:
    """Return whether a run has more epochs to train than it was started with."""
    started = read_started(paths)
    return started is not None and len(settings.get(EXTENDED, [])) > len(started["settings"].get(EXTENDED, []))


def extend_run(paths: Workspace, settings: Mapping[str, Any]) -> None:
    """Record that a run, finished or not, is trained for more epochs; it then counts as interrupted.

    A process that dies in between leaves a run that the same command extends.

    Args:
        paths: The folders of the experiment.
        settings: The settings of now, as :func:`note_extension` returned them.
    """
    best = read_checkpoint(paths.best_checkpoint)  # it may stay the best, and its origin is that of the whole run
    write_checkpoint(paths.best_checkpoint, dataclasses.replace(best, settings=dict(settings)))
    paths.training_record.unlink(missing_ok=True)
    write_started(paths, dict(settings))


def describe_extensions(settings: Mapping[str, Any]) -> list[str]:
    """Describe in words each time that the number of epochs of a run was raised."""
    return [
        f"extended after epoch {done} from {before} to {now} epochs" for done, before, now in settings.get(EXTENDED, [])
    ]


def _list_defaults() -> dict[str, Any]:
    default = Experiment()
    return flatten(default.model, "model") | flatten(default.augment, "augment") | flatten(default.train, "train")


def check_same_settings(paths: Workspace, settings: dict[str, Any]) -> None:
    """Refuse to resume a run that has a checkpoint under other options.

    Raises:
        UserError: names what differs.
    """
    started = read_started(paths)
    if started is None or not paths.last_checkpoint.is_file():
        return
    before = started["settings"]
    old_names = [
        f"{name} is called {RENAMED_OPTIONS[name]} now" for name in sorted(before.keys() & RENAMED_OPTIONS.keys())
    ]
    gone = find_removed_option(before)
    old_names += [f"{gone} is gone"] if gone else []
    if old_names:
        raise UserError(
            f"{paths.run_folder}: trained by an earlier version ({old_names[0]}). Give the new run a name of its own "
            "(run: NAME), or train again and lose the old one (train.resume: false)."
        )
    if is_extended(paths, settings):
        before = before | {name: settings[name] for name in ("train.epochs", EXTENDED)}
    # An option that was added since has the effect of its default, which is that of before.
    before = {name: value for name, value in _list_defaults().items() if name in settings} | {
        name: value for name, value in before.items() if name not in REMOVED_OPTIONS
    }
    changes = [
        f"{name} was {before.get(name)}, is {settings.get(name)}"
        for name in sorted((before.keys() | settings.keys()) - DATA_SETTINGS.keys())
        if before.get(name) != settings.get(name)
    ]
    others = (
        "Give the new run a name of its own (run: NAME), or train from scratch and lose the old one (train.resume: "
        "false)."
    )
    moved = [words for name, words in DATA_SETTINGS.items() if before.get(name) != settings.get(name)]
    if moved:  # an option may have led to it, such as the seed of the split, and nobody sets a fingerprint
        also = f"; {'; '.join(changes)}" if changes else ""
        raise UserError(
            f"{paths.run_folder}: trained on {' and '.join(moved)} than are there now{also}. Bring the data and the "
            f"options of preprocess and split back and run these stages to resume it. {others}"
        )
    if changes:
        raise UserError(
            f"{paths.run_folder}: trained with other options: {'; '.join(changes)}. Set them back to resume "
            f"it. {others}"
        )


@dataclass(frozen=True)
class TrainedRun:
    """A trained model and the data that it was trained on.

    Args:
        data: The examples and their splits.
        checkpoint: The weights and all that is known of them.
        classifier: The model, on the device.
        device: Where it computes.
    """

    data: CertifiedData
    checkpoint: Checkpoint
    classifier: Classifier
    device: torch.device


def load_trained_run(experiment: Experiment, checkpoint_path: Path | None) -> TrainedRun:
    """Load a trained model and its data.

    Args:
        experiment: All options.
        checkpoint_path: The weights; None for the best ones of the experiment's own run.

    Raises:
        UserError: the data or the checkpoint are absent or damaged, or do not belong together.
    """
    data = load_certified_data(experiment)
    path = checkpoint_path or experiment.paths.best_checkpoint
    checkpoint = read_checkpoint(path)
    trained_on = (checkpoint.store_fingerprint, checkpoint.split_fingerprint)
    if trained_on != (data.store.fingerprint, data.certificate["splits_fingerprint"]):
        raise UserError(f"{path}: trained on other examples or splits than these. Run the train stage again.")
    test_fold, num_folds = checkpoint.settings.get("split.test_fold"), experiment.split.num_folds
    if num_folds > 0 and test_fold is not None and test_fold != experiment.split.test_fold:
        raise UserError(
            f"{path}: trained with fold {test_fold} left out for its test, so that it knows patients of fold "
            f"{experiment.split.test_fold}. Set split.test_fold: {test_fold}, or give the checkpoint of this fold."
        )
    return open_checkpoint(path, checkpoint, data, experiment)


def open_checkpoint(path: Path, checkpoint: Checkpoint, data: CertifiedData, experiment: Experiment) -> TrainedRun:
    """Build the model of a checkpoint next to data that it may be evaluated on.

    Args:
        path: The file of the checkpoint, for messages.
        checkpoint: The weights.
        data: All examples and their splits.
        experiment: All options; the device is chosen by them.

    Raises:
        UserError: The classes have another order.
    """
    trained_names, names = checkpoint.spec.class_names, data.store.class_names
    if set(trained_names) != set(names):
        raise UserError(
            f"{path}: trained with the classes {', '.join(trained_names)}; the data have {', '.join(names)}. Give a "
            "checkpoint that was trained on them."
        )
    if trained_names != names:
        raise UserError(
            f"{path}: trained with the classes in the order {', '.join(trained_names)}; data.label_type and "
            f"data.label_order now give {', '.join(names)}. Set them back, or run the train stage again."
        )
    device = choose_device(experiment.train.accelerator)
    return TrainedRun(data, checkpoint, build_from_checkpoint(checkpoint, device), device)


def clear_run(paths: Workspace) -> None:
    """Remove a run's files, first the one that marks it as finished."""
    started = paths.run_folder / "started.json"
    events = paths.event_folder.glob("events.out.tfevents.*")
    checkpoints = (paths.last_checkpoint, paths.best_checkpoint)
    records = (paths.run_options, paths.history, paths.divergence)
    for path in (paths.training_record, started, *checkpoints, *records, *events):
        path.unlink(missing_ok=True)
    for path in paths.attention_maps.glob("epoch_*.npz"):
        path.unlink()
    shutil.rmtree(paths.export_folder, ignore_errors=True)


def write_started(paths: Workspace, settings: dict[str, Any]) -> None:
    """Record that a run begins, and its options."""
    write_json(paths.run_folder / "started.json", {"settings": settings})
