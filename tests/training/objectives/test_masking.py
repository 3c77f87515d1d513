"""Hidden squares of images and of the slices of scans."""

import dataclasses

import pytest
import torch

from perceiver import PerceiverConfig
from pipeline.config.model import ModelConfig
from pipeline.config.training import PretrainConfig
from pipeline.core.data_kinds import POINTS, SCANS
from pipeline.core.errors import UserError
from pipeline.models.networks import build_model
from pipeline.training.objectives.masking import (
    Masking,
    choose_inputs,
    compute_reconstruction_loss_sum,
    cover_squares,
    encode_visible,
    keep_statistics,
    place_squares,
    plan_masking,
)
from tests.builders.models import build_spec

SMALL = PerceiverConfig(num_latents=4, latent_dim=8, num_cross_attends=1, self_attends_per_cross=1, num_bands=2)
STEMS = {
    "pixels": ModelConfig(stem="pixels", perceiver=SMALL),
    "patches": ModelConfig(stem="patches", patch_size=2, perceiver=SMALL, slice_position=True),
    "conv": ModelConfig(num_conv_layers=1, conv_channels=4, perceiver=SMALL),
}
SPEC = build_spec(image_size=(8, 12))
PLACES = torch.tensor([-1.0, 0.5])


def draw_images():
    return torch.randn(2, 1, 8, 12, generator=torch.Generator().manual_seed(0))


def test_squares_hold_the_inputs_and_the_pixels_in_them():
    masking = Masking(patch_size=4, grid_size=(2, 3), num_hidden=3)  # 8 x 12 pixels
    chosen = torch.tensor([[0, 4]])
    # Inputs of 2 x 2 pixels: four rows of six.
    assert choose_inputs(chosen, masking, 2).tolist() == [[0, 1, 6, 7, 14, 15, 20, 21]]
    assert choose_inputs(chosen, masking, 4).tolist() == [[0, 4]]
    cover = cover_squares(chosen, masking)[0, 0]
    assert cover.sum() == 32
    assert cover[:4, :4].all()
    assert cover[4:, 4:8].all()


@pytest.mark.parametrize("stem", STEMS)
def test_the_encoder_reads_the_visible_squares_alone(stem):
    config = STEMS[stem]
    model = build_model(config, SPEC, seed=0).eval()
    masking = plan_masking(PretrainConfig(mask_fraction=0.5, patch_size=4), config, SPEC)
    assert (masking.grid_size, masking.num_hidden) == ((2, 3), 3)
    squares = masking.draw(2, torch.Generator().manual_seed(1), torch.device("cpu"))
    hidden, visible = squares[:, :3], squares[:, 3:]
    images = draw_images()
    latents = encode_visible(model, images, PLACES, masking, visible)
    changed = images + 5 * cover_squares(hidden, masking)
    assert torch.equal(encode_visible(model, changed, PLACES, masking, visible), latents)
    changed = images + 5 * cover_squares(visible[:, :1], masking)
    assert not torch.allclose(encode_visible(model, changed, PLACES, masking, visible), latents)


@pytest.mark.parametrize("stem", STEMS)
def test_an_image_without_hidden_squares_is_encoded_as_it_is(stem):
    config = STEMS[stem]
    model = build_model(config, SPEC, seed=0).eval()
    masking = Masking(patch_size=4, grid_size=(2, 3), num_hidden=0)
    squares = masking.draw(2, torch.Generator().manual_seed(1), torch.device("cpu"))
    places = PLACES if config.slice_position else None
    network = model.network
    expected = network.perceiver.encode(*network.tokenise(draw_images(), places))
    torch.testing.assert_close(encode_visible(model, draw_images(), PLACES, masking, squares), expected)


def test_the_error_is_that_of_normalised_squares():
    masking = Masking(patch_size=2, grid_size=(1, 2), num_hidden=1)
    images = torch.tensor([[[[7.0, 7.0, 1.0, 1.0], [7.0, 7.0, 3.0, 3.0]]]])
    # The first square is flat: zeros. The second has the mean 2 and the variance 1, and 0.01 is added.
    for hidden, wanted in ((0, torch.zeros(4)), (1, torch.tensor([-1.0, -1.0, 1.0, 1.0]) / 1.01**0.5)):
        squares = torch.tensor([[hidden]])
        assert compute_reconstruction_loss_sum(wanted[None, None], images, masking, squares).item() < 1e-10
        off = compute_reconstruction_loss_sum(wanted[None, None] + 0.5, images, masking, squares)
        assert off.item() == pytest.approx(0.25)


SCAN_STEMS = {
    "pixels": ModelConfig(stem="pixels", perceiver=SMALL),
    "patches": ModelConfig(stem="patches", patch_size=2, perceiver=SMALL),
    "conv": ModelConfig(num_conv_layers=1, conv_channels=4, perceiver=SMALL),
    "joined": ModelConfig(stem="patches", patch_size=2, patch_slices=2, perceiver=SMALL),
}
SCAN_SPEC = dataclasses.replace(build_spec(kind=SCANS, image_size=(8, 12), num_slices=7), field_of_view_mm=100.0)


def draw_scans(*counts):
    """Scans of so many slices each, filled up to the most."""
    scans = torch.randn(len(counts), max(counts), 8, 12, generator=torch.Generator().manual_seed(0))
    places = torch.full((len(counts), max(counts), 3), torch.nan)
    for row, count in enumerate(counts):
        places[row, :count] = torch.stack([torch.arange(count) * 5.0 - 10, *[torch.full((count,), 60.0)] * 2], dim=1)
    return scans, places


def prepare_scans(stem):
    config = SCAN_STEMS[stem]
    model = build_model(config, SCAN_SPEC, seed=0).eval()
    masking = plan_masking(PretrainConfig(mask_fraction=0.5, patch_size=4), config, SCAN_SPEC)
    squares = masking.draw(2, torch.Generator().manual_seed(1), torch.device("cpu"))
    return model, masking, squares


def cover_scans(squares, masking, num_slices):
    """1 in the pixels of these squares (batch, layers, some), 0 elsewhere: (batch, slices, height, width)."""
    cover = cover_squares(squares.flatten(0, 1), masking)[:, 0].unflatten(0, squares.shape[:2])
    return cover.repeat_interleave(masking.patch_slices, dim=1)[:, :num_slices]


@pytest.mark.parametrize("stem", SCAN_STEMS)
def test_of_each_slice_of_a_scan_the_visible_squares_are_read_and_no_others(stem):
    model, masking, squares = prepare_scans(stem)
    assert squares.shape == (2, 4 if stem == "joined" else 7, 6)
    scans, places = draw_scans(5, 3)
    hidden, visible = masking.divide(squares, 5)
    assert hidden.shape[:2] == visible.shape[:2] == (2, 3 if stem == "joined" else 5)
    latents = encode_visible(model, scans, places, masking, visible)
    changed = scans + 5 * cover_scans(hidden, masking, 5)
    changed[1, 3:] = 7.0
    assert torch.equal(encode_visible(model, changed, places, masking, visible), latents), "hidden, and padding"
    for layer in range(visible.shape[1]):
        part = 5 * cover_scans(visible[:, :, :1], masking, 5)
        is_other = torch.arange(5) // masking.patch_slices != layer
        part[:, is_other] = 0
        assert not torch.allclose(encode_visible(model, scans + part, places, masking, visible)[0], latents[0])


@pytest.mark.parametrize("stem", SCAN_STEMS)
def test_a_scan_without_hidden_squares_is_encoded_as_it_is(stem):
    model, masking, squares = prepare_scans(stem)
    scans, places = draw_scans(5, 3)
    _, visible = dataclasses.replace(masking, num_hidden=0).divide(squares, 5)
    expected = model.network.perceiver.encode(*model.network.tokenise(scans, places / 50))
    torch.testing.assert_close(encode_visible(model, scans, places, masking, visible), expected)


def test_squares_of_scans_are_asked_for_at_the_places_of_their_inputs():
    for stem in ("patches", "joined"):
        model, masking, squares = prepare_scans(stem)
        masking = dataclasses.replace(masking, patch_size=2, grid_size=(4, 6))
        scans, places = draw_scans(5, 3)
        squares = torch.arange(24).expand(2, -(-5 // masking.patch_slices), -1)
        expected = model.network.tokenise(scans, places / 50)[1]
        torch.testing.assert_close(place_squares(masking, squares, places / 50), expected)


def test_the_error_of_a_scan_is_the_mean_over_its_own_layers():
    """Two layers of two slices; the scan has three slices, and of the fourth the square that is wanted is 0."""
    masking = Masking(patch_size=2, grid_size=(1, 2), num_hidden=1, num_layers=2, patch_slices=2)
    scans = torch.zeros(1, 4, 2, 4)
    scans[0, :2, :, 2:], scans[0, 2, :, 2:], scans[0, 3] = torch.tensor([[1.0], [3.0]]), 4.0, 100.0
    places = torch.zeros(1, 4, 3)
    places[0, 3] = torch.nan
    hidden = torch.tensor([[[1], [1]]])
    first = torch.tensor([-1.0, -1.0, 1.0, 1.0]).repeat(2) / 1.01**0.5  # mean 2, variance 1
    second = torch.tensor([2.0] * 4 + [-2.0] * 4) / 4.01**0.5  # four 4s and four 0s: mean 2, variance 4
    wanted = torch.stack([first, second])[None]
    assert compute_reconstruction_loss_sum(wanted, scans, masking, hidden, places).item() < 1e-10
    off = wanted + torch.tensor([0.5, 1.0])[:, None]
    assert compute_reconstruction_loss_sum(off, scans, masking, hidden, places).item() == pytest.approx(0.625)
    places[0, 2] = torch.nan  # the second layer is padding
    assert compute_reconstruction_loss_sum(off, scans, masking, hidden, places).item() == pytest.approx(0.25)


def test_running_averages_stay_where_they_are_kept():
    norm = torch.nn.BatchNorm2d(1)
    with keep_statistics(torch.nn.Sequential(norm)):
        norm(draw_images() + 3)
    assert norm.running_mean == 0
    norm(draw_images() + 3)
    assert norm.running_mean > 0.2


@pytest.mark.parametrize(
    ("options", "model", "spec", "named"),
    [
        ({"patch_size": 3}, {}, SPEC, r"pretrain\.patch_size: found 3, allowed is 4: multiples of 4 that divide"),
        ({"patch_size": 8}, {}, SPEC, r"pretrain\.patch_size: found 8"),
        ({}, {"num_conv_layers": 4}, SPEC, r"model\.num_conv_layers: found 4, .* 16 x 16 pixels divide images"),
        ({"mask_fraction": 0.01}, {}, SPEC, r"pretrain\.mask_fraction: found 0\.01"),
        ({}, {"architecture": "cnn"}, SPEC, r"model\.architecture: found 'cnn'"),
        ({}, {"pixel_permutation_seed": 1}, SPEC, r"model\.pixel_permutation_seed: found 1"),
        ({}, {"slices": "mean"}, SCAN_SPEC, r"model\.slices: found 'mean', allowed is joint"),
        ({}, {}, build_spec(kind=POINTS, image_size=(32, 3)), "a point is its position"),
    ],
)
def test_what_cannot_be_masked_is_refused(options, model, spec, named):
    with pytest.raises(UserError, match=named):
        plan_masking(PretrainConfig(**options), ModelConfig(**model), spec)
