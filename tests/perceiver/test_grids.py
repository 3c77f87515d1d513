"""A grid with channels last is the set of its points."""

import pytest
import torch

from perceiver import Perceiver, PerceiverConfig
from perceiver.grids import flatten_grid
from perceiver.positions import Grid, grid_positions


def small_model(axes=2):
    return Perceiver.from_image_config(
        3,
        (4.0, 6.0, 8.0)[:axes],
        2,
        input_channels=1,
        input_axis=axes,
        num_latents=4,
        latent_dim=16,
        num_classes=3,
    ).eval()


def test_the_inputs_of_a_grid_are_its_points_last_axis_fastest():
    grid = torch.arange(12.0).reshape(1, 2, 3, 2)
    padding = torch.tensor([[[False, True, False], [False, False, True]]])
    values, positions, flat_padding = flatten_grid(grid, padding, 2, 2)
    assert positions == Grid((2, 3))
    assert values[0].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    assert flat_padding.tolist() == [[False, True, False, False, False, True]]


@pytest.mark.parametrize("sizes", [(5,), (3, 4), (2, 3, 4)])
def test_a_grid_is_the_set_of_its_values_with_their_positions(sizes):
    model = small_model(len(sizes))
    generator = torch.Generator().manual_seed(0)
    grid = torch.randn(2, *sizes, 1, generator=generator)
    padding = torch.rand(2, *sizes, generator=generator) > 0.6
    expected = model(grid.flatten(1, -2), grid_positions(sizes).unsqueeze(0), padding.flatten(1))
    assert torch.equal(model(grid, padding=padding), expected)
    assert not torch.equal(model(grid), expected)


def test_the_axes_of_an_image_are_not_exchanged():
    model, image = small_model(), torch.randn(1, 4, 4, 1, generator=torch.Generator().manual_seed(0))
    assert (model(image) - model(image.transpose(1, 2))).abs().max() > 1e-4


def test_a_wrong_axis_of_an_image_is_named():
    model = small_model()
    with pytest.raises(ValueError, match=r"axis 3.* size 28.*axis 1.* size 1.*movedim\(1, -1\)"):
        model(torch.zeros(1, 1, 28, 28))
    with pytest.raises(ValueError, match=r"\(1, 28, 28, 3\).*axis 3.* size 3.*input_channels"):
        model(torch.zeros(1, 28, 28, 3))
    with pytest.raises(ValueError, match=r"shape \(28, 28, 1\), 3 axes.*\(batch, 2 axes, channels\)"):
        model(torch.zeros(28, 28, 1))
    with pytest.raises(ValueError, match=r"padding.*\(1, 28\).*\(1, 28, 27\)"):
        model(torch.zeros(1, 28, 27, 1), padding=torch.zeros(1, 28, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"max_freq.*\(4\.0, 4\.0, 4\.0\) for 2 axes"):
        Perceiver.from_image_config(3, (4.0, 4.0, 4.0), 2)


@pytest.mark.slow
def test_an_image_of_any_size_is_classified_in_one_compiled_piece(fresh_compiler):
    model = small_model()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for sizes in ((3, 4), (5, 3)):
        image = torch.randn(1, *sizes, 1)
        torch.testing.assert_close(compiled(image), model(image))


def test_learned_positions_follow_the_grid():
    config = PerceiverConfig(input_channels=1, axis_sizes=(3, 4), num_classes=2, positions="learned", latent_dim=16)
    model = Perceiver(config).eval()
    image = torch.randn(1, 3, 4, 1)
    expected = model(image.flatten(1, 2), grid_positions((3, 4)).unsqueeze(0))
    assert torch.equal(model(image), expected)


def test_both_dropouts_of_the_call_arrive():
    config = Perceiver.from_image_config(3, 4.0, 1, latent_dim=8, attn_dropout=0.1, ff_dropout=0.2).config
    assert (config.attention_dropout, config.dropout) == (0.1, 0.2)
