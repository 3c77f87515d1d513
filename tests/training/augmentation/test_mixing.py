"""Mixing: images and their labels in one proportion, by hand and as the distributions require."""

import numpy as np
import pytest
import torch

from pipeline.config.training import AugmentConfig
from pipeline.core.errors import UserError
from pipeline.training.augmentation.mixing import (
    Mixture,
    cover_boxes,
    draw_mixture,
    draw_pasted_boxes,
    mix_images,
    mix_labels,
)

CPU = torch.device("cpu")
SIZE = (12, 20)
MIXUP = AugmentConfig(mixup_alpha=1.0)
CUTMIX = AugmentConfig(cutmix_alpha=1.0)


def draw(config, num_images=2000, seed=0):
    return draw_mixture(config, num_images, SIZE, np.random.default_rng(seed))


def flat_images(values):
    """Images of two channels that have one value each."""
    return torch.tensor(values)[:, None, None, None].expand(-1, 2, *SIZE)


def test_mixup_by_hand():
    mixture = Mixture(torch.tensor([1, 2, 0]), torch.tensor([0.25, 1.0, 0.5]))
    mixed = mix_images(flat_images([0.0, 8.0, 4.0]), mixture)
    assert torch.equal(mixed, flat_images([6.0, 8.0, 2.0]))
    targets = mix_labels(torch.tensor([0, 1, 1]), mixture, num_classes=3)
    assert targets.tolist() == [[0.25, 0.75, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]]


def test_cutmix_by_hand():
    mixture = Mixture(torch.tensor([1, 0]), torch.tensor([0.75, 1.0]), torch.tensor([[0, 6, 4, 14], [3, 3, 0, 5]]))
    mixed = mix_images(flat_images([1.0, 2.0]), mixture)
    expected = flat_images([1.0, 2.0]).clone()
    expected[0, :, :6, 4:14] = 2.0
    assert torch.equal(mixed, expected)
    assert mix_labels(torch.tensor([2, 0]), mixture, 3).tolist() == [[0.25, 0.0, 0.75], [1.0, 0.0, 0.0]]


def test_without_alphas_nothing_is_drawn_or_changed():
    generator = np.random.default_rng(0)
    assert draw_mixture(AugmentConfig(), 8, SIZE, generator) is None
    assert generator.random() == np.random.default_rng(0).random()
    images, labels = flat_images([1.0, 2.0]), torch.tensor([1, 0])
    assert mix_images(images, None) is images
    assert mix_labels(labels, None, 2) is labels


@pytest.mark.parametrize("config", [MIXUP, CUTMIX])
def test_labels_are_mixed_as_the_pixels_are(config):
    """Of images that hold their own number everywhere, the mean pixel is the true proportion."""
    mixture = draw(config)
    numbers = torch.arange(2000.0)
    mean = mix_images(flat_images(numbers.tolist()).double(), mixture).mean(dim=(1, 2, 3))
    own_fraction = mixture.own_fraction.double()
    # Fractions are float32, with 7 digits; numbers go up to 2000.
    torch.testing.assert_close(mean, own_fraction * numbers + (1 - own_fraction) * mixture.partners, atol=1e-3, rtol=0)
    targets = mix_labels(torch.arange(2000) % 10, mixture, num_classes=10)
    assert targets.min() >= 0
    # A fraction and one minus it: the last digit.
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(2000), atol=1e-6, rtol=0)


def test_a_pasted_box_counts_by_what_is_left_of_it_at_the_edge():
    mixture = draw(CUTMIX)
    pasted = cover_boxes(mixture.boxes, *SIZE).float().mean(dim=(1, 2, 3))
    torch.testing.assert_close(mixture.own_fraction, 1 - pasted, atol=1e-6, rtol=0)  # a mean of 240 ones and zeros
    assert (mixture.boxes[:, 0] == 0).any()
    assert (mixture.boxes[:, 1] == SIZE[0]).any()


def test_boxes_have_the_images_shape_and_the_area_given():
    """A quarter of 12 x 20 pixels is 6 x 10, wherever the edge cuts nothing."""
    boxes = draw_pasted_boxes(np.full(2000, 0.25), SIZE, np.random.default_rng(0))
    heights, widths = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    inside = (boxes[:, 0] > 0) & (boxes[:, 1] < 12) & (boxes[:, 2] > 0) & (boxes[:, 3] < 20)
    assert inside.any()
    assert set(heights[inside]) == {6}
    assert set(widths[inside]) == {10}
    # Centres are uniform over 12 x 20 pixels: rows 0 to 2 lose the top, 10 and 11 the bottom.
    assert set(heights) == {3, 4, 5, 6}
    assert (boxes[:, 0].max(), boxes[:, 2].max()) == (11 - 3, 19 - 5)
    assert (heights == 3).mean() == pytest.approx(1 / 12, abs=0.025)  # four standard errors of 2,000


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_fractions_have_the_mean_and_the_variance_of_their_beta_distribution(alpha):
    fractions = draw(AugmentConfig(mixup_alpha=alpha), 20_000).own_fraction
    assert fractions.mean().item() == pytest.approx(0.5, abs=0.015)  # four standard errors of 20,000, at the widest
    assert fractions.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)
    assert len(torch.unique(fractions)) > 1000, "each image draws its own"


def test_every_image_is_a_partner_once_and_few_are_their_own():
    partners = draw(MIXUP).partners
    assert torch.equal(partners.sort().values, torch.arange(2000))
    assert (partners == torch.arange(2000)).sum() < 10  # one is expected


def test_with_both_half_of_the_batches_get_each():
    both, generator = AugmentConfig(mixup_alpha=1.0, cutmix_alpha=1.0), np.random.default_rng(0)
    mixtures = [draw_mixture(both, 2, SIZE, generator) for _ in range(1000)]
    num_cutmix = sum(mixture.boxes is not None for mixture in mixtures)
    assert num_cutmix == pytest.approx(500, abs=64)  # four standard errors
    assert draw(MIXUP).boxes is None
    assert draw(CUTMIX).boxes is not None


def test_mixtures_are_those_of_the_seed():
    first, again, other = draw(CUTMIX), draw(CUTMIX), draw(CUTMIX, seed=1)
    assert all(torch.equal(value, vars(again)[name]) for name, value in vars(first).items())
    assert not torch.equal(first.own_fraction, other.own_fraction)
    assert not torch.equal(first.partners, other.partners)


@pytest.mark.parametrize("name", ["mixup_alpha", "cutmix_alpha"])
def test_an_alpha_below_zero_is_refused(name):
    with pytest.raises(UserError, match=rf"augment\.{name}: found -0\.5, allowed is 0 or more"):
        AugmentConfig(**{name: -0.5})
