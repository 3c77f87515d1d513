"""Each output of Perceiver IO depends on its own query."""

import pytest
import torch
from torch.nn import functional

from perceiver import Perceiver, PerceiverConfig, PerceiverIO
from perceiver.positions import grid_positions


def randomised(model):
    """Draw all parameters at random: a gain of 1 or a bias of 0 would hide one that is left out."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def small_config(**options):
    small = {"num_latents": 5, "latent_dim": 16, "decoder_heads": 2, "decoder_head_dim": 24, "num_bands": 3}
    return PerceiverConfig(input_channels=2, axis_sizes=(3, 4), num_classes=3, **{**small, **options})


@pytest.fixture
def values():
    return torch.randn(2, 12, 2, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def positions():
    return grid_positions((3, 4)).unsqueeze(0)


@pytest.fixture
def queries():
    return torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("options", [{}, {"decoder_head_dim": 8}, {"activation": "gelu"}])
def test_an_output_depends_on_its_own_query_alone(options, values, positions, queries):
    model = randomised(PerceiverIO(small_config(**options), 6))
    expected = model(values, positions, queries=queries)
    # The products have other sizes: float32 rounding.
    actual = model(values, positions, queries=queries[:, [4, 1]])
    torch.testing.assert_close(actual, expected[:, [4, 1]], atol=1e-5, rtol=1e-5)
    assert (expected[:, 4] - expected[:, 1]).abs().max() > 1e-3


def test_the_decoder_is_the_papers_step_by_step(values, positions, queries):
    model = randomised(PerceiverIO(small_config(), 6))
    latents = model.encode(values, positions)
    attention, feedforward = model.decoder.attention, model.decoder.feedforward
    context = functional.layer_norm(latents, (16,), attention.input_gain, attention.input_shift)

    def split(tensor):
        return tensor.reshape(2, -1, 2, 24).transpose(1, 2)

    queries_by_head = split(attention.to_query(attention.query_norm(queries)))
    keys_by_head, values_by_head = split(attention.to_key(context)), split(attention.to_value(context))
    attended = (
        ((queries_by_head @ keys_by_head.mT / 24**0.5).softmax(-1) @ values_by_head).transpose(1, 2).reshape(2, 7, 48)
    )
    state = queries + attention.to_out(attended)
    linear, gate = feedforward.widen(feedforward.norm(state)).chunk(2, -1)
    state = state + feedforward.narrow(linear * functional.gelu(gate))
    expected = model.head(model.head_norm(state))
    torch.testing.assert_close(model(values, positions, queries=queries), expected, atol=1e-4, rtol=1e-4)  # rounding


def test_outputs_can_be_wider_than_their_queries(values, positions, queries):
    """With the query added, 5 outputs of a query of 6 channels are a function of 6 numbers; here of 11."""
    model = randomised(PerceiverIO(small_config(decoder_dim=11, decoder_residual=False), 6))
    assert model.decoder(queries, model.encode(values, positions)).shape == (2, 7, 11)
    assert (model.head.in_features, model.decoder.attention.to_out.out_features) == (11, 11)
    assert model(values, positions, queries=queries).shape == (2, 7, 3)
    classifier = Perceiver(small_config(pooling="query", decoder_dim=5, decoder_residual=False))
    assert classifier(values, positions).shape == (2, 3)
    assert classifier.head.in_features == 5


def test_a_query_is_not_added_to_vectors_of_another_width():
    with pytest.raises(ValueError, match=r"decoder_dim: found 11 for queries of 6 channels.*decoder_residual to False"):
        PerceiverIO(small_config(decoder_dim=11), 6)
    with pytest.raises(ValueError, match=r"decoder_dim: found 0, allowed are numbers of at least 1"):
        small_config(decoder_dim=0)
    assert PerceiverIO(small_config(decoder_dim=6), 6).decoder.output_dim == 6


def test_query_pooling_is_a_decoder_with_one_query(values, positions):
    classifier = randomised(Perceiver(small_config(pooling="query")))
    state = classifier.state_dict()
    query = state.pop("query")
    model = PerceiverIO(small_config(), 16).eval()
    model.load_state_dict(state)
    actual = model(values, positions, queries=query[None, None])
    torch.testing.assert_close(actual[:, 0], classifier(values, positions), atol=0, rtol=0)


def test_position_features_can_be_the_queries(values, positions):
    """The Fourier features of a position are its query; no other position is needed."""
    model = randomised(PerceiverIO(small_config(), 2 * 7))
    outputs = model(values, positions, queries=model.positions((positions,)))
    assert outputs.shape == (2, 12, 3)
    single_output = model(values, positions, queries=model.positions((positions[:, 5:6],)))
    torch.testing.assert_close(single_output[:, 0], outputs[:, 5], atol=1e-5, rtol=1e-5)  # rounding, as above


def test_padding_changes_no_output_and_every_parameter_gets_a_gradient(values, positions, queries):
    model = randomised(PerceiverIO(small_config(), 6))
    expected = model(values, positions, queries=queries)
    padding = torch.zeros(2, 13, dtype=torch.bool)
    padding[:, 12] = True
    padded = torch.cat([values, torch.full((2, 1, 2), torch.nan)], dim=1)
    padded_positions = torch.cat([positions, torch.ones(1, 1, 2)], dim=1)
    actual = model(padded, padded_positions, padding, queries=queries)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)  # rounding, as above
    actual.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-7, name


def test_queries_that_do_not_fit_are_refused(values, positions, queries):
    model = PerceiverIO(small_config(), 6)
    for unfitting_queries in (queries[..., :5], queries[0], queries[[0, 0, 0]]):
        with pytest.raises(ValueError, match=r"queries: found shape \(.*\(2 or 1, queries, 6\)"):
            model(values, positions, queries=unfitting_queries)
