"""The train stage: from the store and the splits to checkpoints, curves and records."""

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from pipeline.attention.maps import KEPT, check_attention, compute_kept_maps
from pipeline.attention.storage import name_kept_epoch, write_maps
from pipeline.config.experiment import Experiment, dump_experiment
from pipeline.core.console import warn, working
from pipeline.core.errors import UserError
from pipeline.core.files import read_json, write_bytes, write_json
from pipeline.core.provenance import read_hardware
from pipeline.core.serialization import flatten
from pipeline.core.text import count_words
from pipeline.core.workspace import TEACHER, join_names
from pipeline.data.batches import read_free_memory
from pipeline.data.certified_data import CertifiedData, load_certified_data
from pipeline.data.statistics import IntensityReference
from pipeline.data.store import check_store
from pipeline.models.networks import count_parameters
from pipeline.tracking.mlflow_run import TrackedRun, open_run
from pipeline.tracking.records import RunFacts, describe_split, name_files
from pipeline.training.checkpoint import (
    Checkpoint,
    OptimizerState,
    Origin,
    compute_weights_digest,
    read_checkpoint,
    write_checkpoint,
)
from pipeline.training.devices.arithmetic import name_accelerator
from pipeline.training.devices.distributed import fail_together, gather_all, hold_together, is_first_process
from pipeline.training.devices.fabric import build_fabric
from pipeline.training.devices.memory import check_memory, estimate_training
from pipeline.training.fine_tuning import prepare_start
from pipeline.training.history import find_best, write_history
from pipeline.training.loop.epochs import DivergenceError, train_epochs
from pipeline.training.loop.monitor import StepResult
from pipeline.training.loop.state import TrainingSetup, TrainingState
from pipeline.training.objectives.teacher import build_teacher_recipe, describe_teacher
from pipeline.training.optimization.optimizers import compute_learning_rate_fraction, pack_optimizer
from pipeline.training.progress import TrainingDisplay
from pipeline.training.run_state import (
    EXTENDED,
    check_same_settings,
    clear_run,
    describe_extensions,
    extend_run,
    is_extended,
    is_finished,
    note_extension,
    read_started,
    write_started,
)
from pipeline.training.setup import (
    build_state,
    check_recipe,
    describe_origin,
    measure_intensities,
    prepare_training,
)


def train(experiment: Experiment, console: Console) -> None:
    """Train the model on the train patients and keep the epoch that is best on the val patients.

    An interrupted run resumes after its last epoch; a finished one is left as it is. Test examples are not read.

    Raises:
        UserError: The data, the splits or the options do not allow training, or the loss becomes NaN or infinite.
    """
    paths, config = experiment.paths, experiment.train
    with working("reading the store", console):
        data = load_certified_data(experiment)
    check_recipe(experiment, data.store)
    lessons = None if config.teacher in (None, "cnn") else read_checkpoint(Path(str(config.teacher)))
    facts = None if lessons is None else describe_teacher(Path(str(config.teacher)), lessons, data, experiment)
    start = None
    if config.start_from is not None:
        path = Path(config.start_from)
        start = prepare_start(path, read_checkpoint(path, is_start=True), data, experiment)
    origin = describe_origin(experiment, data, {**(facts or {}), **(start.settings if start is not None else {})})
    if config.resume:
        origin = dataclasses.replace(origin, settings=note_extension(paths, origin.settings))
        check_same_settings(paths, origin.settings)
        if config.teacher == "cnn" and is_extended(paths, origin.settings):
            raise UserError(
                f"train.epochs: found {config.epochs}, more than {paths.run_folder} was started with; allowed is the "
                "number of then, because train.teacher cnn trains its teacher for as many epochs, and the rest would "
                "be taught by another one. Train a run of another name (--run NAME), or from scratch (--train.resume "
                "false)."
            )
        if is_finished(paths) and not is_extended(paths, origin.settings):
            if is_first_process():
                words = "already trained; nothing to do. --train.resume false trains from scratch."
                console.print(f"{paths.run_folder}: {words}")
                open_run(experiment.tracking, paths).send_rest()
            return
    teacher_seconds = 0.0
    if config.teacher == "cnn":
        lessons, teacher_seconds = _train_teacher(experiment, console)
    fabric = build_fabric(config)
    fabric.launch()  # every process comes here before the first one changes a file
    with hold_together(fabric, paths.run_folder):
        with working("reading the examples", console):
            setup = prepare_training(experiment, fabric, data, lessons, start)
        _train_alone(Run(setup, origin, data, measure_intensities(data), teacher_seconds), console)


@dataclass(frozen=True)
class Run:
    """A training with the data that it comes from.

    Args:
        setup: The options, the devices and the examples.
        origin: The facts for the checkpoints.
        data: All examples and their splits.
        intensities: How bright the training volumes are; None for other kinds of data.
        teacher_seconds: The time that training a teacher took for this run.
    """

    setup: TrainingSetup
    origin: Origin
    data: CertifiedData
    intensities: IntensityReference | None
    teacher_seconds: float = 0.0


def _train_teacher(experiment: Experiment, console: Console) -> tuple[Checkpoint, float]:
    """Train a convolutional network on the same patients, as a run of its own; return its best epoch, and its time."""
    teacher = dataclasses.replace(build_teacher_recipe(experiment), run=join_names(experiment.run, TEACHER))
    console.print(f"the teacher, {teacher.paths.title}:", highlight=False)
    train(teacher, console)
    record = read_json(teacher.paths.training_record)
    return read_checkpoint(teacher.paths.best_checkpoint), float(record["seconds"])


def _train_alone(run: Run, console: Console) -> None:
    """Train in a folder that no other training writes to; the first process writes, the others only train."""
    experiment, paths = run.setup.experiment, run.setup.experiment.paths
    resumes = experiment.train.resume and paths.last_checkpoint.is_file() and paths.best_checkpoint.is_file()
    with fail_together(run.setup.fabric):
        if run.setup.is_first and not resumes:
            _start_from_scratch(run)
        elif run.setup.is_first and is_extended(paths, run.origin.settings):
            extend_run(paths, run.origin.settings)
    state = build_state(run.setup)
    if experiment.train.keep_attention_every_epochs > 0:
        check_attention(state.classifier.model, KEPT)
    try:
        if run.setup.is_first:
            _train_and_write(run, state, console)
        else:
            _train_along(run, state)
    except DivergenceError as error:
        raise UserError(_describe_divergence(run, error)) from error


def _start_from_scratch(run: Run) -> None:
    """Clear the run's folder, and record that it was started."""
    experiment, paths = run.setup.experiment, run.setup.experiment.paths
    started = read_started(paths)
    if not experiment.train.resume or started is None or started["settings"] != run.origin.settings:
        paths.tracking_record.unlink(missing_ok=True)  # else a start that was interrupted during its first epoch
    clear_run(paths)
    write_started(paths, run.origin.settings)


def _train_along(run: Run, state: TrainingState) -> None:
    """Train in a process that writes nothing, and wait where the first one writes."""
    with fail_together(run.setup.fabric):
        pass
    for _ in train_epochs(run.setup, state):
        _gather(run, state)
        with fail_together(run.setup.fabric):
            pass


def _train_and_write(run: Run, state: TrainingState, console: Console) -> None:
    """Train in the first process; write the record that marks the run as complete last."""
    experiment, paths = run.setup.experiment, run.setup.experiment.paths
    with contextlib.ExitStack() as opened:
        with fail_together(run.setup.fabric):
            tracked = opened.enter_context(open_run(experiment.tracking, paths))
            _record_start(run, state, tracked)
            for line in (*_describe_origin(run, state), _describe_start(run, state), *_describe_memory(run, state)):
                console.print(line, highlight=False)
            for warning in run.data.warnings:
                warn(console, warning)
            paths.divergence.unlink(missing_ok=True)  # from an earlier start
            # A run may have been interrupted between its checkpoint and this.
            write_history(paths.history, state.history)
            if run.setup.fabric.world_size > 1:  # an error has to end all processes, which wait here for each other
                with working("opening the records", console):
                    tracked.sync()
            else:
                tracked.start_sync()
        _run_epochs(run, state, tracked, console)
        best = find_best(state.history, experiment.train.monitor)
        numbers = {"best_epoch": best.epoch, "best_val_loss": best.val_loss, "best_val_accuracy": best.val_accuracy}
        files, checkpoint = name_files(paths, [paths.history]), paths.name_file(paths.best_checkpoint)
        # Of the last epoch another model only where it is not the best.
        last = paths.name_file(paths.last_checkpoint) if best.epoch < len(state.history) else ""
        tracked.keep(RunFacts(metrics=numbers, files=files, checkpoint=checkpoint, last_checkpoint=last))
        with working("sending the records", console):
            tracked.sync()
    record = {
        "epochs": len(state.history),
        "stopped_early": len(state.history) < experiment.train.epochs,
        "best": dataclasses.asdict(best),
        "weights": compute_weights_digest(read_checkpoint(paths.best_checkpoint).weights),
        "seconds": run.teacher_seconds + sum(result.seconds for result in state.history),
        "teacher_seconds": run.teacher_seconds,
        "num_parameters": count_parameters(state.classifier.model),
        "device": run.setup.fabric.device.type,
        "world_size": run.setup.fabric.world_size,
        "precision": run.setup.fabric.strategy.precision.precision,
        "versions": run.origin.versions,
        "tracking_run": tracked.run_id,
    }
    write_json(paths.training_record, record | _list_tags(run))
    scores = f"val loss {best.val_loss:.4f}, accuracy {best.val_accuracy:.4f}"
    console.print(f"best epoch {best.epoch}: {scores} -> {paths.best_checkpoint}", highlight=False)


def _run_epochs(run: Run, state: TrainingState, tracked: TrackedRun, console: Console) -> None:
    """Train, and after each epoch write maps, the best checkpoint, the last one and the curves, in this order."""
    paths, config = run.setup.experiment.paths, run.setup.experiment.train
    is_alone = run.setup.fabric.world_size == 1
    with TrainingDisplay(console, config.epochs, len(state.history)) as display:

        def show_step(progress: StepResult) -> None:
            tracked.check_sync()
            display.show_step(progress)

        for result in train_epochs(run.setup, state, show_step if is_alone or console.is_terminal else None):
            gathered = _gather(run, state)
            with fail_together(run.setup.fabric):
                _check_unchanged(run)
                if tracked.is_syncing:
                    display.show_wait("opening the records")
                is_best = find_best(state.history, config.monitor) is result
                # Before the last checkpoint: a run that is interrupted here computes this epoch and its maps again.
                every = config.keep_attention_every_epochs
                if every > 0 and result.epoch % every == 0:
                    num_examples = run.setup.experiment.attention.num_examples
                    with state.answering():
                        maps = compute_kept_maps(state.classifier, run.data, num_examples, result.epoch)
                    write_maps(name_kept_epoch(paths.attention_maps, result.epoch), maps)
                best = Checkpoint(
                    **vars(run.origin),
                    mean=state.classifier.mean_values,
                    std=state.classifier.std_values,
                    epoch=result.epoch,
                    history=tuple(state.history),
                    tracking_run=tracked.run_id,
                    weights=gathered.weights,
                    intensities=run.intensities,
                )
                if is_best:
                    write_checkpoint(paths.best_checkpoint, best)
                last = dataclasses.replace(
                    best,
                    optimizer=gathered.optimizer,
                    heads=_gather_heads(state),
                    step_weights=gathered.step_weights,
                )
                write_checkpoint(paths.last_checkpoint, last)
                write_history(paths.history, state.history)
                tracked.sync()
                display.show_epoch(result, is_best)


def _describe_divergence(run: Run, error: DivergenceError) -> str:
    """Return the message of the error, with what is kept; list the examples of the step in a file, where it was one."""
    kept = (
        f"The checkpoint of epoch {error.epoch - 1} is kept." if error.epoch > 1 else "There is no earlier checkpoint."
    )
    message = f"training: {error.found} {kept} {error.advice}"
    if error.rows is None:
        return message
    path = run.setup.experiment.paths.divergence
    example_ids = run.data.store.index["example_id"].iloc[error.rows].tolist()
    if run.setup.is_first:
        write_json(path, {"message": message, "example_ids": example_ids})
    return f"{message} Its {len(example_ids)} examples, such as {example_ids[0]}, are listed in {path}."


@dataclass(frozen=True)
class Gathered:
    """The tensors of a checkpoint, see :class:`pipeline.training.checkpoint.Checkpoint`.

    Args:
        weights: The weights that were validated.
        optimizer: The state of the optimizer.
        step_weights: The weights after the last step, where others were validated.
    """

    weights: dict[str, torch.Tensor]
    optimizer: OptimizerState
    step_weights: dict[str, torch.Tensor] | None


def _gather(run: Run, state: TrainingState) -> Gathered:
    """Gather the weights and the optimizer's state for a checkpoint, in all processes at the same time."""
    scaler = run.setup.fabric.strategy.precision.state_dict()
    weights, optimizer = gather_all(state.classifier.model.state_dict()), pack_optimizer(state.optimizer, scaler)
    if state.average is None:
        return Gathered(weights, optimizer, None)
    return Gathered(dict(state.average.values), optimizer, weights)


def _gather_heads(state: TrainingState) -> dict[str, torch.Tensor]:
    """Return the tensors of the heads, which are whole in each process."""
    return {} if state.headed is None else dict(state.headed.heads.state_dict())


def _check_unchanged(run: Run) -> None:
    """Refuse to keep an epoch whose examples changed on disk while it was trained, or whose folder was removed.

    Examples in memory were checked when they were read.
    """
    paths = run.setup.experiment.paths
    if read_started(paths) is None:
        raise UserError(f"{paths.run_folder}: it was removed while training ran. Run the train stage again.")
    if run.setup.train_examples.placed is None or run.setup.val_examples.placed is None:
        check_store(paths.prepared, run.data.store.fingerprint)


def _record_start(run: Run, state: TrainingState, tracked: TrackedRun) -> None:
    """Keep the facts of the run that are known before training."""
    experiment, paths, origin = run.setup.experiment, run.setup.experiment.paths, run.origin
    write_bytes(paths.run_options, dump_experiment(experiment).encode())
    versions = {f"version.{name}": version for name, version in origin.versions.items()}
    tracked.keep(
        RunFacts(
            settings=flatten(experiment) | {"num_parameters": count_parameters(state.classifier.model)},
            tags=_list_tags(run) | _list_search_tags(run) | versions,
            datasets=tuple(describe_split(experiment, run.data, role) for role in ("train", "val")),
            files=name_files(paths, (paths.run_options, paths.splits, paths.certificate)),
            history=paths.name_file(paths.history),
        )
    )
    tracked.watch_system()


def _list_tags(run: Run) -> dict[str, str]:
    """List the origin of the run, for its record and for MLflow."""
    fabric, settings = run.setup.fabric, run.origin.settings
    extended = "; ".join(describe_extensions(settings))
    started = {"start": f"{settings['train.start_from']}: {settings['start']}"} if "start" in settings else {}
    return {
        **started,
        **({"extended": extended} if extended else {}),
        "commit": run.origin.commit,
        "hardware": read_hardware(name_accelerator(fabric.device, fabric.world_size)),
        "store_fingerprint": run.origin.store_fingerprint,
        "split_fingerprint": run.origin.split_fingerprint,
    }


def _list_search_tags(run: Run) -> dict[str, str]:
    """List what runs of several experiments are searched by in MLflow, next to their options."""
    spec = run.origin.spec
    return {
        "data_kind": spec.kind.name,
        "class_names": ", ".join(spec.class_names),
        "architecture": run.origin.model.architecture,
    }


def _describe_origin(run: Run, state: TrainingState) -> list[str]:
    """Describe the weights that training starts from, and what happens to the learning rate of an extended run."""
    settings, config = run.origin.settings, run.setup.experiment.train
    lines = [f"starting from {config.start_from}: {settings['start']}"] if run.setup.start is not None else []
    extended = settings.get(EXTENDED, [])
    if extended and extended[-1][0] == len(state.history) > 0:
        steps_per_epoch = run.setup.steps_per_epoch
        fraction = compute_learning_rate_fraction(config, len(state.history) * steps_per_epoch, steps_per_epoch)
        before, after = state.history[-1].learning_rate, config.learning_rate * fraction
        lines.append(f"{describe_extensions(settings)[-1]}; the learning rate goes from {before:.2e} to {after:.2e}")
    return lines


def _describe_memory(run: Run, state: TrainingState) -> list[str]:
    """Describe what a GPU's memory is needed for, and refuse a batch that would not fit; nothing on a processor."""
    setup, config = run.setup, run.setup.experiment.train
    if setup.fabric.device.type != "cuda":
        return []
    need = estimate_training(state.classifier.model, setup.spec, config, setup.fabric.strategy.precision.precision)
    batch_size = -(-config.batch_size // setup.fabric.world_size)
    room = read_free_memory(setup.fabric.device)
    return [f"memory of a step: {check_memory(need, 'train.batch_size', batch_size, room)}"]


def _describe_start(run: Run, state: TrainingState) -> str:
    fabric, num_done = run.setup.fabric, len(state.history)
    num_train, num_val = len(run.setup.train_examples), len(run.setup.val_examples)
    place = "in memory" if run.setup.train_examples.placed is not None else "read from disk"
    devices = f"{fabric.world_size} x {fabric.device.type}" if fabric.world_size > 1 else fabric.device.type
    return (
        f"{count_parameters(state.classifier.model):,} parameters, {devices} in {fabric.strategy.precision.precision}; "
        f"{count_words(num_train, run.data.store.kind.example)} to train ({place}), {num_val:,} to validate"
        f"{f'; resuming after epoch {num_done}' if num_done > 0 else ''}"
    )
