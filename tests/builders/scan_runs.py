"""Experiments that train on a few tiny scans of different numbers of slices."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.config.data import PreprocessConfig
from pipeline.config.experiment import Experiment
from pipeline.config.model import CnnConfig, ModelConfig
from pipeline.config.sources import SplitConfig
from pipeline.config.tracking import TrackingConfig
from pipeline.config.training import AugmentConfig, TrainConfig
from pipeline.core.data_kinds import SCANS
from pipeline.core.tables import INDEX_COLUMNS
from pipeline.data.store import write_store
from pipeline.preprocessing.parts import describe_options
from tests.builders.built_once import place_data
from tests.builders.scan_models import SMALL

MOST_SLICES = 6
SCAN_PREPROCESS = PreprocessConfig(unit="volume", image_size=(8, 8), num_slices=MOST_SLICES)
CONV = {"stem": "conv", "num_conv_layers": 1, "conv_channels": 4, "perceiver": SMALL}
# A way from slices to an answer each; all but the last two have batch norms, over the slices of a batch.
SCAN_MODELS = {
    "joint": ModelConfig(**CONV),
    "attention": ModelConfig(slices="attention", **CONV),
    "slices of a cnn": ModelConfig(slices="mean", architecture="cnn", cnn=CnnConfig(channels=(2, 3))),
    "joined": ModelConfig(patch_slices=2, stem="patches", patch_size=4, perceiver=SMALL),
    "3-d cnn": ModelConfig(architecture="cnn", cnn=CnnConfig(channels=(2, 3))),
}
# All that is drawn for whole scans.
SCAN_AUGMENT = AugmentConfig(
    horizontal_flip="swap_label", slice_dropping_fraction=0.5, noise_std=0.05, random_erasing_probability=0.5
)


def make_scans(workspace: Path, name: str = "joint", **changes) -> Experiment:
    """Ten patients with two knees of 1 to 6 axial slices; their bright half shows the side."""
    train = TrainConfig(epochs=3, batch_size=6, precision="32-true", accelerator="cpu", learning_rate=0.02)
    experiment = Experiment(
        name="scans",
        workspace=workspace,
        preprocess=SCAN_PREPROCESS,
        split=SplitConfig(val_fraction=0.2, test_fraction=0.2),
        model=SCAN_MODELS[name],
        augment=SCAN_AUGMENT,
        train=dataclasses.replace(train, **changes),
        tracking=TrackingConfig(enabled=False),
    )
    place_data(experiment, _write_scans)
    return experiment


def _write_scans(experiment: Experiment) -> None:
    generator = np.random.default_rng(0)
    pairs = [(patient, side) for patient in range(10) for side in ("left", "right")]
    volumes = generator.integers(0, 150, (len(pairs), MOST_SLICES, 8, 8)).astype(np.uint8)
    places_mm = np.full((len(pairs), MOST_SLICES, 3), np.nan, np.float32)
    for row, (_, side) in enumerate(pairs):
        count = 1 + row % MOST_SLICES
        volumes[row, :, :, slice(0, 4) if side == "left" else slice(4, 8)] += 90
        volumes[row, count:] = 0
        places_mm[row, :count] = [[4.0 * index - 2.0 * (count - 1), 40.0, 40.0] for index in range(count)]
    sources = [f"knee{patient}{side}" for patient, side in pairs]
    rows = [(source, source, f"00{pair[0]}", pair[1], 0, 0.0) for source, pair in zip(sources, pairs, strict=True)]
    index = pd.DataFrame(rows, columns=list(INDEX_COLUMNS))
    experiment.paths.prepared.mkdir(parents=True, exist_ok=True)
    settings = describe_options(SCAN_PREPROCESS)
    write_store(experiment.paths.prepared, [volumes], index, settings, SCANS, places_mm=places_mm)
