"""Positions compared with values computed by hand."""

import copy
import math
import warnings

import pytest
import torch

from perceiver import Perceiver, PerceiverConfig, PerceiverIO
from perceiver.positions import (
    MAX_KEPT_GRIDS,
    FourierPositions,
    Grid,
    LearnedPositions,
    NoPositions,
    fourier_features,
    fourier_frequencies,
    grid_indices,
    grid_positions,
    warn_far_from_nyquist,
)


def test_a_grid_runs_from_minus_one_to_one_last_axis_fastest():
    expected = [[-1, -1], [-1, 0], [-1, 1], [1, -1], [1, 0], [1, 1]]
    torch.testing.assert_close(grid_positions((2, 3)), torch.tensor(expected, dtype=torch.float32))


def test_an_axis_of_size_one_lies_in_the_middle():
    torch.testing.assert_close(grid_positions((1,)), torch.zeros(1, 1))


def test_frequencies_run_in_equal_steps_from_one_to_half_of_max_freq():
    expected = torch.tensor([[1.0, 2.5, 4.0], [1.0, 3.0, 5.0]])
    torch.testing.assert_close(fourier_frequencies((8.0, 10.0), 3), expected)


def test_fourier_features_agree_with_numbers_computed_by_hand():
    """Frequencies 1 and 2: 45 and 90 degrees at x = 1/4, -90 and -180 degrees at x = -1/2."""
    sqrt_half = math.sqrt(0.5)
    expected = torch.tensor([[[sqrt_half, 1.0, sqrt_half, 0.0, 0.25, -1.0, 0.0, 0.0, -1.0, -0.5]]])
    actual = fourier_features(torch.tensor([[[0.25, -0.5]]]), fourier_frequencies((4.0, 4.0), 2))
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)  # pi is rounded to float32


def test_each_axis_has_its_own_frequencies():
    features = FourierPositions((4.0, 8.0), 2)((torch.tensor([[[0.25, 0.25]]]),))
    assert features[0, 0, 1] == pytest.approx(math.sin(math.pi * 2 / 4), abs=1e-6)  # axis 0, f = 2
    assert features[0, 0, 6] == pytest.approx(math.sin(math.pi * 4 / 4), abs=1e-6)  # axis 1, f = 4


def test_positions_in_parts_give_the_same_features_as_positions_in_one_piece():
    grid, slice_position = grid_positions((3, 2)).unsqueeze(0), torch.tensor([0.1, -0.7]).reshape(2, 1, 1)
    whole = torch.cat([grid.expand(2, -1, -1), slice_position.expand(-1, 6, -1)], dim=-1)
    encode = FourierPositions((3.0, 2.0, 9.0), 4)
    torch.testing.assert_close(encode((grid, slice_position)), encode((whole,)), atol=0, rtol=0)


@pytest.mark.parametrize("sizes", [(5,), (3, 4), (2, 1, 7)])
def test_a_position_of_the_grid_has_its_own_row(sizes):
    positions = grid_positions(sizes).unsqueeze(0)
    assert grid_indices(positions, sizes).tolist() == [list(range(positions.shape[1]))]
    jittered = (
        positions + 0.1 * torch.tensor([-1.0, 1.0]).repeat(positions.shape[1])[: positions.shape[1], None]
    ).clamp(-1, 1)
    assert grid_indices(jittered, sizes).tolist() == [list(range(positions.shape[1]))]


@pytest.mark.parametrize(
    ("max_freq", "message"),
    [
        ((10.0, 260.0), r"axis 0: found 10, 22\.8 times below 228\)"),
        ((228.0, 1040.0), r"\(axis 1: found 1040, 4\.0 times above 260"),
        ((113.0, 521.0), r"axis 0: found 113, 2\.0 times below 228; axis 1: found 521, 2\.0 times above 260"),
    ],
)
def test_a_frequency_far_from_the_resolution_gets_one_warning(max_freq, message):
    with pytest.warns(UserWarning, match=message) as caught:
        warn_far_from_nyquist(max_freq, (228, 260))
    assert len(caught) == 1


def test_a_model_warns_when_it_is_built_or_reads_a_grid_and_otherwise_not():
    options = {"input_channels": 1, "num_classes": 2, "num_latents": 2, "latent_dim": 8}
    with pytest.warns(UserWarning, match="axis 0: found 10, 2.5 times below 25"):
        Perceiver(PerceiverConfig(axis_sizes=(25,), max_freq=(10.0,), **options))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Perceiver(PerceiverConfig(max_freq=(10.0,), **options))
        Perceiver(PerceiverConfig(axis_sizes=(20, 5, 1), max_freq=(10.0, 10.0, 4.0), **options))
        Perceiver(PerceiverConfig(axis_sizes=(500,), **options))
        model(torch.zeros(1, 20, 1))
    with pytest.warns(UserWarning, match="axis 0: found 10, 2.5 times below 25"):
        model(torch.zeros(1, 25, 1))


@pytest.mark.parametrize("sizes", [(3, 4), (1, 5), (2, 6)])
def test_a_grid_has_the_features_of_its_coordinates_in_every_module(sizes):
    coordinates, last = grid_positions(sizes).unsqueeze(0), torch.tensor([0.1, -0.7]).reshape(2, 1, 1)
    for encode in (FourierPositions((3.0, 2.0), 4), LearnedPositions((3, 4), 5, 1.0), NoPositions()):
        for _ in range(2):  # the second time the features are kept
            torch.testing.assert_close(encode((Grid(sizes),)), encode((coordinates,)), atol=0, rtol=0)
    for encode in (FourierPositions((9.0, 3.0, 2.0), 4), LearnedPositions((5, 3, 4), 5, 1.0), NoPositions()):
        for _ in range(2):
            actual, expected = encode((last, Grid(sizes))), encode((last, coordinates))
            torch.testing.assert_close(actual, expected, atol=0, rtol=0)


def test_the_features_of_a_grid_are_computed_once_for_a_type_and_not_for_ever():
    encode = FourierPositions((3.0, 2.0), 4)
    first = encode((Grid((3, 4)),))
    assert encode((Grid((3, 4)),)) is first
    assert encode((Grid((4, 3)),)).shape == first.shape
    assert encode.double()((Grid((3, 4)),)).dtype == torch.float64
    for size in range(2, 20):
        encode((Grid((3, size)),))
    assert len(encode.kept_features) == MAX_KEPT_GRIDS
    assert copy.deepcopy(encode).kept_features == {}
    assert encode.state_dict() == {}


def test_features_kept_in_inference_mode_or_by_a_transform_serve_training():
    """As the queries of a Perceiver IO, where the backward pass needs them."""
    model = PerceiverIO(PerceiverConfig(input_channels=1, axis_sizes=(3, 4), num_classes=2, num_bands=2), query_dim=10)
    values = torch.ones(2, 3, 4, 1)

    def run(parameters):
        return torch.func.functional_call(
            model, parameters, (values,), {"queries": model.positions((Grid((3, 4)),))}
        ).sum()

    parameters = dict(model.named_parameters())
    with torch.inference_mode():
        run(parameters)
    (kept,) = model.positions.kept_features.values()
    run(parameters).backward()
    assert model.decoder.attention.to_query.weight.grad.abs().max() > 0
    model.positions.kept_features.clear()
    torch.func.grad(run)(parameters)
    (kept_by_grad,) = model.positions.kept_features.values()
    assert torch.func.debug_unwrap(kept_by_grad) is kept_by_grad
    assert torch.equal(kept_by_grad, kept)


def test_models_that_are_stacked_keep_no_features_of_the_stack():
    models = [FourierPositions((highest, 3.0), 4) for highest in (3.0, 5.0)]
    stacked = torch.stack([model.frequencies for model in models])
    call = torch.func.vmap(
        lambda given: torch.func.functional_call(models[0], {"frequencies": given}, ((Grid((3, 4)),),))
    )
    features = call(stacked)
    for model, expected in zip(models, features, strict=True):
        torch.testing.assert_close(model((Grid((3, 4)),)), expected, atol=0, rtol=0)
