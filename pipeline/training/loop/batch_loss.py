"""The loss of one batch: random transforms, mixtures, hidden squares, the network, labels and teacher.

Nothing here makes the processor wait for a GPU, and nothing is copied to it: random numbers are drawn on the device, or
ahead for many batches at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from perceiver.volumes import sort_slices
from pipeline.config.training import TrainConfig
from pipeline.data.batches import Batch
from pipeline.models.classifier import Classifier, compute_log_probabilities
from pipeline.models.volumes import draw_slices
from pipeline.training.augmentation.images import apply_transforms, flip_labels, move_slices, sample_transforms
from pipeline.training.augmentation.mixing import (
    Mixture,
    draw_mixtures,
    erase_boxes,
    mix_images,
    mix_labels,
    mix_weights,
)
from pipeline.training.augmentation.points import apply_point_transforms, sample_point_transforms, shift_points
from pipeline.training.loop.state import TrainingSetup, TrainingState, derive_seed
from pipeline.training.losses import compute_loss_sum
from pipeline.training.objectives.distillation import compute_distillation_loss_sum, compute_guidance_loss_sum
from pipeline.training.objectives.heads import GUIDANCE, RECONSTRUCTION
from pipeline.training.objectives.masking import compute_reconstruction_loss_sum
from pipeline.training.objectives.teacher import Lesson

# The inputs of the network, the places of slices, the targets and the weights of a shard.
Prepared = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]


@dataclass(frozen=True)
class EpochDraws:
    """The sources of an epoch's random numbers, on the device.

    Transforms, inputs and squares are drawn for the whole batch, of which each device takes its shard; mixtures for the
    shard alone.

    Args:
        augmentation: The generator of the transforms.
        inputs: The generator of the subsets of the inputs.
        masking: The generator of the hidden squares.
        mixtures: The mixture of each batch, None without any.
    """

    augmentation: torch.Generator
    inputs: torch.Generator
    masking: torch.Generator
    mixtures: Iterator[Mixture | None]


def start_draws(setup: TrainingSetup, epochs_done: int, shard_sizes: list[int]) -> EpochDraws:
    """Seed the random numbers of an epoch.

    Args:
        setup: The options, the devices and the examples.
        epochs_done: The number of epochs that are done.
        shard_sizes: The number of examples of this device's shard of each batch.
    """
    fabric, seed = setup.fabric, setup.experiment.train.seed
    augmentation, inputs, masking = (
        torch.Generator(device=fabric.device).manual_seed(derive_seed(seed, purpose, epochs_done))
        for purpose in ("augmentation", "inputs", "masking")
    )
    mixing = np.random.default_rng(derive_seed(seed, "mixing", epochs_done, fabric.global_rank))
    augment, image_size = setup.experiment.augment, setup.spec.image_size
    mixtures = draw_mixtures(augment, shard_sizes, image_size, mixing, fabric.device)
    return EpochDraws(augmentation, inputs, masking, mixtures)


class BatchLoss(NamedTuple):
    """The loss of a shard of a batch added up over its examples, and the outputs (batch, classes) and targets."""

    loss_sum: torch.Tensor
    outputs: torch.Tensor
    targets: torch.Tensor


def compute_batch_loss(
    setup: TrainingSetup, state: TrainingState, draws: EpochDraws, batch: Batch, batch_size: int
) -> BatchLoss:
    """Compute what training minimises, for this device's shard of a batch.

    Args:
        setup: The options, the devices and the examples.
        state: The model.
        draws: The random numbers of the epoch.
        batch: The shard.
        batch_size: The number of examples of the whole batch.
    """
    fabric, config = setup.fabric, setup.experiment.train
    inputs, places, targets, weights = prepare_batch(setup, state.classifier, draws, batch, batch_size)
    are_scans = state.classifier.spec.kind.has_places
    if setup.masking is not None and are_scans:
        inputs, places = sort_slices(inputs, places)  # squares are hidden in neighbouring slices together
    chosen = _choose_inputs(setup, state.classifier, draws, (inputs, places), batch_size)
    squares = _draw_squares(setup, draws, batch_size)
    outputs = state.parallel_model(inputs, places, *chosen, **squares)
    logits, decoded = (outputs, {}) if state.headed is None else outputs
    logits = logits.float()
    loss_sum = compute_loss_sum(logits, targets, config, setup.class_weights, weights)
    if setup.teacher is not None:
        with fabric.autocast():
            lesson = setup.teacher.answer(inputs, places, state.classifier)
        loss_sum = _add_lesson(loss_sum, logits, decoded, lesson, config, weights)
    if setup.masking is not None:
        hidden, _ = setup.masking.divide(squares["squares"], inputs.shape[1])
        read = (inputs, setup.masking, hidden, places if are_scans else None)
        error = compute_reconstruction_loss_sum(decoded[RECONSTRUCTION], *read, weights)
        loss_sum = loss_sum + config.auxiliary_weight * error
    return BatchLoss(loss_sum, logits, targets)


def prepare_batch(
    setup: TrainingSetup, classifier: Classifier, draws: EpochDraws, batch: Batch, batch_size: int
) -> Prepared:
    """Turn a shard into what the network and the loss read.

    Args:
        setup: The options, the devices and the examples.
        classifier: The statistics of the training images.
        draws: The random numbers of the epoch.
        batch: The shard.
        batch_size: The number of examples of the whole batch.
    """
    prepare = _prepare_images if classifier.spec.kind.is_image else _prepare_points
    return prepare(setup, classifier, draws, batch, batch_size)


def _prepare_points(
    setup: TrainingSetup, classifier: Classifier, draws: EpochDraws, batch: Batch, batch_size: int
) -> Prepared:
    shape = (batch_size, *batch.images.shape[1:])
    num_points = classifier.num_points or shape[1]
    config, device = setup.experiment.augment.points, setup.fabric.device
    transforms = sample_point_transforms(config, shape, num_points, draws.augmentation, device)
    transforms = transforms.shard(_shard(setup))
    points = classifier.prepare(
        batch.images,
        before=partial(apply_point_transforms, transforms=transforms),
        after=partial(shift_points, transforms=transforms),
    )
    return points, batch.slice_position, batch.labels, batch.weights


def _prepare_images(
    setup: TrainingSetup, classifier: Classifier, draws: EpochDraws, batch: Batch, batch_size: int
) -> Prepared:
    augment = setup.experiment.augment
    _, channels, height, width = batch.images.shape
    if classifier.spec.kind.has_places:
        channels = classifier.spec.num_slices  # in a batch may be fewer, and in each device's shard of it
    shape = (batch_size, channels, height, width)
    transforms = sample_transforms(augment, shape, draws.augmentation, setup.fabric.device, classifier.spec)
    transforms = transforms.shard(_shard(setup))
    places = move_slices(batch.slice_position, transforms)
    images = classifier.prepare(
        batch.images,
        before=partial(apply_transforms, transforms=transforms),
        after=partial(erase_boxes, boxes=transforms.erased),
    )
    labels = flip_labels(batch.labels, transforms, augment)
    mixture = next(draws.mixtures)
    num_classes = len(classifier.spec.class_names)
    weights = mix_weights(batch.weights, mixture)
    return mix_images(images, mixture), places, mix_labels(labels, mixture, num_classes), weights


def _shard(setup: TrainingSetup) -> slice:
    """Return the places of this device's shard in a batch."""
    return slice(setup.fabric.global_rank, None, setup.fabric.world_size)


def _choose_inputs(
    setup: TrainingSetup,
    classifier: Classifier,
    draws: EpochDraws,
    shard: tuple[torch.Tensor, torch.Tensor],
    batch_size: int,
) -> tuple[torch.Tensor, ...]:
    """Draw the inputs that the Perceiver reads of a shard, of whole scans the slices; nothing for all."""
    fraction, (inputs, places) = setup.experiment.train.input_fraction, shard
    if fraction == 1:
        return ()
    if classifier.spec.kind.has_places:
        # Of the whole batch, for as many slices as the largest scan has: how it is sharded changes no draw.
        shape = (batch_size, classifier.spec.num_slices)
        scores = torch.rand(shape, generator=draws.inputs, device=places.device)
        return (draw_slices(places, fraction, scores[_shard(setup)]),)
    num_inputs = classifier.model.count_inputs(inputs)
    chosen = draw_inputs(batch_size, num_inputs, fraction, draws.inputs, inputs.device)
    return (chosen[_shard(setup)],)


def draw_inputs(
    batch_size: int, num_inputs: int, fraction: float, generator: torch.Generator, device: torch.device
) -> torch.Tensor:
    """Draw a subset of the inputs for each example, of the same size, each subset as likely as any.

    Args:
        batch_size: The number of examples.
        num_inputs: The number of inputs of an example.
        fraction: The fraction that is drawn, rounded, and at least one input.
        generator: The random number generator, on ``device``.
        device: The device that computes.

    Returns:
        (batch, chosen) int64 places in growing order.
    """
    num_chosen = max(1, round(fraction * num_inputs))
    scores = torch.rand(batch_size, num_inputs, generator=generator, device=device)
    return scores.topk(num_chosen, dim=1, sorted=False).indices.sort(dim=1).values


def _draw_squares(setup: TrainingSetup, draws: EpochDraws, batch_size: int) -> dict[str, torch.Tensor]:
    """Draw the squares of this device's shard, empty where none is hidden."""
    if setup.masking is None:
        return {}
    squares = setup.masking.draw(batch_size, draws.masking, setup.fabric.device)
    return {"squares": squares[_shard(setup)]}


def _add_lesson(
    loss_sum: torch.Tensor,
    logits: torch.Tensor,
    decoded: dict[str, torch.Tensor],
    lesson: Lesson,
    config: TrainConfig,
    weights: torch.Tensor | None,
) -> torch.Tensor:
    """Add the losses that compare with the teacher to that of the labels; all count an example by its weight."""
    if config.distillation_weight > 0:
        answers = compute_log_probabilities(logits, config.loss)
        given = (lesson.log_probabilities, config.distillation_temperature, weights)
        distance = compute_distillation_loss_sum(answers, *given)
        loss_sum = (1 - config.distillation_weight) * loss_sum + config.distillation_weight * distance
    if lesson.features is not None:
        error = compute_guidance_loss_sum(decoded[GUIDANCE], lesson.features, weights)
        loss_sum = loss_sum + config.guidance_weight * error
    return loss_sum
