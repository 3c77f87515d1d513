import math

import pytest
import torch

from perceiver import normalise_points
from pipeline.config.training import AugmentConfig, PointAugmentConfig
from pipeline.core.errors import UserError
from pipeline.training.augmentation.points import (
    PointTransforms,
    apply_point_transforms,
    check_point_transforms,
    compute_rotation,
    drop_points,
    sample_point_transforms,
    shift_points,
)

NONE = PointAugmentConfig(scale_fraction=0)
CPU = torch.device("cpu")
STRENGTHS = {
    "scale_fraction": 0.1,
    "stretch_fraction": 0.5,
    "rotation_degrees": 30.0,
    "jitter_std": 0.05,
    "shift": 0.2,
    "dropout_fraction": 0.5,
}


def transform(points, transforms):
    """Transform clouds as training does: some changes come before normalising, the displacement after it."""
    return shift_points(normalise_points(apply_point_transforms(points, transforms)), transforms)


def clouds(batch=4, num_points=12):
    return torch.rand((batch, num_points, 3), generator=torch.Generator().manual_seed(1)) * 2 - 1


def draw(config, seed=0, batch=4, num_stored=12, num_points=12):
    generator = torch.Generator().manual_seed(seed)
    return sample_point_transforms(config, (batch, num_stored, 3), num_points, generator, CPU)


def in_order(batch=4, num_points=12):
    return torch.arange(num_points).expand(batch, -1)


def sorted_rows(points):
    """Each cloud's points in a fixed order, so that clouds compare as sets."""
    return torch.stack([torch.tensor(sorted(cloud.tolist())) for cloud in points])


def test_no_strength_leaves_the_set_of_points_alone():
    found = transform(clouds(), draw(NONE))
    expected = normalise_points(clouds())
    assert not torch.equal(found, expected)  # the order is random
    torch.testing.assert_close(sorted_rows(found), sorted_rows(expected), atol=1e-6, rtol=0)  # the mean's rounding


@pytest.mark.parametrize("option", STRENGTHS)
def test_every_option_changes_the_cloud_and_follows_the_seed(option):
    config = PointAugmentConfig(**{"scale_fraction": 0, option: STRENGTHS[option]})
    first = transform(clouds(), draw(config, seed=3))
    assert torch.equal(first, transform(clouds(), draw(config, seed=3)))
    assert (sorted_rows(first) - sorted_rows(normalise_points(clouds()))).abs().max() > 1e-3
    assert (first - transform(clouds(), draw(config, seed=4))).abs().max() > 1e-3


def test_scaling_a_whole_cloud_and_then_normalising_is_a_no_op():
    """For this reason each point has its own factor."""
    changes = PointTransforms(in_order(), factor=torch.tensor([0.99, 1.0, 1.005, 1.01])[:, None, None])
    torch.testing.assert_close(transform(clouds(), changes), normalise_points(clouds()), atol=1e-6, rtol=0)


def test_every_point_has_its_own_factor_within_the_limits():
    factor = draw(PointAugmentConfig(scale_fraction=0.01), num_stored=1000, num_points=1000).factor
    assert factor.shape == (4, 1000, 1)
    assert factor.min() >= 0.99
    assert factor.max() <= 1.01
    # Of 4,000 uniform draws some lie within a tenth of a percent of each limit's half width, but for 1 in 10^8.
    assert factor.min() < 0.9901
    assert factor.max() > 1.0099
    assert len(factor.unique()) > 3900


def test_scale_by_hand():
    cloud = torch.tensor([[[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]])
    changes = PointTransforms(in_order(1, 2), factor=torch.tensor([[[2.0], [1.0]]]))
    # 2 and -1 have the mean 0.5: 1.5 and -1.5, scaled to 1 and -1.
    assert torch.equal(transform(cloud, changes), torch.tensor([[[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]]))
    changes = PointTransforms(in_order(1, 2), jitter=torch.tensor([[[0.0, 0.5, 0.0], [0.0, -0.5, 0.0]]]))
    assert torch.equal(transform(cloud, changes), torch.tensor([[[1.0, 0.5, 0.0], [-1.0, -0.5, 0.0]]]))


def test_stretch_by_hand():
    cloud = torch.tensor([[[1.0, 1.0, 0.0], [-1.0, -1.0, 0.0]]])
    changes = PointTransforms(in_order(1, 2), stretch=torch.tensor([[[1.0, 2.0, 1.0]]]))
    assert torch.equal(transform(cloud, changes), torch.tensor([[[0.5, 1.0, 0.0], [-0.5, -1.0, 0.0]]]))


def test_stretch_is_as_likely_to_double_as_to_halve():
    stretch = draw(PointAugmentConfig(scale_fraction=0, stretch_fraction=1.0), batch=4000).stretch
    assert stretch.min() >= 0.5
    assert stretch.max() <= 2
    # The mean logarithm of 12,000 draws, uniform in +-log 2, has the standard deviation
    # log(2) / sqrt(3 * 12000) = 0.0037.
    assert abs(stretch.log().mean()) < 0.015


@pytest.mark.parametrize(
    ("up_axis", "before", "after"),
    [
        ("z", (1.0, 0.0, 5.0), (0.0, 1.0, 5.0)),
        ("x", (5.0, 1.0, 0.0), (5.0, 0.0, 1.0)),
        ("y", (0.0, 5.0, 1.0), (1.0, 5.0, 0.0)),
    ],
)
def test_a_quarter_turn_by_hand(up_axis, before, after):
    rotation = compute_rotation(torch.tensor([90.0]), up_axis)[0]
    torch.testing.assert_close(rotation @ torch.tensor(before), torch.tensor(after), atol=1e-6, rtol=0)  # cos 90


@pytest.mark.parametrize("up_axis", ["x", "y", "z"])
def test_a_rotation_keeps_heights_lengths_and_handedness(up_axis):
    rotation = compute_rotation(torch.tensor([17.0, -130.0]), up_axis)
    identity = torch.eye(3).expand(2, -1, -1)
    torch.testing.assert_close(rotation @ rotation.mT, identity, atol=1e-6, rtol=0)  # float32 rounding
    torch.testing.assert_close(rotation.det(), torch.ones(2), atol=1e-6, rtol=0)
    up = "xyz".index(up_axis)
    assert torch.equal(rotation[:, up], identity[:, up])


def test_the_drawn_rotation_turns_the_points_and_not_the_axes():
    cloud = torch.tensor([[[1.0, 0.0, 0.5], [-1.0, 0.0, -0.5]]])
    changes = PointTransforms(in_order(1, 2), rotation=compute_rotation(torch.tensor([90.0]), "z"))
    expected = torch.tensor([[[0.0, 1.0, 0.5], [0.0, -1.0, -0.5]]])
    torch.testing.assert_close(transform(cloud, changes), expected, atol=1e-6, rtol=0)  # cos 90 is 4e-8


def test_rotations_fill_the_range_both_ways():
    rotation = draw(PointAugmentConfig(scale_fraction=0, rotation_degrees=20), batch=2000).rotation
    degrees = torch.rad2deg(torch.atan2(rotation[:, 1, 0], rotation[:, 0, 0]))
    assert -20 <= degrees.min() < -19  # 2,000 uniform draws miss the last degree with a chance of 0.975^2000
    assert 19 < degrees.max() <= 20


def test_shift_displaces_the_normalised_cloud():
    """Before normalising it would be undone."""
    shift = torch.tensor([0.1, -0.2, 0.3])
    changes = PointTransforms(in_order(), shift=shift.expand(4, 1, 3))
    torch.testing.assert_close(transform(clouds(), changes), normalise_points(clouds()) + shift)


def test_training_takes_a_random_part_of_the_stored_points_without_repeats():
    changes = draw(NONE, batch=3, num_stored=50, num_points=20)
    assert changes.chosen.shape == (3, 20)
    for chosen in changes.chosen:
        assert len(chosen.unique()) == 20
    assert set(changes.chosen.flatten().tolist()) <= set(range(50))
    assert not torch.equal(changes.chosen[0].sort().values, changes.chosen[1].sort().values)
    often = draw(NONE, batch=2000, num_stored=10, num_points=5).chosen
    counts = torch.bincount(often.flatten(), minlength=10)
    # Each of 10 points is in half of 2,000 clouds: 1,000 with a standard deviation of 22.
    assert counts.min() > 880
    assert counts.max() < 1120


def test_dropped_points_by_hand():
    chosen = torch.tensor([[7, 5, 9, 2]])
    draws = torch.tensor([[0.0, 0.0, 0.6, 0.1]])
    # Half is dropped: 7 and 5 stay; 0.6 of two kept is the second, 0.1 the first.
    assert drop_points(chosen, torch.tensor([[0.5]]), draws).tolist() == [[7, 5, 5, 7]]
    assert drop_points(chosen, torch.tensor([[0.0]]), draws).tolist() == [[7, 5, 9, 2]]
    assert drop_points(chosen, torch.tensor([[0.999]]), draws).tolist() == [[7, 7, 7, 7]]


def test_a_dropped_cloud_keeps_its_size_and_loses_points():
    chosen = draw(
        PointAugmentConfig(scale_fraction=0, dropout_fraction=0.5), batch=200, num_stored=100, num_points=100
    ).chosen
    kept = torch.tensor([len(row.unique()) for row in chosen])
    assert chosen.shape == (200, 100)
    assert kept.min() >= 50
    assert kept.float().std() > 5  # fractions differ between clouds


def test_a_device_applies_its_shard_of_the_changes_drawn_for_all():
    config = PointAugmentConfig(**STRENGTHS)
    changes = draw(config)
    for part in (slice(0, None, 2), slice(1, None, 2)):
        found = transform(clouds()[part], changes.shard(part))
        assert torch.equal(found, transform(clouds(), changes)[part])


def test_the_result_is_centred_and_fits_the_cube_where_nothing_is_displaced():
    strengths = {name: value for name, value in STRENGTHS.items() if name != "shift"}
    found = transform(clouds(), draw(PointAugmentConfig(**strengths)))
    assert found.mean(dim=1).abs().max() < 1e-6
    assert torch.equal(found.abs().amax(dim=(1, 2)), torch.ones(4))
    assert math.isclose(float(found.abs().max()), 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale_fraction": 1.0}, "augment.points.scale_fraction: found 1.0, allowed is 0 to below 1"),
        ({"dropout_fraction": -0.1}, "augment.points.dropout_fraction: found -0.1"),
        ({"jitter_std": -1.0}, "augment.points.jitter_std: found -1.0, allowed is 0 or more"),
        ({"rotation_degrees": 200.0}, "augment.points.rotation_degrees: found 200.0, allowed is 0 to 180"),
    ],
)
def test_a_strength_out_of_range_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        PointAugmentConfig(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"horizontal_flip": "keep_label"},
        {"crop_padding": 4},
        {"random_erasing_probability": 0.5},
        {"mixup_alpha": 0.2},
        {"cutmix_alpha": 1.0},
    ],
)
def test_augmentation_of_images_that_is_switched_on_is_refused(options):
    check_point_transforms(AugmentConfig())
    (name,) = options
    with pytest.raises(UserError, match=rf"augment\.{name}: found .*, allowed is .* for point clouds"):
        check_point_transforms(AugmentConfig(**options))
