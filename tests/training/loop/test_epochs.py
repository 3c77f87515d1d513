"""Epochs: one seed gives one set of weights, descent is the one computed by hand, a loss that is no number stops."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.config.training import AugmentConfig
from pipeline.data.batches import read_batches
from pipeline.data.statistics import compute_statistics
from pipeline.models.networks import SliceModel
from pipeline.training.devices.fabric import build_fabric
from pipeline.training.loop.epochs import DivergenceError, train_epochs
from pipeline.training.loop.state import TrainingState
from tests.builders.bright_halves import (
    CONFIG,
    STILL,
    collect_inputs,
    list_results,
    make_examples,
    make_images,
    place,
    start_training,
    train_briefly,
)
from tests.builders.models import build_setup, wrap_network


def test_it_learns():
    history = train_briefly(dataclasses.replace(CONFIG, epochs=8)).history
    assert history[-1].val_accuracy >= 0.9
    assert history[-1].val_loss < history[0].val_loss


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    options = {
        "augment": AugmentConfig(horizontal_flip="swap_label", mixup_alpha=0.4, random_erasing_probability=0.5),
        "dropout": 0.5,
    }
    first = train_briefly(**options)
    torch.manual_seed(99)  # what others drew before does not matter
    second = train_briefly(**options)
    assert list_results(first.history) == list_results(second.history)
    other = train_briefly(dataclasses.replace(CONFIG, seed=1), **options)
    assert list_results(first.history) != list_results(other.history)


def test_images_read_from_disk_give_the_same_weights_as_images_in_memory():
    in_memory, from_disk = train_briefly(), train_briefly(room_bytes=0)
    assert make_examples(0)[0].placed is None
    assert make_examples()[0].placed is not None
    for name, value in in_memory.classifier.state_dict().items():
        assert torch.equal(value, from_disk.classifier.state_dict()[name])


def test_each_epoch_sees_every_example_once_in_its_own_order():
    first, second = collect_inputs(STILL, make_examples()[0])
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


def test_training_leaves_the_callers_draws_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train_briefly(dropout=0.5)
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


def test_validation_reports_the_squared_error_of_the_probabilities():
    state = train_briefly(dataclasses.replace(CONFIG, epochs=12, loss="mse"))
    val_examples = make_examples()[1]
    answers = state.classifier(val_examples.placed, val_examples.slice_position).exp()
    wanted = (val_examples.labels[:, None] == torch.arange(2)).float()
    assert state.history[-1].val_loss == pytest.approx(((answers - wanted) ** 2).mean().item(), rel=1e-5)
    assert state.history[-1].val_accuracy == (answers.argmax(dim=1) == val_examples.labels).float().mean()
    assert state.history[-1].val_loss < 0.25  # that of answering one half always


def test_adam_with_an_exponential_schedule_has_the_learning_rates_computed_by_hand():
    """A learning rate of 1e-4, times 0.9 after each epoch, with the squared error, as one experiment uses them."""
    options = {"optimizer": "adam", "learning_rate": 1e-4, "weight_decay": 0.0, "loss": "mse"}
    state = train_briefly(dataclasses.replace(CONFIG, schedule="exponential", lr_gamma=0.9, **options))
    assert [result.learning_rate for result in state.history] == pytest.approx([1e-4, 9e-5, 8.1e-5])
    losses = [result.train_loss for result in state.history]
    assert losses == sorted(losses, reverse=True)


def test_dropout_is_off_in_validation():
    state = train_briefly(dataclasses.replace(CONFIG, epochs=1), dropout=0.9)
    val_examples = make_examples()[1]
    logits = state.classifier(val_examples.placed, val_examples.slice_position)
    loss = nn.functional.cross_entropy(logits, val_examples.labels)
    assert state.history[0].val_loss == pytest.approx(loss.item(), rel=1e-5)


def test_a_loss_that_is_not_a_number_stops_and_names_the_step():
    train_examples, val_examples = make_examples()
    fabric, state = start_training()
    stream = train_epochs(build_setup(fabric, train_examples, val_examples, CONFIG, STILL), state)
    next(stream)
    calls = []

    def spoil(module, arguments, logits):
        calls.append(1)
        return logits * math.nan if len(calls) == 3 else logits

    state.classifier.model.network.register_forward_hook(spoil)
    with pytest.raises(DivergenceError, match=r"^training: the loss became nan at epoch 2, step 3\. Lower") as error:
        next(stream)
    assert error.value.epoch == 2
    assert len(state.history) == 1


def test_steps_are_reported_with_growing_places(monkeypatch):
    monkeypatch.setattr("pipeline.training.loop.monitor.SECONDS_BETWEEN_REPORTS", 0.0)
    fabric, state = start_training()
    seen = []
    list(
        train_epochs(
            build_setup(fabric, *make_examples(), dataclasses.replace(CONFIG, epochs=1), STILL), state, seen.append
        )
    )
    assert [step.step for step in seen] == [1, 2, 3, 4]
    assert seen[-1].loss == pytest.approx(state.history[0].train_loss)
    assert seen[-1].accuracy == pytest.approx(state.history[0].train_accuracy)


def test_bf16_trains_to_about_the_same_loss():
    plain, mixed = train_briefly(), train_briefly(dataclasses.replace(CONFIG, precision="bf16-mixed"))
    # bf16 keeps 8 bits: a loss of 0.6 is known to some thousandths.
    assert mixed.history[-1].val_loss == pytest.approx(plain.history[-1].val_loss, abs=0.02)
    assert isinstance(build_fabric(CONFIG), Fabric)


class RefuseFloat64(TorchDispatchMode):
    """A device without float64, as Apple's GPUs are."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        found = [value for value in tree_leaves(result) if isinstance(value, torch.Tensor)]
        if any(value.dtype == torch.float64 for value in found):
            raise TypeError(f"{function}: this device has no float64")
        return result


def test_no_step_of_training_and_validation_computes_in_float64():
    train_examples, val_examples = make_examples()
    augment = AugmentConfig(
        horizontal_flip="swap_label", mixup_alpha=0.4, crop_padding=1, random_erasing_probability=0.5
    )
    fabric, state = start_training()
    with RefuseFloat64():
        history = list(train_epochs(build_setup(fabric, train_examples, val_examples, CONFIG, augment), state))
    assert len(history) == 3


@pytest.mark.parametrize("clipped", [None, 0.1])
def test_small_batches_that_are_added_up_train_as_large_ones_do(clipped):
    """Thirty examples: steps of 12, 9 and 9 or so; the learning rate falls by step, clipping comes after the sum."""
    config = dataclasses.replace(CONFIG, batch_size=12, schedule="cosine", max_grad_norm=clipped)
    large = train_briefly(config)
    small = train_briefly(dataclasses.replace(config, batch_size=3, accumulate_batches=4))
    # Sums in another order.
    for name, value in large.classifier.state_dict().items():
        torch.testing.assert_close(small.classifier.state_dict()[name], value, rtol=1e-4, atol=1e-6)
    columns = [(result.train_loss, result.learning_rate) for result in small.history]
    assert np.array(columns) == pytest.approx(np.array([(r.train_loss, r.learning_rate) for r in large.history]))


def test_batches_of_one_size_leave_out_the_end_of_the_order_and_count_each_validated_example_once():
    """Of 30 examples three batches of 8 are trained on; 10 are validated, in batches of 8 and of 2 with 6 repeated."""
    sizes = []
    train_examples, val_examples = make_examples()
    config = dataclasses.replace(CONFIG, epochs=1, compile="graphs")
    fabric, state = start_training(dataclasses.replace(config, compile="none"))
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
        fabric, state = start_training(config, train_examples)
        list(train_epochs(build_setup(fabric, train_examples, val_examples, config, STILL), state))
        return state

    found, expected = (np.array(list_results(learn(name, 2).history)) for name in (how, "none"))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
