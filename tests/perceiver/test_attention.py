"""Cross-attention in input space is the projected one, and both are the textbook's."""

import pytest
import torch
from torch.nn import functional

from perceiver.attention import CrossAttention, SelfAttention, attend, is_written_out, normalise_inputs


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def randomise(module, generator):
    """Gain 1 and shift 0 would hide a gain or a shift that is left out."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return module


def textbook(attention, latents, inputs, mask):
    """Norm with gain and shift, projections, softmax, all written out."""
    context = functional.layer_norm(inputs, inputs.shape[-1:], attention.input_gain, attention.input_shift)
    batch, num_latents, heads = latents.shape[0], latents.shape[1], attention.num_heads

    def split(tensor):
        return tensor.reshape(batch, tensor.shape[1], heads, -1).transpose(1, 2)

    queries = split(attention.to_query(attention.query_norm(latents)))
    keys, values = split(attention.to_key(context)), split(attention.to_value(context))
    scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    answers = (scores.softmax(-1) @ values).transpose(1, 2).reshape(batch, num_latents, -1)
    return attention.to_out(answers)


@pytest.mark.parametrize("channels", [3, 7, 16, 17, 40])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_cross_attention_is_the_textbook_one_with_its_gradients(channels, heads, masked, generator):
    attention = randomise(CrossAttention(20, channels, heads, 16), generator)
    latents = torch.randn(2, 5, 20, generator=generator, requires_grad=True)
    inputs = torch.randn(2, 11, channels, generator=generator, requires_grad=True)
    mask = torch.rand(2, 1, 1, 11, generator=generator) > 0.4 if masked else None
    weight = torch.randn(2, 5, 20, generator=generator)

    memory = attention.read(normalise_inputs(inputs))
    assert memory.projected == (channels > 16)
    leaves = [latents, inputs, *attention.parameters()]
    found = attention(latents, memory, mask)
    expected = textbook(attention, latents, inputs, mask)
    # Same sums in another order: float32 rounding (6e-8) over some hundred terms of size 10.
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    found_gradients = torch.autograd.grad((found * weight).sum(), leaves)
    expected_gradients = torch.autograd.grad((expected * weight).sum(), leaves)
    for found_gradient, expected_gradient in zip(found_gradients, expected_gradients, strict=True):
        scale = expected_gradient.abs().max().item()
        torch.testing.assert_close(found_gradient, expected_gradient, atol=1e-4 * max(scale, 1), rtol=1e-3)


def test_attention_dropout_in_training_projects_and_drops(generator):
    attention = CrossAttention(20, 4, 2, 16, attention_dropout=0.5)
    latents, inputs = torch.randn(2, 5, 20, generator=generator), torch.randn(2, 11, 4, generator=generator)
    memory = attention.train().read(inputs)
    assert memory.projected
    assert not torch.equal(attention(latents, memory), attention(latents, memory))
    memory = attention.eval().read(inputs)
    assert not memory.projected
    torch.testing.assert_close(attention(latents, memory), attention(latents, memory), atol=0, rtol=0)


def test_input_space_keeps_one_copy_of_the_inputs_for_all_layers():
    inputs = normalise_inputs(torch.randn(2, 11, 4))
    for layer in (CrossAttention(20, 4, 2, 16), CrossAttention(20, 4, 1, 8)):
        memory = layer.read(inputs)
        assert memory.keys.data_ptr() == memory.values.data_ptr() == inputs.data_ptr()


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
def test_attention_written_out_is_the_fused_one_with_its_gradients(masked, generator):
    queries, keys, values = (torch.randn(2, 3, count, 8, generator=generator) for count in (5, 11, 11))
    mask = torch.rand(2, 1, 1, 11, generator=generator) > 0.4 if masked else None
    weight = torch.randn(2, 3, 5, 8, generator=generator)

    def answers_and_gradients(dtype):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in (queries, keys, values)]
        assert is_written_out(leaves[0], leaves[1]) == (dtype == torch.bfloat16)
        answers = attend(*leaves, mask, 0.0, 0.3)
        return [answers, *torch.autograd.grad((answers * weight).sum(), leaves)]

    for found, expected in zip(
        answers_and_gradients(torch.bfloat16), answers_and_gradients(torch.float32), strict=True
    ):
        # bfloat16 keeps 8 bits: 0.4 % of the largest term at each of some five roundings.
        torch.testing.assert_close(found.float(), expected, atol=0.02 * expected.abs().max().item(), rtol=0.02)


def test_attention_written_out_drops_weights_and_keeps_their_mean(generator):
    queries, keys = (
        torch.zeros(1, 1, 400, 8, dtype=torch.bfloat16),
        torch.zeros(1, 1, 50, 8, dtype=torch.bfloat16),
    )
    values = torch.ones(1, 1, 50, 8, dtype=torch.bfloat16)
    answers = attend(queries, keys, values, None, 0.5, 1.0).float()[..., 0]
    assert answers.std() > 0.05
    assert answers.mean().item() == pytest.approx(1, abs=0.05)  # 400 means of 50 weights: standard error 0.007


def test_autocast_casts_the_inputs_once_for_all_layers():
    inputs = torch.randn(2, 11, 4)
    assert normalise_inputs(inputs).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert normalise_inputs(inputs).dtype == torch.bfloat16


def test_normalised_inputs_have_the_type_asked_for_and_are_computed_in_float32_or_better(generator):
    inputs = torch.randn(2, 11, 4, generator=generator) * 1e4  # squares of these overflow float16
    for dtype, rounding in ((torch.bfloat16, 2**-8), (torch.float16, 2**-11)):
        low = inputs.to(dtype)
        normalised = normalise_inputs(low)
        assert normalised.dtype == dtype
        torch.testing.assert_close(normalised.float(), normalise_inputs(low.float()), atol=1e-6, rtol=rounding)
        assert normalise_inputs(inputs, dtype).dtype == dtype
    double = inputs.double()
    assert torch.equal(normalise_inputs(double), functional.layer_norm(double, (4,)))
