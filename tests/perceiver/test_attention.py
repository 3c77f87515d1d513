"""Cross-attention in input space equals the projected one, and both equal the textbook's."""

import pytest
import torch
from torch.nn import functional

from perceiver.attention import (
    CrossAttention,
    SelfAttention,
    attend,
    normalise_inputs,
    pad_channels,
    prefers_explicit_softmax,
)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def randomise(module, generator):
    """Draw all parameters at random: a gain of 1 or a shift of 0 would hide one that is left out."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return module


def textbook(attention, latents, inputs, mask):
    """Attention step by step: norm with gain and shift, projections, softmax."""
    context = functional.layer_norm(inputs, inputs.shape[-1:], attention.input_gain, attention.input_shift)
    batch, num_latents, heads = latents.shape[0], latents.shape[1], attention.num_heads

    def split(tensor):
        return tensor.reshape(batch, tensor.shape[1], heads, -1).transpose(1, 2)

    queries = split(attention.to_query(attention.query_norm(latents)))
    keys, values = split(attention.to_key(context)), split(attention.to_value(context))
    scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    outputs = (scores.softmax(-1) @ values).transpose(1, 2).reshape(batch, num_latents, -1)
    return attention.to_out(outputs)


@pytest.mark.parametrize("channels", [3, 7, 16, 17, 40])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("padded", [False, True], ids=["", "padded as for a GPU"])
def test_cross_attention_is_the_textbook_one_with_its_gradients(channels, heads, masked, padded, generator):
    attention = randomise(CrossAttention(20, channels, heads, 16), generator)
    latents = torch.randn(2, 5, 20, generator=generator, requires_grad=True)
    inputs = torch.randn(2, 11, channels, generator=generator, requires_grad=True)
    mask = torch.rand(2, 1, 1, 11, generator=generator) > 0.4 if masked else None
    weight = torch.randn(2, 5, 20, generator=generator)

    normalised = normalise_inputs(inputs)
    keys_values = attention.project_inputs(pad_channels(normalised) if padded else normalised)
    assert keys_values.projected == (channels > 16)
    leaves = [latents, inputs, *attention.parameters()]
    actual = attention(latents, keys_values, mask)
    expected = textbook(attention, latents, inputs, mask)
    # The same sums in another order: float32 rounding (6e-8) over about a hundred terms of size 10.
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    actual_gradients = torch.autograd.grad((actual * weight).sum(), leaves)
    expected_gradients = torch.autograd.grad((expected * weight).sum(), leaves)
    for actual_gradient, expected_gradient in zip(actual_gradients, expected_gradients, strict=True):
        scale = expected_gradient.abs().max().item()
        torch.testing.assert_close(actual_gradient, expected_gradient, atol=1e-4 * max(scale, 1), rtol=1e-3)


def test_attention_dropout_in_training_projects_and_drops(generator):
    attention = CrossAttention(20, 4, 2, 16, attention_dropout=0.5)
    latents, inputs = torch.randn(2, 5, 20, generator=generator), torch.randn(2, 11, 4, generator=generator)
    keys_values = attention.train().project_inputs(inputs)
    assert keys_values.projected
    assert not torch.equal(attention(latents, keys_values), attention(latents, keys_values))
    keys_values = attention.eval().project_inputs(inputs)
    assert not keys_values.projected
    torch.testing.assert_close(attention(latents, keys_values), attention(latents, keys_values), atol=0, rtol=0)


def test_input_space_keeps_one_copy_of_the_inputs_for_all_layers():
    inputs = normalise_inputs(torch.randn(2, 11, 4))
    for layer in (CrossAttention(20, 4, 2, 16), CrossAttention(20, 4, 1, 8)):
        keys_values = layer.project_inputs(inputs)
        assert keys_values.keys.data_ptr() == keys_values.values.data_ptr() == inputs.data_ptr()


def test_self_attention_is_the_textbook_one(generator):
    attention = randomise(SelfAttention(12, 3, 8), generator)
    latents = torch.randn(2, 5, 12, generator=generator)
    projected = attention.to_query_key_value(attention.norm(latents)).reshape(2, 5, 3, 3, 8).permute(2, 0, 3, 1, 4)
    weights = (projected[0] @ projected[1].transpose(-1, -2) / 8**0.5).softmax(-1)
    expected = attention.to_out((weights @ projected[2]).transpose(1, 2).reshape(2, 5, 24))
    torch.testing.assert_close(attention(latents), expected, atol=1e-4, rtol=1e-4)  # rounding, as above


def test_self_attention_dropout_drops_in_training_only(generator):
    attention = SelfAttention(12, 3, 8, attention_dropout=0.5)
    latents = torch.randn(2, 5, 12, generator=generator)
    assert not torch.equal(attention.train()(latents), attention(latents))
    torch.testing.assert_close(attention.eval()(latents), attention(latents), atol=0, rtol=0)


@pytest.mark.parametrize("masked", [False, True])
def test_explicit_softmax_equals_fused_attention_with_its_gradients(masked, generator):
    queries, keys, values = (torch.randn(2, 3, length, 8, generator=generator) for length in (5, 11, 11))
    mask = torch.rand(2, 1, 1, 11, generator=generator) > 0.4 if masked else None
    weight = torch.randn(2, 3, 5, 8, generator=generator)

    def outputs_and_gradients(dtype):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in (queries, keys, values)]
        assert prefers_explicit_softmax(leaves[0], leaves[1]) == (dtype == torch.bfloat16)
        outputs = attend(*leaves, mask, 0.0, 0.3)
        return [outputs, *torch.autograd.grad((outputs * weight).sum(), leaves)]

    for actual, expected in zip(
        outputs_and_gradients(torch.bfloat16), outputs_and_gradients(torch.float32), strict=True
    ):
        # bfloat16 keeps 8 bits: 0.4 % of the largest term at each of about five roundings.
        torch.testing.assert_close(actual.float(), expected, atol=0.02 * expected.abs().max().item(), rtol=0.02)


def test_explicit_softmax_drops_weights_and_keeps_their_mean(generator):
    queries, keys = (
        torch.zeros(1, 1, 400, 8, dtype=torch.bfloat16),
        torch.zeros(1, 1, 50, 8, dtype=torch.bfloat16),
    )
    values = torch.ones(1, 1, 50, 8, dtype=torch.bfloat16)
    outputs = attend(queries, keys, values, None, 0.5, 1.0).float()[..., 0]
    assert outputs.std() > 0.05
    assert outputs.mean().item() == pytest.approx(1, abs=0.05)  # 400 means of 50 weights: standard error 0.007


def test_autocast_casts_the_inputs_once_for_all_layers():
    inputs = torch.randn(2, 11, 4)
    assert normalise_inputs(inputs).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert normalise_inputs(inputs).dtype == torch.bfloat16


def test_normalised_inputs_have_the_requested_type_and_are_computed_in_float32_or_better(generator):
    inputs = torch.randn(2, 11, 4, generator=generator) * 1e4  # squares of these overflow float16
    for dtype, rounding in ((torch.bfloat16, 2**-8), (torch.float16, 2**-11)):
        low = inputs.to(dtype)
        normalised = normalise_inputs(low)
        assert normalised.dtype == dtype
        torch.testing.assert_close(normalised.float(), normalise_inputs(low.float()), atol=1e-6, rtol=rounding)
        assert normalise_inputs(inputs, dtype).dtype == dtype
    double = inputs.double()
    assert torch.equal(normalise_inputs(double), functional.layer_norm(double, (4,)))
