"""The results of the epochs, the best of them, and early stopping."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline.config.training import TrainConfig
from pipeline.core.tables import write_table


@dataclass(frozen=True)
class EpochResult:
    """The result of one epoch.

    Args:
        epoch: The number of the epoch, from 1.
        train_loss: The mean loss over the epoch's examples as trained on: augmented, mixed, labels smoothed.
        train_accuracy: The fraction of them that was right; a mixed image counts by its larger part's label.
        val_loss: The mean loss (``train.loss``) of the answers to the validation examples, labels not smoothed.
        val_accuracy: The fraction of them that was right.
        learning_rate: The learning rate of the epoch's last step.
        images_per_second: The speed of training, over all devices.
        seconds: The time of training and validation.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    images_per_second: float
    seconds: float


def find_best(history: Sequence[EpochResult], monitor: str) -> EpochResult:
    """Return the best epoch: of the lowest loss or the highest accuracy, among equals the earliest.

    Among epochs of the same accuracy, the one of the lowest loss is the best.
    """
    if monitor == "val_accuracy":
        return min(history, key=lambda result: (-result.val_accuracy, result.val_loss))
    return min(history, key=lambda result: result.val_loss)


def should_stop(history: Sequence[EpochResult], config: TrainConfig) -> bool:
    """Return whether training is over: all epochs done, or too many of them without a better one."""
    if len(history) >= config.epochs:
        return True
    if config.early_stopping_epochs == 0 or not history:
        return False
    return history[-1].epoch - find_best(history, config.monitor).epoch >= config.early_stopping_epochs


def list_numbers(result: EpochResult) -> dict[str, float]:
    """Return an epoch's numbers without the epoch's own."""
    return {name: value for name, value in dataclasses.asdict(result).items() if name != "epoch"}


def read_history(path: Path) -> list[EpochResult]:
    """Read the file that :func:`write_history` wrote, to the last bit."""
    # Numbers are read by way of text, because pandas' own parser may lose the last digit.
    table = pd.read_csv(path, dtype=str).astype(float).astype({"epoch": int})
    return [EpochResult(**row) for row in table.to_dict("records")]


def write_history(path: Path, history: Sequence[EpochResult]) -> None:
    """Write a CSV with a row an epoch, whole or not at all."""
    names = [field.name for field in dataclasses.fields(EpochResult)]
    rows = pd.DataFrame([dataclasses.asdict(result) for result in history], columns=names)
    write_table(path, rows, tuple(names))
