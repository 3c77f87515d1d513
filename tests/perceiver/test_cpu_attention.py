"""The backward pass without a gradient of the inputs computes the gradient of the queries."""

import pytest
import torch

from perceiver import Perceiver, PerceiverConfig, cpu_attention
from perceiver.cpu_attention import (
    MAX_INPUTS_FOR_FUSED_BACKWARD,
    attend_without_input_gradient,
    inputs_need_no_gradient,
)
from perceiver.positions import grid_positions

# Relative to the longest vector. Four roundings of a product's result; bfloat16 keeps 8 bits, float16 11.
TOLERANCES = {torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}


def textbook(queries, inputs, mask, scale):
    scores = queries @ inputs.transpose(1, 2) * scale
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], -torch.inf)
    return scores.softmax(-1) @ inputs


def output_and_gradient(function, queries, inputs, mask, weight):
    queries = queries.clone().requires_grad_()
    outputs = function(queries, inputs, mask, 0.4)
    outputs.backward(weight)
    return outputs.detach(), queries.grad


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("block_elements", [1, 5 * 300, 5 * 300 * 2, 10**9])  # several blocks, and a smaller last one
def test_the_gradient_is_the_textbook_one(dtype, masked, block_elements, monkeypatch):
    monkeypatch.setattr(cpu_attention, "BLOCK_ELEMENTS", block_elements)
    generator = torch.Generator().manual_seed(0)
    queries, weight = (torch.randn(3, 5, 7, generator=generator).to(dtype) for _ in range(2))
    inputs = torch.randn(3, 700, 7, generator=generator).to(dtype)
    mask = torch.rand(3, 700, generator=generator) > 0.6 if masked else None
    actual = output_and_gradient(attend_without_input_gradient, queries, inputs, mask, weight)
    expected = output_and_gradient(textbook, queries.double(), inputs.double(), mask, weight.double())
    for tensor, exact in zip(actual, expected, strict=True):
        assert tensor.dtype == dtype
        assert (tensor.double() - exact).abs().max() < TOLERANCES[dtype] * exact.norm(dim=-1).max()


def test_large_scores_lose_nothing_in_bfloat16():
    """All scores are near 100 and differ by about 1: rounded to bfloat16 before the subtraction, they would be wrong by
    up to 0.25, and each weight by a quarter."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, 400, 8, generator=generator)
    inputs[..., 0] = 10
    queries, weight = (torch.randn(1, 6, 8, generator=generator) for _ in range(2))
    queries[..., 0] = 25
    queries, inputs, weight = queries.bfloat16(), inputs.bfloat16(), weight.bfloat16()
    _, actual = output_and_gradient(attend_without_input_gradient, queries, inputs, None, weight)
    _, expected = output_and_gradient(textbook, queries.double(), inputs.double(), None, weight.double())
    # D contains the large channel of the outputs, 10, with 8 bits: an error of 0.04, times at most 10 in the products.
    assert (actual.double() - expected)[..., 1:].abs().max() < 0.03 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_gradient_is_as_exact_for_a_scale_that_is_no_power_of_two(dtype):
    """A head of width 32 has the scale 0.177: queries that are scaled first are rounded a second time."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.nn.functional.layer_norm(torch.randn(2, 600, 27, generator=generator), (27,)).to(dtype)
    weight = torch.randn(2, 16, 27, generator=generator).to(dtype)
    queries = (13 * torch.randn(2, 16, 27, generator=generator)).to(dtype)  # the standard deviation of scores is 12
    errors = []
    for scale in (32**-0.5, 0.125):
        leaf, exact_leaf = queries.clone().requires_grad_(), queries.double().requires_grad_()
        attend_without_input_gradient(leaf, inputs, None, scale).backward(weight)
        textbook_at = (exact_leaf @ inputs.double().transpose(1, 2) * scale).softmax(-1) @ inputs.double()
        textbook_at.backward(weight.double())
        errors.append(float((leaf.grad.double() - exact_leaf.grad).norm() / exact_leaf.grad.norm()))
    assert errors[0] < 2 * errors[1]


def test_an_empty_batch_has_empty_gradients():
    config = PerceiverConfig(input_channels=1, axis_sizes=(20, 20), num_classes=3, num_bands=3)
    model = Perceiver(config)
    model(torch.zeros(0, 20, 20, 1)).sum().backward()
    assert all((parameter.grad == 0).all() for parameter in model.parameters())


def test_what_padding_holds_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    queries, weight = (torch.randn(2, 4, 6, generator=generator) for _ in range(2))
    inputs = torch.randn(2, 500, 6, generator=generator)
    mask = torch.arange(500).expand(2, -1) < 300
    without_padding = output_and_gradient(
        attend_without_input_gradient, queries, inputs[:, :300].contiguous(), None, weight
    )
    for padding_value in (0.0, 100.0):
        filled = torch.where(mask.unsqueeze(-1), inputs, padding_value)
        for actual, expected in zip(
            output_and_gradient(attend_without_input_gradient, queries, filled, mask, weight),
            without_padding,
            strict=True,
        ):
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)  # float32 sums in another order


def test_it_is_used_where_the_queries_alone_need_a_gradient():
    queries, inputs = torch.randn(1, 4, 6), torch.randn(1, MAX_INPUTS_FOR_FUSED_BACKWARD + 1, 6)
    learned = inputs.clone().requires_grad_()
    assert not inputs_need_no_gradient(queries, inputs)
    queries.requires_grad_()
    assert inputs_need_no_gradient(queries, inputs)
    assert not inputs_need_no_gradient(queries, learned)
    assert not inputs_need_no_gradient(queries, inputs[:, :-1])
    with torch.no_grad():
        assert not inputs_need_no_gradient(queries, inputs)


@pytest.mark.slow
def test_the_operator_keeps_the_rules_of_torch():
    queries, inputs = torch.randn(2, 4, 6, requires_grad=True), torch.randn(2, 300, 6)
    mask = torch.arange(300).expand(2, -1) < 200
    for mask_option in (None, mask):
        torch.library.opcheck(
            torch.ops.perceiver.attend_without_input_gradient.default, (queries, inputs, mask_option, 0.5)
        )


@pytest.mark.parametrize("channels", [0, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_a_model_has_the_same_gradients_with_it_and_without(channels, masked, monkeypatch):
    config = PerceiverConfig(input_channels=channels, axis_sizes=(20, 20), num_classes=3, num_bands=3, cross_heads=2)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, 400, channels, generator=generator)
    padding = torch.rand(2, 400, generator=generator) > 0.7 if masked else None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Perceiver(config)

    def compute_gradients():
        model.zero_grad()
        model(values, grid_positions((20, 20)).unsqueeze(0), padding).square().sum().backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    calls = []
    original = cpu_attention.attend_without_input_gradient

    def count_calls(*arguments):
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr("perceiver.attention.attend_without_input_gradient", count_calls)
    with_cpu_attention = compute_gradients()
    assert len(calls) == config.num_cross_attends
    monkeypatch.setattr("perceiver.attention.inputs_need_no_gradient", lambda *_: False)
    for name, gradient in compute_gradients().items():
        # float32 sums in another order, relative to the largest gradient of the parameter
        tolerance = 1e-4 * gradient.abs().max().item()
        torch.testing.assert_close(with_cpu_attention[name], gradient, atol=tolerance, rtol=1e-4, msg=name)
