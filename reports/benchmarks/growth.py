"""How time and memory grow: with inputs, latents and batch of a training step, and with the rows of a store.

    OMP_NUM_THREADS=1 python reports/benchmarks/growth.py [--most 1.0] [--output FILE] [--figure FILE]

Each case runs in a process of its own, so that its peak of memory is its own; what the process had before the case is
not counted. A step is forward, backward and AdamW in float32 on images of noise, each pixel an input; processor time,
the median of three after one that is not counted. Of the rows of a store one epoch is read in random batches from the
disk, as training reads a store that does not fit into memory; images have 8 x 8 pixels, so that ten million fit here.
``--most`` below 1 leaves out the largest cases.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from volumes import measure as time_rounds

from perceiver import ImageConfig, ImagePerceiver, PerceiverConfig
from pipeline.core.files import write_bytes
from pipeline.core.provenance import read_commit, read_hardware, read_versions
from pipeline.data.batches import place_examples, read_batches

SIDE, LATENTS, BATCH = 64, 32, 4
# What grows, and its values; the others stay at the constants above.
CASES = {
    "inputs": (256, 1024, 4096, 16384, 65536),
    "latents": (8, 32, 128, 512),
    "batch": (1, 4, 16, 64),
    "rows": (1000, 10_000, 100_000, 1_000_000, 10_000_000),
}
TITLES = {
    "inputs": "inputs of an example",
    "latents": "latents",
    "batch": "examples of a batch",
    "rows": "rows of a store on disk",
}
NUM_ROUNDS = 3
STORED_SIDE, READ_TOGETHER = 8, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=float, default=1.0, help="the part of each range that is measured")
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    parser.add_argument("--figure", type=Path, help="draw the curves into this SVG file")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "VALUE"), help="measure this case alone")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], int(arguments.one[1]))))
        return
    found = {
        name: {value: run_alone(name, value) for value in values[: max(2, round(arguments.most * len(values)))]}
        for name, values in CASES.items()
    }
    text = describe(found)
    print(text)
    if arguments.output:
        write_bytes(arguments.output, text.encode())
    if arguments.figure:
        draw(found, arguments.figure)


def run_alone(name: str, value: int) -> dict[str, float]:
    words = [sys.executable, __file__, "--one", name, str(value)]
    ended = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    print(name, value, found, file=sys.stderr, flush=True)
    return found


def measure(name: str, value: int) -> dict[str, float]:
    """Return the seconds and the GiB of one case."""
    if name == "rows":
        with tempfile.TemporaryDirectory() as folder:
            return time_rounds(build_epoch(Path(folder) / "examples.npy", value), num_rounds=1)
    side = math.isqrt(value) if name == "inputs" else SIDE
    latents = value if name == "latents" else LATENTS
    return time_rounds(build_step(side, latents, value if name == "batch" else BATCH), NUM_ROUNDS)


def build_step(side: int, num_latents: int, batch: int) -> Callable[[], None]:
    """Return a step of training on images of noise."""
    perceiver = PerceiverConfig(
        num_latents=num_latents,
        latent_dim=128,
        num_cross_attends=2,
        self_attends_per_cross=2,
        cross_heads=1,
        cross_head_dim=64,
        latent_heads=4,
        latent_head_dim=32,
        num_bands=8,
    )
    config = ImageConfig(stem="pixels", perceiver=perceiver)
    model = ImagePerceiver(config, channels=1, height=side, width=side, num_classes=2)
    optimizer = torch.optim.AdamW(model.parameters())
    images, labels = torch.randn(batch, 1, side, side), torch.zeros(batch, dtype=torch.int64)

    def step() -> None:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def build_epoch(path: Path, num_rows: int) -> Callable[[], None]:
    """Write a store's images, and return an epoch that reads all of them in random batches from the disk."""
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (num_rows, STORED_SIDE, STORED_SIDE))
    for start in range(0, num_rows, 2**20):
        images[start : start + 2**20] = start % 251
    images.flush()
    del images
    generator = torch.Generator().manual_seed(0)

    def epoch() -> None:
        mapped, rows = np.load(path, mmap_mode="r"), np.arange(num_rows)
        examples = place_examples(mapped, rows, rows % 2, np.zeros(num_rows), torch.device("cpu"), room_bytes=0)
        places = list(torch.split(torch.randperm(num_rows, generator=generator), READ_TOGETHER))
        num_read = sum(len(batch.labels) for batch in read_batches(examples, places))
        assert num_read == num_rows

    return epoch


def compute_exponent(rows: dict[int, dict[str, float]], key: str) -> float:
    """Return the exponent of the growth between the last two values."""
    (first, before), (last, after) = list(rows.items())[-2:]
    return math.log(after[key] / before[key]) / math.log(last / first)


def describe(found: dict[str, dict[int, dict[str, float]]]) -> str:
    lines = [
        f"`OMP_NUM_THREADS=1 python reports/benchmarks/growth.py`: a training step of images of {SIDE} x {SIDE} "
        f"pixels, {LATENTS} latents, batches of {BATCH}, where nothing else is said; an epoch of reading for the rows.",
        f"{read_hardware()}, one thread; torch {read_versions()['torch']}; commit {read_commit()}.",
        "",
        "The exponent is that of the growth from the last value but one to the last: 1 is a straight line.",
    ]
    for name, rows in found.items():
        lines += ["", f"| {TITLES[name]} | seconds | GiB |", "|---|---|---|"]
        lines += [f"| {value:,} | {row['seconds']:.3f} | {row['gibibytes']:.3f} |" for value, row in rows.items()]
        lines.append(
            f"| exponent | {compute_exponent(rows, 'seconds'):.2f} | {compute_exponent(rows, 'gibibytes'):.2f} |"
        )
    return "\n".join([*lines, ""])


def draw(found: dict[str, dict[int, dict[str, float]]], path: Path) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    from pipeline.reporting.figures.style import BLUE, VERMILION, open_figure, save_svg

    with open_figure(9, 5.6) as figure:
        for axes, (name, rows) in zip(figure.subplots(2, 2).flat, found.items(), strict=True):
            for key, label, colour, line in (
                ("seconds", "seconds", BLUE, "o-"),
                ("gibibytes", "GiB", VERMILION, "D--"),
            ):
                axes.plot(list(rows), [row[key] for row in rows.values()], line, color=colour, label=label)
            axes.set(xscale="log", yscale="log", xlabel=TITLES[name])
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(LogLocator(subs=(1, 3) if axis is axes.yaxis else (1,), numticks=12))
                axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
                axis.set_minor_formatter(NullFormatter())
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        write_bytes(path, save_svg(figure))


if __name__ == "__main__":
    main()
