"""Pretraining without labels: a Perceiver learns to predict hidden squares of images, epoch by epoch.

As in training, all randomness derives from ``train.seed``, a purpose and the epoch.
"""

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from lightning.fabric import Fabric
from torch import nn

from perceiver.volumes import sort_slices
from pipeline.config.experiment import Experiment
from pipeline.config.training import TrainConfig
from pipeline.core.data_kinds import InputSpec
from pipeline.core.errors import UserError
from pipeline.core.tables import write_table
from pipeline.data.batches import Examples, read_batches, split_order
from pipeline.models.classifier import Classifier
from pipeline.models.networks import build_model
from pipeline.training.augmentation.images import apply_transforms, move_slices, sample_transforms
from pipeline.training.checkpoint import Checkpoint, load_weights
from pipeline.training.devices.compilation import compile_model
from pipeline.training.loop.state import derive_seed
from pipeline.training.objectives.heads import MaskedAutoencoder
from pipeline.training.objectives.masking import Masking, compute_reconstruction_loss_sum
from pipeline.training.optimization.optimizers import (
    build_optimizer,
    compute_learning_rate_fraction,
    restore_optimizer,
    set_learning_rate,
)


@dataclass(frozen=True)
class PretrainingEpoch:
    """The result of one epoch.

    Args:
        epoch: The number of the epoch, from 1.
        loss: The mean squared error of hidden pixels, where that of predicting their mean would be 1.
        learning_rate: The learning rate of the epoch's last step.
        seconds: The time of the epoch.
    """

    epoch: int
    loss: float
    learning_rate: float
    seconds: float


COLUMNS = tuple(field.name for field in dataclasses.fields(PretrainingEpoch))


@dataclass(frozen=True)
class PretrainingSetup:
    """All that a pretraining works with and does not change.

    Args:
        experiment: All options.
        fabric: The device and the precision.
        spec: The examples that the network reads.
        examples: The examples to learn from, whose labels are not read.
        masking: The squares of an image.
        statistics: The mean and the standard deviation of each channel over the labelled training images.
    """

    experiment: Experiment
    fabric: Fabric
    spec: InputSpec
    examples: Examples
    masking: Masking
    statistics: tuple[tuple[float, ...], tuple[float, ...]]


@dataclass
class PretrainingState:
    """All that pretraining changes; complete at the end of each epoch.

    Args:
        classifier: The statistics and the model, whose last layers stay as they are.
        autoencoder: The same model with the decoder of hidden squares.
        parallel_model: The autoencoder as Fabric runs it.
        optimizer: The optimizer as Fabric runs it.
        history: The results of the epochs done.
    """

    classifier: Classifier
    autoencoder: MaskedAutoencoder
    parallel_model: nn.Module
    optimizer: torch.optim.Optimizer
    history: list[PretrainingEpoch]


def plan_schedule(experiment: Experiment) -> TrainConfig:
    """Return the options of training with the epochs and the learning rate of pretraining."""
    options, config = experiment.pretrain, experiment.train
    return dataclasses.replace(
        config,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        warmup_epochs=min(config.warmup_epochs, options.epochs),
    )


def build_pretraining(
    setup: PretrainingSetup, last: Checkpoint | None, history: Sequence[PretrainingEpoch] = ()
) -> PretrainingState:
    """Build model, decoder and optimizer.

    Args:
        setup: The options, the device and the examples.
        last: The checkpoint to resume from; None starts with new weights.
        history: The results of the epochs that led to it.
    """
    experiment, fabric, config = setup.experiment, setup.fabric, plan_schedule(setup.experiment)
    model = build_model(experiment.model, setup.spec, derive_seed(config.seed, "weights"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "heads"))
        autoencoder = MaskedAutoencoder(model, setup.masking, experiment.model.perceiver)
    if last is not None:
        load_weights(model, last.weights)
        load_weights(autoencoder.heads, last.heads)
    classifier = Classifier(model, experiment.model, setup.spec, *setup.statistics).to(fabric.device)
    autoencoder.to(fabric.device)
    parallel_model = fabric.setup_module(compile_model(autoencoder, config.compile))
    optimizer = build_optimizer(autoencoder, config, fused=config.precision != "16-mixed")
    if last is not None and last.optimizer is not None:
        restore_optimizer(optimizer, last.optimizer)
        if last.optimizer.scaler:
            fabric.strategy.precision.load_state_dict(last.optimizer.scaler)
    return PretrainingState(classifier, autoencoder, parallel_model, fabric.setup_optimizers(optimizer), list(history))


def pretrain_epochs(setup: PretrainingSetup, state: PretrainingState) -> Iterator[PretrainingEpoch]:
    """Pretrain from the state as given until the last epoch.

    Args:
        setup: The options, the device and the examples.
        state: The model and its history, one epoch further before each result.

    Yields:
        One result an epoch, also appended to ``state.history``.

    Raises:
        UserError: the loss is not finite.
    """
    config = plan_schedule(setup.experiment)
    while len(state.history) < config.epochs:
        started = time.perf_counter()
        loss = _pretrain_one_epoch(setup, state, config)
        epoch = len(state.history) + 1
        if not math.isfinite(loss):
            raise UserError(
                f"pretraining: the loss became {loss} in epoch {epoch}. Lower pretrain.learning_rate (now "
                f"{config.learning_rate:g}), lengthen train.warmup_epochs or set train.precision to 32-true."
            )
        rate = state.optimizer.param_groups[0]["lr"]
        result = PretrainingEpoch(epoch, loss, rate, time.perf_counter() - started)
        state.history.append(result)
        yield result


def _pretrain_one_epoch(setup: PretrainingSetup, state: PretrainingState, config: TrainConfig) -> float:
    """Learn from the examples of one epoch; return their mean loss."""
    fabric, augment, epochs_done = setup.fabric, setup.experiment.augment, len(state.history)
    order = torch.Generator().manual_seed(derive_seed(config.seed, "order", epochs_done))
    batches = split_order(torch.randperm(len(setup.examples), generator=order), config.batch_size)
    changes, squares_of = (torch.Generator(device=fabric.device) for _ in range(2))
    changes.manual_seed(derive_seed(config.seed, "augmentation", epochs_done))
    squares_of.manual_seed(derive_seed(config.seed, "masking", epochs_done))
    total = torch.zeros((), device=fabric.device)
    state.parallel_model.train()
    with torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []):
        torch.manual_seed(derive_seed(config.seed, "dropout", epochs_done))
        for step, batch in enumerate(read_batches(setup.examples, batches)):
            fraction = compute_learning_rate_fraction(config, epochs_done * len(batches) + step, len(batches))
            set_learning_rate(state.optimizer, config.learning_rate * fraction)
            num_images, channels, height, width = batch.images.shape
            are_scans = setup.spec.kind.has_places
            # Of scans for the slices of the largest one, as in training; a batch may have fewer.
            shape = (num_images, setup.examples.images.shape[1] if are_scans else channels, height, width)
            transforms = sample_transforms(augment, shape, changes, fabric.device, setup.spec)
            images = state.classifier.prepare(batch.images, before=partial(apply_transforms, transforms=transforms))
            places = move_slices(batch.slice_position, transforms)
            if are_scans:
                images, places = sort_slices(images, places)
            squares = setup.masking.draw(num_images, squares_of, fabric.device)
            predicted = state.parallel_model(images, places, squares)
            hidden, _ = setup.masking.divide(squares, images.shape[1])
            read = (images, setup.masking, hidden, places if are_scans else None)
            loss_sum = compute_reconstruction_loss_sum(predicted, *read)
            fabric.backward(loss_sum / num_images)
            if config.max_grad_norm is not None:
                fabric.clip_gradients(
                    state.parallel_model, state.optimizer, max_norm=config.max_grad_norm, error_if_nonfinite=False
                )
            state.optimizer.step()
            state.optimizer.zero_grad(set_to_none=True)
            total += loss_sum.detach()
    return float(total) / len(setup.examples)


def write_losses(path: Path, history: Sequence[PretrainingEpoch]) -> None:
    """Write a CSV with a row an epoch, whole or not at all."""
    write_table(path, pd.DataFrame([dataclasses.asdict(result) for result in history], columns=list(COLUMNS)), COLUMNS)


def read_losses(path: Path, num_epochs: int) -> list[PretrainingEpoch]:
    """Read the first epochs of a file that :func:`write_losses` wrote, to the last bit."""
    table = pd.read_csv(path, dtype=str).astype(float).astype({"epoch": int}).head(num_epochs)
    return [PretrainingEpoch(**row) for row in table.to_dict("records")]
