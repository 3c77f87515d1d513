"""The models are those of the papers: logits and gradients of a slow reference, in float64."""

import dataclasses
import random

import pytest
import torch

from perceiver import Perceiver, PerceiverConfig, PerceiverIO
from perceiver.positions import grid_positions
from tests.perceiver import reference
from tests.perceiver.small_models import build_seeded, draw_normal

# The same sums in another order: float64 rounding (1e-16) through at most 20 layers, relative to the largest number.
RELATIVE_TOLERANCE = 1e-10
NUM_CASES = 32
pytestmark = pytest.mark.filterwarnings("ignore:PerceiverConfig.max_freq is far")  # some of the drawn frequencies are


def draw_config(seed):
    """Draw a configuration; the most important options take their values in turn, so that each value occurs."""
    rng = random.Random(seed)
    num_axes = 1 + seed % 3
    axis_sizes = tuple(rng.choice([1, 2, 3, 4]) for _ in range(num_axes))
    positions = ["fourier", "learned", "fourier", "none", "fourier"][seed % 5]
    residual = seed % 5 not in (2, 4)
    frequencies = tuple(rng.choice([2.0, 3.5, 5.0]) for _ in range(num_axes))
    return PerceiverConfig(
        input_channels=rng.choice([1, 2, 3] if positions == "none" else [0, 1, 3]),
        axis_sizes=axis_sizes,
        num_classes=rng.choice([1, 4]),
        num_latents=rng.choice([1, 3, 6]),
        latent_dim=rng.choice([7, 12]),
        num_cross_attends=rng.choice([1, 2, 3]),
        self_attends_per_cross=rng.choice([1, 2]) if seed % 3 == 1 else rng.choice([0, 1, 2]),
        cross_heads=rng.choice([1, 2, 3]),
        cross_head_dim=rng.choice([2, 9, 40]),
        latent_heads=rng.choice([1, 3]),
        latent_head_dim=rng.choice([4, 5]),
        weight_sharing=["none", "all", "all_but_first", "all_but_first_block"][seed % 4],
        activation=rng.choice(["geglu", "gelu"]),
        feedforward_widening=rng.choice([1, 2, 3]),
        pooling=["mean", "cls", "query"][seed % 3],
        decoder_heads=rng.choice([1, 2]),
        decoder_head_dim=rng.choice([3, 14]),
        decoder_dim=None if residual else (5, None, 17)[seed // 5 % 3],
        decoder_residual=residual,
        positions=positions,
        num_bands=rng.choice([1, 2, 5]),
        max_freq=frequencies if rng.random() < 0.5 else None,
        learned_position_dim=rng.choice([1, 6]),
        gradient_checkpointing=("layers", "feedforward", "none")[min(2, 7 - seed % 8)],
    )


def draw_inputs(config, seed):
    """Draw a batch on the grid in random order; half of the seeds have padding, half have separate positions."""
    grid = grid_positions(config.axis_sizes).double()
    generator = torch.Generator().manual_seed(seed)
    num_examples = 1 if seed % 4 == 1 else 3
    orders = [torch.randperm(len(grid), generator=generator) for _ in range(num_examples)]
    positions = torch.stack([grid[order] for order in orders[: 1 if seed % 2 else num_examples]])
    values = draw_normal(num_examples, len(grid), config.input_channels, seed=seed).double()
    padding = None
    if seed % 4 > 1:
        padding = torch.rand(num_examples, len(grid), generator=generator) > 0.6
        padding[:, 0] = False
    return values, positions, padding


def assert_same(model, outputs, compute_expected):
    """Compare outputs and all gradients of ``model`` with those of the reference for the same state dict."""
    state = {name: tensor.detach().clone().requires_grad_() for name, tensor in model.named_parameters()}
    expected = compute_expected(dataclasses.asdict(model.config), state)
    tolerance = RELATIVE_TOLERANCE * max(1.0, expected.abs().max().item())
    torch.testing.assert_close(outputs, expected, atol=tolerance, rtol=0)
    weight = draw_normal(*expected.shape, seed=5).double()
    (outputs * weight).sum().backward()
    (expected * weight).sum().backward()
    for name, parameter in model.named_parameters():
        gradient = torch.zeros_like(parameter) if state[name].grad is None else state[name].grad
        actual = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(
            actual, gradient, atol=RELATIVE_TOLERANCE * max(1.0, gradient.abs().max().item()), rtol=0, msg=name
        )


@pytest.mark.parametrize("seed", range(NUM_CASES))
def test_a_perceiver_is_the_papers(seed):
    config = draw_config(seed)
    model = build_seeded(lambda: Perceiver(config)).double().train(seed % 2 == 0)
    inputs = draw_inputs(config, seed)
    assert_same(model, model(*inputs), lambda record, state: reference.perceiver(*inputs, record, state))


@pytest.mark.parametrize("seed", range(NUM_CASES))
def test_a_perceiver_io_is_the_papers(seed):
    config = draw_config(seed)
    query_dim, num_queries = 3 + seed % 11, 1 + 4 * (seed % 4)
    model = build_seeded(lambda: PerceiverIO(config, query_dim)).double().train(seed % 2 == 0)
    inputs = draw_inputs(config, seed)
    queries = draw_normal(1 if seed % 3 == 0 else len(inputs[0]), num_queries, query_dim, seed=seed + 100).double()
    outputs = model(*inputs, queries=queries)
    assert_same(model, outputs, lambda record, state: reference.perceiver_io(*inputs, queries, record, state))


def test_the_cases_hold_every_option():
    """A change of the draws must not silently lose a value of an option."""
    configs = [draw_config(seed) for seed in range(NUM_CASES)]
    kinds = {"weight_sharing": 4, "activation": 2, "pooling": 3, "positions": 3, "gradient_checkpointing": 3}
    for name, num_values in kinds.items():
        assert len({getattr(config, name) for config in configs}) == num_values, name
    decoders = {(config.decoder_residual, config.decoder_dim) for config in configs if config.pooling == "query"}
    assert decoders == {(True, None), (False, 5), (False, 17)}
    projected = [
        config.cross_head_dim < model.cross_layers[0].attention.input_gain.numel()
        for config in configs
        for model in [PerceiverIO(config, 3)]
    ]
    assert 8 <= sum(projected) <= NUM_CASES - 8
    assert any(config.max_freq is not None and len(set(config.max_freq)) > 1 for config in configs)
    repeated = {config.weight_sharing for config in configs if config.num_cross_attends == 3}
    assert repeated == {"none", "all", "all_but_first", "all_but_first_block"}
