"""The models of a study: each is trained once in memory, and its predictions and its record are kept as files.

The record is written after the predictions and marks the model as complete, so that an interrupted study resumes
with the models that have none, and one with other settings trains again.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from pipeline.core.files import read_json, write_json
from pipeline.core.provenance import read_hardware
from pipeline.core.tables import prediction_columns, write_table
from pipeline.models.classifier import Classifier
from pipeline.training.checkpoint import Checkpoint, Origin
from pipeline.training.devices.arithmetic import name_accelerator
from pipeline.training.history import EpochResult, find_best
from pipeline.training.loop.epochs import train_epochs
from pipeline.training.loop.monitor import StepResult
from pipeline.training.loop.state import TrainingSetup
from pipeline.training.setup import start_from

OnEpoch = Callable[[EpochResult], None]


@dataclass(frozen=True)
class Outcome:
    """The result of one model of a study.

    Args:
        predictions: The predictions of the test rows; ``label`` is the label that the model was to learn.
        history: One row for each epoch; none where the model has no epochs.
        num_steps: The number of steps of the optimizer.
        num_train: The number of training rows.
        device: The device that trained it.
    """

    predictions: pd.DataFrame
    history: tuple[EpochResult, ...]
    num_steps: int
    num_train: int
    device: torch.device


def measure(train: Callable[[], Outcome]) -> tuple[Outcome, dict[str, Any]]:
    """Train a model and score its test rows; return the outcome, and the facts for its record.

    Args:
        train: The function that does both.
    """
    started, started_cpu = time.perf_counter(), time.process_time()
    outcome = train()
    table = outcome.predictions
    facts: dict[str, Any] = {
        "accuracy": float((table["label"] == table["predicted"]).mean()),
        "n": len(table),
        "groups": int(table["group_id"].nunique()),
    }
    if outcome.history:
        facts["train_accuracy"] = outcome.history[-1].train_accuracy
    return outcome, facts | {
        "num_train": outcome.num_train,
        "num_steps": outcome.num_steps,
        "seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(time.process_time() - started_cpu, 1),
        "hardware": read_hardware(name_accelerator(outcome.device)),
    }


def train_best(
    setup: TrainingSetup, on_epoch: OnEpoch, on_step: Callable[[StepResult], None] | None = None
) -> tuple[Classifier, tuple[EpochResult, ...]]:
    """Train in memory, and return the classifier with the weights of its best epoch, as the train stage keeps them.

    Args:
        setup: The options, the devices and the examples.
        on_epoch: Called with the result of each epoch; what it raises ends the training.
        on_step: Called with the progress inside an epoch a few times a second.

    Raises:
        UserError: The loss becomes NaN or infinite.
    """
    state, best = start_from(setup, None), {}
    for result in train_epochs(setup, state, on_step):
        if find_best(state.history, setup.experiment.train.monitor) is result:
            with state.answering():  # with the weights that were validated, which may be an average
                best = {name: value.detach().clone() for name, value in state.classifier.model.state_dict().items()}
        on_epoch(result)
    state.classifier.model.load_state_dict(best)
    state.classifier.eval()
    return state.classifier, tuple(state.history)


def train_checkpoint(
    setup: TrainingSetup, origin: Origin, on_epoch: OnEpoch, on_step: Callable[[StepResult], None] | None = None
) -> Checkpoint:
    """Train in memory, and return the best epoch as a checkpoint.

    Args:
        setup: The options, the devices and the examples.
        origin: The facts for the checkpoint.
        on_epoch: Called with the result of each epoch; what it raises ends the training.
        on_step: Called with the progress inside an epoch a few times a second.

    Raises:
        UserError: The loss becomes NaN or infinite.
    """
    classifier, history = train_best(setup, on_epoch, on_step)
    return Checkpoint(
        **vars(origin),
        mean=classifier.mean_values,
        std=classifier.std_values,
        epoch=find_best(history, setup.experiment.train.monitor).epoch,
        history=history,
        tracking_run="",
        weights=classifier.model.state_dict(),
    )


def is_complete(path: Path, settings: Mapping[str, Any]) -> bool:
    """Return whether the model of a record was trained with these settings and scored."""
    return path.is_file() and path.with_suffix(".csv").is_file() and bool(read_json(path)["settings"] == settings)


def write_run(path: Path, predictions: pd.DataFrame, class_names: tuple[str, ...], record: Mapping[str, Any]) -> None:
    """Write the predictions of a model, then the record that marks it as complete.

    Args:
        path: The path of the record; the predictions are next to it, as CSV.
        predictions: The predictions of the test rows.
        class_names: All classes.
        record: The ``settings`` and the ``facts`` of the model.
    """
    write_table(path.with_suffix(".csv"), predictions, prediction_columns(class_names))
    write_json(path, record)
