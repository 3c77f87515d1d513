"""A permutation of pixels moves them, loses none, and is the same wherever the model goes."""

import dataclasses

import pytest
import torch
from einops import rearrange

from perceiver import PerceiverConfig
from pipeline.config.experiment import Experiment, dump_experiment
from pipeline.config.model import CnnConfig, ModelConfig
from pipeline.core.pixel_order import compute_pixel_order
from pipeline.models.networks import build_model
from pipeline.models.pixel_permutation import PixelPermutation
from pipeline.training.checkpoint import build_from_checkpoint, read_checkpoint, write_checkpoint
from tests.builders.checkpoints import make_checkpoint
from tests.builders.models import build_spec, wrap_network

SIZE = (8, 12)
TINY = PerceiverConfig(
    num_latents=4, latent_dim=8, num_cross_attends=1, self_attends_per_cross=1, num_bands=2, latent_init_std=1.0
)
PLACE = torch.zeros(3)
ORDER_OF_SEED_0 = [4, 0, 6, 7, 2, 1, 5, 3]


@pytest.fixture
def images():
    return torch.randn(3, 2, *SIZE, generator=torch.Generator().manual_seed(0))


def build(permute_seed=7, positions="fourier", **options):
    perceiver = dataclasses.replace(TINY, positions=positions)
    config = ModelConfig(**{"stem": "pixels", "perceiver": perceiver, "pixel_permutation_seed": permute_seed} | options)
    return build_model(config, build_spec(2, SIZE), seed=3).eval()


def test_it_moves_every_pixel_to_another_place_and_loses_none(images):
    permutation = PixelPermutation(SIZE, seed=7)
    moved = permutation(images)
    assert (moved != images).float().mean() > 0.9
    assert torch.equal(moved.flatten(2).sort().values, images.flatten(2).sort().values)
    assert torch.equal(moved.flatten(2)[..., permutation.order.argsort()], images.flatten(2))


def test_channels_of_a_pixel_stay_together_and_all_images_move_alike(images):
    permutation = PixelPermutation(SIZE, seed=7)
    names = torch.arange(96.0).reshape(1, 1, *SIZE).expand(3, 2, *SIZE)
    moved = permutation(names)
    assert torch.equal(moved, moved[:1, :1].expand_as(moved))
    assert torch.equal(moved[0, 0].flatten().long(), permutation.order)


def test_the_order_is_the_same_on_every_machine():
    """Written down once; a checkpoint keeps the seed alone, so these numbers can never change."""
    assert compute_pixel_order(8, seed=0) == ORDER_OF_SEED_0
    assert compute_pixel_order(8, seed=1) != ORDER_OF_SEED_0


@pytest.mark.parametrize("seed", [0, 7])  # 0 is a seed, not the absence of one
def test_the_model_is_its_network_on_permuted_pixels(images, seed):
    permuted, plain = build(permute_seed=seed), build(permute_seed=None)
    assert permuted.state_dict().keys() == plain.state_dict().keys()
    expected = plain(PixelPermutation(SIZE, seed)(images), PLACE)
    torch.testing.assert_close(permuted(images, PLACE), expected)
    assert (permuted(images, PLACE) - plain(images, PLACE)).abs().max() > 1e-3


def test_without_positions_the_permutation_changes_nothing(images):
    permuted, plain = build(positions="none"), build(permute_seed=None, positions="none")
    # Sums over pixels in another order.
    torch.testing.assert_close(permuted(images, PLACE), plain(images, PLACE), atol=1e-5, rtol=1e-5)


def test_learned_positions_that_move_with_the_pixels_give_the_same_logits(images):
    permuted, plain = build(positions="learned"), build(permute_seed=None, positions="learned")
    expected = plain(images, PLACE)
    assert (permuted(images, PLACE) - expected).abs().max() > 1e-3
    (table,) = (value for name, value in permuted.named_parameters() if name.endswith("table"))
    with torch.no_grad():
        table.copy_(table[permuted.permutation.order].clone())
    # Sums over pixels in another order.
    torch.testing.assert_close(permuted(images, PLACE), expected, atol=1e-5, rtol=1e-5)


def test_fourier_positions_do_not_move_with_the_pixels_and_so_the_experiment_is_one(images):
    """The permutation comes before the positions: the same permutation of the inputs after them changes nothing."""
    plain = build(permute_seed=None)
    order = PixelPermutation(SIZE, seed=7).order
    values = rearrange(images, "batch channels height width -> batch (height width) channels")
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 12), indexing="ij")
    positions = torch.stack([rows, columns], dim=-1).reshape(1, 96, 2)
    after = plain.network.perceiver(values[:, order], positions[:, order])
    # Sums over pixels in another order.
    torch.testing.assert_close(after, plain(images, PLACE), atol=1e-5, rtol=1e-5)
    assert (build()(images, PLACE) - after).abs().max() > 1e-3


def test_a_cnn_sees_permuted_pixels_too():
    cnn = {"architecture": "cnn", "cnn": CnnConfig(channels=(2, 4))}
    images = torch.randn(3, 2, *SIZE, generator=torch.Generator().manual_seed(0))
    expected = build(permute_seed=None, **cnn)(PixelPermutation(SIZE, seed=7)(images), PLACE)
    torch.testing.assert_close(build(**cnn)(images, PLACE), expected)


def test_a_checkpoint_brings_the_permutation_along(tmp_path):
    config = ModelConfig(stem="pixels", perceiver=TINY, pixel_permutation_seed=11)
    model = build_model(config, build_spec(), seed=3)
    checkpoint = make_checkpoint(model=config, weights=model.state_dict())
    write_checkpoint(tmp_path / "a.safetensors", checkpoint)
    restored = build_from_checkpoint(read_checkpoint(tmp_path / "a.safetensors"))
    trained = wrap_network(model, checkpoint.mean, checkpoint.std).eval()
    stored = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(restored(stored, PLACE), trained(stored, PLACE))
    assert torch.equal(restored.model.permutation.order, torch.tensor(compute_pixel_order(64, 11)))


def test_a_mirror_image_is_made_before_its_pixels_are_permuted():
    """With both, a mirrored image still gets exactly the other answer."""
    classifier = wrap_network(build(), (0.5, 0.5), (0.2, 0.2), mirror_tta=True).eval()
    stored = torch.randint(0, 256, (3, 2, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    answer, other = classifier(stored, PLACE), classifier(stored.flip(-1), PLACE)
    torch.testing.assert_close(other, answer.flip(-1))
    assert (answer[:, 0] - answer[:, 1]).abs().max() > 1e-4


def test_the_seed_stands_in_the_config_that_the_report_prints():
    text = dump_experiment(Experiment(model=ModelConfig(pixel_permutation_seed=5)))
    assert "pixel_permutation_seed: 5" in text
    assert "pixel_permutation_seed: null" in dump_experiment(Experiment())
