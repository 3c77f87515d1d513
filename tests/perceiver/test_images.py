"""Images become inputs without losing or moving a pixel."""

import copy

import pytest
import torch

from perceiver import ImageConfig, ImagePerceiver, PerceiverConfig, image_tokens
from perceiver.images import ResidualBlock, build_conv_stem


def small_model(**options):
    shape = {"channels": 2, "height": 8, "width": 12, "num_classes": 3}
    if options.get("slice_position"):
        shape["num_slices"] = 5
    perceiver = PerceiverConfig(num_latents=4, latent_dim=16, num_bands=3, latent_init_std=1.0)
    return ImagePerceiver(ImageConfig(**{"perceiver": perceiver, "conv_channels": 8, **options}), **shape).eval()


@pytest.fixture
def images():
    return torch.randn(3, 2, 8, 12, generator=torch.Generator().manual_seed(0))


def test_a_pixel_has_the_position_of_its_row_and_column():
    image = torch.arange(6.0).reshape(1, 1, 2, 3)
    values, (grid,) = image_tokens(image)
    assert values[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert grid[0].tolist() == [[-1, -1], [-1, 0], [-1, 1], [1, -1], [1, 0], [1, 1]]


def test_a_patch_holds_its_own_pixels():
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    values, (grid,) = image_tokens(image, patch_size=2)
    assert values[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert grid[0].tolist() == [[-1, -1], [-1, 1], [1, -1], [1, 1]]


def test_a_patch_holds_one_channel_after_the_other():
    values, _ = image_tokens(torch.arange(8.0).reshape(1, 2, 2, 2), patch_size=2)
    assert values[0].tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]


def test_a_size_that_is_no_multiple_of_the_patch_is_refused():
    with pytest.raises(ValueError, match=r"4 x 5 pixels.*patch_size 2"):
        image_tokens(torch.zeros(1, 1, 4, 5), patch_size=2)


@pytest.mark.parametrize(
    ("options", "channels", "sizes"),
    [
        ({"stem": "pixels"}, 2, (8, 12)),
        ({"stem": "patches", "patch_size": 4}, 32, (2, 3)),
        ({"stem": "conv", "num_conv_layers": 1}, 8, (4, 6)),
        ({"stem": "conv", "num_conv_layers": 3}, 8, (1, 1)),
        ({"stem": "pixels", "slice_position": True}, 2, (8, 12, 5)),
    ],
)
def test_the_stem_decides_what_the_perceiver_reads(options, channels, sizes, images):
    model = small_model(**options)
    assert (model.perceiver.config.input_channels, model.perceiver.config.axis_sizes) == (channels, sizes)
    slice_position = torch.tensor([-1.0, 0.0, 1.0]) if "slice_position" in options else None
    logits = model(images, slice_position)
    assert logits.shape == (3, 3)
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_the_position_of_a_slice_matters(images):
    model = small_model(slice_position=True)
    repeated = images[:1].expand(3, -1, -1, -1)
    logits = model(repeated, torch.tensor([-1.0, -1.0, 0.5]))
    torch.testing.assert_close(logits[0], logits[1])
    assert (logits[0] - logits[2]).abs().max() > 1e-4


@pytest.mark.parametrize("options", [{"stem": "pixels"}, {"stem": "patches"}, {"stem": "conv"}])
def test_every_parameter_of_the_stem_gets_a_gradient(options, images):
    model = small_model(slice_position=True, **options).train()
    weight = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    (model(images, torch.tensor([-1.0, 0.0, 1.0])) * weight).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # A shift common to all inputs can cancel in the norm, but never exactly to 0 everywhere.
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("options", "num_inputs"), [({"stem": "pixels"}, 96), ({"stem": "patches", "patch_size": 4}, 6)]
)
def test_every_learned_position_gets_a_gradient_of_its_own(options, num_inputs, images):
    perceiver = PerceiverConfig(num_latents=4, latent_dim=16, positions="learned", latent_init_std=1.0)
    model = small_model(perceiver=perceiver, **options).train()
    table = model.perceiver.positions.table
    assert table.shape == (num_inputs, perceiver.learned_position_dim)
    weight = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    (model(images) * weight).sum().backward()
    assert (table.grad.abs().amax(dim=1) > 0).all()
    assert len(torch.unique(table.grad, dim=0)) == num_inputs
    logits_before = model(images)
    with torch.no_grad():
        table[0] += 1
    assert (model(images) - logits_before).abs().max() > 1e-4


def test_an_image_of_another_shape_is_refused(images):
    with pytest.raises(ValueError, match=r"shape \(3, 12, 8, 2\).*\(batch, 2, 8, 12\)"):
        small_model()(images.permute(0, 3, 2, 1))


def test_a_slice_position_that_is_missing_or_not_used_is_refused(images):
    with pytest.raises(ValueError, match=r"slice_position: found none.*True"):
        small_model(slice_position=True)(images)
    with pytest.raises(ValueError, match=r"slice_position: found one.*False"):
        small_model()(images, torch.zeros(3))
    with pytest.raises(ValueError, match="num_slices"):
        ImagePerceiver(ImageConfig(slice_position=True), channels=1, height=8, width=8, num_classes=2)


def test_a_config_that_contradicts_the_data_is_refused():
    config = ImageConfig(stem="pixels", perceiver=PerceiverConfig(num_classes=7))
    with pytest.raises(ValueError, match=r"PerceiverConfig\.num_classes: found 7.* 2"):
        ImagePerceiver(config, channels=1, height=8, width=8, num_classes=2)


def test_an_image_too_small_for_its_stem_is_refused():
    config = ImageConfig(stem="conv", num_conv_layers=4)
    with pytest.raises(ValueError, match=r"num_conv_layers: found 4.*8 x 12 pixels"):
        ImagePerceiver(config, channels=1, height=8, width=12, num_classes=2)


def test_each_layer_of_the_stem_halves_the_image_and_doubles_the_channels():
    stem = build_conv_stem(3, 3, 32)
    widths = [layer.out_channels for layer in stem if isinstance(layer, torch.nn.Conv2d)]
    assert widths == [8, 16, 32]
    sizes = [stem[:count](torch.zeros(1, 3, 17, 24)).shape[2:] for count in (4, 8, 12)]
    assert sizes == [(8, 12), (4, 6), (2, 3)]


def test_a_new_residual_block_passes_on_what_it_reads_and_a_trained_one_adds_two_convolutions():
    torch.manual_seed(0)
    block, features = ResidualBlock(4).eval(), torch.rand(2, 4, 5, 6)
    assert torch.equal(block(features), features)
    torch.nn.init.ones_(block.second_norm.weight)
    scale = 1 / (1 + block.first_norm.eps) ** 0.5  # of a norm that has seen nothing: mean 0, variance 1
    inner = torch.conv2d(features, block.first.weight, padding=1).mul(scale).relu()
    change = torch.conv2d(inner, block.second.weight, padding=1).mul(scale)
    torch.testing.assert_close(block(features), (features + change).relu())
    block(features).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in block.parameters())


def test_residual_blocks_follow_each_layer_of_the_stem(images):
    model = small_model(num_conv_layers=2, num_residual_blocks=3)
    widths = [layer.first.out_channels for layer in model.stem if isinstance(layer, ResidualBlock)]
    assert widths == [4, 4, 4, 8, 8, 8]
    plain = small_model(num_conv_layers=2)
    plain.load_state_dict(dict(zip(plain.state_dict(), drop_blocks(model), strict=True)))
    torch.testing.assert_close(model(images), plain(images), msg="new blocks change no answer")


def drop_blocks(model):
    """Return the weights of a model without its residual blocks, in their order."""
    places = {f"stem.{place}." for place, layer in enumerate(model.stem) if isinstance(layer, ResidualBlock)}
    return [value for name, value in model.state_dict().items() if not name.startswith(tuple(places))]


def test_the_stem_computes_channel_by_channel_in_memory_what_it_computes_row_by_row():
    torch.manual_seed(0)
    stem, images = build_conv_stem(2, 2, 16), torch.randn(3, 2, 12, 20)
    by_rows = copy.deepcopy(stem).to(memory_format=torch.contiguous_format)
    outputs, expected = stem(images), by_rows(images)
    assert outputs.is_contiguous(memory_format=torch.channels_last)
    assert not expected.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(outputs, expected)


def score_brightness(model):
    """Make every latent of the first cross-attention score the first channel of an input, and nothing else."""
    attention = model.perceiver.cross_layers[0].attention
    with torch.no_grad():
        attention.query_norm.weight.zero_()
        attention.query_norm.bias.fill_(1.0)
        for layer in (attention.to_query, attention.to_key):
            layer.weight.zero_()
        attention.to_query.weight[0] = 1.0
        attention.to_key.weight[0, 0] = 1.0
    return model


@pytest.mark.parametrize(
    ("options", "cell_pixels"), [({"stem": "pixels"}, 1), ({"stem": "patches", "patch_size": 2}, 2)]
)
def test_a_map_is_brightest_where_the_image_has_what_the_latents_score(options, cell_pixels):
    model = score_brightness(small_model(**options))
    images = torch.zeros(2, 2, 8, 12)
    images[0, 0, 2:4, 10:12] = 5.0
    images[1, 0, 6:8, 0:2] = 5.0
    maps = model.attention_maps(images)[0].mean(dim=(1, 2))
    assert (model.grid_size, model.cell_pixels) == ((8 // cell_pixels, 12 // cell_pixels), cell_pixels)
    assert tuple(maps.shape[1:]) == model.grid_size
    torch.testing.assert_close(maps.sum(dim=(1, 2)), torch.ones(2))
    rows, columns = (maps[0] == maps[0].max()).nonzero(as_tuple=True)
    assert {(int(r) * cell_pixels, int(c) * cell_pixels) for r, c in zip(rows, columns, strict=True)} <= {
        (r, c) for r in (2, 3) for c in (10, 11)
    }
    assert divmod(int(maps[1].argmax()), model.grid_size[1])[0] * cell_pixels >= 6
    assert int(maps[1].argmax()) % model.grid_size[1] * cell_pixels <= 1


def test_maps_of_latents_and_of_chosen_layers_and_heads_are_the_perceivers_own(images):
    model = small_model(stem="conv", slice_position=True)
    slice_position = torch.tensor([-1.0, 0.0, 1.0])
    assert (model.grid_size, model.cell_pixels) == ((2, 3), 4)
    with torch.no_grad():
        values, positions = model.tokenise(images, slice_position)
        for kind, options in (("self", {"heads": (1,)}), ("cross", {"heads": (0,)})):
            actual = model.attention_maps(images, slice_position, kind=kind, **options)[0]
            expected = model.perceiver.attention_maps(values, positions, kind=kind, **options)[0]
            torch.testing.assert_close(actual.reshape(expected.shape), expected, rtol=0, atol=0)
        flipped_maps = model.attention_maps(images, -slice_position, kind="self")[0]
    assert not torch.equal(actual, flipped_maps)
