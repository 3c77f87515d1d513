"""The state of a training: the setup that stays, what each step changes, and the seeds of random numbers."""

import contextlib
import hashlib
from dataclasses import dataclass

import torch
from lightning.fabric import Fabric
from torch import nn

from pipeline.config.experiment import Experiment
from pipeline.core.data_kinds import InputSpec
from pipeline.data.batches import Examples
from pipeline.models.classifier import Classifier
from pipeline.training.devices.compilation import has_static_batches
from pipeline.training.fine_tuning import Start
from pipeline.training.history import EpochResult
from pipeline.training.objectives.heads import HeadedModel
from pipeline.training.objectives.masking import Masking
from pipeline.training.objectives.teacher import Teacher
from pipeline.training.optimization.weight_average import WeightAverage


@dataclass(frozen=True)
class TrainingSetup:
    """All that a training works with and does not change.

    Args:
        experiment: The options; those of training and augmentation are read here.
        fabric: The devices and the precision.
        spec: The examples that the network reads, and its classes.
        train_examples: The examples to learn from.
        val_examples: The examples to validate with.
        class_weights: The weight of each class in the loss, (classes,) on the device; None for 1.
        sampling_weights: How likely each training example is drawn, (examples,) on the processor; None for an epoch
            that has each of them once.
        teacher: The model whose answers are learned next to the labels; None for labels alone.
        start: The weights that training starts from; None where all are drawn.
        masking: The squares of an image that are hidden and predicted next to the labels; None where none are.
    """

    experiment: Experiment
    fabric: Fabric
    spec: InputSpec
    train_examples: Examples
    val_examples: Examples
    class_weights: torch.Tensor | None = None
    sampling_weights: torch.Tensor | None = None
    teacher: Teacher | None = None
    start: Start | None = None
    masking: Masking | None = None

    @property
    def steps_per_epoch(self) -> int:
        """The number of steps of the optimizer in an epoch."""
        config = self.experiment.train
        if has_static_batches(config):
            return len(self.train_examples) // config.batch_size
        return -(-len(self.train_examples) // (config.batch_size * config.accumulate_batches))

    @property
    def is_first(self) -> bool:
        """True in the process that writes."""
        return bool(self.fabric.global_rank == 0)


@dataclass
class TrainingState:
    """All that training changes; complete at the end of each epoch.

    Args:
        classifier: The statistics and the model, on the device.
        parallel_model: The same model as Fabric runs it, over all devices.
        optimizer: The optimizer as Fabric runs it.
        history: The results of the epochs done.
        headed: The same model with the heads that only training has; None without any.
        average: The average of the weights, which answers in validation; None where the weights themselves do.
    """

    classifier: Classifier
    parallel_model: nn.Module
    optimizer: torch.optim.Optimizer
    history: list[EpochResult]
    headed: HeadedModel | None = None
    average: WeightAverage | None = None

    def answering(self) -> contextlib.AbstractContextManager[None]:
        """Return a context inside of which the classifier has the weights that are validated and kept."""
        return contextlib.nullcontext() if self.average is None else self.average.applied()


def derive_seed(seed: int, purpose: str, epoch: int = 0, rank: int = 0) -> int:
    """Derive the seed of one purpose; seeds of different purposes, epochs and ranks are unrelated.

    Args:
        seed: ``train.seed``.
        purpose: The purpose, such as ``order`` or ``dropout``.
        epoch: The number of epochs that are done.
        rank: The number of the process, where each draws its own.

    Returns:
        A whole number below 2^63.
    """
    text = f"{seed}/{purpose}/{epoch}/{rank}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
