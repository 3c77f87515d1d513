"""Volumes as inputs: positions, padding, order of slices, and joined slices."""

import copy

import pytest
import torch

from perceiver import ImageConfig, PerceiverConfig, VolumePerceiver
from perceiver.images import build_conv_stem
from perceiver.volumes import can_look, count_images, join_slices, sort_slices, volume_positions

SMALL = PerceiverConfig(num_latents=4, latent_dim=16, num_cross_attends=2, self_attends_per_cross=1, num_bands=3)
STEMS = {
    "conv": ImageConfig(stem="conv", num_conv_layers=1, conv_channels=6, perceiver=SMALL),
    "residual": ImageConfig(stem="conv", num_conv_layers=1, conv_channels=6, num_residual_blocks=1, perceiver=SMALL),
    "patches": ImageConfig(stem="patches", patch_size=4, perceiver=SMALL),
    "pixels": ImageConfig(stem="pixels", perceiver=SMALL),
}


def build(stem="conv", **options):
    torch.manual_seed(0)
    config = STEMS[stem]
    return VolumePerceiver(config, height=8, width=8, num_slices=6, num_classes=3, **options).eval()


def draw_volumes(*counts, seed=0):
    """Volumes of so many slices each, padded to the most."""
    generator = torch.Generator().manual_seed(seed)
    most = max(counts)
    volumes = torch.randn(len(counts), most, 8, 8, generator=generator)
    places = torch.full((len(counts), most, 3), torch.nan)
    for row, count in enumerate(counts):
        places[row, :count, 0] = torch.linspace(-0.7, 0.8, count) if count > 1 else 0.0
        places[row, :count, 1:] = torch.tensor([1.2 + 0.1 * row, 0.9])
    return volumes, places


def test_positions_are_centres_of_inputs_in_units_of_half_the_field_of_view():
    places = torch.tensor([[[0.5, 1.0, 0.4], [-0.25, 2.0, 2.0]]])
    expected = torch.tensor([[-0.25, 0.0, 0.5], [0.25, 0.0, 0.5], [-0.5, 0.0, -0.25], [0.5, 0.0, -0.25]])
    torch.testing.assert_close(volume_positions(places, 2, 1)[0], expected)


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("patch_slices", [1, 2])
def test_padding_changes_no_logit(stem, patch_slices):
    model = build(stem, patch_slices=patch_slices)
    volumes, places = draw_volumes(5, 2)
    together = model(volumes, places)
    alone = model(volumes[1:, :2], places[1:, :2])
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-5)
    volumes[1, 2:] = torch.nan
    assert torch.equal(model(volumes, places), together), "what padding contains is not read"


def test_sorted_volumes_are_not_copied_and_padding_is_named_only_where_there_is_some():
    volumes, places = draw_volumes(4, 4)
    assert sort_slices(volumes, places)[0] is volumes
    assert build().tokenise(volumes, places)[2] is None
    assert build().tokenise(*draw_volumes(4, 3))[2].sum(dim=1).tolist() == [0, 16]
    assert can_look(places)
    assert not can_look(torch.ones(2, device="meta")), "there are no values"


def test_half_of_the_slices_give_nearly_the_logits_of_all():
    """Of a smooth volume every second slice shows what all show; padding of the other half must not."""
    places = torch.zeros(1, 40, 3)
    places[..., 0], places[..., 1:] = torch.linspace(-0.8, 0.8, 40), 1.5
    volumes = torch.sin(3 * places[..., :1, None] + torch.linspace(0, 4, 64).reshape(8, 8))
    model = build("patches")
    whole, half = model(volumes, places), model(volumes[:, ::2], places[:, ::2])
    other = model(volumes[:, ::2], places[:, :20])
    moved = (whole.softmax(-1) - half.softmax(-1)).abs().max()
    assert moved < 0.01
    assert (whole.softmax(-1) - other.softmax(-1)).abs().max() > 3 * moved, "positions that are not theirs"


@pytest.mark.parametrize("stem", ["conv", "residual"])
def test_padding_changes_neither_batch_statistics_nor_gradients_of_training(stem):
    volumes, places = draw_volumes(3, 3)
    padded = torch.cat([volumes, torch.full((2, 2, 8, 8), 100.0)], dim=1)
    padded_places = torch.cat([places, torch.full((2, 2, 3), torch.nan)], dim=1)
    found = []
    for inputs in ((volumes, places), (padded, padded_places)):
        model = build(stem).train()
        for block in model.stem[4:]:
            torch.nn.init.ones_(block.second_norm.weight)
        model(*inputs).square().sum().backward()
        statistics = [value.clone() for name, value in model.named_buffers() if "running" in name]
        found.append((statistics, model.stem[0].weight.grad.clone()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_images_that_do_not_count_change_nothing_of_a_batch_norm():
    """On a GPU padding passes the stem; what is left out before it on a processor is the same."""
    generator = torch.Generator().manual_seed(0)
    images, is_counted = torch.randn(5, 1, 8, 8, generator=generator), torch.tensor([True, False, True, True, False])
    images[~is_counted] *= 100
    torch.manual_seed(0)
    stem = build_conv_stem(1, 2, 6).train()
    other = copy.deepcopy(stem)
    expected = stem(images[is_counted])
    with count_images(other, is_counted):
        found = other(images)[is_counted]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)  # other sums
    for name, value in other.state_dict().items():
        torch.testing.assert_close(value, stem.state_dict()[name], atol=1e-6, rtol=1e-5)
    weights = torch.randn(expected.shape, generator=generator)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    for mine, theirs in zip(other.parameters(), stem.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-4, rtol=1e-4)  # other sums


@pytest.mark.parametrize("patch_slices", [1, 2])
def test_the_order_of_slices_does_not_matter_to_the_last_bit(patch_slices):
    model = build(patch_slices=patch_slices)
    volumes, places = draw_volumes(6, 4)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.equal(model(volumes[:, order], places[:, order]), model(volumes, places))


def test_sorting_puts_padding_last():
    volumes = torch.arange(3.0).reshape(1, 3, 1, 1)
    places = torch.tensor([[[torch.nan] * 3, [0.5, 1, 1], [-0.5, 1, 1]]])
    sorted_volumes, sorted_places = sort_slices(volumes, places)
    assert sorted_volumes.flatten().tolist() == [2, 1, 0]
    assert sorted_places[0, :, 0].tolist()[:2] == [-0.5, 0.5]


def test_logits_depend_on_the_positions_and_the_size_of_slices():
    model = build()
    volumes, places = draw_volumes(4)
    moved = places.clone()
    moved[..., 0] += 0.1
    assert not torch.allclose(model(volumes, moved), model(volumes, places))
    wider = places.clone()
    wider[..., 2] *= 1.1
    assert not torch.allclose(model(volumes, wider), model(volumes, places))


def test_slices_at_constant_distance_have_the_positions_of_a_grid():
    count = 5
    places = torch.zeros(1, count, 3)
    places[0, :, 0] = (torch.arange(count) + 0.5) / count * 2 - 1
    places[0, :, 1:] = 2.0
    found = volume_positions(places, count, count)[0].reshape(count, count, count, 3)
    centres = (torch.arange(count) + 0.5) / count * 2 - 1
    down, across, along = torch.meshgrid(centres, centres, centres, indexing="ij")
    expected = torch.stack([down, across, along], dim=-1).permute(2, 0, 1, 3)
    torch.testing.assert_close(found, expected)


def test_joined_slices_lie_at_the_mean_of_those_that_are_there():
    values = torch.arange(3.0).reshape(1, 3, 1, 1, 1) + 1
    places = torch.tensor([[[0.0, 1, 1], [0.2, 1, 1], [0.4, 1, 1]]])
    joined, means, is_padding = join_slices(values, places, torch.zeros(1, 3, dtype=torch.bool), 2)
    assert joined.flatten().tolist() == [1, 2, 3, 0]
    assert means[0, :, 0].tolist() == pytest.approx([0.1, 0.4])
    assert is_padding.tolist() == [[False, False]]


def test_attention_of_a_latent_is_spread_over_slices_rows_and_columns_and_not_over_padding():
    model = build("patches")
    volumes, places = draw_volumes(3, 2)
    weights = model.attention_maps(volumes, places, layers=(1,))[1]
    assert weights.shape == (2, 1, 4, 3, 2, 2)
    torch.testing.assert_close(weights.sum(dim=(-3, -2, -1)), torch.ones(2, 1, 4))
    assert weights[1, :, :, 2].abs().max() == 0


def test_one_slice_and_2000_are_volumes_in_any_order():
    model = build("patches")
    assert model(*draw_volumes(1)).isfinite().all()
    volumes, places = draw_volumes(2000)
    assert torch.equal(model(volumes.flip(1), places.flip(1)), model(volumes, places))


def test_wrong_shapes_are_refused_by_name():
    model = build()
    volumes, places = draw_volumes(3)
    with pytest.raises(ValueError, match="volumes"):
        model(volumes[..., :4], places)
    with pytest.raises(ValueError, match="places"):
        model(volumes, places[..., :2])
    with pytest.raises(ValueError, match="larger slices"):
        VolumePerceiver(STEMS["patches"], height=2, width=2, num_slices=6, num_classes=3)
