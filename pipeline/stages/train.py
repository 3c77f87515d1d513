"""The train stage: from the store and the splits to checkpoints, curves and records."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from rich.console import Console

from pipeline.attention import KEPT, check_attention
from pipeline.attention_files import keep_maps
from pipeline.augment import check_mirror, check_swap
from pipeline.augment_points import check_point_changes
from pipeline.checkpoint import (
    Checkpoint,
    OptimizerState,
    load_weights,
    pack_optimizer,
    read_checkpoint,
    restore_optimizer,
    write_checkpoint,
)
from pipeline.classifier import Classifier
from pipeline.config import require
from pipeline.devices import build_fabric
from pipeline.display import TrainingDisplay
from pipeline.dump import dump_experiment
from pipeline.errors import UserError
from pipeline.examples import Examples, compute_statistics, place_examples
from pipeline.experiment import Experiment
from pipeline.files import write_json
from pipeline.history import find_best, write_history
from pipeline.intensities import IntensityReference, compute_reference
from pipeline.leakage import check_certificate
from pipeline.models import build_model, count_parameters
from pipeline.optimizers import build_optimizer
from pipeline.processes import hold_together, is_first_process
from pipeline.provenance import read_commit, read_hardware, read_versions
from pipeline.records import flatten
from pipeline.runs import (
    check_same_settings,
    clear_run,
    describe_settings,
    is_finished,
    read_preprocess,
    read_started,
    write_started,
)
from pipeline.sharding import gather_all
from pipeline.shared_norm import share_batch_norms
from pipeline.splits import read_splits, resolve_roles
from pipeline.store import Store, check_store, read_store
from pipeline.tracker import Tracker
from pipeline.tracking import open_run
from pipeline.tracking_data import log_split
from pipeline.training import DivergenceError, TrainingState, derive_seed, train_epochs


@dataclass(frozen=True)
class Task:
    """What a run works with and does not change.

    Args:
        experiment: all options.
        fabric: devices and precision.
        blank: the checkpoint as it is before training, without statistics and weights.
        train_examples: learned from.
        val_examples: judged by.
        store: all pictures.
        roles: each patient's split.
    """

    experiment: Experiment
    fabric: Fabric
    blank: Checkpoint
    train_examples: Examples
    val_examples: Examples
    store: Store
    roles: dict[str, str]

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return bool(self.fabric.global_rank == 0)


def train(experiment: Experiment, console: Console) -> None:
    """Train the model on the train patients and keep the epoch that the val patients call best.

    A run that was cut off goes on from its last epoch; a finished one is left as it is. Test pictures
    are not read.

    Raises:
        UserError: the data, the splits or the options do not allow it, or the loss stops being a number.
    """
    paths, config = experiment.paths, experiment.train
    store = read_store(paths.prepared, verify=True)
    splits = read_splits(paths.splits, experiment.split)
    certificate = check_certificate(paths.certificate, store, splits)
    if store.kind == "points":
        check_point_changes(experiment.augment)
    check_mirror(experiment.augment, store.class_names, experiment.preprocess.plane)
    if experiment.model.mirror_average:
        check_swap("model.mirror_average", "false", store.class_names, experiment.preprocess.plane)
    if config.strategy == "fsdp":  # the first process draws them alone, and has a part of the model alone
        every = experiment.attention.every_epochs
        require(every == 0, "attention.every_epochs", every, "0 with train.strategy fsdp; draw maps after training")
    blank = _describe_blank(experiment, store, certificate["splits_fingerprint"])
    if config.resume:
        check_same_settings(paths, blank.settings)
        if is_finished(paths):
            if is_first_process():
                words = "already trained; nothing to do. --train.resume false trains afresh."
                console.print(f"{paths.run_folder}: {words}")
            return
    fabric = build_fabric(config)
    fabric.launch()  # every process comes here before the first one changes a file
    roles = resolve_roles(splits, experiment.split)
    blank = dataclasses.replace(blank, intensities=_measure_intensities(store, roles))
    with hold_together(fabric, paths.run_folder):
        _train_alone(experiment, fabric, blank, store, roles, console)


def _train_alone(
    experiment: Experiment, fabric: Fabric, blank: Checkpoint, store: Store, roles: dict[str, str], console: Console
) -> None:
    """Train in a folder that no other training writes into."""
    paths, config = experiment.paths, experiment.train
    # Each process has a GPU of its own, but all those of a machine have the same memory.
    num_sharing = config.devices if fabric.device.type == "cpu" else 1
    train_examples = _select_examples(store, roles, "train", fabric.device, num_sharing)
    val_examples = _select_examples(store, roles, "val", fabric.device, num_sharing)
    task = Task(experiment, fabric, blank, train_examples, val_examples, store, roles)
    if task.is_first and not (config.resume and paths.last_checkpoint.is_file() and paths.best_checkpoint.is_file()):
        known_run = _find_tracking_run(experiment, blank.settings)
        clear_run(paths)
        write_started(paths, blank.settings, known_run)
    fabric.barrier()
    state = _build_state(task)
    if experiment.attention.every_epochs > 0:
        check_attention(state.classifier.model, KEPT)
    tracker = Tracker()
    if task.is_first:
        tracker = _open_tracker(task, state)
        console.print(_describe_start(task, state), highlight=False)
    try:
        _run(task, state, tracker, console)
    except KeyboardInterrupt:
        tracker.finish("KILLED")
        raise
    except DivergenceError as error:
        tracker.finish("FAILED")
        raise UserError(_name_batch(task, error)) from error
    except BaseException:
        tracker.finish("FAILED")
        raise
    if task.is_first:
        _finish(task, state, tracker, console)


def _describe_blank(experiment: Experiment, store: Store, split_fingerprint: str) -> Checkpoint:
    """Fill in what is known of the checkpoints before training."""
    return Checkpoint(
        model=experiment.model,
        class_names=store.class_names,
        num_channels=1 if store.examples.ndim == 3 else int(store.examples.shape[1]),
        image_size=(int(store.examples.shape[-2]), int(store.examples.shape[-1])),
        preprocess=read_preprocess(experiment, store),
        mean=(),
        deviation=(),
        store_fingerprint=store.fingerprint,
        split_fingerprint=split_fingerprint,
        settings=describe_settings(experiment, store, split_fingerprint),
        versions=read_versions(),
        commit=read_commit(),
        epoch=0,
        history=(),
        tracking_run="",
        weights={},
        kind=store.kind,
    )


def _measure_intensities(store: Store, roles: dict[str, str]) -> IntensityReference | None:
    """Measure the training volumes, one after the other; images and point clouds have none."""
    if store.kind != "volumes":
        return None
    train_rows = store.index.index[(store.index["group_id"].map(roles) == "train").to_numpy()]
    rows_by_source = store.index.loc[train_rows].groupby("source_id", sort=True).indices
    volumes = (store.examples[train_rows[places]] for places in rows_by_source.values())
    return compute_reference(volumes) if rows_by_source else None


def _select_examples(
    store: Store, roles: dict[str, str], role: str, device: torch.device, num_sharing: int
) -> Examples:
    """Place the examples of the patients of one role."""
    rows = np.flatnonzero((store.index["group_id"].map(roles) == role).to_numpy())
    chosen = store.index.iloc[rows]
    code_of = {name: code for code, name in enumerate(store.class_names)}
    labels = chosen["label"].map(code_of).to_numpy(dtype=np.int64)
    missing = [name for name, code in code_of.items() if role == "train" and code not in labels]
    if len(rows) == 0 or missing:
        lacking = f"no picture labelled {missing[0]}" if missing else "no picture"
        raise UserError(f"split: there is {lacking} in {role}. Run the split stage again with other fractions or seed.")
    positions = chosen["slice_position"].to_numpy()
    return place_examples(store.examples, rows, labels, positions, device, num_sharing=num_sharing)


def _build_state(task: Task) -> TrainingState:
    """Build model and optimizer, fresh or as the last checkpoint has them."""
    config, path = task.experiment.train, task.experiment.paths.last_checkpoint
    last = read_checkpoint(path) if path.is_file() else None
    model = build_model(
        task.experiment.model,
        num_channels=task.blank.num_channels,
        image_size=task.blank.image_size,
        num_classes=len(task.blank.class_names),
        num_slices=task.blank.preprocess.num_slices,
        seed=derive_seed(config.seed, "weights"),
        data_kind=task.blank.kind,
    )
    if last is None:
        is_points = task.blank.kind == "points"  # each cloud is normalised by itself
        mean, deviation = ((), ()) if is_points else compute_statistics(task.train_examples)
    else:
        mean, deviation = last.mean, last.deviation
        load_weights(model, last.weights)
    share_batch_norms(model)
    options = task.experiment.model
    classifier = Classifier(
        model, mean, deviation, options.mirror_average, config.loss, task.blank.kind, options.num_points
    )
    if config.strategy == "ddp":  # a divided model may not fit on one device
        classifier.to(task.fabric.device)
    parallel_model = task.fabric.setup_module(torch.compile(model) if config.compile else model)
    classifier.to(task.fabric.device)
    optimizer = build_optimizer(model, config, fused=config.precision != "16-mixed")
    if last is not None and last.optimizer is not None:
        restore_optimizer(optimizer, last.optimizer)
        if last.optimizer.scaler:
            task.fabric.strategy.precision.load_state_dict(last.optimizer.scaler)
    parallel_optimizer = task.fabric.setup_optimizers(optimizer)
    return TrainingState(classifier, parallel_model, parallel_optimizer, list(last.history) if last else [])


def _run(task: Task, state: TrainingState, tracker: Tracker, console: Console) -> None:
    """Train, and after each epoch write maps, the best checkpoint, the last one and the curves, in this order."""
    paths, config = task.experiment.paths, task.experiment.train
    arguments = (task.fabric, state, task.train_examples, task.val_examples, config, task.experiment.augment)
    if not task.is_first:
        for _ in train_epochs(*arguments):
            _gather(task, state)
        return
    paths.divergence.unlink(missing_ok=True)  # of an earlier start
    tracker.log_history(state.history)
    write_history(paths.history, state.history)  # a run may have been cut off between its checkpoint and this
    with TrainingDisplay(console, config.epochs, len(state.history)) as display:
        for result in train_epochs(*arguments, on_step=display.show_step if console.is_terminal else None):
            weights, optimizer = _gather(task, state)
            _check_unchanged(task)
            is_best = find_best(state.history, config.select_by) is result
            # Before the last checkpoint: a run that is cut off here computes this epoch and its maps again.
            keep_maps(
                paths.attention_maps, state.classifier, task.store, task.roles, task.experiment.attention, result.epoch
            )
            best = dataclasses.replace(
                task.blank,
                mean=state.classifier.mean_values,
                deviation=state.classifier.deviation_values,
                epoch=result.epoch,
                history=tuple(state.history),
                tracking_run=tracker.run_id,
                weights=weights,
            )
            if is_best:
                write_checkpoint(paths.best_checkpoint, best)
            write_checkpoint(paths.last_checkpoint, dataclasses.replace(best, optimizer=optimizer))
            write_history(paths.history, state.history)
            tracker.log_history(state.history[-1:])
            display.show_epoch(result, is_best)


def _name_batch(task: Task, error: DivergenceError) -> str:
    """List the examples of the step that ended training in a file, and return what to tell of them."""
    if error.rows is None:
        return str(error)
    path = task.experiment.paths.divergence
    example_ids = task.store.index["example_id"].iloc[error.rows].tolist()
    if task.is_first:
        write_json(path, {"message": str(error), "example_ids": example_ids})
    return f"{error} Its {len(example_ids)} examples, such as {example_ids[0]}, are listed in {path}."


def _gather(task: Task, state: TrainingState) -> tuple[dict[str, torch.Tensor], OptimizerState]:
    """Put together what a checkpoint holds; all processes do it at the same time."""
    scaler = task.fabric.strategy.precision.state_dict()
    return gather_all(state.classifier.model.state_dict()), pack_optimizer(state.optimizer, scaler)


def _check_unchanged(task: Task) -> None:
    """Refuse to keep an epoch whose pictures, read from disk all the while, changed, or whose folder went away.

    Pictures in memory were checked when they were read.
    """
    paths = task.experiment.paths
    if read_started(paths) is None:
        raise UserError(f"{paths.run_folder}: it was removed while training ran. Run the train stage again.")
    if task.train_examples.placed is None or task.val_examples.placed is None:
        check_store(paths.prepared, task.store.fingerprint)


def _find_tracking_run(experiment: Experiment, settings: dict[str, Any]) -> str:
    """Return the MLflow run of a start that was cut off before its first epoch ended."""
    started = read_started(experiment.paths)
    if not experiment.train.resume or started is None or started["settings"] != settings:
        return ""
    run_id: str = started["tracking_run"]
    return run_id


def _open_tracker(task: Task, state: TrainingState) -> Tracker:
    """Start or re-open the MLflow run and keep all that is known before training."""
    paths, blank = task.experiment.paths, task.blank
    started = read_started(paths)
    known_run = "" if started is None else started["tracking_run"]
    tracker = open_run(task.experiment.tracking, paths, known_run)
    write_started(paths, blank.settings, tracker.run_id)
    tracker.log_settings(flatten(task.experiment) | {"num_parameters": count_parameters(state.classifier.model)})
    facts = {
        "commit": blank.commit,
        "hardware": read_hardware(),
        "store_fingerprint": blank.store_fingerprint,
        "split_fingerprint": blank.split_fingerprint,
    }
    tracker.set_tags(facts | {f"version.{name}": version for name, version in blank.versions.items()})
    tracker.log_text(dump_experiment(task.experiment), "config.yaml")
    tracker.log_file(paths.splits)
    tracker.log_file(paths.certificate)
    for role in ("train", "val"):
        log_split(tracker, task.experiment, task.store, task.roles, role)
    if task.experiment.tracking.system_metrics:
        tracker.watch_system()
    return tracker


def _describe_start(task: Task, state: TrainingState) -> str:
    fabric, num_done = task.fabric, len(state.history)
    place = "in memory" if task.train_examples.placed is not None else "read from disk"
    devices = f"{fabric.world_size} x {fabric.device.type}" if fabric.world_size > 1 else fabric.device.type
    return (
        f"{count_parameters(state.classifier.model):,} parameters, {devices} in {fabric.strategy.precision.precision}; "
        f"{len(task.train_examples):,} pictures to train ({place}), {len(task.val_examples):,} to validate"
        f"{f'; going on after epoch {num_done}' if num_done > 0 else ''}"
    )


def _finish(task: Task, state: TrainingState, tracker: Tracker, console: Console) -> None:
    """Keep the model in MLflow and write the record that the run is complete."""
    paths, blank, fabric = task.experiment.paths, task.blank, task.fabric
    best = find_best(state.history, task.experiment.train.select_by)
    tags = {
        "class_names": ", ".join(blank.class_names),
        "epoch": str(best.epoch),
        "run": paths.run,
        "val_accuracy": f"{best.val_accuracy:.4f}",
        "store_fingerprint": blank.store_fingerprint,
        "split_fingerprint": blank.split_fingerprint,
    }
    registered_name = paths.name if task.experiment.tracking.register else ""
    tracker.log_model(paths.best_checkpoint, tags, registered_name)
    tracker.log_file(paths.history)
    numbers = {"best_epoch": best.epoch, "best_val_loss": best.val_loss, "best_val_accuracy": best.val_accuracy}
    tracker.log_metrics(numbers)
    tracker.finish()
    record = {
        "epochs": len(state.history),
        "stopped_early": len(state.history) < task.experiment.train.epochs,
        "best": dataclasses.asdict(best),
        "seconds": sum(result.seconds for result in state.history),
        "num_parameters": count_parameters(state.classifier.model),
        "device": fabric.device.type,
        "world_size": fabric.world_size,
        "precision": fabric.strategy.precision.precision,
        "hardware": read_hardware(),
        "versions": blank.versions,
        "commit": blank.commit,
        "store_fingerprint": blank.store_fingerprint,
        "split_fingerprint": blank.split_fingerprint,
        "tracking_run": tracker.run_id,
    }
    write_json(paths.training_record, record)
    scores = f"val loss {best.val_loss:.4f}, accuracy {best.val_accuracy:.4f}"
    console.print(f"best epoch {best.epoch}: {scores} -> {paths.best_checkpoint}", highlight=False)
