"""Measure what a training step costs beyond the network: its preparation, the optimizer, and the loop's own records.

    python reports/benchmarks/steps.py [--rounds 7] [--threads 1] [--output FILE]

Made-up images of 28 x 28 and the network of configs/mnist.yaml, batches of 64. An epoch of the training loop and its
parts by themselves, by turns: forward, loss and backward on prepared images; random transforms and normalisation;
clipping and the optimizer's step. What the parts leave of an epoch is the loop's own. Then the records of a
million steps of one epoch.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pipeline.cli import parse_experiment
from pipeline.core.data_kinds import IMAGES, InputSpec
from pipeline.core.files import write_bytes
from pipeline.core.provenance import read_commit, read_hardware, read_versions
from pipeline.data.batches import place_examples
from pipeline.training.devices.fabric import build_fabric
from pipeline.training.loop.batch_loss import prepare_batch, start_draws
from pipeline.training.loop.epochs import train_epochs, update_weights
from pipeline.training.loop.monitor import LossMonitor
from pipeline.training.loop.state import TrainingSetup
from pipeline.training.losses import compute_loss_sum
from pipeline.training.setup import start_from

BATCH_SIZE, NUM_STEPS, NUM_RECORDED = 64, 10, 1_000_000
CLASSES = tuple("0123456789")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    text = "\n".join([*measure(arguments.rounds), ""])
    print(text)
    if arguments.output:
        write_bytes(arguments.output, text.encode())


def measure(rounds: int) -> list[str]:
    """Measure all parts and return the lines of the page."""
    setup = make_setup()
    config, state = setup.experiment.train, start_from(setup, None)
    examples = setup.train_examples
    chosen = torch.arange(BATCH_SIZE)
    batch = examples.make_batch(examples.placed[chosen], chosen, chosen)
    draws = start_draws(setup, 0, [BATCH_SIZE] * NUM_STEPS * (2 * rounds + 4))
    prepared = [prepare_batch(setup, state.classifier, draws, batch, BATCH_SIZE) for _ in range(2)]

    def compute_network() -> None:
        state.classifier.train()
        for number in range(NUM_STEPS):
            inputs, places, targets, _ = prepared[number % 2]
            state.optimizer.zero_grad(set_to_none=True)
            (compute_loss_sum(state.parallel_model(inputs, places), targets, config) / BATCH_SIZE).backward()

    def step_optimizer() -> None:
        for _ in range(NUM_STEPS):
            gradients = [parameter.grad for parameter in state.parallel_model.parameters()]
            update_weights(setup.fabric, state, config)
            for parameter, gradient in zip(state.parallel_model.parameters(), gradients, strict=True):
                parameter.grad = gradient

    def prepare() -> None:
        for _ in range(NUM_STEPS):
            prepare_batch(setup, state.classifier, draws, batch, BATCH_SIZE)

    def train_epoch() -> None:
        next(train_epochs(setup, state))

    parts = {"epoch": train_epoch, "network": compute_network, "optimizer": step_optimizer, "prepare": prepare}
    taken: dict[str, list[float]] = {name: [] for name in parts}
    for turn in range(rounds + 1):
        for name, part in parts.items():
            if name == "optimizer":
                compute_network()  # gives the gradients, which an epoch removes
            seconds = time_cpu(part) / NUM_STEPS
            if turn > 0:  # the first ones load kernels
                taken[name].append(seconds)
    record_s = time_cpu(lambda: record_steps(setup)) / NUM_RECORDED
    return describe(taken, record_s, rounds)


def make_setup() -> TrainingSetup:
    """Return what a training on made-up images works with; one image is validated."""
    given = ["--config", "configs/mnist.yaml", "--train.batch_size", str(BATCH_SIZE), "--train.epochs", "1000"]
    experiment = parse_experiment("train", [*given, "--train.accelerator", "cpu"])
    fabric = build_fabric(experiment.train)
    generator = np.random.default_rng(0)
    number = BATCH_SIZE * NUM_STEPS
    images = generator.integers(0, 256, (number + 1, 1, 28, 28)).astype(np.uint8)
    labels = np.arange(number + 1) % len(CLASSES)
    rows = np.arange(number + 1)
    train_examples, val_examples = (
        place_examples(images, chosen, labels[chosen], np.zeros(len(chosen), np.float32), fabric.device)
        for chosen in (rows[:-1], rows[-1:])
    )
    return TrainingSetup(experiment, fabric, InputSpec(IMAGES, 1, (28, 28), 1, CLASSES), train_examples, val_examples)


def time_cpu(call: Callable[[], None]) -> float:
    """Return the seconds of processor time that a call takes, all threads together."""
    started = time.process_time()
    call()
    return time.process_time() - started


def record_steps(setup: TrainingSetup) -> None:
    """Record an epoch of a million steps as the loop does, without a network."""
    monitor = LossMonitor(setup.fabric, 1, NUM_RECORDED)
    loss, correct = torch.tensor(2.3), torch.tensor(7.0)
    for _ in range(NUM_RECORDED):
        monitor.add(loss, correct, BATCH_SIZE)
        if monitor.is_check_due:
            monitor.find_not_finite()
        monitor.report(lambda _: None)
    monitor.average()


def describe(taken: dict[str, list[float]], record_s: float, rounds: int) -> list[str]:
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    own = statistics.median(
        epoch - network - optimizer - prepare
        for epoch, network, optimizer, prepare in zip(*taken.values(), strict=True)
    )
    rows = {
        "forward, loss, backward": medians["network"],
        "random transforms, normalisation": medians["prepare"],
        "clipping and optimizer": medians["optimizer"],
        "the loop's own": own,
        "an epoch of the loop": medians["epoch"],
    }
    versions = f"Python {read_versions()['python']}, torch {read_versions()['torch']}"
    return [
        f"`--rounds {rounds}`: batches of {BATCH_SIZE} images of 28 x 28, configs/mnist.yaml, float32; median "
        f"processor time of {rounds} epochs of {NUM_STEPS} steps.",
        f"{read_hardware()}; {torch.get_num_threads()} thread(s); {versions}; commit {read_commit()}.",
        "",
        "| part of a step | milliseconds | of the network's |",
        "|---|---|---|",
        *(f"| {name} | {s * 1e3:.2f} | {s / medians['network']:.1%} |" for name, s in rows.items()),
        "",
        f"Records of {NUM_RECORDED:,} steps of one epoch, read every 50: {record_s * 1e6:.1f} microseconds a step, "
        f"{record_s / medians['epoch']:.3%} of a step.",
    ]


if __name__ == "__main__":
    main()
