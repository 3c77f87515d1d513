import dataclasses
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.config.model import ModelConfig
from pipeline.config.training import AugmentConfig, TrainConfig
from pipeline.core.errors import UserError
from pipeline.data.batches import (
    place_examples,
    read_batches,
    split_order,
)
from pipeline.data.statistics import compute_statistics
from pipeline.models.networks import SliceModel, build_model
from pipeline.training.augmentation.mixing import draw_mixture, mix_images
from pipeline.training.devices.compilation import compile_model
from pipeline.training.devices.fabric import build_fabric
from pipeline.training.devices.selection import choose_accelerator, choose_precision
from pipeline.training.history import EpochResult, find_best, should_stop
from pipeline.training.loop.batch_loss import draw_inputs
from pipeline.training.loop.epochs import draw_order, plan_batches, train_epochs
from pipeline.training.loop.monitor import LossMonitor
from pipeline.training.loop.state import TrainingState, derive_seed
from pipeline.training.optimization.optimizers import build_optimizer
from pipeline.training.setup import compute_sampling_weights
from tests.builders.models import build_setup, build_spec, wrap_network
from tests.builders.training_runs import TINY

CPU = torch.device("cpu")
CONFIG = TrainConfig(
    epochs=3, batch_size=8, precision="32-true", accelerator="cpu", learning_rate=0.01, warmup_epochs=0
)
STILL = AugmentConfig(
    rotation_degrees=0, zoom_fraction=0, shift_fraction=0, gamma=0, brightness_fraction=0, noise_std=0
)


def make_images(number=40, channels=None, seed=0):
    """Images with a bright left or right half, under noise."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, number)
    shape = (number, 6, 8) if channels is None else (number, channels, 6, 8)
    images = generator.integers(0, 120, shape)
    for image, label in zip(images, labels, strict=True):
        image[..., 4 * label : 4 * label + 4] += 60
    return images.astype(np.uint8), labels


def place(rows, images, labels, room_bytes=None):
    return place_examples(images, rows, labels[rows], np.zeros(len(rows)), CPU, room_bytes)


def examples(room_bytes=None):
    images, labels = make_images()
    return place(np.arange(30), images, labels, room_bytes), place(np.arange(30, 40), images, labels, room_bytes)


def start(config=CONFIG, train_examples=None, dropout=0.0):
    fabric = build_fabric(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Dropout(dropout), nn.ReLU(), nn.Linear(8, 2))
    model = SliceModel(network, reads_slice_position=False)
    statistics = compute_statistics(train_examples if train_examples is not None else examples()[0])
    optimizer = build_optimizer(model, config)
    parallel_model, parallel_optimizer = fabric.setup(compile_model(model, config.compile), optimizer)
    return fabric, TrainingState(
        wrap_network(model, *statistics, loss=config.loss), parallel_model, parallel_optimizer, []
    )


def train(config=CONFIG, augment=STILL, dropout=0.0, room_bytes=None):
    train_examples, val_examples = examples(room_bytes)
    fabric, state = start(config, dropout=dropout)
    list(train_epochs(build_setup(fabric, train_examples, val_examples, config, augment), state))
    return state


def numbers(history):
    """Return the numbers that do not depend on the clock."""
    return [dataclasses.astuple(result)[:6] for result in history]


def test_it_learns():
    history = train(dataclasses.replace(CONFIG, epochs=8)).history
    assert history[-1].val_accuracy >= 0.9
    assert history[-1].val_loss < history[0].val_loss


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    options = {
        "augment": AugmentConfig(horizontal_flip="swap_label", mixup_alpha=0.4, random_erasing_probability=0.5),
        "dropout": 0.5,
    }
    first = train(**options)
    torch.manual_seed(99)  # what others drew before does not matter
    second = train(**options)
    assert numbers(first.history) == numbers(second.history)
    other = train(dataclasses.replace(CONFIG, seed=1), **options)
    assert numbers(first.history) != numbers(other.history)


def test_images_read_from_disk_give_the_same_weights_as_images_in_memory():
    in_memory, from_disk = train(), train(room_bytes=0)
    assert examples(0)[0].placed is None
    assert examples()[0].placed is not None
    for name, value in in_memory.classifier.state_dict().items():
        assert torch.equal(value, from_disk.classifier.state_dict()[name])


def collect_inputs(augment, train_examples):
    """Train for two epochs; return the images that the model saw in each, in order."""
    fabric, state = start(train_examples=train_examples)
    seen = []
    state.parallel_model.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].flatten(1)))
    list(
        train_epochs(
            build_setup(fabric, train_examples, examples()[1], dataclasses.replace(CONFIG, epochs=2), augment), state
        )
    )
    return torch.cat(seen[: len(seen) // 2]), torch.cat(seen[len(seen) // 2 :])


def test_each_epoch_sees_every_example_once_in_its_own_order():
    first, second = collect_inputs(STILL, examples()[0])
    assert len(first) == len(second) == 30
    assert not torch.equal(first, second)
    assert torch.equal(first[first.sum(dim=1).argsort()], second[second.sum(dim=1).argsort()])


def test_each_epoch_draws_its_own_changes():
    """Thirty times the same image: what differs between epochs is drawn, not ordered."""
    images = np.repeat(make_images(1)[0], 30, axis=0)
    first, second = collect_inputs(
        dataclasses.replace(STILL, noise_std=0.1), place(np.arange(30), images, np.zeros(30, int))
    )
    assert not torch.equal(first, second)
    assert len(torch.unique(first, dim=0)) == 30


def test_an_erased_box_reaches_the_model_as_the_mean():
    """Both epochs, every image: 12 to 24 of 48 pixels are exactly 0, and none is without erasing."""
    erasing = dataclasses.replace(STILL, random_erasing_probability=1.0, random_erasing_area=(0.4, 0.4))
    for inputs in collect_inputs(erasing, examples()[0]):
        num_zeros = (inputs == 0).sum(dim=1)
        assert num_zeros.min() >= 12
        assert num_zeros.max() <= 24
    assert (collect_inputs(STILL, examples()[0])[0] != 0).all()


def test_training_leaves_the_callers_draws_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train(dropout=0.5)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("loss_name", ["cross_entropy", "mse"])
def test_one_epoch_of_plain_descent_is_the_one_computed_by_hand(loss_name):
    """A linear model and one batch: the weights move by learning rate times gradient of the mean loss."""
    images, labels = make_images(8)
    all_rows = place(np.arange(8), images, labels)
    config = dataclasses.replace(
        CONFIG, epochs=1, schedule="constant", max_grad_norm=0.05, label_smoothing=0.1, loss=loss_name
    )
    fabric = build_fabric(config)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    model = SliceModel(network, reads_slice_position=False)
    weight = network[1].weight.detach().clone().requires_grad_()
    bias = network[1].bias.detach().clone().requires_grad_()
    parallel_model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=1.0))
    state = TrainingState(
        wrap_network(model, *compute_statistics(all_rows), loss=loss_name), parallel_model, optimizer, []
    )

    units = images.astype(np.float64) / 255
    inputs = torch.from_numpy((units - units.mean()) / units.std()).float().reshape(8, 48)
    logits = inputs @ weight.T + bias
    wanted = torch.where(torch.from_numpy(labels)[:, None] == torch.arange(2), 0.95, 0.05)
    if loss_name == "cross_entropy":
        loss = -(wanted * logits.log_softmax(dim=1)).sum(dim=1).mean()
    else:
        loss = ((logits - wanted) ** 2).mean()
    loss.backward()
    norm = torch.cat([weight.grad.flatten(), bias.grad.flatten()]).norm()
    assert norm > 0.05  # clipping is at work

    result = next(train_epochs(build_setup(fabric, all_rows, all_rows, config, STILL), state))
    assert result.train_loss == pytest.approx(loss.item(), rel=1e-5)
    assert result.learning_rate == config.learning_rate
    step = config.learning_rate * 0.05 / norm
    torch.testing.assert_close(network[1].weight.detach(), (weight - step * weight.grad).detach(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", [{"mixup_alpha": 1.0}, {"cutmix_alpha": 1.0}])
def test_the_loss_of_mixed_images_is_the_mixed_loss(options):
    """One batch, whose mixture is drawn here again: the model sees it, and each label counts by its fraction."""
    augment = dataclasses.replace(STILL, **options)
    images, labels = make_images(8)
    all_rows = place(np.arange(8), images, labels)
    config = dataclasses.replace(CONFIG, epochs=1, label_smoothing=0.0)
    fabric, state = start(config, all_rows)
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
    fabric, state = start(config, all_rows)
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


def test_validation_reports_the_squared_error_of_the_probabilities():
    state = train(dataclasses.replace(CONFIG, epochs=12, loss="mse"))
    val_examples = examples()[1]
    answers = state.classifier(val_examples.placed, val_examples.slice_position).exp()
    wanted = (val_examples.labels[:, None] == torch.arange(2)).float()
    assert state.history[-1].val_loss == pytest.approx(((answers - wanted) ** 2).mean().item(), rel=1e-5)
    assert state.history[-1].val_accuracy == (answers.argmax(dim=1) == val_examples.labels).float().mean()
    assert state.history[-1].val_loss < 0.25  # that of answering one half always


def test_adam_with_an_exponential_schedule_has_the_learning_rates_computed_by_hand():
    """A learning rate of 1e-4, times 0.9 after each epoch, with the squared error, as one experiment uses them."""
    options = {"optimizer": "adam", "learning_rate": 1e-4, "weight_decay": 0.0, "loss": "mse"}
    state = train(dataclasses.replace(CONFIG, schedule="exponential", lr_gamma=0.9, **options))
    assert [result.learning_rate for result in state.history] == pytest.approx([1e-4, 9e-5, 8.1e-5])
    losses = [result.train_loss for result in state.history]
    assert losses == sorted(losses, reverse=True)


def test_dropout_is_off_in_validation():
    state = train(dataclasses.replace(CONFIG, epochs=1), dropout=0.9)
    val_examples = examples()[1]
    logits = state.classifier(val_examples.placed, val_examples.slice_position)
    loss = nn.functional.cross_entropy(logits, val_examples.labels)
    assert state.history[0].val_loss == pytest.approx(loss.item(), rel=1e-5)


def test_every_example_is_seen_once_in_batches_of_even_size():
    batches = split_order(torch.randperm(65), 32)
    assert sorted(len(batch) for batch in batches) == [21, 22, 22]
    assert sorted(torch.cat(batches).tolist()) == list(range(65))


def test_batches_hold_the_right_images_in_both_places():
    images, labels = make_images(channels=3)
    rows = np.array([7, 3, 30, 11, 2])
    for room_bytes in (0, None):
        places = [torch.tensor([4, 0]), torch.tensor([2, 1, 3])]
        found = list(read_batches(place(rows, images, labels, room_bytes), places))
        assert [len(batch.labels) for batch in found] == [2, 3]
        for batch, chosen in zip(found, places, strict=True):
            np.testing.assert_array_equal(batch.images.numpy(), images[rows[chosen.numpy()]])
            np.testing.assert_array_equal(batch.labels.numpy(), labels[rows[chosen.numpy()]])


@pytest.mark.parametrize("shape", [(300, 2, 5, 7), (40, 64, 64), (3, 130, 130)])
def test_images_of_a_mapped_file_are_those_of_memory_at_every_place_of_a_page(shape, tmp_path):
    """Rows start and end anywhere in a page; the file's last page is not full."""
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "examples.npy", images)
    mapped = np.load(tmp_path / "examples.npy", mmap_mode="r")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    labels = np.zeros(len(images), np.int64)
    found = read_batches(place(np.arange(len(images)), mapped, labels, 0), split_order(order, 8))
    found_images = torch.cat([batch.images for batch in found]).numpy()
    np.testing.assert_array_equal(found_images.reshape(shape), images[order.numpy()])


@pytest.mark.skipif(not Path("/proc/self/io").is_file(), reason="counts what Linux reads from the disk")
def test_a_batch_does_not_read_its_neighbourhood_from_the_disk(tmp_path):
    """Of 64 MiB sixteen images of 4 KiB are needed: with read-ahead, megabytes came along with each."""
    path = tmp_path / "examples.npy"
    np.save(path, np.zeros((16_384, 64, 64), np.uint8))
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    mapped = np.load(path, mmap_mode="r")
    examples = place(np.arange(16_384), mapped, np.zeros(16_384, np.int64), 0)

    def count_read() -> int:
        lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(lines["read_bytes"])

    before = count_read()
    list(read_batches(examples, [torch.arange(500, 16_384, 1_000)]))
    # Nothing at all is read where the folder lies in memory.
    assert count_read() - before <= 4 * 16 * 4096


def test_statistics_are_those_of_the_split_alone_and_of_each_channel():
    images, labels = make_images(channels=2)
    rows = np.arange(5, 20)
    mean, std = compute_statistics(place(rows, images, labels), chunk=4)
    chosen = images[rows] / 255
    np.testing.assert_allclose(mean, chosen.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, chosen.std(axis=(0, 2, 3)), rtol=1e-9)
    changed = images.copy()
    changed[20:] = 0
    assert compute_statistics(place(rows, changed, labels)) == (mean, std)


def test_images_without_contrast_are_refused():
    with pytest.raises(UserError, match="the same value in every pixel"):
        compute_statistics(place(np.arange(4), np.full((4, 6, 8), 9, np.uint8), np.zeros(4, int)))


def test_a_loss_that_is_not_a_number_stops_and_names_the_step():
    train_examples, val_examples = examples()
    fabric, state = start()
    stream = train_epochs(build_setup(fabric, train_examples, val_examples, CONFIG, STILL), state)
    next(stream)
    calls = []

    def spoil(module, arguments, logits):
        calls.append(1)
        return logits * math.nan if len(calls) == 3 else logits

    state.classifier.model.network.register_forward_hook(spoil)
    with pytest.raises(UserError, match=r"loss became nan at epoch 2, step 3\. The checkpoint of epoch 1 is kept"):
        next(stream)
    assert len(state.history) == 1


def result(epoch, val_loss=1.0, val_accuracy=0.5):
    return EpochResult(epoch, 1.0, 0.5, val_loss, val_accuracy, 0.1, 1.0, 1.0)


def test_the_best_epoch_is_the_lowest_loss_or_the_highest_accuracy_and_the_first_among_equals():
    history = [result(1, 0.9, 0.6), result(2, 0.5, 0.7), result(3, 0.5, 0.7), result(4, 0.7, 0.8), result(5, 0.6, 0.8)]
    assert find_best(history, "val_loss").epoch == 2
    assert find_best(history, "val_accuracy").epoch == 5


def test_training_stops_after_so_many_epochs_without_a_better_one():
    config = TrainConfig(epochs=10, early_stopping_epochs=2)
    history = [result(1, 0.9), result(2, 0.5), result(3, 0.6)]
    assert not should_stop(history, config)
    assert should_stop([*history, result(4, 0.7)], config)
    assert not should_stop([*history, result(4, 0.4)], config)
    assert not should_stop([*history, result(4, 0.7)], TrainConfig(epochs=10))
    assert should_stop(history, TrainConfig(epochs=3))


def test_seeds_differ_by_purpose_epoch_and_rank():
    seeds = {
        derive_seed(seed, purpose, epoch, rank)
        for seed in (0, 1)
        for purpose in ("order", "dropout")
        for epoch in (0, 1)
        for rank in (0, 1)
    }
    assert len(seeds) == 16
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_steps_are_reported_with_growing_places(monkeypatch):
    monkeypatch.setattr("pipeline.training.loop.monitor.SECONDS_BETWEEN_REPORTS", 0.0)
    fabric, state = start()
    seen = []
    list(
        train_epochs(build_setup(fabric, *examples(), dataclasses.replace(CONFIG, epochs=1), STILL), state, seen.append)
    )
    assert [step.step for step in seen] == [1, 2, 3, 4]
    assert seen[-1].loss == pytest.approx(state.history[0].train_loss)
    assert seen[-1].accuracy == pytest.approx(state.history[0].train_accuracy)


def test_an_absent_accelerator_and_too_many_devices_are_refused():
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"train\.accelerator: found 'cuda', but this machine has .*cpu"):
            choose_accelerator("cuda")
    with pytest.raises(UserError, match=r"train\.devices: found 100000"):
        build_fabric(dataclasses.replace(CONFIG, devices=100000))


def test_auto_precision_is_bf16_only_where_the_processor_multiplies_in_it(monkeypatch):
    for has_tiles, expected in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has_tiles: {"amx_bf16": has, "avx512_bf16": True})
        assert choose_precision("auto", "cpu") == expected
    assert choose_precision("32-true", "cpu") == "32-true"


def test_bf16_trains_to_about_the_same_loss():
    plain, mixed = train(), train(dataclasses.replace(CONFIG, precision="bf16-mixed"))
    # bf16 keeps 8 bits: a loss of 0.6 is known to some thousandths.
    assert mixed.history[-1].val_loss == pytest.approx(plain.history[-1].val_loss, abs=0.02)
    assert isinstance(build_fabric(CONFIG), Fabric)


class CountReads(TorchDispatchMode):
    """The numbers that operators read, those of views not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.num_read = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if not function.is_view:
            tensors = [value for value in tree_leaves(arguments) if isinstance(value, torch.Tensor)]
            self.num_read += sum(tensor.numel() for tensor in tensors)
        return function(*arguments, **(options or {}))


def monitor_losses(losses, on_step):
    monitor = LossMonitor(build_fabric(CONFIG), 1, len(losses))
    wrong = []
    for loss in losses:
        monitor.add(torch.tensor(loss), torch.tensor(1), 2)
        if monitor.is_check_due:
            wrong.append(monitor.find_not_finite())
        monitor.report(on_step)
    return monitor, wrong


def test_the_records_of_an_epoch_of_twice_the_steps_cost_twice_as_much(monkeypatch):
    """Reported after every step and checked after every fiftieth."""
    monkeypatch.setattr("pipeline.training.loop.monitor.SECONDS_BETWEEN_REPORTS", 0)
    num_read = []
    for num_steps in (400, 800):
        with CountReads() as counted:
            monitor_losses([0.5] * num_steps, lambda result: None)
        num_read.append(counted.num_read)
    assert num_read[1] < 2.05 * num_read[0]


def test_progress_reports_the_mean_so_far_and_the_epoch_its_mean(monkeypatch):
    monkeypatch.setattr("pipeline.training.loop.monitor.SECONDS_BETWEEN_REPORTS", 0)
    losses = [float(number) for number in range(120)]
    reported = []
    monitor, wrong = monitor_losses(losses, reported.append)
    assert [(result.step, result.num_steps) for result in reported] == [(step, 120) for step in range(1, 121)]
    assert [result.loss for result in reported] == [sum(losses[:step]) / (2 * step) for step in range(1, 121)]
    assert {result.accuracy for result in reported} == {0.5}
    assert monitor.average() == (sum(losses) / 240, 0.5)
    assert wrong == [None, None, None]


def test_the_first_step_with_an_infinite_loss_is_found_in_any_check():
    losses = [1.0] * 120
    losses[7] = losses[9] = losses[73] = math.inf
    _, wrong = monitor_losses(losses, lambda result: None)
    assert wrong == [(7, math.inf), (73, math.inf), None]


class RefuseFloat64(TorchDispatchMode):
    """A device without float64, as Apple's GPUs are."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        found = [value for value in tree_leaves(result) if isinstance(value, torch.Tensor)]
        if any(value.dtype == torch.float64 for value in found):
            raise TypeError(f"{function}: this device has no float64")
        return result


def test_no_step_of_training_and_validation_computes_in_float64():
    train_examples, val_examples = examples()
    augment = AugmentConfig(
        horizontal_flip="swap_label", mixup_alpha=0.4, crop_padding=1, random_erasing_probability=0.5
    )
    fabric, state = start()
    with RefuseFloat64():
        history = list(train_epochs(build_setup(fabric, train_examples, val_examples, CONFIG, augment), state))
    assert len(history) == 3


LABELS, PATIENTS = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ("class", [1 / 3, 1 / 3, 1 / 3, 1]),
        ("patient", [1 / 2, 1 / 2, 1 / 2, 1 / 2]),
        ("class_and_patient", [1 / 4, 1 / 4, 1 / 2, 1]),
    ],
)
def test_sampling_weights_are_those_computed_by_hand(sampling, expected):
    assert compute_sampling_weights(LABELS, PATIENTS, sampling).tolist() == pytest.approx(expected)
    assert compute_sampling_weights(LABELS, PATIENTS, "once") is None


def test_balanced_epochs_have_classes_and_their_patients_equally_often():
    """Two labels, the rare one of 2 patients with 3 and 30 of 1,000 slices; the others of 5 patients."""
    generator = np.random.default_rng(0)
    patients = torch.from_numpy(np.concatenate([np.repeat([5, 6], [3, 30]), generator.integers(0, 5, 967)]))
    labels = (patients >= 5).long()
    weights = compute_sampling_weights(labels, patients, "class_and_patient")
    draws = torch.Generator().manual_seed(0)
    epochs = [draw_order(1000, weights, draws) for _ in range(20)]
    for order in epochs:
        assert len(order) == 1000
        for patient, expected in [(5, 250), (6, 250), *((patient, 100) for patient in range(5))]:
            # Each of a patient's slices comes as often as its weight says, rounded up or down.
            assert (patients[order] == patient).sum().item() == pytest.approx(expected, abs=35)
        counts = torch.bincount(order, minlength=1000)
        wanted = weights / weights.sum() * 1000
        assert ((counts - wanted).abs() < 1).all()
    seen = torch.bincount(torch.cat(epochs), minlength=1000)
    torch.testing.assert_close(seen / 20, wanted.float(), atol=0.5, rtol=0)  # no slice is always left out
    assert (seen > 0).all()


def test_equal_weights_draw_each_example_once_and_no_weights_the_order_of_before():
    order = draw_order(50, torch.full((50,), 0.3), torch.Generator().manual_seed(1))
    assert sorted(order.tolist()) == list(range(50))
    plain = draw_order(50, None, torch.Generator().manual_seed(1))
    assert torch.equal(plain, torch.randperm(50, generator=torch.Generator().manual_seed(1)))


def test_classes_are_balanced_once():
    with pytest.raises(UserError, match=r"train.sampling: found 'class', allowed is once or patient with"):
        TrainConfig(class_weights="balanced", sampling="class")
    assert TrainConfig(class_weights="balanced", sampling="patient").sampling == "patient"


def test_an_epoch_trains_on_what_was_drawn_and_weighs_the_classes():
    """One batch: its loss is the weighted mean of the examples that the weights chose."""
    images, labels = make_images(8)
    all_rows = place(np.arange(8), images, labels)
    config = dataclasses.replace(CONFIG, epochs=1)
    fabric, state = start(config, all_rows)
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


def test_steps_of_several_batches_have_the_examples_of_large_batches():
    planned = plan_batches(torch.arange(10), 2, 3)
    assert [batch.indices.tolist() for batch in planned] == [[0, 1], [2, 3], [4], [5, 6], [7, 8], [9]]
    assert [(batch.step, batch.step_size, batch.ends_step) for batch in planned] == [
        *((0, 5, ends) for ends in (False, False, True)),
        *((1, 5, ends) for ends in (False, False, True)),
    ]
    for number in (1, 7, 29, 30):
        order = torch.arange(number)
        planned = plan_batches(order, 4, 2)
        steps = [torch.cat([b.indices for b in planned if b.step == step]) for step in range(planned[-1].step + 1)]
        assert [step.tolist() for step in steps] == [part.tolist() for part in split_order(order, 8)]
        assert max(len(batch.indices) for batch in planned) <= 4


@pytest.mark.parametrize("clipped", [None, 0.1])
def test_small_batches_that_are_added_up_train_as_large_ones_do(clipped):
    """Thirty examples: steps of 12, 9 and 9 or so; the learning rate falls by step, clipping comes after the sum."""
    config = dataclasses.replace(CONFIG, batch_size=12, schedule="cosine", max_grad_norm=clipped)
    large = train(config)
    small = train(dataclasses.replace(config, batch_size=3, accumulate_batches=4))
    # Sums in another order.
    for name, value in large.classifier.state_dict().items():
        torch.testing.assert_close(small.classifier.state_dict()[name], value, rtol=1e-4, atol=1e-6)
    columns = [(result.train_loss, result.learning_rate) for result in small.history]
    assert np.array(columns) == pytest.approx(np.array([(r.train_loss, r.learning_rate) for r in large.history]))


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
    train_examples, val_examples = examples()
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


def test_batches_of_one_size_leave_out_the_end_of_the_order_and_count_each_validated_example_once():
    """Of 30 examples three batches of 8 are trained on; 10 are validated, in batches of 8 and of 2 with 6 repeated."""
    sizes = []
    train_examples, val_examples = examples()
    config = dataclasses.replace(CONFIG, epochs=1, compile="graphs")
    fabric, state = start(dataclasses.replace(config, compile="none"))
    state.classifier.model.register_forward_hook(
        lambda module, inputs, _: sizes.append((module.training, len(inputs[0])))
    )
    result = next(train_epochs(build_setup(fabric, train_examples, val_examples, config, STILL), state))
    assert sizes == [(True, 8)] * 3 + [(False, 8)] * 2
    state.classifier.eval()
    batch = next(read_batches(val_examples, [torch.arange(10)]))
    with torch.no_grad():
        scores = state.classifier(batch.images, batch.slice_position)
    assert result.val_loss == pytest.approx(-scores[torch.arange(10), batch.labels].mean().item(), rel=1e-6)
    assert result.val_accuracy == pytest.approx((scores.argmax(1) == batch.labels).float().mean().item())


@pytest.mark.slow
@pytest.mark.parametrize("how", ["default", "graphs"])
def test_a_compiled_model_learns_what_the_other_one_learns(how):
    """24 of 30 examples make three batches of 8 either way; a compiler fuses sums, which changes float32 rounding."""
    images, labels = make_images()
    train_examples, val_examples = place(np.arange(24), images, labels), place(np.arange(24, 40), images, labels)

    def learn(compile_name, epochs):
        torch.compiler.reset()  # it refuses to compile a method for more than eight models
        config = dataclasses.replace(CONFIG, epochs=epochs, compile=compile_name)
        fabric, state = start(config, train_examples)
        list(train_epochs(build_setup(fabric, train_examples, val_examples, config, STILL), state))
        return state

    found, expected = (np.array(numbers(learn(name, 2).history)) for name in (how, "none"))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
