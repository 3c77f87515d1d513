"""Train this Perceiver and perceiver-pytorch's on MNIST: the same loop, data, augmentation, optimizer and minutes.

    make preprocess split CONFIG=configs/mnist.yaml
    python reports/benchmarks/mnist_peer.py [--minutes 10] [--seed 0] [--output FILE]

Both get the same squares of pixels as inputs and the same numbers of latents, layers and heads. Each trains for as
many epochs as fit into the minutes by its own pace, which is measured beforehand with validation included, and its
learning rate falls to the end of them. The epoch is chosen on validation; the test images are read once, by that
epoch's weights.
"""

import argparse
import copy
import dataclasses
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from perceiver_pytorch import Perceiver as Peer
from torch import Tensor, nn

from pipeline.cli import parse_experiment
from pipeline.config.experiment import Experiment
from pipeline.core.files import write_bytes
from pipeline.core.provenance import read_commit, read_hardware, read_versions
from pipeline.data.batches import Examples, place_examples
from pipeline.data.splits import read_splits, resolve_roles
from pipeline.data.statistics import compute_statistics
from pipeline.data.store import Store, read_store
from pipeline.inference.probabilities import compute_probabilities
from pipeline.models.classifier import Classifier
from pipeline.models.networks import SliceModel, build_model, count_parameters
from pipeline.training.devices import build_fabric, name_accelerator
from pipeline.training.history import find_best
from pipeline.training.loop import TrainingSetup, TrainingState, derive_seed, train_epochs
from pipeline.training.optimizers import build_optimizer

MODELS = ("ours", "perceiver-pytorch")
# Steps from whose pace the number of epochs is computed; as many before them load kernels.
NUM_PACE_STEPS = 60
# The fraction of the minutes that is planned for, because the pace varies.
USED_FRACTION = 0.93


class PeerOnSquares(nn.Module):
    """perceiver-pytorch's model on squares of pixels, laid out as our patches are."""

    def __init__(
        self, experiment: Experiment, num_channels: int, image_size: tuple[int, int], num_classes: int
    ) -> None:
        super().__init__()
        config, side = experiment.model.perceiver, experiment.model.patch_size
        self.side = side
        self.perceiver = Peer(
            num_freq_bands=config.num_bands,
            max_freq=image_size[0] / side,
            depth=config.num_cross_attends,
            input_channels=num_channels * side * side,
            num_latents=config.num_latents,
            latent_dim=config.latent_dim,
            cross_heads=config.cross_heads,
            cross_dim_head=config.cross_head_dim,
            latent_heads=config.latent_heads,
            latent_dim_head=config.latent_head_dim,
            num_classes=num_classes,
            self_per_cross_attn=config.self_attends_per_cross,
        )

    def forward(self, images: Tensor) -> Tensor:
        side = self.side
        squares = rearrange(images, "b c (h p) (w q) -> b h w (c p q)", p=side, q=side)
        logits: Tensor = self.perceiver(squares)
        return logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/mnist.yaml")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training, for each model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    experiment = parse_experiment("train", ["--config", arguments.config, "--train.seed", str(arguments.seed)])
    store = read_store(experiment.paths.prepared)
    roles = resolve_roles(read_splits(experiment.paths.splits, experiment.split), experiment.split)
    hardware = read_hardware(name_accelerator(build_fabric(experiment.train).device))
    lines = [
        f"{arguments.minutes:g} minutes of training each, seed {arguments.seed}, {torch.get_num_threads()} threads; "
        f"`{arguments.config}`, {len(store.examples):,} images.",
        f"{hardware}; torch {read_versions()['torch']}, perceiver-pytorch 0.11.0; commit {read_commit()}.",
        "",
        "| model | parameters | epochs | minutes | images a second | best validation accuracy | test accuracy |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in arguments.models:
        lines.append(train_one(name, experiment, store, roles, arguments.minutes * 60))
        print(lines[-1], flush=True)
    text = "\n".join([*lines, ""])
    print(text)
    if arguments.output:
        write_bytes(arguments.output, text.encode())


def train_one(name: str, experiment: Experiment, store: Store, roles: dict[str, str], seconds: float) -> str:
    """Train for about so many seconds and return a row of the table."""
    train_rows, val_rows, test_rows = (find_rows(store, roles, role) for role in ("train", "val", "test"))
    train_examples, val_examples = place(store, train_rows), place(store, val_rows)
    few = place(store, train_rows[: NUM_PACE_STEPS * experiment.train.batch_size])
    mean, std = compute_statistics(train_examples)

    def train(examples: Examples, epochs: int) -> tuple[Classifier, float, float]:
        """Give the model at its best epoch, and the mean seconds of training on an example and of a validation."""
        config = dataclasses.replace(experiment.train, epochs=epochs)
        fabric = build_fabric(config)
        classifier = Classifier(build(name, experiment, store), experiment.model, store.input_spec(1), mean, std)
        model, optimizer = fabric.setup(classifier.model, build_optimizer(classifier.model, config))
        state, best, all_s, trained_s = TrainingState(classifier, model, optimizer, []), classifier, 0.0, 0.0
        setup = TrainingSetup(
            dataclasses.replace(experiment, train=config), fabric, classifier.spec, examples, val_examples
        )
        for result in train_epochs(setup, state):
            all_s += result.seconds
            trained_s += len(examples) / result.images_per_second
            if find_best(state.history, config.monitor) is result:
                best = copy.deepcopy(classifier)
        return best, trained_s / len(examples) / epochs, (all_s - trained_s) / epochs

    train(few, 1)  # loads kernels
    _, pace_s, validation_s = train(few, 1)
    num_epochs = max(1, int(seconds * USED_FRACTION / (pace_s * len(train_examples) + validation_s)))
    best, pace_s, validation_s = train(train_examples, num_epochs)
    minutes = num_epochs * (pace_s * len(train_examples) + validation_s) / 60
    accuracies = []
    for rows in (val_rows, test_rows):
        positions = store.index["slice_position"].to_numpy()[rows]
        scores = compute_probabilities(best, store.examples[rows], positions, torch.device("cpu"), 256)
        accuracies.append(float((scores.argmax(axis=1) == read_labels(store)[rows]).mean()))
    return (
        f"| {name} | {count_parameters(best):,} | {num_epochs} | {minutes:.1f} | {1 / pace_s:,.0f} | "
        f"{accuracies[0]:.2%} | **{accuracies[1]:.2%}** |"
    )


def build(name: str, experiment: Experiment, store: Store) -> SliceModel:
    spec = store.input_spec(num_slices=1)
    seed = derive_seed(experiment.train.seed, "weights")
    if name == "perceiver-pytorch":
        torch.manual_seed(seed)
        return SliceModel(PeerOnSquares(experiment, spec.num_channels, spec.image_size, len(spec.class_names)), False)
    return build_model(experiment.model, spec, seed)


def find_rows(store: Store, roles: dict[str, str], role: str) -> np.ndarray:
    return np.flatnonzero((store.index["group_id"].map(roles) == role).to_numpy())


def read_labels(store: Store) -> np.ndarray:
    code_of = {name: code for code, name in enumerate(store.class_names)}
    return store.index["label"].map(code_of).to_numpy(dtype=np.int64)


def place(store: Store, rows: np.ndarray) -> Examples:
    positions = store.index["slice_position"].to_numpy()[rows]
    return place_examples(store.examples, rows, read_labels(store)[rows], positions, torch.device("cpu"))


if __name__ == "__main__":
    main()
