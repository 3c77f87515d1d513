"""Measure training from a store that is larger than the memory it may stay in, against training from memory.

    python reports/benchmarks/disk_store.py [--gib 1] [--steps 150] [--folder FOLDER] [--output FILE]

The store holds random slices. Both ways take the same batches, drawn from all of it, in processes of their own, by
turns. No control group limits the memory: instead, every few batches the whole store is dropped from memory, mapped
pages and the system's cache alike. That is stricter than a limit, which would keep what fits: nearly every slice comes
from the disk, and the system counts the bytes that were read from it.
"""

import argparse
import dataclasses
import hashlib
import itertools
import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pipeline.training.loop.epochs
from pipeline.cli import parse_experiment
from pipeline.core.data_kinds import VOLUMES, InputSpec
from pipeline.core.files import write_bytes
from pipeline.core.provenance import read_commit, read_hardware, read_versions
from pipeline.data.batches import Batch, Examples, place_examples, read_batches
from pipeline.models.classifier import Classifier
from pipeline.models.networks import build_model
from pipeline.training.devices.fabric import build_fabric
from pipeline.training.loop.epochs import train_epochs
from pipeline.training.loop.state import TrainingSetup, TrainingState
from pipeline.training.optimization.optimizers import build_optimizer

SIDE = 64
WAYS = ("memory", "disk")
# Batches after which everything is dropped from memory.
BATCHES_KEPT = 4
NUM_WARM_UP = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=1.0, help="size of the store")
    parser.add_argument("--steps", type=int, default=150, help="batches that are timed, after a warm-up")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is timed; the median counts")
    parser.add_argument("--config", default="configs/akoa.yaml")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to be measured")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parser.add_argument("--one", choices=WAYS, help="measure this way alone, on the store --store")
    parser.add_argument("--store", type=Path)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.store, arguments.one == "disk", arguments.steps, arguments.config)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = make_store(Path(folder) / "examples.npy", arguments.gib)
        words = [sys.executable, __file__, "--store", str(path), "--steps", str(arguments.steps)]
        words += ["--config", arguments.config]
        results = [(way, run_alone([*words, "--one", way])) for _ in range(arguments.rounds) for way in WAYS]
        text = describe(results, arguments.config, path.stat().st_size)
    print(text)
    if arguments.output:
        write_bytes(arguments.output, text.encode())


def make_store(path: Path, gib: float) -> Path:
    number = int(gib * 2**30) // SIDE**2  # a slice has one byte for each pixel
    generator = np.random.default_rng(0)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (number, SIDE, SIDE)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, number, 8192):
            file.write(generator.integers(0, 256, (min(8192, number - start), SIDE, SIDE), dtype=np.uint8).data)
        os.fsync(file.fileno())
    return path


def run_alone(words: list[str]) -> dict[str, Any]:
    ended = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    print(found, file=sys.stderr, flush=True)
    return found


def measure(path: Path, is_on_disk: bool, num_steps: int, config: str) -> dict[str, Any]:
    experiment = parse_experiment("train", ["--config", config, "--train.accelerator", "cpu"])
    images = np.load(path, mmap_mode="r")
    train = experiment.train
    fabric = build_fabric(train)
    labels, positions = np.arange(len(images)) % 2, np.zeros(len(images), np.float32)
    room_bytes = 0 if is_on_disk else images.nbytes
    examples = place_examples(images, np.arange(len(images)), labels, positions, fabric.device, room_bytes)
    few = place_examples(images, np.arange(2), labels[:2], positions[:2], fabric.device)
    watch = Watch(path, images if is_on_disk else None, num_steps)
    # The loop is the pipeline's own; only its source of batches is replaced, which ends after the timed steps.
    pipeline.training.loop.epochs.read_batches = watch.read  # type: ignore[assignment]
    spec = InputSpec(VOLUMES, 1, (SIDE, SIDE), experiment.preprocess.num_slices, ("left", "right"))
    model = build_model(experiment.model, spec, seed=0)
    classifier = Classifier(model, experiment.model, spec, (0.5,), (0.3,))
    parallel_model, optimizer = fabric.setup(model, build_optimizer(model, train))
    state = TrainingState(classifier, parallel_model, optimizer, [])
    experiment = dataclasses.replace(experiment, train=dataclasses.replace(train, epochs=1, warmup_epochs=0.0))
    next(train_epochs(TrainingSetup(experiment, fabric, spec, examples, few), state))
    return watch.found


class Watch:
    """The pipeline's batches, timed, with the store dropped from memory every few batches."""

    def __init__(self, path: Path, mapped: Any, num_steps: int) -> None:
        self.path, self.mapped, self.num_steps = path, mapped, num_steps
        self.found: dict[str, Any] = {}

    def read(self, examples: Examples, places: list[torch.Tensor]) -> Iterator[Batch]:
        if len(examples) <= 2:
            yield from read_batches(examples, places)
            return
        digest, resident, num_slices = hashlib.sha256(), 0.0, 0
        started, before = 0.0, 0
        number = NUM_WARM_UP + self.num_steps
        for step, batch in enumerate(itertools.islice(read_batches(examples, places[:number]), number)):
            if step % BATCHES_KEPT == 0 and self.mapped is not None:
                drop(self.path, self.mapped)
            if step == NUM_WARM_UP:
                started, before = time.perf_counter(), read_disk_bytes()
            num_slices += len(batch.labels) * (step >= NUM_WARM_UP)
            digest.update(batch.images.numpy().tobytes())
            resident = max(resident, read_resident_gib())
            yield batch
        self.found = {
            "slices_per_second": num_slices / (time.perf_counter() - started),
            "resident_gib": resident,
            "disk_bytes": read_disk_bytes() - before,
            "slices": num_slices,
            "digest": digest.hexdigest(),
        }


def drop(path: Path, mapped: Any) -> None:
    """Drop the whole file from memory; reading it afterwards waits for the disk again."""
    mapped._mmap.madvise(mmap.MADV_DONTNEED)
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_disk_bytes() -> int:
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["read_bytes"])


def read_resident_gib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE / 2**30


def describe(results: list[tuple[str, dict[str, Any]]], config: str, num_bytes: int) -> str:
    assert len({found["digest"] for _, found in results}) == 1, "the ways served different batches"
    versions = read_versions()
    lines = [
        f"Training with `{config}` on {num_bytes / 2**30:.1f} GiB of slices, {SIDE} x {SIDE}, batches drawn from all "
        "of them: from memory, and from the disk with nothing of the store kept in memory for more than "
        f"{BATCHES_KEPT} batches.",
        f"{read_hardware()}; Python {versions['python']}, torch {versions['torch']}, {torch.get_num_threads()} thread; "
        f"commit {read_commit()}. Median of {len(results) // len(WAYS)} rounds by turns, other processes "
        "at the same time.",
        "",
        "| way | slices a second | in each round | resident memory | read from the disk for a slice |",
        "|---|---|---|---|---|",
    ]
    rates = {}
    for way in WAYS:
        found = [result for name, result in results if name == way]
        paces = [result["slices_per_second"] for result in found]
        rates[way] = statistics.median(paces)
        each = sum(result["disk_bytes"] for result in found) / sum(result["slices"] for result in found)
        lines.append(
            f"| {way} | {rates[way]:,.0f} | {', '.join(f'{pace:,.0f}' for pace in paces)} | "
            f"{max(result['resident_gib'] for result in found):.2f} GiB | {each / 1024:.1f} KiB |"
        )
    lines += [
        "",
        f"From the disk: **{rates['disk'] / rates['memory']:.0%}** of the pace from memory. The batches were the same, "
        "byte for byte.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
