"""Small networks of whole scans, one for each way from slices to an answer."""

from perceiver import PerceiverConfig
from pipeline.config.model import CnnConfig, ModelConfig

SMALL = PerceiverConfig(num_latents=4, latent_dim=8, num_cross_attends=1, self_attends_per_cross=1, num_bands=2)
STEM = {"stem": "patches", "patch_size": 4, "perceiver": SMALL}
CHOICES = {
    "joint": ModelConfig(**STEM),
    "joined": ModelConfig(patch_slices=2, **STEM),
    "mean": ModelConfig(slices="mean", **STEM),
    "max": ModelConfig(slices="max", **STEM),
    "top3": ModelConfig(slices="top3", **STEM),
    "attention": ModelConfig(slices="attention", **STEM),
    "cnn": ModelConfig(slices="mean", architecture="cnn", cnn=CnnConfig(channels=(4, 8))),
}
# Baselines that no program is exported of.
CNN_CHOICES = {
    "plain": ModelConfig(architecture="cnn", cnn=CnnConfig(channels=(4, 8))),
    "residual": ModelConfig(architecture="cnn", cnn=CnnConfig(blocks="residual", channels=(2, 2, 4, 4))),
}
