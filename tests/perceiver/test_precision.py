"""bfloat16, float16 and float64 compute what float32 computes, whatever the inputs are."""

import contextlib

import pytest
import torch

from perceiver import image_tokens
from perceiver.positions import FourierPositions, fourier_frequencies, grid_positions
from tests.perceiver.small_models import (
    MODEL_OPTIONS,
    STEM_OPTIONS,
    draw_normal,
    logits_and_gradients,
    run_most_slowly,
    small_image_perceiver,
    small_perceiver,
    small_perceiver_io,
)

# Relative to the largest logit and to the norm of the gradient. bfloat16 keeps 8 bits (0.4 %), float16 11 (0.05 %), and
# about forty roundings follow one another. Except for convolutions, no case exceeds two thirds of the tolerance.
TOLERANCES = {torch.bfloat16: (0.15, 0.3), torch.float16: (0.018, 0.0375)}
# Between them both types and both ways; the other two pairs run with --slow.
PRECISIONS = run_most_slowly(
    [(dtype, mode) for dtype in TOLERANCES for mode in ("autocast", "to")],
    fast={0, 3},
)


def draw_inputs(kind, axis_sizes, channels):
    """Draw values, positions and padding; the largest number in float16 is 65,504."""
    num_inputs = axis_sizes[0] * axis_sizes[1]
    values, padding = draw_normal(2, num_inputs, channels), None
    if kind == "thousands":
        values = values * 1e3
    elif kind == "near the end of float16":
        values = values.tanh() * 6.5e4
    elif kind == "small next to large":
        values[:, ::2] *= 2e4
    elif kind == "constant":
        values = torch.full_like(values, 3.0)
    elif kind == "nearly all padding":
        padding = torch.ones(2, num_inputs, dtype=torch.bool)
        padding[0, 3] = False
        padding[1, 5:7] = False
        values[padding] = torch.nan
    return values, grid_positions(axis_sizes).unsqueeze(0), padding


def in_precision(precision_mode, dtype, model):
    """Return the model and a context in which it computes in ``dtype``."""
    if precision_mode == "autocast":
        return model, torch.autocast("cpu", dtype)
    return model.to(dtype), contextlib.nullcontext()


def assert_near(dtype, actual, expected, tolerance_factor=1):
    """Check that all numbers are finite and near; a single gradient can be a small sum of terms that cancel."""
    logits_tolerance, gradient_tolerance = (tolerance_factor * tolerance for tolerance in TOLERANCES[dtype])
    logits, gradients = actual
    expected_logits, expected_gradients = expected
    assert logits.isfinite().all()
    assert (logits - expected_logits).abs().max() / expected_logits.abs().max() <= logits_tolerance
    for name, gradient in gradients.items():
        assert gradient.isfinite().all(), name
    all_gradients = torch.cat([gradient.float().flatten() for gradient in gradients.values()])
    all_expected_gradients = torch.cat([gradient.flatten() for gradient in expected_gradients.values()])
    assert (all_gradients - all_expected_gradients).norm() / all_expected_gradients.norm() <= gradient_tolerance


# Above 256 inputs attention is computed in another way.
ALL_OPTIONS = [{"axis_sizes": (17, 16)}, {"axis_sizes": (17, 16), "cross_head_dim": 8}, *MODEL_OPTIONS]


@pytest.mark.parametrize(("dtype", "precision_mode"), PRECISIONS)
@pytest.mark.parametrize(
    "kind",
    ["ordinary", "thousands", "near the end of float16", "small next to large", "constant", "nearly all padding"],
)
@pytest.mark.parametrize("model_options", run_most_slowly([ALL_OPTIONS[start::9] for start in range(9)], fast={0}))
def test_logits_and_gradients_are_near_those_of_float32(model_options, kind, dtype, precision_mode):
    for options in model_options:
        axis_sizes = options.get("axis_sizes", (3, 4))
        values, positions, padding = draw_inputs(kind, axis_sizes, options.get("input_channels", 2))
        expected = logits_and_gradients(small_perceiver(**options), values, positions, padding)
        model, context = in_precision(precision_mode, dtype, small_perceiver(**options))
        with context:
            actual = logits_and_gradients(model, values, positions, padding)
            with torch.no_grad():
                logits_without_gradient = model(values, positions, padding)
        assert_near(dtype, actual, expected)
        assert_near(dtype, (logits_without_gradient, actual[1]), expected)
        assert not torch.equal(actual[0].float(), expected[0])  # so the model did compute in the lower precision


@pytest.mark.parametrize(("dtype", "precision_mode"), PRECISIONS)
@pytest.mark.parametrize("kind", ["near the end of float16", "constant", "nearly all padding"])
def test_training_with_dropout_stays_finite(kind, dtype, precision_mode):
    values, positions, padding = draw_inputs(kind, (3, 4), 2)
    for options in ({"dropout": 0.3}, {"dropout": 0.3, "attention_dropout": 0.3, "pooling": "query"}):
        model, context = in_precision(precision_mode, dtype, small_perceiver(**options).train())
        with context:
            logits, gradients = logits_and_gradients(model, values, positions, padding)
        assert logits.isfinite().all()
        for name, gradient in gradients.items():
            assert gradient.isfinite().all(), name


@pytest.mark.parametrize(("dtype", "precision_mode"), PRECISIONS)
def test_perceiver_io_is_near_float32(dtype, precision_mode):
    queries = draw_normal(2, 7, 6)
    for options in ({}, {"decoder_head_dim": 8, "cross_head_dim": 8}):
        for kind in ("ordinary", "near the end of float16", "nearly all padding"):
            inputs = draw_inputs(kind, (3, 4), 2)
            expected = logits_and_gradients(small_perceiver_io(**options), *inputs, queries=queries)
            model, context = in_precision(precision_mode, dtype, small_perceiver_io(**options))
            with context:
                assert_near(dtype, logits_and_gradients(model, *inputs, queries=queries), expected)


@pytest.mark.parametrize(("dtype", "precision_mode"), PRECISIONS)
@pytest.mark.parametrize("options", run_most_slowly(STEM_OPTIONS, fast={1, 3}))
def test_images_are_near_float32(options, dtype, precision_mode):
    """A convolution multiplies pixels before any norm, so its largest pixel is 1e3: 6e4 would overflow in float16."""
    slice_positions = (torch.tensor([-1.0, 0.0, 0.5]),) if options.get("slice_position") else ()
    largest_pixel = 1e3 if options["stem"] == "conv" else 6e4
    for images in (
        draw_normal(3, 2, 8, 12),
        draw_normal(3, 2, 8, 12).tanh() * largest_pixel,
        torch.full((3, 2, 8, 12), 3.0),
    ):
        for training in (True, False):
            expected = logits_and_gradients(small_image_perceiver(**options).train(training), images, *slice_positions)
            model, context = in_precision(precision_mode, dtype, small_image_perceiver(**options).train(training))
            with context:
                typed_images = images if precision_mode == "autocast" else images.to(dtype)
                # Rounding makes pixels equal, and max pooling may then pass the gradient to another pixel.
                tolerance_factor = 2 if options["stem"] == "conv" else 1
                assert_near(
                    dtype, logits_and_gradients(model, typed_images, *slice_positions), expected, tolerance_factor
                )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_frequencies_are_never_rounded_below_float32(dtype):
    """Rounded to bfloat16, 65.25 half cycles would become 65.5, with another phase at the edge of the image."""
    positions = FourierPositions((260.0,), 5).to(dtype)
    expected_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    assert positions.frequencies.dtype == expected_dtype
    assert positions.frequencies.tolist() == [[1.0, 33.25, 65.5, 97.75, 130.0]]
    thirds = FourierPositions((3.0,), 4).to(dtype).to(torch.float32).frequencies
    assert torch.equal(thirds, fourier_frequencies((3.0,), 4))


def test_a_grid_in_float64_is_not_rounded_to_float32():
    """Thirds and fifths are rounded: a grid of float32 would be off by up to 3e-8, and the logits by 1e-7."""
    model, images = small_perceiver(axis_sizes=(4, 6)).double(), draw_normal(2, 4, 6, 2).double()
    exact = torch.tensor([[i / 3 * 2 - 1, j / 5 * 2 - 1] for i in range(4) for j in range(6)], dtype=torch.float64)
    torch.testing.assert_close(model(images), model(images.flatten(1, 2), exact[None]), atol=1e-13, rtol=1e-13)
    _, (grid,) = image_tokens(images.movedim(-1, 1))
    torch.testing.assert_close(grid[0], exact, atol=1e-15, rtol=0)


def test_a_model_of_float64_computes_in_float64():
    """A change of the inputs by 1e-12, far below the precision of float32, changes the logits."""
    model = small_perceiver().double()
    values, positions = draw_normal(2, 12, 2).double(), grid_positions((3, 4)).unsqueeze(0).double()
    logits = model(values, positions)
    assert logits.dtype == torch.float64
    for changed in (model(values + 1e-12, positions), model(values, positions - 1e-12)):
        assert 1e-14 < (changed - logits).abs().max() < 1e-10
