"""Gradient checkpointing saves memory and changes no number."""

import dataclasses
import itertools

import pytest
import torch

from perceiver import Perceiver, PerceiverConfig
from perceiver.positions import grid_positions
from tests.perceiver.small_models import run_most_slowly

CONFIG = PerceiverConfig(
    input_channels=2, axis_sizes=(8, 8), num_classes=3, num_latents=32, latent_dim=16, num_cross_attends=3
)
MODEL_OPTIONS = [
    {},
    {"cross_head_dim": 8},  # inputs wider than a head: projected
    {"weight_sharing": "all"},
    {"weight_sharing": "all_but_first", "cross_head_dim": 8},
    {"dropout": 0.3, "attention_dropout": 0.3},
]


def logits_gradients_and_saved_bytes(options, checkpointing):
    """Compute logits and gradients, and the number of bytes that the forward pass saves for the backward pass."""
    config = dataclasses.replace(CONFIG, **options, gradient_checkpointing=checkpointing)
    saved_bytes = {}

    def save(tensor):
        saved_bytes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Perceiver(config).train()
        values = torch.randn(4, 64, 2)
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            logits = model(values, grid_positions((8, 8)).unsqueeze(0))
        logits.square().sum().backward()
    return logits, {name: parameter.grad for name, parameter in model.named_parameters()}, sum(saved_bytes.values())


@pytest.mark.parametrize("options", MODEL_OPTIONS)
@pytest.mark.parametrize(("checkpointing", "max_fraction"), [("feedforward", 0.9), ("layers", 0.5)])
def test_gradients_are_the_same_bit_for_bit_from_less_memory(checkpointing, max_fraction, options):
    plain_logits, plain, plain_saved_bytes = logits_gradients_and_saved_bytes(options, "none")
    logits, actual, saved_bytes = logits_gradients_and_saved_bytes(options, checkpointing)
    assert torch.equal(logits, plain_logits)
    for name, gradient in plain.items():
        assert torch.equal(actual[name], gradient), name
    assert saved_bytes < plain_saved_bytes * max_fraction


@pytest.mark.parametrize("checkpointing", ["feedforward", "layers"])
def test_nothing_is_computed_twice_without_gradients(checkpointing):
    model = Perceiver(dataclasses.replace(CONFIG, gradient_checkpointing=checkpointing))
    with torch.no_grad():
        assert not model(torch.zeros(1, 64, 2), grid_positions((8, 8)).unsqueeze(0)).requires_grad


def logits_and_gradients(model, values, run):
    model.zero_grad()
    logits = run(values, grid_positions((8, 8)).unsqueeze(0))
    logits.square().sum().backward()
    return logits, {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    ("options", "checkpointing"),
    run_most_slowly(
        itertools.product(
            [{}, {"weight_sharing": "all"}, {"weight_sharing": "all", "cross_head_dim": 8}], ["feedforward", "layers"]
        ),
        fast={},
    ),
)
def test_the_graph_is_compiled_in_one_piece_whatever_was_compiled_before(checkpointing, options, fresh_compiler):
    """Two models in which all scalars differ turn these scalars into inputs of the graph of the third model."""
    small = dataclasses.replace(CONFIG, num_cross_attends=2, self_attends_per_cross=1)
    one = {"num_cross_attends": 1, "cross_head_dim": 40, "latent_head_dim": 16, "dropout": 0.1}
    two = {"num_cross_attends": 1, "cross_head_dim": 48, "latent_head_dim": 24, "dropout": 0.2}
    values = torch.randn(2, 64, 2, generator=torch.Generator().manual_seed(1))
    for other in ({**one, "attention_dropout": 0.1}, {**two, "attention_dropout": 0.2}):
        model = Perceiver(dataclasses.replace(small, **other))
        torch.compile(model, fullgraph=True, backend="eager")(values, grid_positions((8, 8)).unsqueeze(0))
    model = Perceiver(dataclasses.replace(small, **options, gradient_checkpointing=checkpointing)).train()
    expected_logits, expected = logits_and_gradients(model, values, model)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    logits, actual = logits_and_gradients(model, values, compiled)
    torch.testing.assert_close(logits, expected_logits)  # the default tolerance, a few roundings of float32
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, msg=name)
