"""Which half of a GEGLU gates, and how its width counts."""

import torch

from perceiver.feedforward import FeedForward, geglu


def test_the_second_half_gates():
    """gelu(1) = 0.8413447, gelu(0) = 0, gelu(-1) = -0.1586553 (normal distribution function at 1 and -1)."""
    hidden = torch.tensor([10.0, 20.0, 30.0, 1.0, 0.0, -1.0])
    torch.testing.assert_close(geglu(hidden), torch.tensor([8.413447, 0.0, -4.759658]), atol=1e-5, rtol=0)


def test_the_width_counts_each_half_of_a_geglu():
    gated, plain = FeedForward(6, 4, "geglu", 0.0), FeedForward(6, 4, "gelu", 0.0)
    assert (gated.widen.out_features, gated.narrow.in_features) == (48, 24)
    assert (plain.widen.out_features, plain.narrow.in_features) == (24, 24)


def test_geglu_and_gelu_layers_compute_what_they_say():
    inputs = torch.randn(2, 3, 4)
    for activation in ("geglu", "gelu"):
        layer = FeedForward(4, 2, activation, 0.0)
        hidden = layer.widen(layer.norm(inputs))
        if activation == "geglu":
            activated = hidden[..., :8] * torch.nn.functional.gelu(hidden[..., 8:])
        else:
            activated = torch.nn.functional.gelu(hidden)
        torch.testing.assert_close(layer(inputs), layer.narrow(activated))
