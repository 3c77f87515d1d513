"""One model reads any number of inputs, and the logits of an example depend on that example alone."""

import pytest
import torch

from perceiver import Perceiver
from perceiver.positions import grid_positions
from tests.perceiver.small_models import (
    MODEL_OPTIONS,
    STEM_OPTIONS,
    draw_normal,
    small_image_perceiver,
    small_perceiver,
    small_perceiver_io,
)

# A matrix product of another size adds up in another order: float32 rounding through nine layers.
ROUNDING = {"atol": 1e-5, "rtol": 1e-5}


@pytest.mark.parametrize("options", MODEL_OPTIONS)
def test_a_row_of_a_batch_is_the_batch_of_that_row(options):
    model, channels = small_perceiver(**options), options.get("input_channels", 2)
    values, positions = (
        draw_normal(4, 12, channels),
        grid_positions((3, 4)).expand(4, -1, -1) * draw_normal(4, 1, 2, seed=3).tanh(),
    )
    padding = torch.rand(4, 12, generator=torch.Generator().manual_seed(4)) > 0.7
    for training in (False, True):  # no dropout, so training is the same function
        model.train(training)
        for padding_option in (None, padding):
            whole = model(values, positions, padding_option)
            for row in range(4):
                row_slice = slice(row, row + 1)
                alone = model(
                    values[row_slice],
                    positions[row_slice],
                    None if padding_option is None else padding_option[row_slice],
                )
                torch.testing.assert_close(alone, whole[row_slice], **ROUNDING)
    assert (whole[0] - whole[1]).abs().max() > 1e-3


@pytest.mark.parametrize("options", STEM_OPTIONS)
def test_a_row_of_a_batch_of_images_is_the_batch_of_that_row(options):
    model, images = small_image_perceiver(**options), draw_normal(3, 2, 8, 12)
    slice_positions = (torch.tensor([-1.0, 0.0, 0.5]),) if options.get("slice_position") else ()
    whole = model(images, *slice_positions)
    for row in range(3):
        row_slice = slice(row, row + 1)
        torch.testing.assert_close(
            model(images[row_slice], *(slice_position[row_slice] for slice_position in slice_positions)),
            whole[row_slice],
            **ROUNDING,
        )
    assert (whole[0] - whole[1]).abs().max() > 1e-3


def test_a_row_of_outputs_is_the_batch_of_that_row():
    model, values, queries = small_perceiver_io(), draw_normal(3, 12, 2), draw_normal(3, 7, 6, seed=3)
    positions = grid_positions((3, 4)).unsqueeze(0)
    whole = model(values, positions, queries=queries)
    for row in range(3):
        row_slice = slice(row, row + 1)
        torch.testing.assert_close(
            model(values[row_slice], positions, queries=queries[row_slice]), whole[row_slice], **ROUNDING
        )
    assert (whole[0] - whole[1]).abs().max() > 1e-3


@pytest.mark.parametrize("options", MODEL_OPTIONS)
def test_repeating_all_inputs_changes_nothing(options):
    """Attention is a weighted mean, which does not change if all inputs are repeated, whatever their number."""
    model, channels = small_perceiver(**options), options.get("input_channels", 2)
    for num_inputs in (1, 5, 12, 150):
        values, positions = draw_normal(2, num_inputs, channels), draw_normal(1, num_inputs, 2, seed=3).tanh()
        expected = model(values, positions)
        actual = model(values.repeat(1, 2, 1), positions.repeat(1, 2, 1))
        torch.testing.assert_close(actual, expected, **ROUNDING)


def test_a_large_grid_is_a_small_one_with_padding_around():
    """The points of the grid (5, 5) are every second point of the grid (9, 9)."""
    model = Perceiver.from_image_config(3, (6.0, 6.0), 2, input_channels=1, num_latents=4, latent_dim=16, num_classes=3)
    model.eval()
    for sizes in ((5, 5), (3, 6), (4, 3)):
        small = draw_normal(2, *sizes, 1)
        large_sizes = tuple(2 * size - 1 for size in sizes)
        large, padding = torch.full((2, *large_sizes, 1), torch.nan), torch.ones(2, *large_sizes, dtype=torch.bool)
        large[:, ::2, ::2], padding[:, ::2, ::2] = small, False
        torch.testing.assert_close(model(large, padding=padding), model(small), **ROUNDING)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("sizes", [(3, 4), (20, 20)])  # up to 256 inputs and above, another code attends
@pytest.mark.parametrize("head_dim", [8, 32])  # keys and values are projected, or are the inputs themselves
def test_an_example_that_is_all_padding_is_a_single_input_of_zeros(sizes, head_dim, precision):
    """In every code that attends, with gradients and without, whatever the padding holds; others do not notice it."""
    model = small_perceiver(cross_head_dim=head_dim, axis_sizes=sizes)
    values = draw_normal(2, *sizes, 2)
    values[0] = torch.nan
    padding = torch.zeros(2, *sizes, dtype=torch.bool)
    padding[0] = True
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if precision == "float32" else {"atol": 0.05, "rtol": 0.05}
    # Without positions there is nothing but the values, and zeros stay zeros when they are normalised.
    bare = small_perceiver(cross_head_dim=head_dim, input_channels=2 + 14, positions="none")
    bare.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = bare(torch.zeros(1, 1, 16), torch.zeros(1, 1, 2))
    for trains in (False, True):
        with torch.set_grad_enabled(trains), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits, alone = model(values, padding=padding), model(values[1:], padding=padding[1:])
        torch.testing.assert_close(logits[:1].float(), expected, **tolerance)
        torch.testing.assert_close(logits[1:], alone, **tolerance)
    logits.float().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
