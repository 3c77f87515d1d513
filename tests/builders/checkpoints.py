"""A small checkpoint, and images for its model."""

from dataclasses import replace

import numpy as np

from perceiver import PerceiverConfig
from pipeline.config.data import PreprocessConfig
from pipeline.config.model import ModelConfig
from pipeline.core.data_kinds import SCANS
from pipeline.models.networks import build_model
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.history import EpochResult
from tests.builders.models import build_spec

MODEL = ModelConfig(
    stem="patches",
    patch_size=2,
    perceiver=PerceiverConfig(num_latents=4, latent_dim=8, num_bands=2, max_freq=(4.0, 6.0)),
)

RESULT = EpochResult(1, 0.7, 0.5, 0.1 + 0.2, 1 / 3, 1e-3, 12.5, 3.0)


def make_checkpoint(**changes):
    """Make a checkpoint of small volumes; ``changes`` are fields of it, or arguments of ``build_spec``."""
    shape = {name: changes.pop(name) for name in ("num_channels", "image_size", "kind") if name in changes}
    model = build_model(MODEL, build_spec(), seed=3)
    values = {
        "model": MODEL,
        "spec": build_spec(**shape),
        "preprocess": PreprocessConfig(image_size=(8, 8), num_slices=5, spacing_mm=1.5),
        "mean": (0.1 + 0.2,),
        "std": (1 / 3,),
        "store_fingerprint": "a",
        "split_fingerprint": "b",
        "settings": {"train.epochs": 3, "train.loss": "cross_entropy"},
        "versions": {"python": "3"},
        "commit": "c",
        "epoch": 1,
        "history": (RESULT,),
        "tracking_run": "run",
        "weights": model.state_dict(),
    }
    return Checkpoint(**(values | changes))


def make_scan_checkpoint(config: ModelConfig, **changes) -> Checkpoint:
    """Make a checkpoint of small whole scans of at most five axial slices."""
    spec = replace(build_spec(kind=SCANS), field_of_view_mm=100.0)
    options = PreprocessConfig(unit="volume", image_size=(8, 8), num_slices=5, spacing_mm=1.5)
    weights = build_model(config, spec, seed=0).state_dict()
    return make_checkpoint(**({"model": config, "spec": spec, "weights": weights, "preprocess": options} | changes))


def draw_images():
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (5, 8, 8)).astype(np.uint8), np.linspace(-1, 1, 5)
