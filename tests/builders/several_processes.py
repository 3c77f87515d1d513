"""Work in several processes that are related as those that torchrun starts."""

import dataclasses
import io
import multiprocessing
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from torch import nn

from perceiver import PerceiverConfig
from perceiver.images import build_conv_stem
from perceiver.layers import LatentLayer
from perceiver.volumes import count_images
from pipeline.config.experiment import Experiment
from pipeline.config.training import AugmentConfig, TrainConfig
from pipeline.core.errors import UserError
from pipeline.data.batches import place_examples
from pipeline.data.certified_data import load_certified_data
from pipeline.models.networks import SliceModel
from pipeline.stages.train import train
from pipeline.training.devices.distributed import gather_all
from pipeline.training.devices.fabric import build_fabric
from pipeline.training.devices.sync_batch_norm import synchronise_batch_norms
from pipeline.training.loop.epochs import train_epochs
from pipeline.training.loop.state import TrainingState
from pipeline.training.setup import build_state, prepare_training
from tests.builders.models import build_setup, wrap_network
from tests.builders.training_runs import TINY, make_experiment

TIMEOUT_S = 240
# Numbers that neither four examples a step nor two processes divide: shards differ by one.
NUM_TRAIN, NUM_VAL = 31, 9


@dataclass(frozen=True)
class Seen:
    """The inputs and results of one process.

    Args:
        train_inputs: For each epoch the images that the model was trained on, (images, pixels).
        val_inputs: For each epoch those that it was validated on.
        numbers: The numbers of the history, without those of a clock.
        weights: The weights after the last step, with running averages.
    """

    train_inputs: list[np.ndarray]
    val_inputs: list[np.ndarray]
    numbers: list[tuple[float, ...]]
    weights: dict[str, np.ndarray]


def run_processes(number: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Run ``work`` in each of so many processes.

    Returns:
        What each gave back; None of one that died or was ended because another one had died.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.builders.several_processes", "monai.networks"])
    pipes, processes = [], []
    for rank in range(number):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(rank, number, port, sender, work, arguments))
        process.start()
        sender.close()
        pipes.append(receiver)
        processes.append(process)
    results = []
    try:
        for receiver in pipes:
            try:
                results.append(receiver.recv() if receiver.poll(TIMEOUT_S) else None)
            except EOFError:
                results.append(None)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    return results


def _work(rank: int, number: int, port: int, sender: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    if number > 1:
        variables = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "GROUP_RANK": 0,
            "WORLD_SIZE": number,
            "LOCAL_WORLD_SIZE": number,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "TORCHELASTIC_RUN_ID": "test",
        }
        os.environ |= {name: str(value) for name, value in variables.items()}
    sender.send(work(*arguments))


def run_train_stage(experiment: Experiment, cut_at: str = "", fail_at: str = "") -> str:
    """Run the train stage; return what it printed, or its error. At a word the process dies, or has an error."""

    class Printed(io.StringIO):
        def write(self, text: str) -> int:
            if cut_at and cut_at in text:
                os._exit(1)
            if fail_at and fail_at in text:
                raise UserError("the disk is full")
            return super().write(text)

    printed = Printed()
    try:
        train(experiment, Console(file=printed, width=300))
    except UserError as error:
        return f"error: {error}"
    return printed.getvalue()


def watch_training(config: TrainConfig, spoil_step: int = 0) -> Seen | str:
    """Train a small network with convolutions and batch norms; return what this process saw, or its error."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, NUM_TRAIN + NUM_VAL)
    images = generator.integers(0, 120, (len(labels), 6, 8))
    # Brightness differs much, so that it matters over which images a batch norm takes its averages.
    images = (images * generator.uniform(0.2, 2.0, (len(labels), 1, 1))).astype(np.uint8)
    cpu = torch.device("cpu")
    rows = np.arange(len(labels))

    def place(chosen: np.ndarray) -> Any:
        return place_examples(images, chosen, labels[chosen], np.zeros(len(chosen)), cpu)

    train_examples, val_examples = place(rows[:NUM_TRAIN]), place(rows[NUM_TRAIN:])
    fabric = build_fabric(config)
    fabric.launch()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        latents = LatentLayer(PerceiverConfig(latent_dim=12, latent_heads=2, latent_head_dim=6))
        network = nn.Sequential(build_conv_stem(1, 1, 4), nn.Flatten(2), latents, nn.Flatten(), nn.Linear(48, 2))
    model = SliceModel(network, reads_slice_position=False)
    synchronise_batch_norms(model)
    seen: dict[bool, list[np.ndarray]] = {True: [], False: []}
    model.register_forward_pre_hook(
        lambda module, arguments: seen[module.training].append(arguments[0].detach().flatten(1).numpy().copy())
    )
    if spoil_step:
        model.register_forward_hook(
            lambda module, arguments, logits: (
                logits * np.nan
                if module.training and fabric.global_rank == 1 and len(seen[True]) == spoil_step
                else logits
            )
        )
    parallel_model = fabric.setup_module(model)
    parallel_optimizer = fabric.setup_optimizers(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    state = TrainingState(wrap_network(model, (0.2,), (0.2,)), parallel_model, parallel_optimizer, [])
    noisy = AugmentConfig(
        rotation_degrees=0,
        zoom_fraction=0,
        shift_fraction=0,
        gamma=0,
        brightness_fraction=0.1,
        noise_std=0.02,
        horizontal_flip="swap_label",
    )
    epochs: dict[bool, list[np.ndarray]] = {True: [], False: []}
    try:
        for _ in train_epochs(build_setup(fabric, train_examples, val_examples, config, noisy), state):
            for is_training, parts in seen.items():
                epochs[is_training].append(np.concatenate(parts))
                parts.clear()
    except UserError as error:
        return f"error: {error}"
    numbers = [dataclasses.astuple(result)[:6] for result in state.history]
    weights = {name: value.numpy() for name, value in gather_all(model.state_dict()).items()}
    return Seen(epochs[True], epochs[False], numbers, weights)


def descend(experiment: Experiment) -> tuple[list[tuple[float, ...]], dict[str, np.ndarray]]:
    """Train by plain gradient descent; return the numbers of the history, and the weights after the last step.

    Adam would divide by gradients near 0, such as that of a bias before a batch norm, and hide those that are too large
    or too small.
    """
    fabric = build_fabric(experiment.train)
    fabric.launch()
    setup = prepare_training(experiment, fabric, load_certified_data(experiment))
    state = build_state(setup)
    state.optimizer = fabric.setup_optimizers(torch.optim.SGD(state.classifier.model.parameters(), momentum=0.9))
    numbers = [dataclasses.astuple(result)[:6] for result in train_epochs(setup, state)]
    return numbers, {name: value.numpy() for name, value in gather_all(state.classifier.model.state_dict()).items()}


def normalise_shard(number: int) -> tuple[Any, ...]:
    """Normalise this process's shard of six images, of which two do not count, as on a GPU.

    Returns:
        The results of those that count, and running averages and gradients by name.
    """
    fabric = build_fabric(on_devices(CONFIG, number))
    fabric.launch()
    generator = torch.Generator().manual_seed(0)
    images, is_counted = torch.randn(6, 1, 8, 8, generator=generator), torch.tensor([True, True, False] * 2)
    images[~is_counted] += 100
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stem = build_conv_stem(1, 1, 4).train()
    synchronise_batch_norms(stem)
    shard = slice(fabric.global_rank, None, number)
    with count_images(stem, is_counted[shard]):
        results = stem(images[shard])[is_counted[shard]]
    results.square().sum().backward()
    averages = {name: value.float().numpy() for name, value in stem.named_buffers()}
    gradients = {name: value.grad.numpy() for name, value in stem.named_parameters()}
    return results.detach().numpy(), averages, gradients


CONFIG = TrainConfig(epochs=3, batch_size=8, precision="32-true", accelerator="cpu", warmup_epochs=0, max_grad_norm=0.5)

# Sums in another order: float32 keeps seven digits, and a few steps of training lose one or two of them.
TOLERANCE = {"rel": 2e-5, "abs": 1e-6}


def on_devices(config: TrainConfig, number: int) -> TrainConfig:
    return dataclasses.replace(config, devices=number)


def make(folder, **options) -> Experiment:
    """Without what each process draws for its own shard: dropout and mixing."""
    experiment = make_experiment(folder, augment=AugmentConfig(horizontal_flip="swap_label", noise_std=0.05))
    model = dataclasses.replace(experiment.model, perceiver=dataclasses.replace(TINY, dropout=0.0))
    train = dataclasses.replace(experiment.train, batch_size=12, epochs=3, **options)
    return dataclasses.replace(experiment, model=model, train=train)


def with_devices(experiment: Experiment, number: int) -> Experiment:
    return dataclasses.replace(experiment, train=on_devices(experiment.train, number))


def read_history(experiment: Experiment) -> pd.DataFrame:
    return pd.read_csv(experiment.paths.history).drop(columns=["images_per_second", "seconds"])
