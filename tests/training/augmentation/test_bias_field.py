import math

import pytest
import torch

from pipeline.config.training import AugmentConfig
from pipeline.core.errors import UserError
from pipeline.training.augmentation.bias_field import compute_bias_fields, list_powers
from pipeline.training.augmentation.points import check_point_transforms


def test_a_field_keeps_the_mean_and_is_one_without_strength():
    coefficients = torch.rand(5, 9, generator=torch.Generator().manual_seed(0)) - 0.5
    fields = compute_bias_fields(coefficients, 9, 12)
    assert fields.shape == (5, 1, 9, 12)
    torch.testing.assert_close(fields.mean(dim=(1, 2, 3)), torch.ones(5))
    assert fields.min() > 0
    assert torch.equal(compute_bias_fields(torch.zeros(1, 9), 9, 12), torch.ones(1, 1, 9, 12))


def test_the_logarithm_is_the_polynomial_but_for_a_constant():
    powers = list_powers()
    assert powers == [(1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3)]
    coefficients = torch.zeros(1, 9)
    coefficients[0, powers.index((2, 1))] = 0.4
    field = compute_bias_fields(coefficients, 3, 5)[0, 0]
    # y^2 x at the lower right corner is 1, at the centre 0 and at the upper left corner -1.
    assert (field[2, 4] / field[1, 2]).item() == pytest.approx(math.exp(0.4))
    assert (field[0, 0] / field[1, 2]).item() == pytest.approx(math.exp(-0.4))
    assert (field[0, 3] / field[1, 2]).item() == pytest.approx(math.exp(0.2))


@pytest.mark.parametrize("options", [{"bias_field": 0.1}, {"transforms_per_image": "one"}])
def test_points_have_none(options):
    with pytest.raises(UserError, match=rf"augment\.{next(iter(options))}"):
        check_point_transforms(AugmentConfig(**options))
