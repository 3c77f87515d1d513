import dataclasses

import pytest
import torch

from pipeline.config.training import AugmentConfig
from pipeline.core.data_kinds import SCANS
from pipeline.core.errors import UserError
from pipeline.training.augmentation.images import (
    apply_transforms,
    check_horizontal_flip,
    compute_geometry,
    displace_images,
    flip_labels,
    move_slices,
    sample_transforms,
)
from pipeline.training.augmentation.mixing import erase_boxes
from tests.builders.models import build_spec

NONE = AugmentConfig(rotation_degrees=0, zoom_fraction=0, shift_fraction=0, gamma=0, brightness_fraction=0, noise_std=0)
CPU = torch.device("cpu")
SHAPE = (6, 2, 8, 10)


def images(shape=SHAPE):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def draw(config, seed=0, shape=SHAPE):
    return sample_transforms(config, shape, torch.Generator().manual_seed(seed), CPU)


def turn(image, degrees=0.0, zoom=1.0, right=0.0, down=0.0):
    """Apply one geometry to a image (height, width)."""
    from pipeline.training.augmentation.images import ImageTransforms

    values = [torch.tensor([value]) for value in (degrees, zoom, right, down)]
    geometry = compute_geometry(*values, *image.shape)
    return apply_transforms(image[None, None], ImageTransforms(geometry=geometry))[0, 0]


def only(**options):
    return dataclasses.replace(NONE, **options)


def test_no_strength_is_the_identity_bit_for_bit():
    assert torch.equal(apply_transforms(images(), draw(NONE)), images())


@pytest.mark.parametrize(
    "options",
    [
        {"rotation_degrees": 20.0},
        {"zoom_fraction": 0.2},
        {"shift_fraction": 0.2},
        {"gamma": 0.5},
        {"brightness_fraction": 0.3},
        {"noise_std": 0.1},
        {"horizontal_flip": "keep_label"},
        {"crop_padding": 2},
        {"bias_field": 0.3},
    ],
)
def test_each_change_alone_changes_images_repeatably_and_by_its_seed(options):
    config = only(**options)
    changed = apply_transforms(images(), draw(config))
    assert changed.shape == SHAPE
    assert not torch.equal(changed, images())
    assert torch.equal(changed, apply_transforms(images(), draw(config)))
    assert not torch.equal(changed, apply_transforms(images(), draw(config, seed=5)))


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_are_those_of_rot90(quarters):
    image = images((1, 1, 9, 9))[0, 0]
    torch.testing.assert_close(turn(image, degrees=90.0 * quarters), torch.rot90(image, quarters), atol=1e-5, rtol=0)


def test_a_wide_image_turns_without_shear():
    """A dot 3 pixels right of the centre comes to lie 3 pixels above it."""
    image = torch.zeros(11, 21)
    image[5, 13] = 1
    expected = torch.zeros(11, 21)
    expected[2, 10] = 1
    torch.testing.assert_close(turn(image, degrees=90.0), expected, atol=1e-5, rtol=0)


def test_shift_moves_by_pixels_and_brings_in_black():
    image = images((1, 1, 8, 10))[0, 0]
    moved = turn(image, right=0.2, down=0.25)
    torch.testing.assert_close(moved[2:, 2:], image[:-2, :-2], atol=1e-5, rtol=0)
    assert moved[:2].abs().max() < 1e-5
    assert moved[:, :2].abs().max() < 1e-5


def test_zoom_of_two_doubles_distances_from_the_centre():
    image = torch.zeros(9, 9)
    image[4, 6] = 1
    assert turn(image, zoom=2.0)[4, 8] == pytest.approx(1.0)


def test_brightness_multiplies_and_contrast_keeps_black_and_white():
    flat = torch.full((1000, 1, 1, 1), 0.5)
    bright = apply_transforms(flat, draw(only(brightness_fraction=0.2), shape=tuple(flat.shape))) / flat
    assert bright.min() >= 0.8 - 1e-6
    assert bright.max() <= 1.2 + 1e-6
    assert bright.max() - bright.min() > 0.35
    ends = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2)
    assert torch.equal(apply_transforms(ends, draw(only(gamma=1.0), shape=(1, 1, 1, 2))), ends)


def test_noise_has_its_standard_deviation():
    shape = (4, 1, 64, 64)
    changed = apply_transforms(torch.zeros(shape), draw(only(noise_std=0.3), shape=shape))
    assert changed.std().item() == pytest.approx(0.3, rel=0.03)  # 16,384 draws: three standard errors are 1.7 %


def test_a_flip_reverses_columns_and_twice_is_the_identity():
    changes = draw(only(horizontal_flip="keep_label"))
    once = apply_transforms(images(), changes)
    assert changes.flipped.any()
    assert not changes.flipped.all()
    for number, is_flipped in enumerate(changes.flipped):
        assert torch.equal(once[number], images()[number].flip(-1) if is_flipped else images()[number])
    assert torch.equal(apply_transforms(once, changes), images())


def test_swap_exchanges_labels_of_flipped_images_alone():
    config = only(horizontal_flip="swap_label")
    changes = draw(config)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    swapped = flip_labels(labels, changes, config)
    assert torch.equal(swapped != labels, changes.flipped)
    assert torch.equal(flip_labels(labels, changes, only(horizontal_flip="keep_label")), labels)


@pytest.mark.parametrize(("down", "right"), [(0, 0), (1, -2), (-3, 2), (2, 3), (-7, -9)])
def test_a_crop_is_the_window_of_a_padded_image(down, right):
    image = images((1, 2, 8, 10))
    padded = torch.nn.functional.pad(image, (9, 9, 9, 9))
    window = padded[:, :, 9 - down : 17 - down, 9 - right : 19 - right]
    assert torch.equal(displace_images(image, torch.tensor([[down, right]])), window)


def test_each_image_is_cropped_at_its_own_place_and_every_place_is_as_likely():
    shape = (9000, 1, 4, 5)
    displacement = draw(only(crop_padding=1), shape=shape).displacement
    places, counts = torch.unique(displacement, dim=0, return_counts=True)
    assert places.tolist() == [[down, right] for down in (-1, 0, 1) for right in (-1, 0, 1)]
    # 1,000 expected in each place; 120 is four standard errors.
    assert (counts - 1000).abs().max() < 120


def test_a_crop_larger_than_the_image_is_refused():
    with pytest.raises(UserError, match=r"augment\.crop_padding: found 8, but images of 8 x 10"):
        draw(only(crop_padding=8))
    draw(only(crop_padding=7))


def test_options_that_are_added_leave_the_draws_of_the_others_alone():
    old = AugmentConfig(horizontal_flip="swap_label")
    before, after = draw(old), draw(dataclasses.replace(old, crop_padding=2, random_erasing_probability=0.5))
    for name in ("flipped", "geometry", "exponent", "factor", "noise"):
        assert torch.equal(getattr(before, name), getattr(after, name)), name
    assert before.displacement is None
    assert before.erased is None


def test_shards_of_a_batch_together_are_the_batch():
    changes = draw(AugmentConfig(horizontal_flip="swap_label", crop_padding=2, random_erasing_probability=0.5))
    whole = erase_boxes(apply_transforms(images(), changes), changes.erased)
    for rank in range(2):
        shard = slice(rank, None, 2)
        own = changes.shard(shard)
        found = erase_boxes(apply_transforms(images()[shard], own), own.erased)
        torch.testing.assert_close(found, whole[shard])


@pytest.mark.parametrize(
    ("flip", "class_names", "plane", "message"),
    [
        ("swap_label", ("left", "right"), "sagittal", "run from front to back"),
        ("swap_label", ("healthy", "sick"), "axial", "the labels here are healthy, sick"),
        ("swap_label", ("left", "other", "right"), "axial", "exchanges the labels left and right"),
        ("keep_label", ("left", "right"), "axial", "although it shows a right one"),
        ("keep_label", ("left", "right"), "sagittal", "although it shows a right one"),
        ("keep_label", ("LEFT", "Right"), "axial", "although it shows a right one"),
        ("keep_label", ("Right", "left"), "axial", "although it shows a right one"),
    ],
)
def test_a_flip_that_makes_labels_wrong_is_refused(flip, class_names, plane, message):
    with pytest.raises(UserError, match=message):
        check_horizontal_flip(only(horizontal_flip=flip), class_names, plane)


@pytest.mark.parametrize(
    ("flip", "class_names", "plane"),
    [
        ("swap_label", ("left", "right"), "axial"),
        ("swap_label", ("left", "right"), "coronal"),
        ("keep_label", ("healthy", "sick"), "sagittal"),
        ("none", ("left", "right"), "sagittal"),
    ],
)
def test_a_flip_that_keeps_labels_right_is_allowed(flip, class_names, plane):
    check_horizontal_flip(only(horizontal_flip=flip), class_names, plane)


ALL = AugmentConfig(rotation_degrees=30, zoom_fraction=0.3, gamma=1.0, brightness_fraction=0.5, crop_padding=2)


def test_one_transform_an_image_leaves_the_others_at_no_strength():
    config = dataclasses.replace(ALL, transforms_per_image="one", noise_std=0.1, bias_field=0.3, shift_fraction=0.1)
    found = draw(config, shape=(400, 1, 8, 10))
    still = compute_geometry(*(torch.tensor([value]) for value in (0.0, 1.0, 0.0, 0.0)), 8, 10)
    changed = torch.stack(
        [
            (found.geometry != still).flatten(1).any(dim=1),
            found.exponent != 1,
            found.factor != 1,
            found.noise.flatten(1).any(dim=1),
            (found.bias_field != 1).flatten(1).any(dim=1),
        ]
    )
    assert changed.sum(dim=0).max() == 1
    # Rotation, zoom and shift are three of eight changes; crops, the eighth, are at rest for one draw in 25.
    counts = changed.sum(dim=1).tolist()
    assert counts[0] == pytest.approx(150, abs=35)
    assert counts[1:] == pytest.approx([50] * 4, abs=25)
    moved = found.displacement.any(dim=1)
    assert moved.sum().item() == pytest.approx(48, abs=25)
    assert not (moved & changed.any(dim=0)).any()


def test_all_transforms_are_drawn_as_ever_whether_or_not_one_could_be():
    """The draws of a run of before: an image gets the same changes."""
    found = draw(ALL, seed=3)
    generator = torch.Generator().manual_seed(3)
    degrees = (torch.rand(6, generator=generator) * 2 - 1) * 30
    zoom = 1 + (torch.rand(6, generator=generator) * 2 - 1) * 0.3
    shifts = [(torch.rand(6, generator=generator) * 2 - 1) * ALL.shift_fraction for _ in range(2)]
    assert torch.equal(found.geometry, compute_geometry(degrees, zoom, *shifts, 8, 10))
    assert found.bias_field is None


def draw_for_scans(config, is_sagittal=False, shape=(200, 5, 4, 4)):
    spec = dataclasses.replace(build_spec(kind=SCANS), is_sagittal=is_sagittal)
    return sample_transforms(config, shape, torch.Generator().manual_seed(0), CPU, spec)


def test_a_flip_reverses_the_slices_of_a_sagittal_scan_and_swaps_the_label():
    config = only(horizontal_flip="swap_label")
    changes = draw_for_scans(config, is_sagittal=True)
    scans, labels = images((200, 5, 4, 4)), torch.zeros(200, dtype=torch.long)
    places = torch.stack([torch.arange(-2.0, 3), *[torch.ones(5)] * 2], dim=-1).expand(200, -1, -1)
    assert torch.equal(apply_transforms(scans, changes), scans), "no slice is flipped by itself"
    swapped, moved = flip_labels(labels, changes, config).bool(), move_slices(places, changes)
    assert 50 < int(swapped.sum()) < 150
    assert torch.equal(moved[..., 0], torch.where(swapped[:, None], -places[..., 0], places[..., 0]))
    assert torch.equal(moved[..., 1:], places[..., 1:])
    axial = draw_for_scans(config)
    assert torch.equal(move_slices(places, axial), places)
    assert torch.equal(apply_transforms(scans, axial)[0], scans[0].flip(-1) if axial.flipped[0] else scans[0])


def test_dropped_slices_lose_their_place_and_no_scan_loses_all():
    changes = draw_for_scans(only(slice_dropping_fraction=0.9))
    places = torch.zeros(200, 3, 3)  # of the 5 slices that were drawn for, a batch may have fewer
    places[:, 1:] = torch.nan
    dropped = move_slices(places.nan_to_num(), changes)[..., 0].isnan()
    assert 0.2 < float(dropped.float().mean()) < 0.5
    assert not move_slices(places, changes)[:, 0].isnan().any(), "a scan of one slice keeps it"


def test_all_slices_of_a_scan_are_lit_and_turned_alike():
    slice_ = images((200, 1, 4, 4)).expand(-1, 5, -1, -1)
    changed = apply_transforms(slice_, draw_for_scans(only(rotation_degrees=20, gamma=0.5, brightness_fraction=0.2)))
    assert torch.equal(changed, changed[:, :1].expand(-1, 5, -1, -1))
    assert not torch.equal(changed, slice_)
