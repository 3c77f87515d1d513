"""Attention maps are the softmax weights of the model, and no other weights are computed for them."""

import pytest
import torch
from torch.nn import functional

from perceiver import Perceiver, PerceiverConfig
from perceiver.positions import grid_positions


def small_model(**options):
    small = {"num_latents": 5, "latent_dim": 16, "num_cross_attends": 3, "self_attends_per_cross": 2, "num_bands": 3}
    small |= {"cross_heads": 3, "cross_head_dim": 24, "latent_heads": 3, "latent_head_dim": 8}
    model = Perceiver(PerceiverConfig(input_channels=2, axis_sizes=(3, 4), num_classes=3, **{**small, **options}))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():  # a gain of 1 or a bias of 0 would hide one that is left out
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


@pytest.fixture
def values():
    return torch.randn(2, 12, 2, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def positions():
    return grid_positions((3, 4)).unsqueeze(0)


@pytest.fixture
def padding():
    padding = torch.zeros(2, 12, dtype=torch.bool)
    padding[0, 3:7] = True
    return padding


def slow_forward(model, values, positions, padding):
    """Compute every layer step by step: the logits and the weights of all attentions."""
    inputs = torch.cat([values, model.positions((positions,)).expand(2, -1, -1)], dim=-1)
    state = model.latents.expand(2, -1, -1)
    maps = {"cross": [], "self": []}

    def attend(kind, layer, queries, keys, values_by_head, padding_mask):
        heads = layer.num_heads
        queries, keys, values_by_head = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (queries, keys, values_by_head)
        )
        scores = queries @ keys.mT / queries.shape[-1] ** 0.5
        if padding_mask is not None:
            scores = scores.masked_fill(padding_mask[:, None, None, :], -torch.inf)
        maps[kind].append(scores.softmax(-1))
        return layer.to_out((maps[kind][-1] @ values_by_head).transpose(1, 2).flatten(2))

    for cross_index, latent_index in zip(model.cross_weight_indices, model.latent_weight_indices, strict=True):
        cross = model.cross_layers[cross_index]
        layer = cross.attention
        context = functional.layer_norm(inputs, inputs.shape[-1:], layer.input_gain, layer.input_shift)
        queries = layer.to_query(layer.query_norm(state))
        state = state + attend("cross", layer, queries, layer.to_key(context), layer.to_value(context), padding)
        state = state + cross.feedforward(state)
        for latent in model.latent_layers[latent_index]:
            queries_keys_values = latent.attention.to_query_key_value(latent.attention.norm(state)).chunk(3, -1)
            state = state + attend("self", latent.attention, *queries_keys_values, None)
            state = state + latent.feedforward(state)
    return model.head(model.head_norm(state.mean(1))), maps


@pytest.mark.parametrize("options", [{}, {"cross_head_dim": 4}, {"weight_sharing": "all_but_first"}])
@pytest.mark.parametrize("kind", ["cross", "self"])
def test_maps_are_the_weights_of_a_slow_reference(options, kind, values, positions, padding):
    model = small_model(**options)
    logits_before = model(values, positions, padding)
    logits, expected = slow_forward(model, values, positions, padding)
    # So the reference is the model, to rounding.
    torch.testing.assert_close(logits_before, logits, atol=1e-4, rtol=1e-4)
    num_layers = {"cross": 3, "self": 6}[kind]
    maps = model.attention_maps(values, positions, padding, kind=kind, layers=tuple(range(num_layers)))
    assert list(maps) == list(range(num_layers))
    for layer_index, weights in maps.items():
        torch.testing.assert_close(weights, expected[kind][layer_index], atol=1e-5, rtol=1e-4)  # rounding
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 5), atol=1e-5, rtol=0)
    if kind == "cross":
        assert maps[1][0, :, :, 3:7].abs().max() == 0
        assert maps[1][1, :, :, 3:7].min() > 0
    assert torch.equal(model(values, positions, padding), logits_before)


@pytest.mark.parametrize("kind", ["cross", "self"])
def test_chosen_heads_are_those_of_the_whole(kind, values, positions):
    model = small_model()
    whole = model.attention_maps(values, positions, kind=kind, layers=(1,))[1]
    chosen = model.attention_maps(values, positions, kind=kind, layers=(1,), heads=(2, 0))[1]
    torch.testing.assert_close(chosen, whole[:, [2, 0]], atol=1e-6, rtol=1e-5)  # rounding
    assert (whole[:, 2] - whole[:, 0]).abs().max() > 1e-3  # far more than rounding


@pytest.mark.parametrize(("kind", "layer", "cross_calls", "self_calls"), [("cross", 1, 1, 2), ("self", 2, 2, 2)])
def test_no_layer_after_the_last_requested_one_runs(kind, layer, cross_calls, self_calls, values, positions):
    model = small_model()
    calls = {"cross": 0, "self": 0}
    for repetition in range(3):
        layers = {"cross": [model.cross_layers[repetition]], "self": list(model.latent_layers[repetition])}
        for name, modules in layers.items():
            for module in modules:
                module.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    model.attention_maps(values, positions, kind=kind, layers=(layer,))
    assert calls == {"cross": cross_calls, "self": self_calls}


def test_layers_that_are_not_requested_make_no_matrix_of_weights():
    """The last axis of no other tensor has size 211, so its shape identifies a matrix of weights."""
    model, softmax_shapes = small_model(), []
    images = torch.randn(1, 211, 2)
    positions_on_a_line = torch.linspace(-1, 1, 211)[None, :, None].expand(1, 211, 2)

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            result = function(*arguments, **(options or {}))
            if isinstance(result, torch.Tensor) and result.shape[-1] == 211 and "softmax" in str(function):
                softmax_shapes.append(tuple(result.shape))
            return result

    with torch.no_grad(), Watch():
        maps = model.attention_maps(images, positions_on_a_line, layers=(2,), heads=(1,))
    assert softmax_shapes == [(1, 1, 5, 211)]
    assert list(maps) == [2]


def test_a_kind_layer_or_head_that_is_not_there_is_refused(values, positions):
    model = small_model()
    with pytest.raises(ValueError, match=r"kind: found 'both'.* cross, self"):
        model.attention_maps(values, positions, kind="both")
    for layers in ((3,), (-1,), ()):
        with pytest.raises(ValueError, match=r"layers: found \(.*\).* 0 to 2"):
            model.attention_maps(values, positions, layers=layers)
    with pytest.raises(ValueError, match=r"heads: found \(0, 3\).* 0 to 2"):
        model.attention_maps(values, positions, heads=(0, 3))
