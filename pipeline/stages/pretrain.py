"""The pretrain stage: a Perceiver that has learned to predict hidden squares of the training images."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.config.validation import require
from pipeline.copies.certificate import certify
from pipeline.core.array_types import Array
from pipeline.core.data_kinds import WHOLE_VOLUMES
from pipeline.core.errors import UserError
from pipeline.core.files import write_checksummed_json, write_json
from pipeline.core.locks import lock_folder
from pipeline.core.text import count_words
from pipeline.core.workspace import Workspace, join_names
from pipeline.data.batches import Examples, place_examples
from pipeline.data.certified_data import CertifiedData, load_certified_data
from pipeline.data.leak_certificate import describe_pair
from pipeline.data.statistics import compute_statistics
from pipeline.data.store import Store, check_field_of_view, read_store
from pipeline.stages.preprocess import preprocess
from pipeline.training.checkpoint import NO_LOSS, Checkpoint, Origin, read_checkpoint, write_checkpoint
from pipeline.training.devices.fabric import build_fabric
from pipeline.training.objectives.masking import plan_masking
from pipeline.training.optimization.optimizers import pack_optimizer
from pipeline.training.pretraining import (
    PretrainingSetup,
    PretrainingState,
    build_pretraining,
    pretrain_epochs,
    read_losses,
    write_losses,
)
from pipeline.training.run_state import check_same_settings, clear_run, is_finished, write_started
from pipeline.training.seen_patients import UNLABELLED, find_leaked, name_leaked
from pipeline.training.setup import describe_origin

# The options that shape pretrained weights, next to those of model, augmentation and pretraining.
SHAPING_TRAIN = (
    *("batch_size", "optimizer", "betas", "weight_decay", "schedule", "warmup_epochs", "lr_gamma", "lr_step_epochs"),
    *("lr_milestones", "final_lr_fraction", "max_grad_norm", "seed", "precision"),
)


def pretrain(experiment: Experiment, console: Console) -> None:
    """Pretrain on the images or scans of the train patients, and on scans without labels, and keep the weights.

    An interrupted run resumes after its last epoch; a finished one is left as it is. No image of a patient of
    validation or test is read.

    Raises:
        UserError: The data or the options do not allow it, or a scan without a label shows a patient who validates or
            is tested.
    """
    config = experiment.train
    data = load_certified_data(experiment)
    spec = data.store.input_spec(experiment.preprocess.num_slices)
    plan_masking(experiment.pretrain, experiment.model, spec)  # refused before anything is read
    num_devices = config.devices * config.num_nodes
    require(num_devices == 1, "train.devices x train.num_nodes", num_devices, "1 for pretraining")
    require(config.strategy == "ddp", "train.strategy", config.strategy, "ddp for pretraining")
    paths = dataclasses.replace(experiment, run=join_names(experiment.run, "pretraining")).paths
    unlabelled = None
    if experiment.pretrain.unlabelled_table is not None:
        unlabelled = _prepare_unlabelled(experiment, console)
        if unlabelled.places_mm is not None:
            table = str(experiment.pretrain.unlabelled_table)
            check_field_of_view(table, unlabelled, spec.field_of_view_mm)
    origin = _describe(experiment, data, unlabelled)
    fabric = build_fabric(config)
    with lock_folder(paths.run_folder):
        if config.resume:
            check_same_settings(paths, origin.settings)
            if is_finished(paths):
                words = "already pretrained; nothing to do. --train.resume false starts from scratch."
                console.print(f"{paths.run_folder}: {words}")
                return
        last = (
            read_checkpoint(paths.last_checkpoint, is_start=True)
            if config.resume and paths.last_checkpoint.is_file()
            else None
        )
        if last is None:
            clear_run(paths)
            write_started(paths, origin.settings)
            if unlabelled is not None:
                _certify_unlabelled(experiment, data, unlabelled, paths)
        fabric.launch()
        rows = data.rows["train"]
        examples = place_examples(
            data.store.examples, rows, np.zeros(len(rows)), data.store.places[rows], fabric.device
        )
        statistics = compute_statistics(examples, are_slices=spec.kind is WHOLE_VOLUMES)
        if unlabelled is not None:
            examples = _join(data.store, unlabelled, examples)
        # A scan without a label may have more slices than those with one.
        largest = dataclasses.replace(spec, num_slices=examples.images.shape[1]) if spec.kind.has_places else spec
        masking = plan_masking(experiment.pretrain, experiment.model, largest)
        setup = PretrainingSetup(experiment, fabric, spec, examples, masking, statistics)
        state = build_pretraining(setup, last, [] if last is None else read_losses(paths.history, last.epoch))
        resuming = f"; resuming after epoch {last.epoch}" if last is not None else ""
        console.print(f"{count_words(len(examples), spec.kind.example)} to learn from{resuming}", highlight=False)
        _run_epochs(setup, state, origin, paths, console)


def _describe(experiment: Experiment, data: CertifiedData, unlabelled: Store | None) -> Origin:
    """Collect what is known of the weights before pretraining; options that do not shape them are left out."""
    origin = describe_origin(experiment, data)
    options = dataclasses.asdict(experiment.pretrain) | {"unlabelled_table": None}
    kept: dict[str, Any] = {
        name: value
        for name, value in origin.settings.items()
        if not name.startswith("train.") or name.removeprefix("train.") in SHAPING_TRAIN
    }
    kept["train.loss"] = NO_LOSS
    kept |= {f"pretrain.{name}": value for name, value in options.items() if name != "unlabelled_table"}
    if unlabelled is not None:
        kept[UNLABELLED] = unlabelled.fingerprint
    return dataclasses.replace(origin, settings=kept)


def _prepare_unlabelled(experiment: Experiment, console: Console) -> Store:
    """Preprocess the scans of the table without labels, as an experiment of its own next to this one."""
    table = experiment.pretrain.unlabelled_table
    options = dataclasses.replace(
        experiment.data,
        label_table=table,
        raw_folder=experiment.data.raw_folder or experiment.paths.raw,
        covariates=(),
        bins=(),
        merge={},
        split_values={},
        label_type="nominal",
        label_order=(),
    )
    inner = dataclasses.replace(experiment, name=f"{experiment.name}-unlabelled", run="", data=options)
    console.print(f"{table}:", highlight=False)
    preprocess(inner, console)
    return read_store(inner.paths.prepared, verify=True)


def _certify_unlabelled(experiment: Experiment, data: CertifiedData, unlabelled: Store, paths: Workspace) -> None:
    """Refuse scans without labels that show patients who validate or are tested; write the certificate.

    Raises:
        UserError: a patient, or a copy of an image, is among them.
    """
    table, kind = experiment.pretrain.unlabelled_table, data.store.kind
    groups = set(unlabelled.index["group_id"])
    held_out = find_leaked(dict.fromkeys(groups, "train"), data.roles)
    if held_out:
        given, known = next(iter(held_out.items()))
        raise UserError(
            f"{table}: {count_words(len(held_out), kind.group)} of validation or test, such as "
            f"{name_leaked(given, known)} ({data.roles[known]}). Leave their rows out: pretraining reads train "
            "patients only."
        )
    roles = data.roles | dict.fromkeys(groups, "train")
    splits = pd.DataFrame(sorted(roles.items()), columns=["group_id", "split"])
    examples, places = _concatenate(data.store, unlabelled, np.arange(len(data.store.examples)))
    both = dataclasses.replace(
        data.store,
        examples=examples,
        index=pd.concat([data.store.index, _rename(unlabelled.index)], ignore_index=True),
        places_mm=places if data.store.places_mm is not None else None,
    )
    certificate = certify(both, splits, experiment.split.accept_copies)
    write_checksummed_json(paths.run_folder / "leak_certificate.json", dict(certificate))
    copies, identical = certificate["copies"]["across_splits"], certificate["identical_images"]
    if not certificate["passed"]:
        first = f"{describe_pair(copies['pairs'][0], kind.name)}. " if copies["pairs"] else ""
        if identical["pairs"]:
            first = f"{identical['pairs'][0]['first']} is the same as {identical['pairs'][0]['second']}. "
        raise UserError(
            f"{table}: scans without labels are copies of scans of validation or test. {first}Leave their rows out."
        )


def _rename(index: pd.DataFrame) -> pd.DataFrame:
    """Mark the examples without labels, whose scans may have the names of labelled ones."""
    marked = {name: "unlabelled " + index[name].astype(str) for name in ("example_id", "source_id")}
    return index.assign(**marked)


def _concatenate(store: Store, unlabelled: Store, rows: Array) -> tuple[Array, Array]:
    """Put rows of a store and all of those without labels into one array in memory, and their places into another.

    Scans are filled up to the slices of the largest one, as in a store.
    """
    examples, places = [store.examples[rows], unlabelled.examples], [store.places[rows], unlabelled.places]
    if store.places_mm is not None:
        most = max(part.shape[1] for part in examples)
        examples = [_fill_up(part, most, 0) for part in examples]
        places = [_fill_up(part, most, np.nan) for part in places]
    return np.concatenate(examples), np.concatenate(places)


def _fill_up(scans: Array, num_slices: int, filling: float) -> Array:
    """Append slices of one value to scans ``(scans, slices, ...)``."""
    width = [(0, 0), (0, num_slices - scans.shape[1])] + [(0, 0)] * (scans.ndim - 2)
    return np.pad(scans, width, constant_values=filling)


def _join(store: Store, unlabelled: Store, train: Examples) -> Examples:
    """Put the training examples and those without labels into one array in memory."""
    images, places = _concatenate(store, unlabelled, train.rows)
    return place_examples(images, np.arange(len(images)), np.zeros(len(images)), places, train.labels.device)


def _run_epochs(
    setup: PretrainingSetup, state: PretrainingState, origin: Origin, paths: Workspace, console: Console
) -> None:
    """Pretrain, and write losses and the last checkpoint after each epoch; at the end the weights to start from."""
    num_epochs = setup.experiment.pretrain.epochs

    def pack() -> Checkpoint:
        mean, std = setup.statistics
        return Checkpoint(
            **vars(origin),
            mean=mean,
            std=std,
            epoch=len(state.history),
            history=(),
            tracking_run="",
            weights=dict(state.classifier.model.state_dict()),
        )

    for result in pretrain_epochs(setup, state):
        write_losses(paths.history, state.history)  # first: a checkpoint's epochs are all in it
        optimizer = pack_optimizer(state.optimizer, setup.fabric.strategy.precision.state_dict())
        heads = dict(state.autoencoder.heads.state_dict())
        write_checkpoint(paths.last_checkpoint, dataclasses.replace(pack(), optimizer=optimizer, heads=heads))
        text = f"epoch {result.epoch:>{len(str(num_epochs))}}/{num_epochs}  loss {result.loss:.4f}"
        console.print(f"{text}  rate {result.learning_rate:.2e}  {result.seconds:.1f} s", highlight=False)
    write_losses(paths.history, state.history)
    write_checkpoint(paths.best_checkpoint, pack())
    record = {
        "epochs": len(state.history),
        "loss": state.history[-1].loss,
        "seconds": sum(result.seconds for result in state.history),
    }
    write_json(paths.training_record, record)
    console.print(f"--train.start_from {paths.best_checkpoint} starts from these weights", highlight=False)
