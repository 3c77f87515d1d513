"""What a batch reads, and the loss of mixed, weighted and balanced examples."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.config.model import ModelConfig
from pipeline.models.networks import build_model
from pipeline.training.augmentation.mixing import draw_mixture, mix_images
from pipeline.training.devices.fabric import build_fabric
from pipeline.training.loop.batch_loss import draw_inputs
from pipeline.training.loop.epochs import train_epochs
from pipeline.training.loop.state import TrainingState, derive_seed
from pipeline.training.objectives.teacher import Teacher
from pipeline.training.optimization.optimizers import build_optimizer
from tests.builders.bright_halves import (
    CONFIG,
    CPU,
    STILL,
    collect_inputs,
    make_examples,
    make_images,
    place,
    start_training,
)
from tests.builders.models import build_setup, build_spec, wrap_network
from tests.builders.training_runs import TINY


def test_an_erased_box_reaches_the_model_as_the_mean():
    """Both epochs, every image: 12 to 24 of 48 pixels are exactly 0, and none is without erasing."""
    erasing = dataclasses.replace(STILL, random_erasing_probability=1.0, random_erasing_area=(0.4, 0.4))
    for inputs in collect_inputs(erasing, make_examples()[0]):
        num_zeros = (inputs == 0).sum(dim=1)
        assert num_zeros.min() >= 12
        assert num_zeros.max() <= 24
    assert (collect_inputs(STILL, make_examples()[0])[0] != 0).all()


@pytest.mark.parametrize("options", [{"mixup_alpha": 1.0}, {"cutmix_alpha": 1.0}])
def test_the_loss_of_mixed_images_is_the_mixed_loss(options):
    """One batch, whose mixture is drawn here again: the model sees it, and each label counts by its fraction."""
    augment = dataclasses.replace(STILL, **options)
    images, labels = make_images(8)
    all_rows = place(np.arange(8), images, labels)
    config = dataclasses.replace(CONFIG, epochs=1, label_smoothing=0.0)
    fabric, state = start_training(config, all_rows)
    seen = []
    state.parallel_model.register_forward_hook(lambda module, arguments, logits: seen.append((arguments[0], logits)))
    result = next(train_epochs(build_setup(fabric, all_rows, all_rows, config, augment), state))
    mixed, logits = seen[0]

    order = torch.randperm(8, generator=torch.Generator().manual_seed(derive_seed(config.seed, "order")))
    mixture = draw_mixture(augment, 8, (6, 8), np.random.default_rng(derive_seed(config.seed, "mixing")))
    plain = state.classifier.normalise(torch.from_numpy(images)[order][:, None].float() / 255)
    torch.testing.assert_close(mixed, mix_images(plain, mixture))
    assert (mixed - plain).abs().max() > 0.1
    log_probabilities = logits.log_softmax(dim=1)
    own, rows = torch.from_numpy(labels)[order], torch.arange(8)
    losses = mixture.own_fraction * log_probabilities[rows, own]
    losses += (1 - mixture.own_fraction) * log_probabilities[rows, own[mixture.partners]]
    assert result.train_loss == pytest.approx(-losses.mean().item(), rel=1e-5)
    larger = torch.where(mixture.own_fraction > 0.5, own, own[mixture.partners])
    assert result.train_accuracy == (logits.argmax(dim=1) == larger).float().mean()


@pytest.mark.parametrize("room_bytes", [None, 0])
@pytest.mark.parametrize("options", [{}, {"mixup_alpha": 1.0}])
def test_weights_multiply_the_losses_of_their_examples(options, room_bytes):
    """One batch: the mean of weight times loss; a mixed example has the mixed weight."""
    augment = dataclasses.replace(STILL, **options)
    images, labels = make_images(8)
    weights = torch.tensor([0.0, 0.5, 1, 2, 3, 0.25, 1, 5])
    all_rows = dataclasses.replace(place(np.arange(8), images, labels, room_bytes), weights=weights)
    config = dataclasses.replace(CONFIG, epochs=1)
    fabric, state = start_training(config, all_rows)
    seen = []
    state.parallel_model.register_forward_hook(lambda module, arguments, logits: seen.append(logits))
    result = next(train_epochs(build_setup(fabric, all_rows, all_rows, config, augment), state))
    order = torch.randperm(8, generator=torch.Generator().manual_seed(derive_seed(config.seed, "order")))
    mixture = draw_mixture(augment, 8, (6, 8), np.random.default_rng(derive_seed(config.seed, "mixing")))
    fraction = torch.ones(8) if mixture is None else mixture.own_fraction
    partners = order if mixture is None else order[mixture.partners]
    losses = -seen[0].log_softmax(dim=1)
    own, other = (losses[torch.arange(8), torch.from_numpy(labels)[rows]] for rows in (order, partners))
    mixed = (fraction * weights[order] + (1 - fraction) * weights[partners]) * (fraction * own + (1 - fraction) * other)
    assert result.train_loss == pytest.approx(mixed.mean().item(), rel=1e-5)
    # Validation counts every example once.
    scores = state.classifier(torch.from_numpy(images)[:, None], torch.zeros(8))
    assert result.val_loss == pytest.approx(-scores[torch.arange(8), torch.from_numpy(labels)].mean().item(), rel=1e-5)


def test_weights_multiply_what_a_teacher_adds():
    """One batch: half of the loss of an example is minus the logarithm, and half the divergence from the teacher."""
    images, labels = make_images(8)
    weights = torch.tensor([0.0, 0.5, 1, 2, 3, 0.25, 1, 5])
    all_rows = dataclasses.replace(place(np.arange(8), images, labels), weights=weights)
    config = dataclasses.replace(CONFIG, epochs=1, label_smoothing=0.0, distillation_temperature=1.0)
    fabric, state = start_training(config, all_rows)
    teacher = copy.deepcopy(state.classifier).eval()
    for parameter in teacher.parameters():
        parameter.data *= -3.0
    setup = dataclasses.replace(build_setup(fabric, all_rows, all_rows, config, STILL), teacher=Teacher(teacher))
    inputs = (torch.from_numpy(images)[:, None], torch.zeros(8))
    with torch.no_grad():
        own, wanted = state.classifier(*inputs), teacher(*inputs)
    losses = -own[torch.arange(8), torch.from_numpy(labels)]
    divergences = (wanted.exp() * (wanted - own)).sum(dim=1)
    assert divergences.mean() > 0.01
    result = next(train_epochs(setup, state))
    assert result.train_loss == pytest.approx((weights * (losses + divergences) / 2).mean().item(), rel=1e-4)


def test_an_epoch_trains_on_what_was_drawn_and_weighs_the_classes():
    """One batch: its loss is the weighted mean of the examples that the weights chose."""
    images, labels = make_images(8)
    all_rows = place(np.arange(8), images, labels)
    config = dataclasses.replace(CONFIG, epochs=1)
    fabric, state = start_training(config, all_rows)
    sampling_weights = torch.tensor([8.0, 4, 4, 1e-9, 1e-9, 1e-9, 1e-9, 1e-9])
    class_weights = torch.tensor([0.25, 3.0])
    setup = dataclasses.replace(
        build_setup(fabric, all_rows, all_rows, config, STILL),
        class_weights=class_weights,
        sampling_weights=sampling_weights,
    )
    chosen = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    with torch.no_grad():
        prepared = state.classifier.prepare(torch.from_numpy(images)[chosen][:, None])
        logits = state.parallel_model(prepared, torch.zeros(8))
    targets = torch.from_numpy(labels)[chosen]
    losses = nn.functional.cross_entropy(logits, targets, reduction="none") * class_weights[targets]
    result = next(train_epochs(setup, state))
    assert result.train_loss == pytest.approx(losses.mean().item(), rel=1e-5)


def test_each_example_reads_a_subset_of_its_own_and_each_input_as_often():
    generator = torch.Generator().manual_seed(0)
    chosen = draw_inputs(2000, 10, 0.3, generator, CPU)
    assert chosen.shape == (2000, 3)
    assert (chosen[:, 1:] > chosen[:, :-1]).all(), "each input once"
    counts = torch.bincount(chosen.flatten(), minlength=10)
    assert (counts - 600).abs().max() < 5 * math.sqrt(2000 * 0.3 * 0.7)
    assert len({tuple(row) for row in chosen.tolist()}) == 120  # of 10 choose 3
    assert draw_inputs(1, 10, 0.01, generator, CPU).shape == (1, 1)


def test_a_training_reads_subsets_of_inputs_and_validation_reads_all():
    train_examples, val_examples = make_examples()
    config = dataclasses.replace(CONFIG, epochs=1, input_fraction=0.25)
    fabric = build_fabric(config)
    model = build_model(ModelConfig(stem="pixels", perceiver=TINY), build_spec(image_size=(6, 8)), seed=0)
    optimizer = build_optimizer(model, config)
    parallel_model, parallel_optimizer = fabric.setup(model, optimizer)
    state = TrainingState(wrap_network(model), parallel_model, parallel_optimizer, [])
    seen = []
    prepare = model.network.perceiver.prepare_inputs

    def look(*arguments):
        inputs, mask = prepare(*arguments)
        seen.append((model.training, tuple(inputs.shape[:2])))
        return inputs, mask

    model.network.perceiver.prepare_inputs = look
    list(train_epochs(build_setup(fabric, train_examples, val_examples, config, STILL), state))
    assert {shape[1] for training, shape in seen if training} == {12}
    assert {shape[1] for training, shape in seen if not training} == {48}
