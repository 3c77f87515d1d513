import math

import pytest
import torch
from torch import nn

from pipeline.config.model import CnnConfig, ModelConfig
from pipeline.config.training import TrainConfig
from pipeline.core.errors import UserError
from pipeline.models.networks import build_model
from pipeline.training.optimization.optimizers import (
    assign_parameter_kinds,
    build_optimizer,
    compute_learning_rate_fraction,
    set_learning_rate,
)
from tests.builders.models import build_spec


def rates(steps, steps_per_epoch=2, **options):
    config = TrainConfig(**({"epochs": 4, "warmup_epochs": 0.0} | options))
    return [compute_learning_rate_fraction(config, step, steps_per_epoch) for step in range(steps)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedule": "constant"}, [1, 1, 1, 1, 1, 1, 1, 1]),
        ({"schedule": "exponential", "lr_gamma": 0.5}, [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]),
        ({"schedule": "step", "lr_gamma": 0.1, "lr_step_epochs": 2}, [1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1]),
        ({"schedule": "multistep", "lr_gamma": 0.1, "lr_milestones": (1, 3)}, [1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01]),
        ({"schedule": "constant", "warmup_epochs": 2}, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        ({"schedule": "constant", "warmup_epochs": 0.5}, [1, 1, 1, 1, 1, 1, 1, 1]),
        (
            {"schedule": "exponential", "lr_gamma": 0.5, "warmup_epochs": 1},
            [0.5, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125],
        ),
    ],
)
def test_schedule_has_the_rates_computed_by_hand(options, expected):
    assert rates(8, **options) == pytest.approx(expected)


def test_the_papers_schedule_falls_tenfold_after_epochs_84_102_and_114_of_120():
    found = rates(240, epochs=120, schedule="multistep", lr_gamma=0.1, lr_milestones=(84, 102, 114))
    expected = [1.0] * 168 + [0.1] * 36 + [0.01] * 24 + [0.001] * 12  # two steps an epoch
    assert found == pytest.approx(expected)


def test_cosine_starts_at_one_passes_the_middle_and_ends_at_the_final_fraction():
    found = rates(9, steps_per_epoch=3, epochs=3, schedule="cosine", final_lr_fraction=0.2)
    assert found[0] == pytest.approx(1)
    assert found[4] == pytest.approx(0.6)  # half-way between 1 and 0.2
    assert found[2] == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert found[8] == pytest.approx(0.2)


def test_cosine_falls_from_the_last_step_of_warm_up():
    found = rates(7, steps_per_epoch=1, epochs=7, schedule="cosine", final_lr_fraction=0.0, warmup_epochs=2)
    assert found == pytest.approx([0.5, *((1 + math.cos(math.pi * fifth / 5)) / 2 for fifth in range(6))])


@pytest.mark.parametrize("warmup_epochs", [0, 0.3, 1, 1.5, 2])
def test_the_highest_rate_of_a_cosine_is_used_once(warmup_epochs):
    found = rates(12, steps_per_epoch=4, epochs=3, schedule="cosine", warmup_epochs=warmup_epochs)
    assert found.count(1.0) == 1
    peak = found.index(1.0)
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)
    assert found[-1] == pytest.approx(0.01)


def test_a_warm_up_longer_than_training_is_refused():
    with pytest.raises(UserError, match=r"train.warmup_epochs: found 4.5, allowed is 0 to the 4 of train.epochs"):
        rates(1, warmup_epochs=4.5)
    assert rates(8, warmup_epochs=4, schedule="constant")[-1] == 1


def test_exponential_falls_once_an_epoch_however_many_batches_it_has():
    few = rates(40, steps_per_epoch=10, schedule="exponential", lr_gamma=0.9)[::10]
    many = rates(400, steps_per_epoch=100, schedule="exponential", lr_gamma=0.9)[::100]
    assert few == many == pytest.approx([1, 0.9, 0.81, 0.729])


def build_tiny(**options):
    config = ModelConfig(**options)
    return build_model(config, build_spec(num_slices=4), seed=0)


def test_only_matrices_of_layers_are_decayed():
    kinds = assign_parameter_kinds(build_tiny())
    assert kinds["network.perceiver.latents"] == "input"
    assert kinds["network.perceiver.head.weight"] == "matrix"
    assert kinds["network.stem.0.weight"] == "matrix"
    assert kinds["network.perceiver.head.bias"] == "vector"
    assert kinds["network.perceiver.head_norm.weight"] == "vector"
    assert set(kinds) == {name for name, _ in build_tiny().named_parameters()}


def test_learned_positions_and_embeddings_are_not_decayed():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.ones(4, 3))
            self.words = nn.Embedding(5, 3)

    assert assign_parameter_kinds(Model()) == {"table": "input", "words.weight": "input"}


@pytest.mark.parametrize("name", ["adam", "adamw", "lamb", "muon"])
def test_every_parameter_has_one_group_and_the_rate_reaches_all(name):
    model = build_tiny()
    optimizer = build_optimizer(model, TrainConfig(optimizer=name, weight_decay=0.3))
    members = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(members) == sorted(id(parameter) for parameter in model.parameters())
    decays = [0.3, 0.3, 0.0, 0.0] if name == "muon" else [0.3, 0.0, 0.0]  # Muon's matrices, and those of AdamW
    assert [group["weight_decay"] for group in optimizer.param_groups] == decays
    set_learning_rate(optimizer, 0.125)
    assert {group["lr"] for group in optimizer.param_groups} == {0.125}


def test_adamw_decays_a_matrix_and_not_a_bias():
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, 2.0)
    nn.init.constant_(layer.bias, 2.0)
    optimizer = build_optimizer(layer, TrainConfig(optimizer="adamw", learning_rate=0.1, weight_decay=0.5))
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert layer.weight.item() == pytest.approx(2.0 - 0.1 * 0.5 * 2.0)
    assert layer.bias.item() == 2.0


def test_adam_takes_the_two_steps_of_its_paper_and_decays_nothing_else():
    """Gradients 0.5 and -0.1: means 0.5, then 0.035 / 0.19, over the roots of 0.25 and of 0.00025975 / 0.001999."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 0.01)
    optimizer = build_optimizer(layer, TrainConfig(optimizer="adam", learning_rate=1e-4, weight_decay=0.0))
    steps = (1.0, (0.035 / 0.19) / math.sqrt(0.00025975 / 0.001999))
    expected = 0.01
    for gradient, step in zip((0.5, -0.1), steps, strict=True):
        layer.weight.grad = torch.tensor([[gradient]])
        optimizer.step()
        expected -= 1e-4 * step
        assert layer.weight.item() == pytest.approx(expected, rel=1e-6)


def test_adams_decay_is_a_part_of_its_gradient():
    """A gradient of 0 and a decay of 0.5 times 4 make one of 2; Adam's first step is always the learning rate."""
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, 4.0)
    nn.init.constant_(layer.bias, 4.0)
    optimizer = build_optimizer(layer, TrainConfig(optimizer="adam", learning_rate=0.1, weight_decay=0.5))
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert layer.weight.item() == pytest.approx(4.0 - 0.1)
    assert layer.bias.item() == 4.0


def test_lamb_takes_the_step_of_its_paper():
    """One step by hand: update u = m / (sqrt(v) + eps) + decay * w, then w - rate * |w| / |u| * u."""
    layer = nn.Linear(2, 1, bias=False)
    weight, gradient, decay, rate = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.2, -0.1]]), 0.5, 0.01
    with torch.no_grad():
        layer.weight.copy_(weight)
    layer.weight.grad = gradient.clone()
    config = TrainConfig(optimizer="lamb", learning_rate=rate, weight_decay=decay)
    build_optimizer(layer, config).step()
    update = 0.1 * gradient / ((0.001 * gradient**2).sqrt() + 1e-6) + decay * weight
    expected = weight - rate * weight.norm() / update.norm() * update
    torch.testing.assert_close(layer.weight.detach(), expected)


def test_lamb_gives_a_bias_no_trust_ratio():
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.bias, 0.0)
    layer.bias.grad = torch.tensor([0.3])
    build_optimizer(layer, TrainConfig(optimizer="lamb", learning_rate=0.01, weight_decay=0.5)).step()
    assert layer.bias.item() == pytest.approx(-0.01 * 0.1 / math.sqrt(0.001), rel=1e-3)


def test_lamb_learns_a_line():
    torch.manual_seed(0)
    inputs = torch.randn(64, 3)
    targets = inputs @ torch.tensor([[1.0], [-2.0], [0.5]]) + 3
    layer = nn.Linear(3, 1)
    optimizer = build_optimizer(layer, TrainConfig(optimizer="lamb", learning_rate=0.05, weight_decay=0.0))
    losses = []
    for _ in range(200):
        loss = nn.functional.mse_loss(layer(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 20


def step_matrix(gradients, rate=0.5, decay=0.0, shape=(2, 3)):
    """Let Muon update the first of two layers; return its weight before and after each gradient."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(shape[1], shape[0], bias=False), nn.Linear(shape[0], 2))
    optimizer = build_optimizer(model, TrainConfig(optimizer="muon", learning_rate=rate, weight_decay=decay))
    weights = [model[0].weight.detach().clone()]
    for gradient in gradients:
        model[0].weight.grad = gradient.clone()
        optimizer.step()
        weights.append(model[0].weight.detach().clone())
    return weights


def test_muon_moves_all_directions_of_a_matrix_alike_whatever_the_size_of_the_gradient():
    """The singular values of a step are 0.2 sqrt(3) times the rate, within the 0.7 to 1.2 of five iterations."""
    gradient = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.2, 0.0]])
    before, after = step_matrix([gradient])
    sizes = torch.linalg.svdvals(before - after) / (0.5 * 0.2 * math.sqrt(3))
    assert ((sizes > 0.65) & (sizes < 1.25)).all(), sizes
    large = step_matrix([1000 * gradient])[1]
    torch.testing.assert_close(large, after, rtol=0, atol=1e-3)  # bfloat16 inside


def test_muons_step_has_the_root_mean_square_of_adamws():
    """Of 64 x 16 numbers a step of AdamW has about 0.2 to 0.4 of the rate; Muon's, 0.2 of it."""
    gradient = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    before, after = step_matrix([gradient], rate=0.1, shape=(64, 16))
    assert (before - after).square().mean().sqrt().item() == pytest.approx(0.2 * 0.1, rel=0.25)


def test_muon_decays_a_matrix_next_to_its_step():
    gradient = torch.randn(2, 3, generator=torch.Generator().manual_seed(2))
    before, plain = step_matrix([gradient])
    _, decayed = step_matrix([gradient], decay=0.1)
    torch.testing.assert_close(plain - decayed, 0.5 * 0.1 * before, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"stem": "pixels"}, {"architecture": "cnn", "cnn": CnnConfig(channels=(4, 8))}]
)
def test_muon_updates_the_matrices_inside_a_network_and_leaves_its_ends_to_adamw(options):
    model = build_tiny(**options)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, TrainConfig(optimizer="muon"))
    hidden = [names[id(p)] for group in optimizer.param_groups if group["muon"] for p in group["params"]]
    others = [names[id(p)] for group in optimizer.param_groups if not group["muon"] for p in group["params"]]
    if "architecture" in options:
        assert len(hidden) == 1
        assert "conv" in hidden[0]
        assert len(others) == len(names) - 1
    else:
        assert ("network.stem.4.weight" in hidden) == ("stem" not in options)
        assert "network.perceiver.cross_layers.0.attention.to_key.weight" in hidden
        assert {"network.perceiver.head.weight", "network.perceiver.latents"} <= set(others)
        assert "network.stem.0.weight" not in hidden


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_muon_takes_a_kernel_as_a_matrix_of_its_outputs(layout):
    """The same gradient, as a kernel (4, 2, 3, 3) and as a matrix (4, 18), makes the same step."""
    kernel = nn.Conv2d(2, 4, 3, bias=False).to(memory_format=layout)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), kernel, nn.Flatten(), nn.Linear(4, 2))
    gradient = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(3))
    before = kernel.weight.detach().clone()
    kernel.weight.grad = gradient.clone()
    build_optimizer(model, TrainConfig(optimizer="muon", learning_rate=0.5, weight_decay=0.0)).step()
    first, second = step_matrix([gradient.flatten(1)], shape=(4, 18))
    moved = (before - kernel.weight.detach()).flatten(1)
    torch.testing.assert_close(moved, first - second, rtol=0, atol=1e-3)  # bfloat16 inside
