"""A task that a small network learns in a second: which half of an image is bright. Trained by the real loop."""

import dataclasses

import numpy as np
import torch
from torch import nn

from pipeline.config.training import AugmentConfig, TrainConfig
from pipeline.data.batches import place_examples
from pipeline.data.statistics import compute_statistics
from pipeline.models.networks import SliceModel
from pipeline.training.devices.compilation import compile_model
from pipeline.training.devices.fabric import build_fabric
from pipeline.training.loop.epochs import train_epochs
from pipeline.training.loop.state import TrainingState
from pipeline.training.optimization.optimizers import build_optimizer
from tests.builders.models import build_setup, wrap_network

CPU = torch.device("cpu")
CONFIG = TrainConfig(
    epochs=3, batch_size=8, precision="32-true", accelerator="cpu", learning_rate=0.01, warmup_epochs=0
)
STILL = AugmentConfig(
    rotation_degrees=0, zoom_fraction=0, shift_fraction=0, gamma=0, brightness_fraction=0, noise_std=0
)


def make_images(number=40, channels=None, seed=0):
    """Images with a bright left or right half, under noise."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, number)
    shape = (number, 6, 8) if channels is None else (number, channels, 6, 8)
    images = generator.integers(0, 120, shape)
    for image, label in zip(images, labels, strict=True):
        image[..., 4 * label : 4 * label + 4] += 60
    return images.astype(np.uint8), labels


def place(rows, images, labels, room_bytes=None):
    return place_examples(images, rows, labels[rows], np.zeros(len(rows)), CPU, room_bytes)


def make_examples(room_bytes=None):
    images, labels = make_images()
    return place(np.arange(30), images, labels, room_bytes), place(np.arange(30, 40), images, labels, room_bytes)


def start_training(config=CONFIG, train_examples=None, dropout=0.0):
    fabric = build_fabric(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Dropout(dropout), nn.ReLU(), nn.Linear(8, 2))
    model = SliceModel(network, reads_slice_position=False)
    statistics = compute_statistics(train_examples if train_examples is not None else make_examples()[0])
    optimizer = build_optimizer(model, config)
    parallel_model, parallel_optimizer = fabric.setup(compile_model(model, config.compile), optimizer)
    return fabric, TrainingState(
        wrap_network(model, *statistics, loss=config.loss), parallel_model, parallel_optimizer, []
    )


def train_briefly(config=CONFIG, augment=STILL, dropout=0.0, room_bytes=None):
    train_examples, val_examples = make_examples(room_bytes)
    fabric, state = start_training(config, dropout=dropout)
    list(train_epochs(build_setup(fabric, train_examples, val_examples, config, augment), state))
    return state


def list_results(history):
    """Return the numbers that do not depend on the clock."""
    return [dataclasses.astuple(result)[:6] for result in history]


def collect_inputs(augment, train_examples):
    """Train for two epochs; return the images that the model saw in each, in order."""
    fabric, state = start_training(train_examples=train_examples)
    seen = []
    state.parallel_model.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].flatten(1)))
    list(
        train_epochs(
            build_setup(fabric, train_examples, make_examples()[1], dataclasses.replace(CONFIG, epochs=2), augment),
            state,
        )
    )
    return torch.cat(seen[: len(seen) // 2]), torch.cat(seen[len(seen) // 2 :])
