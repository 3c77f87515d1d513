"""Laws of the whole model."""

import pytest
import torch

from perceiver import Perceiver, PerceiverConfig
from perceiver.positions import Grid, grid_positions
from tests.perceiver.small_models import MODEL_OPTIONS, logits_and_gradients, small_config, small_perceiver


@pytest.fixture
def values():
    return torch.randn(2, 12, 2, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def positions():
    return grid_positions((3, 4)).unsqueeze(0)


def values_for(options, values):
    """Return the values, without channels for a model that reads positions alone."""
    return values[..., : options.get("input_channels", 2)]


@pytest.mark.parametrize("options", MODEL_OPTIONS)
def test_permuting_inputs_together_with_their_positions_changes_nothing(options, values, positions):
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    model, values = small_perceiver(**options), values_for(options, values)
    padding = torch.rand(2, 12, generator=torch.Generator().manual_seed(4)) > 0.7
    for padding_option in (None, padding):
        moved_padding = None if padding_option is None else padding_option[:, order]
        expected = model(values, positions, padding_option)
        # The softmax adds up in another order: float32 rounding.
        actual = model(values[:, order], positions[:, order], moved_padding)
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
        if options.get("positions") != "none" and options.get("input_channels") != 0:
            assert (model(values[:, order], positions, moved_padding) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("options", MODEL_OPTIONS)
def test_padding_changes_nothing_whatever_it_holds(options, values, positions):
    """Padding changes neither logits nor gradients, wherever it is."""
    model, values = small_perceiver(**options), values_for(options, values)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(3))
    padding = (torch.arange(15) >= 12).expand(2, -1)[:, order]
    padded_values = torch.cat([values, torch.full((2, 3, values.shape[2]), torch.nan)], dim=1)[:, order]
    padded_positions = torch.cat([positions, torch.ones(1, 3, 2)], dim=1)[:, order]
    expected, expected_gradients = logits_and_gradients(model, values, positions)
    actual, gradients = logits_and_gradients(model, padded_values, padded_positions, padding)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)  # rounding, as above
    for name, gradient in expected_gradients.items():
        scale = max(1.0, gradient.abs().max().item())  # a gradient is a sum of terms that cancel
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5 * scale, rtol=1e-4, msg=name)


@pytest.mark.parametrize("options", MODEL_OPTIONS)
def test_chosen_inputs_are_read_and_all_others_are_as_if_they_were_padding(options, values, positions):
    model, values = small_perceiver(**options), values_for(options, values)
    scores = torch.rand(2, 12, generator=torch.Generator().manual_seed(5))
    chosen = scores.topk(5, dim=1).indices
    left_out = torch.ones(2, 12, dtype=torch.bool).scatter(1, chosen, value=False)
    for given in (positions, positions.expand(2, -1, -1), Grid((3, 4))):
        expected = model(values, given, left_out)
        # The softmax adds up in another order: float32 rounding.
        torch.testing.assert_close(model(values, given, None, chosen), expected, atol=1e-5, rtol=1e-5)
        padding = scores > 0.8
        both = model(values, given, padding | left_out)
        torch.testing.assert_close(model(values, given, padding, chosen), both, atol=1e-5, rtol=1e-5)


def test_padding_ignores_what_it_marks_and_nothing_else(values, positions):
    model = small_perceiver()
    padding = torch.zeros(2, 12, dtype=torch.bool)
    padding[0, 5] = True
    expected = model(values[:1, torch.arange(12) != 5], positions[:, torch.arange(12) != 5])
    actual = model(values, positions, padding)
    torch.testing.assert_close(actual[:1], expected, atol=1e-5, rtol=1e-5)  # rounding, as above
    torch.testing.assert_close(actual[1:], model(values[1:], positions), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [*MODEL_OPTIONS, {"attention_dropout": 0.1, "dropout": 0.1}])
def test_every_parameter_gets_a_gradient(options, values, positions):
    model = small_perceiver(**options).train()
    _, gradients = logits_and_gradients(model, values_for(options, values), positions)
    for name, gradient in gradients.items():
        assert gradient is not None, name
        assert gradient.abs().max() > 1e-7, name


@pytest.mark.parametrize("sharing", ["none", "all", "all_but_first", "all_but_first_block"])
@pytest.mark.parametrize("cross_head_dim", [32, 8])
def test_each_layer_reads_the_output_of_the_one_before_it_and_changes_the_logits(
    sharing, cross_head_dim, values, positions
):
    model = small_perceiver(weight_sharing=sharing, cross_head_dim=cross_head_dim)
    layer_inputs, layer_outputs = [], []

    def record_call(_, arguments, latents):
        layer_inputs.append(arguments[0])
        layer_outputs.append(latents)
        latents.retain_grad()

    layers = [*model.cross_layers, *(layer for block in model.latent_layers for layer in block)]
    for layer in layers:
        layer.register_forward_hook(record_call)
    logits_and_gradients(model, values, positions)
    assert len(layer_outputs) == 3 * (1 + 2)  # each call counts, whichever weights it shares
    assert torch.equal(layer_inputs[0], model.latents.expand(2, -1, -1))
    for layer_index in range(1, 9):
        assert layer_inputs[layer_index] is layer_outputs[layer_index - 1], layer_index
    for latents in layer_outputs:
        assert latents.grad.abs().max() > 1e-4
        assert (latents.grad.abs().amax(dim=(0, 2)) > 1e-7).all()  # each latent counts


def test_a_later_layer_depends_on_an_earlier_one(values, positions):
    """If each repetition started from the first latents again, the earlier layers would have no effect."""
    model = small_perceiver()
    expected = model(values, positions)
    for layer in (model.cross_layers[0], model.latent_layers[0]):
        for parameter in layer.parameters():
            parameter.data.mul_(1.5)
        changed = model(values, positions)
        assert (changed - expected).abs().max() > 1e-3
        expected = changed


def test_the_first_latents_matter_after_all_layers(values, positions):
    model = small_perceiver()
    expected = model(values, positions)
    model.latents.data.mul_(-1)
    assert (model(values, positions) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("pooling", ["mean", "query", "cls"])
def test_mean_and_query_pooling_see_no_order_of_latents_and_cls_reads_the_first(pooling, values, positions):
    model = small_perceiver(pooling=pooling)
    expected = model(values, positions)
    model.latents.data = model.latents.data[[0, 3, 1, 4, 2]]
    torch.testing.assert_close(model(values, positions), expected, atol=1e-5, rtol=1e-5)  # rounding, as above
    model.latents.data = model.latents.data[[1, 0, 2, 3, 4]]
    difference = (model(values, positions) - expected).abs().max().item()
    assert difference > 1e-3 if pooling == "cls" else difference < 1e-5


@pytest.mark.parametrize(
    ("sharing", "cross", "latent"),
    [("none", 3, 3), ("all", 1, 1), ("all_but_first", 2, 1), ("all_but_first_block", 2, 2)],
)
def test_weight_sharing_counts_parameters(sharing, cross, latent):
    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    model = small_perceiver(weight_sharing=sharing)
    cross_size, latent_size = count(model.cross_layers[0]), count(model.latent_layers[0])
    num_other_parameters = 5 * 16 + 2 * 16 + 16 * 3 + 3  # latents, norm, head
    assert count(model) == cross * cross_size + latent * latent_size + num_other_parameters


def test_the_papers_imagenet_model_has_44_9_million_parameters():
    """arXiv 2103.03206: 8 x (1 cross + 6 self), 512 x 1024 latents, 64 bands, widening 1."""
    paper = PerceiverConfig(
        input_channels=3,
        axis_sizes=(224, 224),
        num_classes=1000,
        num_latents=512,
        latent_dim=1024,
        num_cross_attends=8,
        self_attends_per_cross=6,
        cross_heads=1,
        cross_head_dim=261,
        latent_heads=8,
        latent_head_dim=128,
        weight_sharing="all_but_first",
        activation="gelu",
        feedforward_widening=1,
        num_bands=64,
    )
    with torch.device("meta"):
        model = Perceiver(paper)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(44.9, abs=0.05)


@pytest.mark.parametrize("std", [0.02, 0.5, 1.0, 3.0])
def test_latents_start_from_a_normal_of_the_given_standard_deviation(std):
    latents = Perceiver(small_config(num_latents=200, latent_dim=64, latent_init_std=std)).latents
    assert latents.std().item() == pytest.approx(std, rel=0.04)  # 12,800 draws: standard error 0.6 %
    assert latents.abs().max() <= max(2, 5 * std)


@pytest.mark.parametrize("std", [0.02, 1.0])
def test_learned_positions_start_from_a_normal_of_the_given_standard_deviation(std):
    options = {"positions": "learned", "axis_sizes": (20, 20), "learned_position_dim": 32}
    table = Perceiver(small_config(**options, learned_position_init_std=std)).positions.table
    assert table.std().item() == pytest.approx(std, rel=0.04)  # 12,800 draws: standard error 0.6 %


@pytest.mark.parametrize("cross_head_dim", [8, 32])
@pytest.mark.parametrize("gain", [0.5, 8.0])
def test_the_gain_multiplies_the_first_scores_of_attention(values, positions, gain, cross_head_dim):
    def first_scores(**options):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model = Perceiver(small_config(cross_head_dim=cross_head_dim, **options))
        maps = model.attention_maps(values, positions, layers=(0,))
        scores = maps[0].log()
        return scores - scores[..., :1]  # a softmax says scores up to a constant

    expected = gain * first_scores()
    torch.testing.assert_close(first_scores(query_init_gain=gain), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.05


def test_a_point_cloud_has_no_values_but_positions():
    model = small_perceiver(input_channels=0, axis_sizes=(8, 8, 8))
    points = torch.rand(2, 9, 3, generator=torch.Generator().manual_seed(5)) * 2 - 1
    logits = model(torch.zeros(2, 9, 0), points)
    torch.testing.assert_close(model(torch.zeros(2, 9, 0), points.flip(1)), logits, atol=1e-5, rtol=1e-5)
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_without_positions_only_values_count(values, positions):
    model = small_perceiver(positions="none")
    expected = model(values, positions)
    assert torch.equal(model(values, positions.flip(1)), expected)
    assert (model(values * 2, positions) - expected).abs().max() > 1e-3
    assert model.cross_layers[0].attention.input_gain.shape == (2,)


def test_frequencies_alone_define_the_number_of_axes(values, positions):
    by_size, by_frequency = (small_perceiver(axis_sizes=sizes, max_freq=(3.0, 4.0)) for sizes in ((3, 4), None))
    assert torch.equal(by_frequency(values, positions), by_size(values, positions))


def test_max_freq_is_the_axis_size_unless_given(values, positions):
    by_default, by_option = small_perceiver(), small_perceiver(max_freq=(3.0, 4.0))
    assert torch.equal(by_default(values, positions), by_option(values, positions))
    doubled = small_perceiver(max_freq=(6.0, 4.0))
    assert not torch.allclose(by_default(values, positions), doubled(values, positions), atol=1e-3)


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"attention_dropout": 0.5}])
def test_dropout_acts_in_training_only(options, values, positions):
    model = small_perceiver(**options)
    assert torch.equal(model(values, positions), small_perceiver()(values, positions))
    model.train()
    assert not torch.allclose(model(values, positions), model(values, positions), atol=1e-3)


def test_input_that_does_not_fit_is_refused_by_name(values, positions):
    model = small_perceiver()
    with pytest.raises(ValueError, match=r"values.*\(2, 12, 1\).* 2 channels"):
        model(values[..., :1], positions)
    with pytest.raises(ValueError, match=r"positions.*\[\(1, 12, 1\)\].* 2 axes"):
        model(values, positions[..., :1])
    with pytest.raises(ValueError, match=r"padding.*\(2, 11\) of torch\.bool.*\(2, 12\)"):
        model(values, positions, torch.zeros(2, 11, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"padding.* of torch\.float32.*\(2, 12\) of torch\.bool"):
        model(values, positions, torch.zeros(2, 12))
