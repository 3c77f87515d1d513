"""The gate of a GEGLU, the widths of a feed-forward layer, and its gradients."""

import pytest
import torch
from torch.nn import functional

from perceiver.feedforward import FeedForward, GegluLinear, geglu


def test_the_second_half_gates():
    """gelu(1) = 0.8413447, gelu(0) = 0, gelu(-1) = -0.1586553 (normal distribution function at 1 and -1)."""
    hidden = torch.tensor([10.0, 20.0, 30.0, 1.0, 0.0, -1.0])
    torch.testing.assert_close(geglu(hidden), torch.tensor([8.413447, 0.0, -4.759658]), atol=1e-5, rtol=0)


def test_the_width_counts_each_half_of_a_geglu():
    gated, plain = FeedForward(6, 4, "geglu", 0.0), FeedForward(6, 4, "gelu", 0.0)
    assert (gated.widen.out_features, gated.narrow.in_features) == (48, 24)
    assert (plain.widen.out_features, plain.narrow.in_features) == (24, 24)


def test_geglu_and_gelu_layers_follow_their_formulas():
    inputs = torch.randn(2, 3, 4)
    for activation in ("geglu", "gelu"):
        layer = FeedForward(4, 2, activation, 0.0)
        hidden = layer.widen(layer.norm(inputs))
        if activation == "geglu":
            activated = hidden[..., :8] * functional.gelu(hidden[..., 8:])
        else:
            activated = functional.gelu(hidden)
        torch.testing.assert_close(layer(inputs), layer.narrow(activated))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 0.02)],  # a few roundings of each type
)
def test_geglu_linear_has_the_plain_gradients_and_saves_its_input_alone(dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(*shape, generator=generator) for shape in ((2, 3, 16), (5, 8), (5,))]
    output_gradient = torch.randn(2, 3, 5, generator=generator)

    def outputs_and_gradients(function, dtype):
        own_leaves = [leaf.to(dtype).requires_grad_() for leaf in leaves]
        saved_pointers = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: saved_pointers.append(tensor.untyped_storage().data_ptr()) or tensor, lambda tensor: tensor
        ):
            output = function(*own_leaves)
        return [output, *torch.autograd.grad(output, own_leaves, output_gradient.to(dtype))], saved_pointers, own_leaves

    actual, saved_pointers, own_leaves = outputs_and_gradients(GegluLinear.apply, dtype)
    expected, _, _ = outputs_and_gradients(lambda h, w, b: functional.linear(geglu(h), w, b), torch.float64)
    assert set(saved_pointers) == {
        own_leaves[0].untyped_storage().data_ptr(),
        own_leaves[1].untyped_storage().data_ptr(),
    }
    for tensor, exact in zip(actual, expected, strict=True):
        assert tensor.dtype == dtype
        assert (tensor.double() - exact).abs().max() < tolerance * exact.abs().max()


def test_geglu_linear_has_second_derivatives_and_batched_gradients():
    generator = torch.Generator().manual_seed(0)
    leaves = [torch.randn(*shape, generator=generator).double().requires_grad_() for shape in ((3, 8), (2, 4), (2,))]
    torch.autograd.gradgradcheck(GegluLinear.apply, leaves)
    jacobian = torch.func.jacrev(GegluLinear.apply)(*leaves)
    torch.testing.assert_close(jacobian, torch.autograd.functional.jacobian(GegluLinear.apply, tuple(leaves))[0])


def test_a_feedforward_layer_in_training_without_dropout_is_the_one_with_dropout_of_nothing():
    """The layer has two implementations: one keeps the activations, the other computes them again."""
    layer = FeedForward(6, 2, "geglu", 0.5)
    latents = torch.randn(2, 3, 6)
    without_dropout = layer.eval()(latents)
    for module in layer.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 1e-30  # drops nothing, but is not 0
    torch.testing.assert_close(layer.train()(latents), without_dropout, atol=0, rtol=0)


@pytest.mark.parametrize("activation", ["geglu", "gelu"])
def test_dropout_drops_inputs_and_outputs_of_the_last_product(activation):
    """Narrowing by the sum of 400 ones: each output is 0 in half of the cases, else 2 * sum of 2 or 0."""
    layer = FeedForward(400, 1, activation, 0.5).train()
    with torch.no_grad():
        layer.widen.weight.zero_()
        layer.widen.bias.fill_(10.0)  # gelu(10) = 10
        layer.narrow.weight.fill_(0.1 if activation == "gelu" else 0.01)
        layer.narrow.bias.zero_()
    outputs = layer(torch.zeros(100, 400))
    assert (outputs == 0).float().mean().item() == pytest.approx(0.5, abs=0.02)  # 40,000 draws: standard error 0.0025
    sums = outputs.max(dim=1).values / 2  # sums of 400 times 0 or 2: mean 400, standard deviation 20
    assert sums.mean().item() == pytest.approx(400, abs=10)
    assert sums.std().item() == pytest.approx(20, rel=0.3)  # 100 sums: standard error 7 %


def test_autocast_gives_float32_gradients_near_the_float32_ones():
    layer = FeedForward(32, 2, "geglu", 0.0)
    latents = torch.randn(2, 3, 32)
    gradients = []
    for enabled in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            layer(latents).float().square().sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in layer.named_parameters()})
    for name, exact in gradients[0].items():
        assert gradients[1][name].dtype == torch.float32
        difference = (gradients[1][name] - exact).norm() / exact.norm()
        assert 0 < difference < 0.03, name  # bfloat16 keeps 8 bits, and about five roundings follow one another
