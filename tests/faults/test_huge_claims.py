"""A checkpoint whose facts describe a network that it does not hold is refused before memory is taken for it."""

import dataclasses
import resource
import warnings

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.config.model import CnnConfig, ModelConfig
from pipeline.core.data_kinds import POINTS
from pipeline.core.errors import UserError
from pipeline.training.checkpoint import build_from_checkpoint, read_checkpoint, write_checkpoint
from tests.builders.checkpoints import MODEL, make_checkpoint

HUGE = 10**6


def claim(**perceiver) -> ModelConfig:
    return dataclasses.replace(MODEL, perceiver=dataclasses.replace(MODEL.perceiver, **perceiver))


CLAIMS = {
    "latent_dim": {"model": claim(latent_dim=HUGE)},
    "latents beyond any storage": {"model": claim(num_latents=10**12, latent_dim=10**12)},
    "layers": {"model": claim(self_attends_per_cross=10**9)},
    "shared layers": {"model": claim(num_cross_attends=10**9, weight_sharing="all")},
    "heads": {"model": claim(latent_heads=HUGE, latent_head_dim=HUGE)},
    "bands": {"model": claim(num_bands=10**10)},
    "patches": {"model": dataclasses.replace(MODEL, patch_size=HUGE), "image_size": (HUGE, HUGE)},
    "places": {"model": claim(positions="learned", max_freq=None), "image_size": (HUGE, HUGE)},
    "permuted pixels": {"model": dataclasses.replace(MODEL, pixel_permutation_seed=0), "image_size": (HUGE, HUGE)},
    "channels": {"num_channels": 10**12},
    "convolutions": {"model": dataclasses.replace(MODEL, stem="conv", num_conv_layers=10**9)},
    "residual blocks": {"model": dataclasses.replace(MODEL, stem="conv", num_residual_blocks=10**9)},
    "convolution channels": {"model": dataclasses.replace(MODEL, stem="conv", conv_channels=10**9)},
    "cnn": {"model": ModelConfig(architecture="cnn", cnn=CnnConfig(channels=(HUGE, HUGE)))},
    "residual cnn": {
        "model": ModelConfig(architecture="cnn", cnn=CnnConfig("residual", (HUGE,) * 4)),
        "image_size": (64, 64),
    },
    "points": {"model": ModelConfig(perceiver=MODEL.perceiver), "kind": POINTS, "image_size": (10**12, 3)},
}


class Allocated(TorchDispatchMode):
    """Counts the bytes of all new tensors that have values."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        found = function(*arguments, **(options or {}))
        if isinstance(found, torch.Tensor) and not found.is_meta:
            self.num_bytes += found.untyped_storage().nbytes()
        return found


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_is_refused_without_its_memory(name, tmp_path):
    path = tmp_path / "huge.safetensors"
    write_checkpoint(path, make_checkpoint(**CLAIMS[name]))
    checkpoint = read_checkpoint(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Allocated() as allocated, pytest.raises(UserError, match=r"^(checkpoint|model)") as refusal:
        build_from_checkpoint(checkpoint)
    assert allocated.num_bytes == 0, refusal.value
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10, (
        "KiB, of which MONAI's modules are 75 MiB"
    )


def test_a_network_that_is_as_claimed_is_built_and_warns_once():
    with Allocated() as allocated, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        build_from_checkpoint(make_checkpoint(model=claim(max_freq=(40.0, 60.0))))
    assert allocated.num_bytes > 0
    assert ["is far from what the resolution carries" in str(warning.message) for warning in warned] == [True]
