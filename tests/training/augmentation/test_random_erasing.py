"""Erased boxes have the place, the size and the value of the options."""

import dataclasses

import pytest
import torch

from pipeline.config.training import AugmentConfig
from pipeline.core.errors import UserError
from pipeline.training.augmentation.mixing import cover_boxes, draw_erased_boxes, erase_boxes

CPU = torch.device("cpu")
ALWAYS = AugmentConfig(random_erasing_probability=1.0)


def draw(config, num_images=2000, height=20, width=30, seed=0):
    return draw_erased_boxes(config, num_images, height, width, torch.Generator().manual_seed(seed), CPU)


def sides(boxes):
    return boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]


def test_a_box_covers_its_rows_and_columns_and_nothing_else():
    covered = cover_boxes(torch.tensor([[1, 3, 2, 5], [0, 0, 1, 4]]), height=4, width=6)
    expected = torch.zeros(2, 1, 4, 6, dtype=torch.bool)
    expected[0, 0, 1:3, 2:5] = True
    assert torch.equal(covered, expected)


def test_an_erased_box_is_zero_in_all_channels_and_the_rest_is_as_it_was():
    images = torch.rand(1, 3, 4, 6, generator=torch.Generator().manual_seed(0)) + 1
    erased = erase_boxes(images, torch.tensor([[1, 3, 2, 5]]))
    assert (erased[:, :, 1:3, 2:5] == 0).all()
    expected = images.clone()
    expected[:, :, 1:3, 2:5] = 0
    assert torch.equal(erased, expected)
    assert torch.equal(erase_boxes(images, None), images)


@pytest.mark.parametrize("area", [(0.05, 0.1), (0.02, 0.33)])  # none as high as the image, and some that are cut
def test_boxes_lie_within_the_image_and_reach_all_its_sides(area):
    boxes = draw(dataclasses.replace(ALWAYS, random_erasing_area=area))
    assert boxes.min() == 0
    assert (boxes[:, 1].max(), boxes[:, 3].max()) == (20, 30)
    assert min(side.min() for side in sides(boxes)) >= 1


def test_boxes_have_the_area_of_the_option_and_sides_of_many_ratios():
    """A tenth of 60 x 60 pixels is 360; sides are 10.4 to 34.6 pixels, so that rounding adds at most 7 %."""
    config = dataclasses.replace(ALWAYS, random_erasing_area=(0.1, 0.1))
    height, width = sides(draw(config, height=60, width=60))
    assert ((height * width - 360).abs() <= 0.07 * 360).all()
    ratio = (height / width).log()
    assert ratio.exp().min() == pytest.approx(0.3, abs=0.02)  # 10.4 and 34.6 rounded: 10 / 35 to 11 / 34
    assert ratio.exp().max() == pytest.approx(1 / 0.3, abs=0.25)
    assert ratio.mean().abs() < 0.07  # its standard deviation is 0.7: four standard errors of 2,000


def test_areas_are_uniform_between_the_two_fractions():
    config = dataclasses.replace(ALWAYS, random_erasing_area=(0.1, 0.3))
    height, width = sides(draw(config, height=100, width=100))
    area = height * width / 10_000
    assert area.min() > 0.095  # sides of 18 pixels and more: rounding adds less than 5 %
    assert area.max() < 0.315
    assert area.mean() == pytest.approx(0.2, abs=0.006)  # four standard errors of 2,000 draws


def test_a_slim_box_that_does_not_fit_is_cut_to_the_image():
    height, width = sides(draw(dataclasses.replace(ALWAYS, random_erasing_area=(0.9, 0.9)), height=8, width=32))
    assert (height <= 8).all()
    assert (width <= 32).all()
    assert (height * width >= 0.25 * 256).all()


def test_as_many_images_lose_a_box_as_the_probability_gives():
    boxes = draw(dataclasses.replace(ALWAYS, random_erasing_probability=0.3))
    fraction = cover_boxes(boxes, 20, 30).flatten(1).any(dim=1).float().mean()
    assert fraction == pytest.approx(0.3, abs=0.04)  # four standard errors of 2,000 draws


def test_boxes_are_those_of_the_seed():
    assert torch.equal(draw(ALWAYS), draw(ALWAYS))
    assert not torch.equal(draw(ALWAYS), draw(ALWAYS, seed=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"random_erasing_probability": 1.5}, r"augment\.random_erasing_probability: found 1\.5, allowed is 0 to 1"),
        (
            {"random_erasing_area": (0.3, 0.1)},
            r"augment\.random_erasing_area: found \(0\.3, 0\.1\), allowed is two growing fractions",
        ),
        ({"random_erasing_area": (0.0, 0.1)}, r"augment\.random_erasing_area"),
        ({"crop_padding": -1}, r"augment\.crop_padding: found -1, allowed is 0 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        AugmentConfig(**options)
