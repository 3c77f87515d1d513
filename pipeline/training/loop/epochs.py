"""Training epoch by epoch: order, steps of the optimizer, validation.

All randomness derives from ``train.seed``, a purpose and the epoch, so that a run resumed at an epoch's
end draws the same as an uninterrupted one, without any generator's state being kept. Order and changes are
drawn for the whole batch, whatever the number of devices; dropout and mixing by each device for its shard.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import nn

from pipeline.config.training import TrainConfig
from pipeline.core.errors import UserError
from pipeline.data.batches import read_batches, split_order
from pipeline.training.devices.compilation import fill_batch, has_static_batches
from pipeline.training.fine_tuning import set_training_mode
from pipeline.training.history import EpochResult, should_stop
from pipeline.training.loop.batch_loss import compute_batch_loss, start_draws
from pipeline.training.loop.monitor import LossMonitor, StepResult, average_over_devices
from pipeline.training.loop.state import TrainingSetup, TrainingState, derive_seed
from pipeline.training.losses import compute_answer_loss_sum, count_correct
from pipeline.training.optimization.optimizers import compute_learning_rate_fraction, set_learning_rate


class DivergenceError(UserError):
    """A loss that is not a finite number. As text: what was found, and what to do.

    Args:
        found: The loss and its place.
        advice: What to do.
        epoch: The number of the epoch in which it was found, from 1.
        rows: The rows of the store that the step read, over all devices; None where it was no step of training.
    """

    def __init__(self, found: str, advice: str, epoch: int, rows: np.ndarray[Any, Any] | None = None) -> None:
        super().__init__(f"training: {found} {advice}")
        self.found, self.advice, self.epoch, self.rows = found, advice, epoch, rows


def train_epochs(
    setup: TrainingSetup,
    state: TrainingState,
    on_step: Callable[[StepResult], None] | None = None,
) -> Iterator[EpochResult]:
    """Train from the state as given until the last epoch or early stopping.

    Args:
        setup: The options, the devices and the examples.
        state: The model and its history, one epoch further before each result.
        on_step: Called with the progress inside an epoch a few times a second.

    Yields:
        One result an epoch, also appended to ``state.history``.

    Raises:
        DivergenceError: the loss is not finite.
        UserError: a batch has fewer examples than there are devices.
    """
    config = setup.experiment.train
    while not should_stop(state.history, config):
        started = time.perf_counter()
        train_loss, train_accuracy = _train_one_epoch(setup, state, on_step)
        training_seconds = time.perf_counter() - started
        with state.answering():
            val_loss, val_accuracy = _validate(setup, state)
        epoch = len(state.history) + 1
        if not math.isfinite(val_loss):
            raise _build_error("validation", val_loss, config, epoch)
        result = EpochResult(
            epoch=epoch,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            learning_rate=state.optimizer.param_groups[0]["lr"],
            images_per_second=len(setup.train_examples) / training_seconds,
            seconds=time.perf_counter() - started,
        )
        state.history.append(result)
        yield result


def _train_one_epoch(
    setup: TrainingSetup,
    state: TrainingState,
    on_step: Callable[[StepResult], None] | None,
) -> tuple[float, float]:
    """Train on the examples of one epoch; return their mean loss and accuracy over all devices."""
    fabric, config, examples = setup.fabric, setup.experiment.train, setup.train_examples
    epochs_done = len(state.history)
    batches = _order_examples(setup, epochs_done)
    num_steps = setup.steps_per_epoch
    monitor = LossMonitor(fabric, epochs_done + 1, len(batches))
    shard = slice(fabric.global_rank, None, fabric.world_size)
    set_training_mode(state.parallel_model, state.classifier.model, config.freeze)
    with torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []):
        torch.manual_seed(derive_seed(config.seed, "dropout", epochs_done, fabric.global_rank))
        shards = [batch.indices[shard] for batch in batches]
        draws = start_draws(setup, epochs_done, [len(indices) for indices in shards])
        for planned, batch in zip(batches, read_batches(examples, shards), strict=True):
            steps_done = epochs_done * num_steps + planned.step
            fraction = compute_learning_rate_fraction(config, steps_done, num_steps)
            set_learning_rate(state.optimizer, config.learning_rate * fraction)
            with _exchange_gradients(fabric, state.parallel_model, planned):
                loss_sum, outputs, targets = compute_batch_loss(setup, state, draws, batch, len(planned.indices))
                # Devices average their gradients, but their shards can differ by one example.
                fabric.backward(loss_sum * (fabric.world_size / planned.step_size))
            if planned.ends_step:
                update_weights(fabric, state, config)
                if state.average is not None:
                    state.average.update(steps_done)
            monitor.add(loss_sum.detach(), count_correct(outputs.detach(), targets, config.loss), len(targets))
            if monitor.is_check_due:
                wrong = monitor.find_not_finite()
                if wrong is not None:
                    rows = examples.rows[batches[wrong[0]].indices.numpy()]
                    raise _build_error(f"step {batches[wrong[0]].step + 1}", wrong[1], config, epochs_done + 1, rows)
            if on_step is not None:
                monitor.report(on_step)
    return monitor.average()


@dataclass(frozen=True)
class PlannedBatch:
    """A batch of an epoch, over all devices.

    Args:
        indices: The places of its examples within the split, (batch,) int64.
        step: The number of its step of the optimizer, from 0; several batches make a step with
            ``train.accumulate_batches``.
        step_size: The number of examples of the whole step.
        ends_step: True for the last batch of its step.
    """

    indices: torch.Tensor
    step: int
    step_size: int
    ends_step: bool


def plan_batches(order: torch.Tensor, batch_size: int, num_accumulated: int) -> list[PlannedBatch]:
    """Split an epoch's order into steps of about equal size, and each step into batches of about equal size.

    Ten examples with batches of 2 and 3 batches a step make two steps of 5 examples, each of batches of 2, 2 and 1.
    The steps are those of batches of ``batch_size * num_accumulated``, so that a step whose gradients are added up is
    that of one large batch.

    Args:
        order: The places of the examples, (examples,).
        batch_size: The largest number of examples of a batch.
        num_accumulated: The largest number of batches of a step.
    """
    planned = []
    for step, members in enumerate(split_order(order, batch_size * num_accumulated)):
        parts = split_order(members, batch_size)
        planned += [PlannedBatch(part, step, len(members), part is parts[-1]) for part in parts]
    return planned


def _exchange_gradients(
    fabric: Fabric, model: nn.Module, planned: PlannedBatch
) -> contextlib.AbstractContextManager[None]:
    """Let devices exchange their gradients in the last batch of a step alone."""
    if fabric.world_size == 1 or planned.ends_step:
        return contextlib.nullcontext()
    without_exchange: contextlib.AbstractContextManager[None] = fabric.no_backward_sync(model)
    return without_exchange


def _order_examples(setup: TrainingSetup, epochs_done: int) -> list[PlannedBatch]:
    """Draw the order of an epoch and split it into steps and batches over all devices."""
    config, world_size = setup.experiment.train, setup.fabric.world_size
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "order", epochs_done))
    order = draw_order(len(setup.train_examples), setup.sampling_weights, generator)
    if has_static_batches(config):
        order = order[: setup.steps_per_epoch * config.batch_size]
    batches = plan_batches(order, config.batch_size, config.accumulate_batches)
    smallest = min(len(batch.indices) for batch in batches)
    if smallest < world_size:
        raise UserError(
            f"train.batch_size: batches of {smallest} examples are too small for {world_size} "
            "devices. Use larger batches or fewer devices."
        )
    return batches


def draw_order(num_examples: int, weights: torch.Tensor | None, generator: torch.Generator) -> torch.Tensor:
    """Draw the order of an epoch, which has as many examples as there are.

    With weights an example comes as often as they say, rounded up or down: the examples are laid in random order on a
    line, each as long as its weight, and a comb of equal distances picks those that its teeth meet. Of four examples
    with the weights 3, 1, 1, 1 the first comes twice, and two of the others once.

    Args:
        num_examples: The number of examples.
        weights: How likely each example is drawn, (examples,); None for each of them once.
        generator: The random number generator of all draws, on the processor.

    Returns:
        (examples,) int64 places within the split.
    """
    order = torch.randperm(num_examples, generator=generator)
    if weights is None:
        return order
    ends = weights.double()[order].cumsum(0)
    offset = torch.rand(1, dtype=torch.float64, generator=generator)
    teeth = (torch.arange(num_examples, dtype=torch.float64) + offset) * (ends[-1] / num_examples)
    chosen = order[torch.searchsorted(ends, teeth, right=True).clamp(max=num_examples - 1)]
    return chosen[torch.randperm(num_examples, generator=generator)]


def update_weights(fabric: Fabric, state: TrainingState, config: TrainConfig) -> None:
    """Do one step of the optimizer with the gradients of its batches, and remove them."""
    if config.max_grad_norm is not None:
        fabric.clip_gradients(
            state.parallel_model, state.optimizer, max_norm=config.max_grad_norm, error_if_nonfinite=False
        )
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def _validate(setup: TrainingSetup, state: TrainingState) -> tuple[float, float]:
    """Return the mean loss and the accuracy over all devices' shards of the validation examples."""
    fabric, config, examples = setup.fabric, setup.experiment.train, setup.val_examples
    own = torch.arange(fabric.global_rank, len(examples), fabric.world_size)
    # The first process has the most. A sharded model computes in all processes or in none: a process without
    # examples left computes any example, and does not count it.
    num_most = math.ceil(len(examples) / fabric.world_size)
    counted = [own[start : start + config.batch_size] for start in range(0, num_most, config.batch_size)]
    parts = [fill_batch(part, config.batch_size if has_static_batches(config) else 1) for part in counted]
    loss_sum, correct = torch.zeros((), device=fabric.device), torch.zeros((), device=fabric.device)
    state.classifier.eval()
    for part, batch in zip(counted, read_batches(examples, parts), strict=True):
        with fabric.autocast():
            scores = state.classifier(batch.images, batch.slice_position)
        if len(part) == 0:
            continue
        answers, labels = scores[: len(part)], batch.labels[: len(part)]
        loss_sum += compute_answer_loss_sum(answers, labels, config.loss)
        correct += count_correct(answers, labels)
    return average_over_devices(fabric, loss_sum, correct, len(own))


def _build_error(
    where: str, loss: float, config: TrainConfig, epoch: int, rows: np.ndarray[Any, Any] | None = None
) -> DivergenceError:
    """Build the error of a loss that is not finite."""
    advice = (
        f"Lower train.learning_rate (now {config.learning_rate:g}), lengthen train.warmup_epochs or set "
        "train.precision to 32-true."
    )
    return DivergenceError(f"the loss became {loss} at epoch {epoch}, {where}.", advice, epoch, rows)
