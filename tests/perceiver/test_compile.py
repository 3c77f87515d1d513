"""Compiled in one piece, or exported with any batch and any number of inputs, a model is the same function."""

import copy
import io

import pytest
import torch
from torch.export import Dim

from perceiver import ImageConfig, Perceiver, PerceiverConfig, VolumePerceiver
from perceiver.positions import grid_positions
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

BATCH, INPUTS, QUERIES = Dim("batch"), Dim("inputs"), Dim("queries")
# With two repetitions the graph contains one that follows another.
SHORT = {"num_cross_attends": 2, "self_attends_per_cross": 1}


def assert_same(actual, expected):
    """Compare logits and gradients; a compiler may fuse products and sums, which changes float32 rounding (6e-8)."""
    torch.testing.assert_close(actual[0], expected[0], atol=1e-5, rtol=1e-5)
    for name, gradient in expected[1].items():
        scale = max(1.0, gradient.abs().max().item())
        torch.testing.assert_close(actual[1][name], gradient, atol=1e-5 * scale, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    "options",
    run_most_slowly(
        [
            {"axis_sizes": (17, 16)},  # above 256 inputs attention is a custom operator
            {"weight_sharing": "all", "positions": "learned", "pooling": "cls", "activation": "gelu"},
            {"weight_sharing": "all_but_first", "positions": "none", "pooling": "query", "decoder_head_dim": 8},
        ],
        fast={},
    ),
)
def test_a_perceiver_is_compiled_in_one_piece_with_its_gradients(options, fresh_compiler):
    """The backend "aot_eager" traces both passes, refuses a graph break and needs no C++ compiler."""
    model, axis_sizes = small_perceiver(**SHORT, **options).train(), options.get("axis_sizes", (3, 4))
    values, positions = draw_normal(2, axis_sizes[0] * axis_sizes[1], 2), grid_positions(axis_sizes).unsqueeze(0)
    padding = values[..., 0] > 1
    expected = logits_and_gradients(model, values, positions, padding)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same(logits_and_gradients(model, values, positions, padding, run=compiled), expected)


@pytest.mark.slow
def test_a_perceiver_io_is_compiled_in_one_piece_with_its_gradients(fresh_compiler):
    model, queries = small_perceiver_io(**SHORT).train(), draw_normal(2, 7, 6, seed=3)
    values, positions = draw_normal(2, 12, 2), grid_positions((3, 4)).unsqueeze(0)
    expected = logits_and_gradients(model, values, positions, queries=queries)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same(logits_and_gradients(model, values, positions, run=compiled, queries=queries), expected)


@pytest.mark.parametrize(
    "options", run_most_slowly([{"stem": "patches"}, {"stem": "conv", "slice_position": True}], fast={})
)
def test_images_are_compiled_in_one_piece_with_their_gradients(options, fresh_compiler):
    model = small_image_perceiver(SHORT, **options).eval()  # in training batch normalisation would count the images
    arguments = (draw_normal(3, 2, 8, 12), *((draw_normal(3, seed=3).tanh(),) if options.get("slice_position") else ()))
    expected = logits_and_gradients(model, *arguments)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same(logits_and_gradients(model, *arguments, run=compiled), expected)


@pytest.mark.slow
def test_the_default_backend_computes_the_same(fresh_compiler):
    model = small_perceiver(num_cross_attends=1, self_attends_per_cross=1).train()
    values, positions = draw_normal(2, 12, 2), grid_positions((3, 4)).unsqueeze(0)
    expected = logits_and_gradients(model, values, positions)
    assert_same(logits_and_gradients(model, values, positions, run=torch.compile(model, fullgraph=True)), expected)


def export_model(model, *arguments, **options):
    return torch.export.export(model, *arguments, **options).module()


@pytest.mark.parametrize(
    ("options", "padded"),
    run_most_slowly([(options, index % 2 == 0) for index, options in enumerate(MODEL_OPTIONS)], fast={}),
)
def test_a_perceiver_is_exported_for_any_batch_and_any_number_of_inputs(options, padded):
    model, channels = small_perceiver(**{**SHORT, **options}), options.get("input_channels", 2)
    shapes = {"values": {0: BATCH, 1: INPUTS}, "positions": {1: INPUTS}}
    shapes |= {"padding": {0: BATCH, 1: INPUTS}} if padded else {}

    def arguments(batch, inputs):
        padding = torch.rand(batch, inputs, generator=torch.Generator().manual_seed(3)) > 0.7
        padding[:, 0] = False
        set_of_inputs = draw_normal(batch, inputs, channels), draw_normal(1, inputs, 2, seed=3).tanh()
        return (*set_of_inputs, padding) if padded else set_of_inputs

    run = export_model(model, arguments(2, 12), dynamic_shapes=shapes)
    for batch, inputs in ((2, 12), (1, 7), (3, 300)):
        actual, expected = run(*arguments(batch, inputs)), model(*arguments(batch, inputs))
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)  # rounding: exported, attention is fused


@pytest.mark.parametrize("dtype", run_most_slowly([torch.bfloat16, torch.float16, torch.float64], fast={}))
def test_a_perceiver_of_another_precision_is_exported(dtype):
    model = small_perceiver(**SHORT).to(dtype)
    shapes = {"values": {0: BATCH, 1: INPUTS}, "positions": {1: INPUTS}}
    run = export_model(model, (draw_normal(2, 12, 2), grid_positions((3, 4)).unsqueeze(0)), dynamic_shapes=shapes)
    values, positions = draw_normal(3, 300, 2), draw_normal(1, 300, 2, seed=3).tanh()
    with torch.no_grad():
        expected = model(values, positions)
    # Without gradients both use the fused attention, so even bfloat16 is rounded in the same way.
    torch.testing.assert_close(run(values, positions), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.slow
def test_what_is_exported_can_be_written_and_read():
    model, arguments = small_perceiver(**SHORT), (draw_normal(2, 12, 2), grid_positions((3, 4)).unsqueeze(0))
    file = io.BytesIO()
    torch.export.save(torch.export.export(model, arguments), file)
    file.seek(0)
    assert torch.equal(torch.export.load(file).module()(*arguments), model(*arguments))


@pytest.mark.slow
def test_a_perceiver_is_exported_for_grids_of_any_size():
    model = Perceiver.from_image_config(3, (6.0, 6.0), 2, input_channels=1, num_latents=4, latent_dim=16, num_classes=3)
    model.eval()
    shapes = {"values": {0: BATCH, 1: Dim("height"), 2: Dim("width")}}
    run = export_model(model, (draw_normal(2, 5, 6, 1),), dynamic_shapes=shapes)
    for size in ((2, 5, 6), (1, 3, 12), (3, 11, 4), (1, 7, 3)):
        images = draw_normal(*size, 1)
        # Coordinates are rounded differently (by 6e-8), and the sines of 3 half cycles magnify the difference.
        torch.testing.assert_close(run(images), model(images), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_perceiver_io_is_exported_for_any_number_of_queries():
    model = small_perceiver_io(**SHORT)
    shapes = {"values": {0: BATCH, 1: INPUTS}, "positions": {1: INPUTS}, "queries": {0: BATCH, 1: QUERIES}}

    def arguments(batch, inputs, queries):
        set_of_inputs = draw_normal(batch, inputs, 2), draw_normal(1, inputs, 2, seed=3).tanh()
        return set_of_inputs, {"queries": draw_normal(batch, queries, 6, seed=5)}

    inputs, queries = arguments(2, 12, 7)
    run = export_model(model, inputs, queries, dynamic_shapes=shapes)
    for sizes in ((2, 12, 7), (1, 300, 2), (3, 5, 40)):
        inputs, queries = arguments(*sizes)
        torch.testing.assert_close(run(*inputs, **queries), model(*inputs, **queries), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", run_most_slowly(STEM_OPTIONS, fast={3}))
def test_an_image_perceiver_is_exported_for_any_batch(options):
    model, with_slice_position = small_image_perceiver(SHORT, **options), options.get("slice_position")

    def arguments(batch):
        return draw_normal(batch, 2, 8, 12), *((draw_normal(batch, seed=3).tanh(),) if with_slice_position else ())

    shapes = {"images": {0: BATCH}} | ({"slice_position": {0: BATCH}} if with_slice_position else {})
    run = export_model(model, arguments(2), dynamic_shapes=shapes)
    for batch in (2, 1, 5):
        torch.testing.assert_close(run(*arguments(batch)), model(*arguments(batch)), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_padding_counts_in_no_batch_norm_of_volumes_that_are_compiled(fresh_compiler):
    torch.manual_seed(0)
    perceiver = PerceiverConfig(num_latents=4, latent_dim=16, num_cross_attends=1, self_attends_per_cross=1)
    config = ImageConfig(stem="conv", num_conv_layers=1, conv_channels=4, perceiver=perceiver)
    model = VolumePerceiver(config, height=8, width=8, num_slices=6, num_classes=3).train()
    expected_model = copy.deepcopy(model)
    volumes, places = draw_normal(3, 6, 8, 8), draw_normal(3, 6, 3, seed=3).tanh()
    volumes[1, 4:], places[1, 4:] = 99.0, torch.nan
    expected = logits_and_gradients(expected_model, volumes, places)
    # Whether layers are replaced is up to what is traced, which any backend shows.
    assert_same(logits_and_gradients(model, volumes, places, run=torch.compile(model, backend="eager")), expected)
    for found, wanted in zip(model.buffers(), expected_model.buffers(), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
