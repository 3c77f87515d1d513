"""Laws of point clouds and of the Perceiver for them."""

import pytest
import torch

from perceiver import PerceiverConfig, PointPerceiver, normalise_points, point_tokens


def small_config(**options):
    small = {
        "num_latents": 5,
        "latent_dim": 16,
        "num_cross_attends": 2,
        "self_attends_per_cross": 2,
        "cross_heads": 2,
        "cross_head_dim": 32,
        "latent_heads": 2,
        "latent_head_dim": 8,
        "num_bands": 4,
        "max_freq": (8.0, 12.0, 16.0),
        "latent_init_std": 1.0,
    }
    return PerceiverConfig(**{**small, **options})


def small_perceiver(**options):
    """Build the same model each time, in evaluation mode, with no gain of 1 and no bias of 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = PointPerceiver(small_config(**options), num_classes=3).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


MODEL_OPTIONS = [
    {},
    {"cross_head_dim": 8},  # inputs wider than a head: projected
    {"pooling": "query", "weight_sharing": "all_but_first"},
    {"positions": "learned", "max_freq": None, "axis_sizes": (4, 4, 4), "learned_position_dim": 6},
]


@pytest.fixture
def points():
    return torch.rand(2, 20, 3, generator=torch.Generator().manual_seed(2)) * 2 - 1


@pytest.mark.parametrize("options", MODEL_OPTIONS)
def test_the_order_of_points_changes_nothing_and_their_positions_do(options, points):
    model = small_perceiver(**options)
    expected = model(points)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    # The softmax adds up in another order: float32 rounding.
    torch.testing.assert_close(model(points[:, order]), expected, atol=1e-5, rtol=1e-5)
    for axis in range(3):
        moved = points.clone()
        moved[..., axis] *= -1
        assert (model(moved) - expected).abs().max() > 1e-3, axis


@pytest.mark.parametrize("options", MODEL_OPTIONS)
def test_padding_changes_nothing_whatever_it_holds(options, points):
    model = small_perceiver(**options)
    padding = torch.zeros(2, 23, dtype=torch.bool)
    padding[:, 20:] = True
    padded = torch.cat([points, torch.full((2, 3, 3), 0.7)], dim=1)
    torch.testing.assert_close(model(padded, padding), model(points), atol=1e-5, rtol=1e-5)  # rounding, as above
    assert (model(padded) - model(points)).abs().max() > 1e-3


@pytest.mark.parametrize("options", MODEL_OPTIONS)
def test_every_parameter_gets_a_gradient(options, points):
    model = small_perceiver(**options).train()
    weight = torch.randn(2, 3, generator=torch.Generator().manual_seed(4))
    (model(points) * weight).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-7, name


def test_clouds_of_any_number_of_points_pass_one_model(points):
    model = small_perceiver()
    doubled = torch.cat([points, points], dim=1)  # each point twice: each weight is halved and counted twice
    torch.testing.assert_close(model(doubled), model(points), atol=1e-5, rtol=1e-5)  # rounding, as above


def test_a_point_is_its_three_coordinates_and_has_no_value(points):
    values, positions = point_tokens(points)
    assert values.shape == (2, 20, 0)
    assert torch.equal(positions, points)
    model = small_perceiver()
    # For each axis 4 sines, 4 cosines and the coordinate.
    assert model.perceiver.prepare_inputs(values, positions, None)[0].shape == (2, 20, 3 * 9)


def test_normalising_by_hand():
    cloud = torch.tensor([[[1.0, 2.0, 3.0], [5.0, 2.0, 1.0]]])
    # The mean is (3, 2, 2); the differences from it, (-2, 0, 1) and (2, 0, -1), are divided by 2.
    expected = torch.tensor([[[-1.0, 0.0, 0.5], [1.0, 0.0, -0.5]]])
    assert torch.equal(normalise_points(cloud), expected)
    assert torch.equal(normalise_points(torch.full((1, 2, 3), 7.0)), torch.zeros(1, 2, 3))


def test_scaling_or_displacing_a_whole_cloud_before_normalising_is_no_change(points):
    expected = normalise_points(points)
    moved = points * torch.tensor([3.0, 0.2])[:, None, None] + torch.tensor([[[5.0, -7.0, 0.3]]])
    torch.testing.assert_close(normalise_points(moved), expected, atol=1e-5, rtol=1e-5)  # float32, 35 times larger
    assert expected.mean(dim=1).abs().max() < 1e-6
    assert torch.equal(expected.abs().amax(dim=(1, 2)), torch.ones(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_freq": None}, r"max_freq: found None.*3 numbers.*\(64\.0, 64\.0, 64\.0\)"),
        ({"max_freq": (8.0, 8.0)}, r"max_freq: found \(8.0, 8.0\)"),
        ({"positions": "learned"}, r"axis_sizes: found None.*\(32, 32, 32\)"),
        ({"input_channels": 3}, "input_channels: found 3.* 0"),
        ({"positions": "none"}, "positions|max_freq"),
    ],
)
def test_a_config_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PointPerceiver(small_config(**options), num_classes=3)


def test_points_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 20, 2\).*\(batch, points, 3\)"):
        small_perceiver()(torch.zeros(2, 20, 2))
