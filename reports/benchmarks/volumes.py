"""The time and memory of a Perceiver that reads whole scans: against slices one by one, and by the number of inputs.

    OMP_NUM_THREADS=1 python reports/benchmarks/volumes.py [--figure FILE]

Each case runs in a process of its own, so that its peak of memory is its own; what the process had before the case is
not counted. Printed is the median processor time of the rounds, on one thread. Steps are forward, backward and AdamW in
float32 with the model of configs/phantom_volume.yaml, forward passes are without gradients. The 3-D ResNet is MONAI's,
of 18 layers, on the voxels of the smallest scan alone, because it takes minutes for the others.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from perceiver import ImageConfig, ImagePerceiver, PerceiverConfig, VolumePerceiver
from pipeline.cli import parse_experiment
from pipeline.core.provenance import read_hardware
from pipeline.models.volumes import choose_slices, draw_slices

SCANS, SLICES, SIDE, SLICE_BATCH = 16, 40, 64, 64
LARGE = (160, 384, 384)
# Slices of 384 x 384 in patches of 16 x 16, four of them joined: 576 inputs for each four slices.
DEPTHS = (16, 32, 64, 160, 288, 416)
PATCHES = ImageConfig(
    stem="patches",
    patch_size=16,
    perceiver=PerceiverConfig(
        num_latents=32,
        latent_dim=128,
        num_cross_attends=2,
        self_attends_per_cross=2,
        cross_heads=4,
        cross_head_dim=32,
        latent_heads=4,
        latent_head_dim=32,
        num_bands=8,
    ),
)


def measure(work: Callable[[], object], num_rounds: int) -> dict[str, float]:
    """Return the median processor time of the rounds but the first, and the growth of the peak of memory in GiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(num_rounds + 1):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": statistics.median(times[1:]), "gibibytes": grown / 2**20}


def place_slices(batch: int, slices: int) -> torch.Tensor:
    """Return places of slices as large as the field of view, which fill it."""
    places = torch.full((batch, slices, 3), 2.0)
    places[..., 0] = torch.linspace(-1, 1, slices)
    return places


def build_step(model: nn.Module, answer: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """Return a step of training on random labels."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def step() -> None:
        logits = answer()
        loss: torch.Tensor = functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def measure_step(name: str) -> dict[str, float]:
    """Measure a step on as many slices: of whole scans, of half their slices, or one by one in batches."""
    config = parse_experiment("train", ["--config", "configs/phantom_volume.yaml"]).model.image_config
    shape = {"height": SIDE, "width": SIDE, "num_classes": 2}
    if name == "slices":
        model: nn.Module = ImagePerceiver(config, channels=1, **shape)
        images = torch.randn(SLICE_BATCH, 1, SIDE, SIDE)
        step = build_step(model, lambda: model(images))
        return measure(lambda: [step() for _ in range(SCANS * SLICES // SLICE_BATCH)], 3)
    model = VolumePerceiver(config, num_slices=SLICES, **shape)
    volumes, places = torch.randn(SCANS, SLICES, SIDE, SIDE), place_slices(SCANS, SLICES)
    generator = torch.Generator().manual_seed(0)

    def answer() -> torch.Tensor:
        read = (volumes, places)
        if name == "half":
            scores = torch.rand(places.shape[:2], generator=generator)
            read = choose_slices(volumes, places, draw_slices(places, 0.5, scores))
        logits: torch.Tensor = model(*read)
        return logits

    return measure(build_step(model, answer), 3)


def measure_forward(name: str, depth: int) -> dict[str, float]:
    """Measure the answer to one scan of 384 x 384 pixels and so many slices."""
    _, height, width = LARGE
    if name == "resnet":
        from monai.networks.nets import resnet18

        network = resnet18(spatial_dims=3, n_input_channels=1, num_classes=2).eval()
        voxels = torch.randn(1, 1, depth, height, width)
        work: Callable[[], object] = lambda: network(voxels)  # noqa: E731
    else:
        model = VolumePerceiver(PATCHES, height=height, width=width, num_slices=depth, num_classes=2, patch_slices=4)
        volumes, places = torch.randn(1, depth, height, width), place_slices(1, depth)
        work = lambda: model.eval()(volumes, places)  # noqa: E731
    with torch.inference_mode():
        return measure(work, 1 if name == "resnet" else 5)


def run_alone(*words: str) -> dict[str, float]:
    ended = subprocess.run([sys.executable, __file__, "--one", *words], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def draw(rows: dict[int, dict[str, float]], path: Path) -> None:
    """Draw seconds and memory over the number of inputs."""
    from pipeline.reporting.figures.style import BLUE, open_figure

    with open_figure(8, 3.2) as figure:
        for axes, name, label in zip(figure.subplots(1, 2), ("seconds", "gibibytes"), ("seconds", "GiB"), strict=True):
            axes.plot(list(rows), [row[name] for row in rows.values()], "o-", color=BLUE)
            axes.set(xlabel="inputs of a scan", ylabel=f"{label} of a forward pass", xlim=(0, None), ylim=(0, None))
        figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--figure", type=Path, help="also draw the cost over the number of inputs into this PNG")
    parser.add_argument("--one", nargs="+", help="measure this case alone and print JSON")
    arguments = parser.parse_args()
    if arguments.one:
        name, *depth = arguments.one
        print(json.dumps(measure_forward(name, int(depth[0])) if depth else measure_step(name)))
        return
    print(f"{read_hardware()}, {torch.get_num_threads()} threads\n")
    print(
        f"| a step on {SCANS} x {SLICES} slices of {SIDE} x {SIDE} | seconds | of the first | GiB |\n|---|---|---|---|"
    )
    steps = {name: run_alone(name) for name in ("slices", "scans", "half")}
    for name, row in steps.items():
        quotient = row["seconds"] / steps["slices"]["seconds"]
        print(f"| {name} | {row['seconds']:.2f} | {quotient:.2f} | {row['gibibytes']:.2f} |")
    print("\n| one scan of 384 x 384 | inputs | seconds | GiB |\n|---|---|---|---|")
    cells, rows = (LARGE[1] // 16) * (LARGE[2] // 16), {}
    for depth in DEPTHS:
        row = rows[depth // 4 * cells] = run_alone("joint", str(depth))
        print(f"| {depth} slices | {depth // 4 * cells:,} | {row['seconds']:.3f} | {row['gibibytes']:.2f} |")
    row = run_alone("resnet", str(DEPTHS[0]))
    print(f"| {DEPTHS[0]} slices, 3-D ResNet | | {row['seconds']:.3f} | {row['gibibytes']:.2f} |")
    if arguments.figure:
        draw(rows, arguments.figure)


if __name__ == "__main__":
    main()
