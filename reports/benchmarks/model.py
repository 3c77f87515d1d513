"""Measure this Perceiver against perceiver-pytorch on equal weights, in the same run.

    python reports/benchmarks/model.py [--batch N] [--rounds 3] [--output FILE]

The model is the one that was trained on AKOA before: 512 latents of width 512, depth 6, 6 bands, max_freq 10, one
cross-attention head and eight latent heads of width 64. A training step is forward, loss and backward; the
optimizer is the same for both and left out. Each round times all ways one after the other, and a ratio is the median
of the rounds' ratios, so that other load on the machine affects both. Memory is what a call needs at its peak
above the model with its gradients, in a process of its own. bf16 is measured where this machine multiplies matrices
faster in it than in float32. Needs the extra ``bench``; memory on a CPU needs Linux.
"""

import argparse
import contextlib
import dataclasses
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from perceiver_pytorch import Perceiver as Peer
from torch import Tensor, nn
from torch.nn import functional

from perceiver import Perceiver
from perceiver.perceiver_pytorch import from_perceiver_pytorch
from pipeline.core.files import write_bytes
from pipeline.core.provenance import read_commit, read_hardware, read_versions
from pipeline.training.devices.arithmetic import name_accelerator

SIZES = ((28, 28), (64, 64), (128, 114), (260, 228))
NUM_LATENTS, WIDTH, DEPTH, HEADS, HEAD_DIM, WIDENING, BANDS, CLASSES = 512, 512, 6, 8, 64, 4, 6, 2
CHANNELS = 1 + 2 * (2 * BANDS + 1)
PEER = "perceiver-pytorch"
# What is called, and which models are.
KINDS = {"forward": (PEER, "ours"), "training step": (PEER, "ours", "checkpointed")}
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}
MEBIBYTE = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, help="examples; by default 1 on a CPU and 64 on a GPU")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is timed; the median counts")
    parser.add_argument("--compile", action="store_true", help="compile both models with torch.compile")
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    parser.add_argument("--memory-of", nargs=4, metavar=("WAY", "KIND", "HEIGHT", "WIDTH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="PerceiverConfig.max_freq")  # that model's own setting
    device = torch.device(arguments.device)
    batch = arguments.batch or (64 if device.type == "cuda" else 1)
    if arguments.memory_of:
        way, kind, height, width = arguments.memory_of
        print(measure_memory(way, kind, batch, (int(height), int(width)), device))
        return
    text = measure(device, batch, arguments.rounds, arguments.compile)
    print(text)
    if arguments.output:
        write_bytes(arguments.output, text.encode())


def measure(device: torch.device, batch: int, num_rounds: int, compiled: bool) -> str:
    models = build_models(device)
    differences = {size: compare(models, size, device) for size in SIZES}
    if compiled:
        models = {name: torch.compile(model) for name, model in models.items()}
    # Without instructions for it a product in bf16 can be a thousand times slower, so that a small one tells.
    quick = {name: measure_rate(device, dtype, 256) for name, dtype in PRECISIONS.items()}
    side = 8192 if device.type == "cuda" else 2048
    rates = {
        name: measure_rate(device, dtype, side)
        for name, dtype in PRECISIONS.items()
        if name == "float32" or quick[name] > quick["float32"]
    }
    kinds = {kind: [f"{name} {precision}" for name in KINDS[kind] for precision in rates] for kind in KINDS}
    seconds = {
        (size, kind): time_ways(models, kind, ways, batch, size, device, num_rounds)
        for size in SIZES
        for kind, ways in kinds.items()
    }
    memory = {
        (size, kind): {way: ask_memory(way, kind, batch, size, device) for way in ways}
        for size in SIZES
        for kind, ways in kinds.items()
    }
    versions = read_versions()
    hardware = read_hardware(name_accelerator(device))
    in_bf16 = f"{rates['bf16'] / 1e12:.2f} in bf16" if "bf16" in rates else "none faster in bf16, which is not measured"
    lines = [
        f"`python {' '.join(sys.argv)}`: batch {batch}{', all compiled' if compiled else ''}, {num_rounds} rounds, "
        f"{torch.get_num_threads()} threads.",
        f"{hardware}; Python {platform.python_version()}, torch {versions['torch']}, perceiver-pytorch 0.11.0; "
        f"commit {read_commit()}.",
        f"On equal weights the logits differ by at most {max(differences.values()):.1e} of the largest (float32).",
        f"Matrix products of this machine: {rates['float32'] / 1e12:.2f} TFLOP/s in float32, {in_bf16}.",
        "",
        "Seconds a call, how many times faster than perceiver-pytorch in float32 and in the same precision, the "
        "fraction of the machine's product rate, and the memory at the peak above model and gradients. Checkpointed: "
        "`gradient_checkpointing: feedforward`.",
        "",
        "| image | call | model | seconds | times float32 | times the same | fraction | MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (size, kind), rounds in seconds.items():
        operations = count_operations(kind, batch, size)
        lines += [describe(way, kind, size, rounds, operations, rates, memory[size, kind]) for way in rounds]
    lines += ["", "What 10,000 more inputs cost, from the smallest image to the largest:", ""]
    more = (SIZES[-1][0] * SIZES[-1][1] - SIZES[0][0] * SIZES[0][1]) / 1e4
    for kind, ways in kinds.items():
        cells = []
        for way in ways:
            times = [statistics.median(seconds[size, kind][way]) for size in (SIZES[0], SIZES[-1])]
            peaks = [memory[size, kind][way] for size in (SIZES[0], SIZES[-1])]
            cells.append(f"{way} {(times[1] - times[0]) / more:.3f} s, {(peaks[1] - peaks[0]) / more:.0f} MiB")
        lines.append(f"- {kind}: {'; '.join(cells)}")
    return "\n".join([*lines, ""])


def describe(
    way: str,
    kind: str,
    size: tuple[int, int],
    rounds: dict[str, list[float]],
    operations: float,
    rates: dict[str, float],
    memory: dict[str, float],
) -> str:
    """One row of the table."""
    model, precision = way.split()
    fraction = operations / statistics.median(rounds[way]) / rates[precision]
    cells = [
        f"{size[0]} x {size[1]}",
        kind,
        f"{model}, {precision}",
        f"{statistics.median(rounds[way]):.3f}",
        f"{divide_rounds(rounds[f'{PEER} float32'], rounds[way]):.2f}",
        f"{divide_rounds(rounds[f'{PEER} {precision}'], rounds[way]):.2f}",
        "" if model == PEER else f"{fraction:.0%}",
        f"{memory[way]:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def build_models(device: torch.device) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    shape = {
        "num_freq_bands": BANDS,
        "max_freq": 10.0,
        "depth": DEPTH,
        "input_channels": 1,
        "num_latents": NUM_LATENTS,
        "latent_dim": WIDTH,
        "latent_heads": HEADS,
        "cross_dim_head": HEAD_DIM,
        "latent_dim_head": HEAD_DIM,
        "num_classes": CLASSES,
    }
    theirs, ours = Peer(**shape), Perceiver.from_image_config(**shape)
    _, state = from_perceiver_pytorch(theirs.state_dict(), num_freq_bands=BANDS, max_freq=10.0, axis_sizes=SIZES[-1])
    ours.load_state_dict(state)
    checkpointed = Perceiver(dataclasses.replace(ours.config, gradient_checkpointing="feedforward"))
    checkpointed.load_state_dict(state)
    return {PEER: theirs.to(device), "ours": ours.to(device), "checkpointed": checkpointed.to(device)}


def draw_images(batch: int, size: tuple[int, int], device: torch.device) -> Tensor:
    return torch.randn(batch, *size, 1, generator=torch.Generator().manual_seed(0)).to(device)


def compare(models: dict[str, nn.Module], size: tuple[int, int], device: torch.device) -> float:
    images = draw_images(1, size, device)
    with torch.no_grad():
        theirs, ours = models[PEER](images), models["ours"](images)
    return float((ours - theirs).abs().max() / theirs.abs().max())


def call(models: dict[str, nn.Module], way: str, kind: str, images: Tensor) -> None:
    who, precision = way.split()
    low = torch.autocast(images.device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
    if kind == "forward":
        with torch.no_grad(), low:
            models[who](images)
    else:
        with low:
            logits = models[who](images)
        labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
        functional.cross_entropy(logits.float(), labels).backward()
    if images.device.type == "cuda":
        torch.cuda.synchronize()


def time_ways(
    models: dict[str, nn.Module],
    kind: str,
    ways: list[str],
    batch: int,
    size: tuple[int, int],
    device: torch.device,
    num_rounds: int,
) -> dict[str, list[float]]:
    """Seconds of each way, one number a round; models keep their gradients, so that no step allocates them."""
    images = draw_images(batch, size, device)
    rounds: dict[str, list[float]] = {way: [] for way in ways}
    for way in ways:
        call(models, way, kind, images)
    for _ in range(num_rounds):
        for way in ways:
            rounds[way].append(timed(lambda way=way: call(models, way, kind, images)))
    return rounds


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def divide_rounds(one: list[float], other: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def measure_rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """Operations a second of the product of square matrices: the best of ten."""
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

    def multiply() -> None:
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return 2 * side**3 / min(timed(multiply) for _ in range(10))


def count_operations(kind: str, batch: int, size: tuple[int, int]) -> float:
    """Operations of the products that this project's forward or training step cannot do without.

    A product of the latents with a weight has two of its kind in the backward pass; of the two of a
    cross-attention with the inputs each has one, for the queries' gradient. What is computed again is not counted.
    """
    inputs = size[0] * size[1]
    inner = HEADS * HEAD_DIM
    feedforward = 3 * WIDENING * WIDTH * WIDTH
    self_attend = 4 * WIDTH * inner + 2 * NUM_LATENTS * inner
    cross_weights = 2 * WIDTH * HEAD_DIM + 2 * HEAD_DIM * CHANNELS
    latents = 2 * NUM_LATENTS * DEPTH * (2 * feedforward + self_attend + cross_weights)
    reading = 2 * NUM_LATENTS * DEPTH * 2 * CHANNELS * inputs
    return batch * (latents + reading if kind == "forward" else 3 * latents + 2 * reading)


def ask_memory(way: str, kind: str, batch: int, size: tuple[int, int], device: torch.device) -> float:
    """Measure in a new process, whose allocator gives back what is free."""
    options = ["--device", device.type, "--batch", str(batch), "--memory-of", way, kind, *map(str, size)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    answer = subprocess.run(
        [sys.executable, __file__, *options], capture_output=True, text=True, check=True, env=environment
    )
    return float(answer.stdout.split()[-1])


def measure_memory(way: str, kind: str, batch: int, size: tuple[int, int], device: torch.device) -> float:
    models = build_models(device)
    models = {way.split()[0]: models[way.split()[0]]}
    call(models, way, "training step", draw_images(1, (28, 28), device))  # makes gradients and loads kernels
    images = draw_images(batch, size, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call(models, way, kind, images)
        return (torch.cuda.max_memory_allocated() - before) / MEBIBYTE
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    before = read_status("VmRSS")
    call(models, way, kind, images)
    return (read_status("VmHWM") - before) / 1024


def read_status(name: str) -> int:
    """KiB of this process."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0])


if __name__ == "__main__":
    main()
