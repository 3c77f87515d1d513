"""Experiments that train on a few tiny slices."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from perceiver import PerceiverConfig
from pipeline.config.data import PreprocessConfig
from pipeline.config.experiment import Experiment
from pipeline.config.model import ModelConfig
from pipeline.config.sources import SplitConfig
from pipeline.config.tracking import TrackingConfig
from pipeline.config.training import AugmentConfig, TrainConfig
from pipeline.core.tables import INDEX_COLUMNS
from pipeline.core.workspace import Workspace
from pipeline.data.store import write_store
from pipeline.preprocessing.parts import describe_options
from pipeline.stages.pretrain import pretrain
from pipeline.stages.train import train
from pipeline.tracking.mlflow_run import TrackedRun
from pipeline.tracking.records import RunFacts
from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.history import EpochResult, write_history
from tests.builders.built_once import place_data

SLICES = 4

PREPROCESS = PreprocessConfig(image_size=(8, 8), num_slices=SLICES)

# All that is drawn: what a resumed run must draw again.
AUGMENT = AugmentConfig(
    horizontal_flip="swap_label",
    crop_padding=1,
    random_erasing_probability=0.5,
    noise_std=0.05,
    bias_field=0.2,
    transforms_per_image="one",
    mixup_alpha=0.2,
    cutmix_alpha=1.0,
)


TINY = PerceiverConfig(
    num_latents=4, latent_dim=8, num_cross_attends=1, self_attends_per_cross=1, num_bands=2, dropout=0.2
)


class Cut(io.StringIO):
    """A place to print to that interrupts the program at a word, as a person would."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self.word = word

    def write(self, text: str) -> int:
        if self.word in text:
            raise KeyboardInterrupt
        return super().write(text)


def make_experiment(workspace: Path, **changes) -> Experiment:
    """Ten patients with two knees; the bright half of an image shows the side."""
    experiment = Experiment(
        name="tiny",
        workspace=workspace,
        preprocess=PREPROCESS,
        split=SplitConfig(val_fraction=0.2, test_fraction=0.2),
        model=ModelConfig(num_conv_layers=1, conv_channels=4, slice_position=True, perceiver=TINY),
        augment=AUGMENT,
        train=TrainConfig(epochs=4, batch_size=16, precision="32-true", accelerator="cpu", learning_rate=0.02),
        tracking=TrackingConfig(enabled=False),
    )
    place_data(experiment, _write_slices)
    return dataclasses.replace(experiment, **changes)


def _write_slices(experiment: Experiment) -> None:
    rows, generator = [], np.random.default_rng(0)
    for patient in range(10):
        for side in ("left", "right"):
            for index in range(SLICES):
                source = f"knee{patient}{side}"
                rows.append((f"{source}_{index}", source, f"00{patient}", side, index, index / 2 - 1))
    images = generator.integers(0, 150, (len(rows), 8, 8)).astype(np.uint8)
    for image, row in zip(images, rows, strict=True):
        image[:, slice(0, 4) if row[3] == "left" else slice(4, 8)] += 90
    index = pd.DataFrame(rows, columns=list(INDEX_COLUMNS))
    experiment.paths.prepared.mkdir(parents=True, exist_ok=True)
    write_store(experiment.paths.prepared, [images], index, describe_options(PREPROCESS))


def run(experiment: Experiment, file: io.StringIO | None = None) -> str:
    file = io.StringIO() if file is None else file
    train(experiment, Console(file=file, width=200))
    return file.getvalue()


def with_train(experiment: Experiment, **options) -> Experiment:
    return dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, **options))


def read_weights(path: Path) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in read_checkpoint(path).weights.items()}


def list_weights(path) -> dict[str, bytes]:
    """Return the bytes of the weights of a checkpoint, also of a pretraining."""
    return {name: value.numpy().tobytes() for name, value in read_checkpoint(path, is_start=True).weights.items()}


def run_pretraining(experiment: Experiment, file: io.StringIO | None = None) -> str:
    file = io.StringIO() if file is None else file
    pretrain(experiment, Console(file=file, width=200))
    return file.getvalue()


def check_same(paths: Workspace, others: Workspace) -> None:
    """Compare the checkpoints of two runs that had heads of training, to the last bit."""
    for name in ("best_checkpoint", "last_checkpoint"):
        assert list_weights(getattr(paths, name)) == list_weights(getattr(others, name))
    first, second = (read_checkpoint(each.last_checkpoint, is_start=True) for each in (paths, others))
    assert second.heads
    assert all((first.heads[name] == value).all() for name, value in second.heads.items())
    assert all((first.optimizer.tensors[name] == value).all() for name, value in second.optimizer.tensors.items())


def keep_history(tracked: TrackedRun, history: Sequence[EpochResult]) -> None:
    """Write the curves of a run and send them, as training does after each epoch."""
    paths = tracked.workspace
    write_history(paths.history, history)
    tracked.keep(RunFacts(history=paths.name_file(paths.history)))
    tracked.sync()


HISTORY = [EpochResult(epoch, 1 / epoch, 0.5, 2 / epoch, 0.5, 0.1, 1.0, 1.0) for epoch in (1, 2, 3)]
