"""The same weights in perceiver-pytorch and here are the same function with the same gradients."""

import dataclasses
import random

import pytest
import torch

from perceiver import Perceiver, PerceiverEncoder
from perceiver.perceiver_pytorch import from_perceiver_pytorch, to_perceiver_pytorch
from perceiver.positions import grid_positions

reference = pytest.importorskip("perceiver_pytorch", reason="extra bench: perceiver-pytorch==0.11.0")
# A single frequency for all axes, as in perceiver-pytorch, is far from the resolution of some of them.
pytestmark = pytest.mark.filterwarnings("ignore:PerceiverConfig.max_freq is far")


def draw_case(seed):
    """Draw options of the Perceiver of perceiver-pytorch, sizes of the axes, and whether some inputs are masked."""
    rng = random.Random(seed)
    num_axes = 1 + seed % 3
    options = {
        "num_freq_bands": rng.choice([1, 2, 5]),
        "depth": rng.choice([1, 2, 3]),
        "max_freq": rng.choice([2.0, 7.5, 10.0]),
        "input_channels": rng.choice([1, 2, 3]),
        "input_axis": num_axes,
        "num_latents": rng.choice([3, 6]),
        "latent_dim": rng.choice([8, 20]),
        "cross_heads": rng.choice([1, 3]),
        "latent_heads": rng.choice([1, 2, 4]),
        "cross_dim_head": rng.choice([4, 16, 40]),
        "latent_dim_head": rng.choice([4, 8]),
        "num_classes": rng.choice([2, 5]),
        "weight_tie_layers": rng.random() < 0.5,
        "fourier_encode_data": seed % 6 != 5,
        "self_per_cross_attn": rng.choice([0, 1, 2]),
    }
    return options, tuple(rng.choice([1, 3, 4]) for _ in range(num_axes)), rng.random() < 0.5


def build_reference(options, seed):
    """Build a model with random parameters: a gain of 1 or a shift of 0 would hide one that is left out."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = reference.Perceiver(**options)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.2)
    return model


def convert(model, options, axis_sizes):
    names = ("max_freq", "num_freq_bands", "cross_heads", "latent_heads", "weight_tie_layers", "fourier_encode_data")
    return from_perceiver_pytorch(
        model.state_dict(), axis_sizes=axis_sizes, **{name: options[name] for name in names if name in options}
    )


def reference_grid(axis_sizes):
    """Compute a grid with the coordinate -1 on axes of size 1, as perceiver-pytorch has it; here it is 0."""
    grid = grid_positions(axis_sizes)
    for axis, size in enumerate(axis_sizes):
        if size == 1:
            grid[:, axis] = -1
    return grid.unsqueeze(0)


@pytest.mark.parametrize("seed", range(30))
def test_same_weights_give_same_logits_and_gradients(seed):
    options, axis_sizes, masked = draw_case(seed)
    external_model = build_reference(options, seed)
    config, state = convert(external_model, options, axis_sizes)
    model = Perceiver(config)
    model.load_state_dict(state)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, *axis_sizes, options["input_channels"], generator=generator)
    mask = torch.rand(2, *axis_sizes, generator=generator) > 0.3 if masked else None
    if mask is not None:
        mask.flatten(1)[:, 0] = True
    weight = torch.randn(2, options["num_classes"], generator=generator)

    expected = external_model(images, mask=mask)
    actual = model(
        images.flatten(1, -2), reference_grid(axis_sizes), None if mask is None else ~mask.flatten(start_dim=1)
    )
    # The same sums in another order: float32 rounding (6e-8) through at most 18 layers. Largest observed: 1.4e-6.
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=2e-5)

    (expected * weight).sum().backward()
    (actual * weight).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    converted = to_perceiver_pytorch(config, gradients)
    for name, parameter in external_model.named_parameters():
        # A gradient is a sum of terms that cancel, so its rounding is relative to the largest number in it.
        # Largest observed: 3e-6 of that.
        scale = max(1.0, parameter.grad.abs().max().item())
        torch.testing.assert_close(converted[name], parameter.grad, atol=2e-5 * scale, rtol=1e-3, msg=name)


@pytest.mark.parametrize("seed", range(6))
def test_its_own_call_builds_the_same_model_for_images_of_any_size(seed):
    options, _, _ = draw_case(seed)
    axis_sizes = (5, 2, 4)[: options["input_axis"]]
    external_model = build_reference(options, seed)
    config, state = convert(external_model, options, axis_sizes)
    model = Perceiver.from_image_config(**options)
    expected = dataclasses.replace(config, axis_sizes=None, max_freq=model.config.max_freq)
    if options["self_per_cross_attn"] == 0:  # no weights define the width of a head
        expected = dataclasses.replace(expected, latent_head_dim=options["latent_dim_head"])
    assert model.config == expected
    model.load_state_dict(state)
    for sizes in (axis_sizes, tuple(size + 1 for size in axis_sizes)):
        images = torch.randn(2, *sizes, options["input_channels"], generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(model(images), external_model(images), atol=2e-5, rtol=2e-5)  # rounding, as above


@pytest.mark.parametrize("seed", range(6))
def test_weights_come_back_as_they_went(seed):
    options, axis_sizes, _ = draw_case(seed)
    external_state = build_reference(options, seed).state_dict()
    config, state = convert(build_reference(options, seed), options, axis_sizes)
    converted_back = to_perceiver_pytorch(config, state)
    assert converted_back.keys() == external_state.keys()
    for name, tensor in external_state.items():
        assert torch.equal(converted_back[name], tensor), name


@pytest.mark.parametrize("sharing", ["none", "all", "all_but_first", "all_but_first_block"])
def test_any_weight_sharing_of_ours_loads_into_an_untied_reference(sharing):
    options = {**draw_case(0)[0], "depth": 3, "weight_tie_layers": False, "self_per_cross_attn": 1}
    config, _ = convert(build_reference(options, 0), options, (4,))
    model = Perceiver(dataclasses.replace(config, weight_sharing=sharing))
    external_model = reference.Perceiver(**options)
    external_model.load_state_dict(to_perceiver_pytorch(model.config, model.state_dict()))
    images = torch.randn(2, 4, options["input_channels"], generator=torch.Generator().manual_seed(1))
    # Rounding, as above.
    torch.testing.assert_close(model(images, reference_grid((4,))), external_model(images), atol=2e-5, rtol=2e-5)


def test_without_a_head_the_latents_are_the_embeddings():
    options = {**draw_case(1)[0], "final_classifier_head": False}
    external_model = build_reference(options, 1)
    config, state = convert(external_model, options, (3, 4))
    model = PerceiverEncoder(config)
    model.load_state_dict(state)
    images = torch.randn(2, 3, 4, options["input_channels"], generator=torch.Generator().manual_seed(1))
    actual = model.encode(images.flatten(1, 2), reference_grid((3, 4)))
    torch.testing.assert_close(actual, external_model(images), atol=2e-5, rtol=2e-5)  # rounding, as above
    assert to_perceiver_pytorch(config, model.state_dict()).keys() == external_model.state_dict().keys()


def test_what_cannot_be_converted_is_refused_by_name():
    options = {**draw_case(0)[0], "depth": 3, "weight_tie_layers": False, "cross_heads": 1, "cross_dim_head": 4}
    model = build_reference(options, 0)
    with pytest.raises(ValueError, match=r"cross_layers\.1.*weight_tie_layers=False"):
        convert(model, {**options, "weight_tie_layers": True}, (4,))
    with pytest.raises(ValueError, match="4 rows for cross_heads 3"):
        convert(model, {**options, "cross_heads": 3}, (4,))
    with pytest.raises(ValueError, match="403 of 1 axes with 201 bands"):
        convert(model, {**options, "num_freq_bands": 201}, (4,))
    with pytest.raises(ValueError, match=r"found attn_residuals\.0"):
        convert(build_reference({**options, "attn_residual": True}, 0), options, (4,))
    with pytest.raises(ValueError, match=r"no layers\.0\.cross_attn"):
        from_perceiver_pytorch({}, max_freq=10.0, num_freq_bands=1, axis_sizes=(4,))
    config, state = convert(model, options, (4,))
    for name, value in {"activation": "gelu", "pooling": "cls", "feedforward_widening": 2}.items():
        changed = {"self_attends_per_cross": 1, name: value}
        with pytest.raises(ValueError, match=f"to_perceiver_pytorch {name}: found {value!r}"):
            to_perceiver_pytorch(dataclasses.replace(config, **changed), state)
    two_axes = dataclasses.replace(config, axis_sizes=(4, 5), max_freq=None)
    with pytest.raises(ValueError, match=r"max_freq: found \(4, 5\)"):
        to_perceiver_pytorch(two_axes, state)


def test_a_grid_without_an_axis_of_one_place_is_the_same_in_float64():
    """As docstring of ``from_image_config`` says, and for images of two sizes with one model."""
    options, _, _ = draw_case(1)
    options |= {"fourier_encode_data": True, "max_freq": 4.0}
    external_model = build_reference(options, 1).double()
    config, state = convert(external_model, options, (3, 4))
    model = Perceiver(dataclasses.replace(config, axis_sizes=None)).double()
    model.load_state_dict(state)
    for sizes in ((3, 4), (2, 5)):
        images = torch.randn(2, *sizes, options["input_channels"], generator=torch.Generator().manual_seed(5)).double()
        torch.testing.assert_close(model(images), external_model(images), atol=1e-12, rtol=1e-12)
