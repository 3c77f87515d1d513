"""The training loop: no paths, no records, one device or many.

All randomness derives from ``train.seed``, a purpose and the epoch, so that a run resumed at an epoch's
end draws the same as an uninterrupted one, without any generator's state being kept. Order and changes are
drawn for the whole batch, whatever the number of devices; dropout and mixing by each device for its shard.
"""

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import nn

from pipeline.config.experiment import Experiment
from pipeline.config.training import TrainConfig
from pipeline.core.data_kinds import SCANS, InputSpec
from pipeline.core.errors import UserError
from pipeline.data.batches import Batch, Examples, read_batches, split_order
from pipeline.models.classifier import Classifier, compute_log_probabilities
from pipeline.models.volumes import draw_slices
from pipeline.training.augmentation.images import apply_transforms, flip_labels, move_slices, sample_transforms
from pipeline.training.augmentation.mixing import draw_mixture, erase_boxes, mix_images, mix_labels, mix_weights
from pipeline.training.augmentation.points import apply_point_transforms, sample_point_transforms, shift_points
from pipeline.training.fine_tuning import Start, set_training_mode
from pipeline.training.history import EpochResult, should_stop
from pipeline.training.losses import compute_answer_loss_sum, compute_loss_sum, count_correct
from pipeline.training.objectives.distillation import compute_distillation_loss_sum, compute_guidance_loss_sum
from pipeline.training.objectives.heads import GUIDANCE, RECONSTRUCTION, HeadedModel
from pipeline.training.objectives.masking import Masking, compute_reconstruction_loss_sum
from pipeline.training.objectives.teacher import Lesson, Teacher
from pipeline.training.optimization.optimizers import compute_learning_rate_fraction, set_learning_rate
from pipeline.training.optimization.weight_average import WeightAverage

# The inputs of the network, the places of slices, the targets and the weights of a shard.
Prepared = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]
# Reading a loss makes a GPU wait, so it is done every so many steps.
STEPS_BETWEEN_CHECKS = 50
SECONDS_BETWEEN_REPORTS = 0.25


@dataclass(frozen=True)
class StepResult:
    """The progress of an epoch: means over its examples so far, on this device."""

    epoch: int
    step: int
    num_steps: int
    loss: float
    accuracy: float
    images_per_second: float


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
        step_size = self.experiment.train.batch_size * self.experiment.train.accumulate_batches
        return -(-len(self.train_examples) // step_size)

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


class DivergenceError(UserError):
    """A loss that is not a finite number.

    Args:
        message: The place, and what to do.
        rows: The rows of the store that the step read, over all devices; None where it was no step of training.
    """

    def __init__(self, message: str, rows: np.ndarray[Any, Any] | None = None) -> None:
        super().__init__(message)
        self.rows = rows


def train_epochs(
    setup: TrainingSetup, state: TrainingState, on_step: Callable[[StepResult], None] | None = None
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
            raise DivergenceError(_describe_divergence(f"epoch {epoch}, validation", val_loss, config, epoch))
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
    setup: TrainingSetup, state: TrainingState, on_step: Callable[[StepResult], None] | None
) -> tuple[float, float]:
    """Train on the examples of one epoch; return their mean loss and accuracy over all devices."""
    fabric, config, examples = setup.fabric, setup.experiment.train, setup.train_examples
    epochs_done = len(state.history)
    batches = _order_examples(setup, epochs_done)
    num_steps = setup.steps_per_epoch
    prepare = _build_preparation(setup, state.classifier, epochs_done)
    choose_inputs = _build_input_choice(setup, state.classifier, epochs_done)
    draw_squares = _build_drawing(setup, epochs_done)
    monitor = LossMonitor(fabric, epochs_done + 1, len(batches))
    shard = slice(fabric.global_rank, None, fabric.world_size)
    set_training_mode(state.parallel_model, state.classifier.model, config.freeze)
    with torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []):
        torch.manual_seed(derive_seed(config.seed, "dropout", epochs_done, fabric.global_rank))
        shards = read_batches(examples, [batch.indices[shard] for batch in batches])
        for planned, batch in zip(batches, shards, strict=True):
            steps_done = epochs_done * num_steps + planned.step
            fraction = compute_learning_rate_fraction(config, steps_done, num_steps)
            set_learning_rate(state.optimizer, config.learning_rate * fraction)
            inputs, places, targets, weights = prepare(batch, len(planned.indices))
            squares = draw_squares(len(planned.indices))
            with _exchange_gradients(fabric, state.parallel_model, planned):
                outputs = state.parallel_model(inputs, places, *choose_inputs(inputs, places, planned), **squares)
                logits, decoded = (outputs, {}) if state.headed is None else outputs
                logits = logits.float()
                loss_sum = compute_loss_sum(logits, targets, config, setup.class_weights, weights)
                if setup.teacher is not None:
                    with fabric.autocast():
                        lesson = setup.teacher.answer(inputs, places, state.classifier)
                    loss_sum = _add_lesson(loss_sum, logits, decoded, lesson, config)
                if setup.masking is not None:
                    hidden = squares["squares"][:, : setup.masking.num_hidden]
                    error = compute_reconstruction_loss_sum(decoded[RECONSTRUCTION], inputs, setup.masking, hidden)
                    loss_sum = loss_sum + config.auxiliary_weight * error
                # Devices average their gradients, but their shards can differ by one example.
                fabric.backward(loss_sum * (fabric.world_size / planned.step_size))
            if planned.ends_step:
                _update_weights(fabric, state, config)
                if state.average is not None:
                    state.average.update(steps_done)
            monitor.add(loss_sum.detach(), count_correct(logits.detach(), targets, config.loss), len(targets))
            if monitor.is_check_due:
                wrong = monitor.find_not_finite()
                if wrong is not None:
                    where = f"epoch {epochs_done + 1}, step {batches[wrong[0]].step + 1}"
                    message = _describe_divergence(where, wrong[1], config, epochs_done + 1)
                    raise DivergenceError(message, examples.rows[batches[wrong[0]].indices.numpy()])
            if on_step is not None:
                monitor.report(on_step)
    return monitor.average()


def _build_drawing(setup: TrainingSetup, epochs_done: int) -> Callable[[int], dict[str, torch.Tensor]]:
    """Build the function from the size of a batch to the squares of this device's shard, empty where none is hidden."""
    fabric, masking = setup.fabric, setup.masking
    generator = torch.Generator(device=fabric.device)
    generator.manual_seed(derive_seed(setup.experiment.train.seed, "masking", epochs_done))

    def draw(batch_size: int) -> dict[str, torch.Tensor]:
        if masking is None:
            return {}
        squares = masking.draw(batch_size, generator, fabric.device)
        return {"squares": squares[fabric.global_rank :: fabric.world_size]}

    return draw


def _add_lesson(
    loss_sum: torch.Tensor, logits: torch.Tensor, decoded: dict[str, torch.Tensor], lesson: Lesson, config: TrainConfig
) -> torch.Tensor:
    """Add the losses that compare with the teacher to that of the labels."""
    if config.distillation_weight > 0:
        answers = compute_log_probabilities(logits, config.loss)
        distance = compute_distillation_loss_sum(answers, lesson.log_probabilities, config.distillation_temperature)
        loss_sum = (1 - config.distillation_weight) * loss_sum + config.distillation_weight * distance
    if lesson.features is not None:
        loss_sum = loss_sum + config.guidance_weight * compute_guidance_loss_sum(decoded[GUIDANCE], lesson.features)
    return loss_sum


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


def _build_preparation(
    setup: TrainingSetup, classifier: Classifier, epochs_done: int
) -> Callable[[Batch, int], Prepared]:
    """Build the function from a shard, and the size of its whole batch, to what the network and the loss read.

    Transforms are drawn for the whole batch, of which each device takes its shard; mixtures for the shard alone.
    """
    fabric, augment, seed = setup.fabric, setup.experiment.augment, setup.experiment.train.seed
    shard = slice(fabric.global_rank, None, fabric.world_size)
    generator = torch.Generator(device=fabric.device)
    generator.manual_seed(derive_seed(seed, "augmentation", epochs_done))
    mixing_generator = np.random.default_rng(derive_seed(seed, "mixing", epochs_done, fabric.global_rank))

    def prepare_points(batch: Batch, batch_size: int) -> Prepared:
        shape = (batch_size, *batch.images.shape[1:])
        num_points = classifier.num_points or shape[1]
        transforms = sample_point_transforms(augment.points, shape, num_points, generator, fabric.device).shard(shard)
        points = classifier.prepare(
            batch.images,
            before=partial(apply_point_transforms, transforms=transforms),
            after=partial(shift_points, transforms=transforms),
        )
        return points, batch.slice_position, batch.labels, batch.weights

    def prepare_images(batch: Batch, batch_size: int) -> Prepared:
        _, channels, height, width = batch.images.shape
        if classifier.spec.kind is SCANS:
            channels = classifier.spec.num_slices  # in a batch may be fewer, and in each device's shard of it
        shape = (batch_size, channels, height, width)
        transforms = sample_transforms(augment, shape, generator, fabric.device, classifier.spec).shard(shard)
        places = move_slices(batch.slice_position, transforms)
        images = classifier.prepare(
            batch.images,
            before=partial(apply_transforms, transforms=transforms),
            after=partial(erase_boxes, boxes=transforms.erased),
        )
        labels = flip_labels(batch.labels, transforms, augment)
        mixture = draw_mixture(augment, len(labels), (height, width), mixing_generator, fabric.device)
        num_classes = len(classifier.spec.class_names)
        weights = mix_weights(batch.weights, mixture)
        return mix_images(images, mixture), places, mix_labels(labels, mixture, num_classes), weights

    return prepare_images if classifier.spec.kind.is_image else prepare_points


def _build_input_choice(
    setup: TrainingSetup, classifier: Classifier, epochs_done: int
) -> Callable[[torch.Tensor, torch.Tensor, PlannedBatch], tuple[torch.Tensor, ...]]:
    """Build the function from a shard's inputs to the inputs that the Perceiver reads of them; nothing for all.

    They are drawn for the whole batch, of which each device takes its shard.
    """
    fabric, config = setup.fabric, setup.experiment.train
    if config.input_fraction == 1:
        return lambda *_: ()
    generator = torch.Generator(device=fabric.device)
    generator.manual_seed(derive_seed(config.seed, "inputs", epochs_done))
    shard = slice(fabric.global_rank, None, fabric.world_size)

    def choose(inputs: torch.Tensor, places: torch.Tensor, planned: PlannedBatch) -> tuple[torch.Tensor, ...]:
        if classifier.spec.kind is SCANS:
            return (draw_slices(places, config.input_fraction, generator),)
        num_inputs = classifier.model.count_inputs(inputs)
        chosen = draw_inputs(len(planned.indices), num_inputs, config.input_fraction, generator)
        return (chosen[shard],)

    return choose


def draw_inputs(batch_size: int, num_inputs: int, fraction: float, generator: torch.Generator) -> torch.Tensor:
    """Draw a subset of the inputs for each example, of the same size, each subset as likely as any.

    Args:
        batch_size: The number of examples.
        num_inputs: The number of inputs of an example.
        fraction: The fraction that is drawn, rounded, and at least one input.
        generator: The random number generator, on the device that computes.

    Returns:
        (batch, chosen) int64 places in growing order.
    """
    num_chosen = max(1, round(fraction * num_inputs))
    scores = torch.rand(batch_size, num_inputs, generator=generator, device=generator.device)
    return scores.topk(num_chosen, dim=1, sorted=False).indices.sort(dim=1).values


def _update_weights(fabric: Fabric, state: TrainingState, config: TrainConfig) -> None:
    """Do one step of the optimizer with the gradients of this batch."""
    if config.max_grad_norm is not None:
        fabric.clip_gradients(
            state.parallel_model, state.optimizer, max_norm=config.max_grad_norm, error_if_nonfinite=False
        )
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)


class LossMonitor:
    """The losses of an epoch so far, on this device.

    Args:
        fabric: The devices.
        epoch: The number of the epoch, from 1.
        num_steps: The steps of the epoch.
    """

    def __init__(self, fabric: Fabric, epoch: int, num_steps: int) -> None:
        self.fabric, self.epoch, self.num_steps = fabric, epoch, num_steps
        self.losses = torch.zeros(num_steps, device=fabric.device)
        self.num_steps_done = self.num_steps_checked = 0
        self.checked_loss = torch.zeros((), device=fabric.device)
        self.num_correct = torch.zeros((), device=fabric.device)
        self.num_seen = 0
        self.started = self.last_report = time.perf_counter()

    def add(self, loss_sum: torch.Tensor, num_correct: torch.Tensor, num_examples: int) -> None:
        """Add a step.

        Args:
            loss_sum: The loss added up over the examples.
            num_correct: The number of examples that were right.
            num_examples: The number of examples.
        """
        self.losses[self.num_steps_done] = loss_sum
        self.num_steps_done += 1
        self.num_correct += num_correct
        self.num_seen += num_examples

    @property
    def is_check_due(self) -> bool:
        """True when enough steps were done since losses were read, or all of them."""
        return self.num_steps_done % STEPS_BETWEEN_CHECKS == 0 or self.num_steps_done == self.num_steps

    def find_not_finite(self) -> tuple[int, float] | None:
        """Return the first step in which a loss of any device is not finite, and their sum; the same on all.

        Only the steps since the last call are looked at, so that an epoch of n steps costs n and not its square.
        """
        first = self.num_steps_checked
        unchecked = self.losses[first : self.num_steps_done]
        self.checked_loss += unchecked.sum()
        self.num_steps_checked = self.num_steps_done
        summed = self.fabric.all_reduce(unchecked.clone(), reduce_op="sum")
        wrong = torch.nonzero(~torch.isfinite(summed)).flatten()
        return (first + int(wrong[0]), float(summed[wrong[0]])) if len(wrong) > 0 else None

    def report(self, on_step: Callable[[StepResult], None]) -> None:
        """Report the means so far, a few times a second."""
        now = time.perf_counter()
        if now - self.last_report < SECONDS_BETWEEN_REPORTS:
            return
        self.last_report = now
        unchecked = self.losses[self.num_steps_checked : self.num_steps_done]
        on_step(
            StepResult(
                epoch=self.epoch,
                step=self.num_steps_done,
                num_steps=self.num_steps,
                loss=float(self.checked_loss + unchecked.sum()) / self.num_seen,
                accuracy=float(self.num_correct) / self.num_seen,
                images_per_second=self.num_seen * self.fabric.world_size / (now - self.started),
            )
        )

    def average(self) -> tuple[float, float]:
        """Return the mean loss and the accuracy over all devices."""
        return _average(self.fabric, self.losses.sum(), self.num_correct, self.num_seen)


@torch.no_grad()
def _validate(setup: TrainingSetup, state: TrainingState) -> tuple[float, float]:
    """Return the mean loss and the accuracy over all devices' shards of the validation examples."""
    fabric, config, examples = setup.fabric, setup.experiment.train, setup.val_examples
    own = torch.arange(fabric.global_rank, len(examples), fabric.world_size)
    # The first process has the most. A sharded model computes in all processes or in none: a process without
    # examples left computes any example, and does not count it.
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
    """Add up over the devices and divide by the number of examples.

    Float64 holds every count; Apple's GPUs have none, so one device's numbers are divided in Python.
    """
    sums = [float(loss_sum), float(correct), float(number)]
    if fabric.world_size > 1:
        exact = torch.tensor(sums, dtype=torch.float64, device=fabric.device)
        sums = fabric.all_reduce(exact, reduce_op="sum").tolist()
    return sums[0] / sums[2], sums[1] / sums[2]


def _describe_divergence(where: str, loss: float, config: TrainConfig, epoch: int) -> str:
    kept = f"The checkpoint of epoch {epoch - 1} is kept." if epoch > 1 else "There is no earlier checkpoint."
    return (
        f"training: the loss became {loss} at {where}. {kept} Lower train.learning_rate "
        f"(now {config.learning_rate:g}), lengthen train.warmup_epochs or set train.precision to 32-true."
    )


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
