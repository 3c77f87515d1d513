"""The training loop: no paths, no records, one device or many.

All randomness derives from ``train.seed``, a purpose and the epoch, so that a run which goes on from an
epoch's end draws what an undisturbed one draws, without any generator's state being kept. Order and changes are
drawn for the whole batch, whatever the number of devices; dropout and mixing by each device for its share.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import nn

from pipeline.config.training import AugmentConfig, TrainConfig
from pipeline.core.errors import UserError
from pipeline.core.seeds import derive_seed
from pipeline.data.batches import Examples, read_batches, split_order
from pipeline.models.classifier import Classifier, to_unit_range
from pipeline.training.augmentation import change_images, change_labels, draw_changes
from pipeline.training.history import EpochResult, should_stop
from pipeline.training.losses import compute_answer_loss_sum, compute_loss_sum, count_correct
from pipeline.training.mixing import draw_mixture, erase_boxes, mix_images, mix_labels
from pipeline.training.optimizers import compute_rate, set_learning_rate
from pipeline.training.point_augmentation import change_points, draw_point_changes

# Looking at a loss makes a GPU wait, so it is done every so many steps.
STEPS_BETWEEN_CHECKS = 50
SECONDS_BETWEEN_REPORTS = 0.25


@dataclass(frozen=True)
class StepResult:
    """Where an epoch stands: means over its examples so far, on this device."""

    epoch: int
    step: int
    num_steps: int
    loss: float
    accuracy: float
    images_per_second: float


@dataclass
class TrainingState:
    """All that training changes; complete at the end of each epoch.

    Args:
        classifier: the statistics and the model, on the device.
        parallel_model: the same model as Fabric runs it, over all devices.
        optimizer: as Fabric runs it.
        history: the epochs done.
    """

    classifier: Classifier
    parallel_model: nn.Module
    optimizer: torch.optim.Optimizer
    history: list[EpochResult]


class DivergenceError(UserError):
    """A loss that is not a finite number.

    Args:
        message: where, and what to do.
        rows: of the store, the examples of the step over all devices; None where it was no step of training.
    """

    def __init__(self, message: str, rows: np.ndarray[Any, Any] | None = None) -> None:
        super().__init__(message)
        self.rows = rows


def train_epochs(
    fabric: Fabric,
    state: TrainingState,
    train_examples: Examples,
    val_examples: Examples,
    config: TrainConfig,
    augment: AugmentConfig,
    on_step: Callable[[StepResult], None] | None = None,
) -> Iterator[EpochResult]:
    """Train from where ``state`` stands until the last epoch or early stopping.

    Args:
        fabric: the devices and the precision.
        state: is brought one epoch further before each result.
        train_examples: learned from.
        val_examples: judged by.
        config: how.
        augment: changes of the training pictures.
        on_step: told about the progress inside an epoch a few times a second.

    Yields:
        One result an epoch, also appended to ``state.history``.

    Raises:
        DivergenceError: the loss is not finite.
        UserError: a batch has fewer examples than there are devices.
    """
    while not should_stop(state.history, config):
        started = time.perf_counter()
        train_loss, train_accuracy = _train_one_epoch(fabric, state, train_examples, config, augment, on_step)
        training_seconds = time.perf_counter() - started
        val_loss, val_accuracy = _validate(fabric, state, val_examples, config)
        epoch = len(state.history) + 1
        if not math.isfinite(val_loss):
            raise DivergenceError(_describe_divergence(f"epoch {epoch}, validation", val_loss, config, epoch))
        result = EpochResult(
            epoch=epoch,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            learning_rate=state.optimizer.param_groups[0]["lr"],
            images_per_second=len(train_examples) / training_seconds,
            seconds=time.perf_counter() - started,
        )
        state.history.append(result)
        yield result


def _train_one_epoch(
    fabric: Fabric,
    state: TrainingState,
    examples: Examples,
    config: TrainConfig,
    augment: AugmentConfig,
    on_step: Callable[[StepResult], None] | None,
) -> tuple[float, float]:
    """Go through the training examples once; return their mean loss and accuracy over all devices."""
    epochs_done = len(state.history)
    order_generator = torch.Generator().manual_seed(derive_seed(config.seed, "order", epochs_done))
    batches = split_order(torch.randperm(len(examples), generator=order_generator), config.batch_size)
    if len(batches[-1]) < fabric.world_size:
        raise UserError(
            f"train.batch_size: batches of {len(batches[-1])} examples cannot be shared by {fabric.world_size} "
            "devices. Use larger batches or fewer devices."
        )
    generator = torch.Generator(device=fabric.device)
    generator.manual_seed(derive_seed(config.seed, "augmentation", epochs_done))
    mixing_generator = np.random.default_rng(derive_seed(config.seed, "mixing", epochs_done, fabric.global_rank))
    share = slice(fabric.global_rank, None, fabric.world_size)
    losses: list[torch.Tensor] = []
    correct = torch.zeros((), device=fabric.device)
    num_seen = 0
    started = last_report = time.perf_counter()
    state.parallel_model.train()
    with torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []):
        torch.manual_seed(derive_seed(config.seed, "dropout", epochs_done, fabric.global_rank))
        for step, batch in enumerate(read_batches(examples, [indices[share] for indices in batches])):
            rate = compute_rate(config, epochs_done * len(batches) + step, len(batches))
            set_learning_rate(state.optimizer, config.learning_rate * rate)
            shape = (len(batches[step]), *batch.images.shape[1:])
            mixture = None
            if not state.classifier.spec.kind.is_image:
                num_points = state.classifier.num_points or shape[1]
                point_changes = draw_point_changes(augment.points, shape, num_points, generator, fabric.device)
                images, labels = change_points(batch.images, point_changes.take(share)), batch.labels
            else:
                changes = draw_changes(augment, shape, generator, fabric.device).take(share)
                images = state.classifier.normalise(change_images(to_unit_range(batch.images), changes))
                images = erase_boxes(images, changes.erased)
                labels = change_labels(batch.labels, changes, augment)
                mixture = draw_mixture(augment, len(labels), batch.images.shape[-2:], mixing_generator, fabric.device)
            logits = state.parallel_model(mix_images(images, mixture), batch.slice_position).float()
            targets = mix_labels(labels, mixture, logits.shape[-1])
            loss_sum = compute_loss_sum(logits, targets, config)
            # Devices average their gradients, but their shares can differ by one example.
            fabric.backward(loss_sum * (fabric.world_size / len(batches[step])))
            if config.clip_norm is not None:
                fabric.clip_gradients(
                    state.parallel_model, state.optimizer, max_norm=config.clip_norm, error_if_nonfinite=False
                )
            state.optimizer.step()
            state.optimizer.zero_grad(set_to_none=True)
            losses.append(loss_sum.detach())
            correct += count_correct(logits.detach(), targets)
            num_seen += len(labels)
            if len(losses) % STEPS_BETWEEN_CHECKS == 0 or step + 1 == len(batches):
                wrong = _find_not_finite(fabric, losses)
                if wrong is not None:
                    place, loss = wrong
                    where = f"epoch {epochs_done + 1}, step {place + 1}"
                    message = _describe_divergence(where, loss, config, epochs_done + 1)
                    raise DivergenceError(message, examples.rows[batches[place].numpy()])
            if on_step is not None and time.perf_counter() - last_report >= SECONDS_BETWEEN_REPORTS:
                last_report = time.perf_counter()
                on_step(
                    StepResult(
                        epoch=epochs_done + 1,
                        step=step + 1,
                        num_steps=len(batches),
                        loss=float(torch.stack(losses).sum()) / num_seen,
                        accuracy=float(correct) / num_seen,
                        images_per_second=num_seen * fabric.world_size / (last_report - started),
                    )
                )
    return _average(fabric, torch.stack(losses).sum(), correct, num_seen)


@torch.no_grad()
def _validate(fabric: Fabric, state: TrainingState, examples: Examples, config: TrainConfig) -> tuple[float, float]:
    """Return the mean loss and the accuracy over all devices' shares of the examples."""
    own = torch.arange(fabric.global_rank, len(examples), fabric.world_size)
    # The first process has the most. A divided model computes in all processes or in none: who has nothing left
    # computes any example, and does not count it.
    num_most = math.ceil(len(examples) / fabric.world_size)
    counted = [own[start : start + config.batch_size] for start in range(0, num_most, config.batch_size)]
    parts = [part if len(part) > 0 else torch.zeros(1, dtype=torch.long) for part in counted]
    loss_sum, correct = torch.zeros((), device=fabric.device), torch.zeros((), device=fabric.device)
    state.classifier.eval()
    for part, batch in zip(counted, read_batches(examples, parts), strict=True):
        with fabric.autocast():
            scores = state.classifier(batch.images, batch.slice_position)
        if len(part) == 0:
            continue
        loss_sum += compute_answer_loss_sum(scores, batch.labels, config.loss)
        correct += count_correct(scores, batch.labels)
    return _average(fabric, loss_sum, correct, len(own))


def _average(fabric: Fabric, loss_sum: torch.Tensor, correct: torch.Tensor, number: int) -> tuple[float, float]:
    """Add up over the devices and divide by the number of examples."""
    sums = torch.stack([loss_sum.double(), correct.double(), torch.full_like(loss_sum, number).double()])
    sums = fabric.all_reduce(sums, reduce_op="sum")
    return float(sums[0] / sums[2]), float(sums[1] / sums[2])


def _find_not_finite(fabric: Fabric, losses: list[torch.Tensor]) -> tuple[int, float] | None:
    """Return the first step in which a loss of any device is not finite, and what they sum to; the same on all."""
    summed = fabric.all_reduce(torch.stack(losses), reduce_op="sum")
    wrong = torch.nonzero(~torch.isfinite(summed)).flatten()
    return (int(wrong[0]), float(summed[wrong[0]])) if len(wrong) > 0 else None


def _describe_divergence(where: str, loss: float, config: TrainConfig, epoch: int) -> str:
    kept = f"The checkpoint of epoch {epoch - 1} is kept." if epoch > 1 else "There is no earlier checkpoint."
    return (
        f"training: the loss became {loss} at {where}. {kept} Lower train.learning_rate "
        f"(now {config.learning_rate:g}), lengthen train.warmup_epochs or set train.precision to 32-true."
    )
