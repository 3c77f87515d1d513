"""Laws of stochastic depth."""

import pytest
import torch

from perceiver.encoder import compute_drop_rates
from perceiver.layers import drop_update
from perceiver.positions import grid_positions
from tests.perceiver.small_models import small_perceiver


def test_rates_grow_evenly_with_depth_from_zero():
    assert compute_drop_rates(0.4, 5) == pytest.approx((0.0, 0.1, 0.2, 0.3, 0.4))
    assert compute_drop_rates(0.4, 1) == (0.0,)


def test_an_update_is_left_out_for_whole_examples_and_its_mean_over_the_draws_stays():
    torch.manual_seed(0)
    update = torch.randn(1, 3, 2).expand(40_000, -1, -1)
    dropped = drop_update(update, 0.25)
    is_zero = (dropped == 0).flatten(1)
    assert (is_zero.all(dim=1) == is_zero.any(dim=1)).all()
    # Five standard errors of 40,000 draws of 0 or 4/3.
    tolerance = 5 * update.abs().max().item() * (0.25 / 0.75) ** 0.5 / 200
    torch.testing.assert_close(dropped.mean(dim=0), update[0], rtol=0, atol=tolerance)
    torch.testing.assert_close(dropped[~is_zero[:, 0]][0], update[0] / 0.75)


@pytest.mark.parametrize("sharing", ["none", "all"])
def test_a_layer_is_left_out_in_training_alone_and_the_first_never(sharing):
    """With a rate of nearly 1 in the second of two layers, a training model is that of the first layer."""
    options = {"self_attends_per_cross": 0, "weight_sharing": sharing}
    model = small_perceiver(num_cross_attends=2, stochastic_depth=0.9999, **options)
    first = small_perceiver(num_cross_attends=1, **options)
    first.load_state_dict(model.state_dict(), strict=False)
    values = torch.randn(4, 12, 2, generator=torch.Generator().manual_seed(2))
    positions = grid_positions((3, 4))[None]
    expected = first(values, positions)
    torch.manual_seed(0)
    torch.testing.assert_close(model.train()(values, positions), expected)
    whole = small_perceiver(num_cross_attends=2, **options)
    torch.testing.assert_close(model.eval()(values, positions), whole(values, positions))
    assert (whole(values, positions) - expected).abs().max() > 1e-3
