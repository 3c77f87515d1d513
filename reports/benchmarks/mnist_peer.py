"""Train this Perceiver and perceiver-pytorch's on MNIST: the same loop, data, augmentation, optimizer and minutes.

    make preprocess split CONFIG=configs/mnist.yaml
    python reports/benchmarks/mnist_peer.py [--minutes 10] [--seed 0] [--output FILE]
    python reports/benchmarks/mnist_peer.py --rounds 15 [--output FILE]
    python reports/benchmarks/mnist_peer.py --profile 10 [--output FILE]

All get the same squares of pixels as inputs and the same numbers of latents, layers and heads. perceiver-pytorch's
feed-forward layers are four times as wide as the latents, those of the config two times; "ours-wide" has four times as
well, and so exactly the peer's parameters. With ``--rounds`` only the training steps are timed, of all models by
turns, on made-up images; with ``--profile`` it says what they spend their time on; else each trains for as
many epochs as fit into the minutes by its own pace, which is measured beforehand with validation included, and its
learning rate falls to the end of them. The epoch is chosen on validation; the test images are read once, by that
epoch's weights.
"""

import argparse
import copy
import dataclasses
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from perceiver_pytorch import Perceiver as Peer
from torch import Tensor, nn

from pipeline.cli import parse_experiment
from pipeline.config.experiment import Experiment
from pipeline.core.data_kinds import IMAGES, InputSpec
from pipeline.core.files import write_bytes
from pipeline.core.provenance import read_commit, read_hardware, read_versions
from pipeline.data.batches import Examples, place_examples
from pipeline.data.splits import read_splits, resolve_roles
from pipeline.data.statistics import compute_statistics
from pipeline.data.store import Store, read_store
from pipeline.inference.probabilities import compute_probabilities
from pipeline.models.classifier import Classifier
from pipeline.models.networks import SliceModel, build_model, count_parameters
from pipeline.training.devices.arithmetic import name_accelerator
from pipeline.training.devices.fabric import build_fabric
from pipeline.training.history import find_best
from pipeline.training.loop.epochs import train_epochs
from pipeline.training.loop.state import TrainingSetup, TrainingState, derive_seed
from pipeline.training.optimization.optimizers import build_optimizer

MODELS = ("ours", "ours-wide", "perceiver-pytorch")
PRECISIONS = ("float32", "bf16")
# What a training step spends its time on, by the names of torch's operators; the rest is "other".
PARTS = {
    "matrix products": ("mm", "addmm", "bmm"),
    "fused attention": (
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention_for_cpu_backward",
    ),
    "GELU": ("gelu", "gelu_backward"),
    "products by element": ("mul", "mul_"),
    "copies": ("copy_", "cat", "fill_"),
}
# The feed-forward widening of perceiver-pytorch, which is no option of it.
PEER_WIDENING = 4
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
    parser.add_argument("--rounds", type=int, default=0, help="time so many training steps of each, and train nothing")
    parser.add_argument(
        "--profile", type=int, default=0, help="profile so many training steps of each, and train nothing"
    )
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="of the timed steps")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    experiment = parse_experiment("train", ["--config", arguments.config, "--train.seed", str(arguments.seed)])
    if arguments.rounds:
        lines = compare_steps(arguments.models, experiment, arguments.rounds, arguments.precisions)
    elif arguments.profile:
        lines = profile_steps(arguments.models, experiment, arguments.profile)
    else:
        lines = train_all(arguments.models, experiment, arguments.minutes * 60)
    text = "\n".join([*lines, ""])
    print(text)
    if arguments.output:
        write_bytes(arguments.output, text.encode())


def describe_machine(experiment: Experiment) -> str:
    hardware = read_hardware(name_accelerator(build_fabric(experiment.train).device))
    versions = f"torch {read_versions()['torch']}, perceiver-pytorch 0.11.0"
    return f"{hardware}; {torch.get_num_threads()} threads; {versions}; commit {read_commit()}."


def train_all(names: list[str], experiment: Experiment, seconds: float) -> list[str]:
    """Train each model for about so many seconds and return the lines of the page."""
    store = read_store(experiment.paths.prepared)
    roles = resolve_roles(read_splits(experiment.paths.splits, experiment.split), experiment.split)
    lines = [
        f"{seconds / 60:g} minutes of training each, seed {experiment.train.seed}; {len(store.examples):,} images.",
        describe_machine(experiment),
        "",
        "| model | parameters | epochs | minutes | images a second | best validation accuracy | test accuracy |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        lines.append(train_one(name, experiment, store, roles, seconds))
        print(lines[-1], flush=True)
    return lines


def compare_steps(names: list[str], experiment: Experiment, rounds: int, precisions: list[str]) -> list[str]:
    """Time training steps of all models by turns, in each precision, and return the lines of the page."""
    steps = {name: StepOnNoise(name, experiment) for name in names}
    size = experiment.train.batch_size
    lines = [
        f"`--rounds {rounds}`: training steps of {size} images, by turns, median.",
        describe_machine(experiment),
        "",
        "| model | parameters | precision | images a second | times perceiver-pytorch |",
        "|---|---|---|---|---|",
    ]
    for precision in precisions:
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(rounds + 2):
            for name in names:
                taken = steps[name](precision == "bf16")
                if turn >= 2:  # the first ones load kernels
                    seconds[name].append(taken)
        for name in names:
            parameters, pace = count_parameters(steps[name].model), size / statistics.median(seconds[name])
            times = [peer / own for peer, own in zip(seconds[MODELS[-1]], seconds[name], strict=True)]
            lines.append(f"| {name} | {parameters:,} | {precision} | {pace:,.0f} | {statistics.median(times):.2f} |")
    return lines


def profile_steps(names: list[str], experiment: Experiment, num_steps: int) -> list[str]:
    """Profile training steps of each model in float32, and return the lines of the page."""
    lines = [
        f"`--profile {num_steps}`: milliseconds of a training step of {experiment.train.batch_size} images, by what "
        "its operators do (torch's profiler, float32).",
        describe_machine(experiment),
        "",
        f"| model | whole step | {' | '.join(PARTS)} | other |",
        "|---|---|" + "---|" * (len(PARTS) + 1),
    ]
    for name in names:
        step = StepOnNoise(name, experiment)
        step(is_bf16=False)  # loads kernels
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            for _ in range(num_steps):
                step(is_bf16=False)
        found = {event.key.removeprefix("aten::"): event.self_cpu_time_total for event in profiler.key_averages()}
        parts = [sum(found.get(operator, 0.0) for operator in operators) for operators in PARTS.values()]
        whole = sum(found.values())
        cells = [f"{microseconds / num_steps / 1000:.0f}" for microseconds in (whole, *parts, whole - sum(parts))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


class StepOnNoise:
    """A training step of one model on images of noise, the same for all.

    Args:
        name: The model, one of :data:`MODELS`.
        experiment: All options.
    """

    def __init__(self, name: str, experiment: Experiment) -> None:
        size, generator = experiment.train.batch_size, torch.Generator().manual_seed(0)
        self.images = torch.randn(size, 1, 28, 28, generator=generator)
        self.labels = torch.randint(0, 10, (size,), generator=generator)
        self.model = build(name, experiment, InputSpec(IMAGES, 1, (28, 28), 1, tuple("0123456789")))
        self.optimizer = build_optimizer(self.model, experiment.train)

    def __call__(self, is_bf16: bool) -> float:
        """Take one step and return its seconds."""
        started = time.perf_counter()
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            logits = self.model(self.images, torch.zeros(len(self.images)))
        torch.nn.functional.cross_entropy(logits.float(), self.labels).backward()
        self.optimizer.step()
        return time.perf_counter() - started


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
        classifier = Classifier(
            build(name, experiment, store.input_spec(1)), experiment.model, store.input_spec(1), mean, std
        )
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


def build(name: str, experiment: Experiment, spec: InputSpec) -> SliceModel:
    seed = derive_seed(experiment.train.seed, "weights")
    if name == "perceiver-pytorch":
        torch.manual_seed(seed)
        return SliceModel(PeerOnSquares(experiment, spec.num_channels, spec.image_size, len(spec.class_names)), False)
    config = experiment.model
    if name == "ours-wide":
        wide = dataclasses.replace(config.perceiver, feedforward_widening=PEER_WIDENING)
        config = dataclasses.replace(config, perceiver=wide)
    return build_model(config, spec, seed)


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
