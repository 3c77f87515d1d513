"""Weights of another checkpoint, fitted to a model of other classes, channels and sizes."""

import dataclasses

import pytest
import torch
from torch import nn

from perceiver import PerceiverConfig
from perceiver.positions import grid_positions
from pipeline.config.model import CnnConfig, ModelConfig
from pipeline.core.data_kinds import SCANS, VOXEL_VOLUMES
from pipeline.models.networks import build_model
from pipeline.training.fine_tuning import (
    find_head,
    fit_weights,
    freeze_backbone,
    interpolate_table,
    set_training_mode,
    spread_channels,
)
from tests.builders.checkpoints import make_checkpoint
from tests.builders.models import build_spec

SMALL = PerceiverConfig(num_latents=4, latent_dim=8, num_cross_attends=2, self_attends_per_cross=1, num_bands=2)


def make_start(model=None, **spec):
    """A checkpoint of a small model with weights of its own."""
    model = ModelConfig(perceiver=SMALL) if model is None else model
    spec = build_spec(**spec)
    return make_checkpoint(model=model, spec=spec, weights=build_model(model, spec, seed=7).state_dict())


def fit(start, model, keeps_head=True, **spec):
    built = build_model(model, build_spec(**spec), seed=1)
    return built, *fit_weights(built, start, keeps_head)


def test_learned_positions_are_interpolated_between_the_same_corners():
    """Vectors that are the coordinates themselves stay so on any grid."""
    for old, new in (((2, 3), (4, 7)), ((5,), (3,)), ((2, 3, 2), (3, 2, 4))):
        torch.testing.assert_close(interpolate_table(grid_positions(old), old, new), grid_positions(new))


def test_a_grey_image_is_the_same_to_weights_for_one_channel_as_for_three_equal_ones():
    three, one = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(1, 4, 3, bias=False)
    image = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one.weight.copy_(spread_channels(three.weight, 1))
        torch.testing.assert_close(one(image), three(image.expand(-1, 3, -1, -1)))
        three.weight.copy_(spread_channels(one.weight, 3))
        torch.testing.assert_close(one(image), three(image.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(("kind", "unit"), [(SCANS, "mm"), (VOXEL_VOLUMES, "voxels")])
def test_another_field_of_view_is_noted_in_its_unit(kind, unit):
    small, large = (
        dataclasses.replace(build_spec(kind=kind, image_size=(16, 16)), field_of_view_mm=size) for size in (35.0, 80.0)
    )
    config = ModelConfig(perceiver=SMALL)
    start = make_checkpoint(model=config, spec=small, weights=build_model(config, small, seed=7).state_dict())
    _, notes = fit_weights(build_model(config, large, seed=1), start, keeps_head=True)
    assert notes == [f"the field of view was 35 {unit} and is 80 {unit}"]


@pytest.mark.parametrize("architecture", ["perceiver", "cnn"])
def test_all_weights_are_taken_but_those_of_a_last_layer_for_other_classes(architecture):
    config = ModelConfig(architecture=architecture, perceiver=SMALL, cnn=CnnConfig(channels=(4, 8)))
    start = make_start(config)
    same, weights, notes = fit(start, config)
    assert weights.keys() == same.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in start.weights.items())
    assert notes == []
    other, weights, notes = fit(start, config, keeps_head=False, num_classes=5)
    left_out = other.state_dict().keys() - weights.keys()
    assert {other.get_submodule(name.rpartition(".")[0]) for name in left_out} == {find_head(other.network)}
    assert notes == ["the last layer is new"]


def test_weights_fit_other_channels_and_sizes():
    learned = ModelConfig(perceiver=dataclasses.replace(SMALL, positions="learned"))
    model, weights, notes = fit(make_start(learned), learned, num_channels=3, image_size=(16, 24))
    model.load_state_dict(weights)
    assert len(notes) == 2
    assert any("positions.table changed from (4, 32) to (24, 32)" in note for note in notes)
    fourier = ModelConfig(perceiver=SMALL)
    model, weights, notes = fit(make_start(fourier), fourier, image_size=(16, 24))
    model.load_state_dict(weights)
    assert notes == ["features of positions computed for 4 x 6 places"]


def test_weights_of_patches_are_spread_by_channel_and_those_of_positions_stay():
    config = ModelConfig(stem="patches", patch_size=2, perceiver=SMALL)
    start = make_start(config)
    name = "network.perceiver.cross_layers.0.attention.to_key.weight"
    model, weights, _ = fit(start, config, num_channels=3)
    model.load_state_dict(weights)
    old, new = start.weights[name], weights[name]
    torch.testing.assert_close(new[:, 12:], old[:, 4:])
    torch.testing.assert_close(new[:, :12].reshape(-1, 3, 4).sum(dim=1), old[:, :4])
    gain = "network.perceiver.cross_layers.0.attention.input_gain"
    torch.testing.assert_close(weights[gain][:12], start.weights[gain][:4].repeat(3))


def test_a_network_of_other_widths_is_refused_by_the_name_of_a_tensor():
    wide = ModelConfig(perceiver=dataclasses.replace(SMALL, latent_dim=16))
    with pytest.raises(ValueError, match=r"tensor network\.perceiver\.\S+ has shape"):
        fit(make_start(), wide)
    deep = ModelConfig(perceiver=dataclasses.replace(SMALL, num_cross_attends=3))
    with pytest.raises(ValueError, match=r"tensor network\.perceiver\.\S+ is in one of the two models alone"):
        fit(make_start(), deep)


def test_a_frozen_backbone_is_not_trained_and_computes_as_in_scoring():
    model = build_model(ModelConfig(perceiver=dataclasses.replace(SMALL, dropout=0.5)), build_spec(), seed=0)
    freeze_backbone(model)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained == ["network.perceiver.head.weight", "network.perceiver.head.bias"]
    set_training_mode(model, model, "backbone")
    images, places = torch.randn(3, 1, 8, 8), torch.zeros(3)
    torch.testing.assert_close(model(images, places), model(images, places), rtol=0, atol=0)
    set_training_mode(model, model, "none")
    assert not torch.equal(model(images, places), model(images, places))
