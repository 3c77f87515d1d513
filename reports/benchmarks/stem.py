"""The time of a convolutional stem's forward and backward pass, with its weights channel by channel or row by row.

    OMP_NUM_THREADS=1 python reports/benchmarks/stem.py

The two layouts take turns, with the same weights and the same 64 images, in float32; printed is the median of 15 rounds
in milliseconds, and of the quotients within a round.
"""

import copy
import statistics
import time

import torch
from torch import nn

from perceiver.images import build_conv_stem
from pipeline.core.provenance import read_hardware

NUM_IMAGES, NUM_ROUNDS = 64, 15
# Image size, layers and channels: those of configs/medmnist.yaml and configs/phantom.yaml, and larger ones.
SHAPES = ((28, 2, 64), (64, 3, 64), (80, 4, 96), (128, 4, 96))


def measure(stem: nn.Module, images: torch.Tensor) -> float:
    """Return the seconds of one forward and one backward pass."""
    started = time.perf_counter()
    stem(images).square().mean().backward()
    return time.perf_counter() - started


def main() -> None:
    print(f"{read_hardware()}\n")
    print("| image | layers | channels | row by row | channel by channel | quotient |\n|---|---|---|---|---|---|")
    for size, num_layers, channels in SHAPES:
        torch.manual_seed(0)
        stem, images = build_conv_stem(1, num_layers, channels), torch.randn(NUM_IMAGES, 1, size, size)
        by_rows = copy.deepcopy(stem).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        for module in (by_rows, stem):
            measure(module, images)
        rounds = [(measure(by_rows, images), measure(stem, images)) for _ in range(NUM_ROUNDS)]
        times = [f"{statistics.median(column) * 1e3:.0f} ms" for column in zip(*rounds, strict=True)]
        quotient = statistics.median(after / before for before, after in rounds)
        print(f"| {size} x {size} | {num_layers} | {channels} | {times[0]} | {times[1]} | {quotient:.2f} |")


if __name__ == "__main__":
    main()
