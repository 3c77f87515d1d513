"""Everything that is to be known of a GPU, in one run of at most eight minutes on a machine that is lent once.

    python reports/benchmarks/gpu.py [--budget-s 480] [--slices FILE.npz] [--output gpu.md]
    python reports/benchmarks/gpu.py --dry                 # the whole on a CPU with tiny sizes: no figure of it counts
    python reports/benchmarks/gpu.py --make-slices STORE --output FILE.npz     # before: slices of a prepared phantom

Parts run in order of value, each in a process of its own with a limit of time; the table is written after each, so that
what is lost is lost alone. Needed are torch, einops, numpy, this repository, and perceiver-pytorch where its column is
wanted. Without ``--slices`` training reads images with a bright half.
"""

import argparse
import contextlib
import dataclasses
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[2]))  # a lent machine has no installation

from perceiver import ImageConfig, ImagePerceiver, Perceiver, PerceiverConfig
from pipeline.config.training import AugmentConfig, TrainConfig
from pipeline.core.provenance import read_commit, read_hardware
from pipeline.training.augmentation.images import apply_transforms, flip_labels, sample_transforms
from pipeline.training.devices.arithmetic import fix_arithmetic, name_accelerator, name_kernel
from pipeline.training.losses import compute_loss_sum, count_correct

PEER = "perceiver-pytorch"
# Of configs/phantom.yaml, and of the model that was trained on AKOA before, whose inputs have 27 channels.
SMALL = PerceiverConfig(
    num_latents=32,
    latent_dim=128,
    num_cross_attends=2,
    self_attends_per_cross=2,
    cross_heads=4,
    cross_head_dim=32,
    latent_heads=4,
    latent_head_dim=32,
    num_bands=8,
)
STEM = ImageConfig(stem="conv", num_conv_layers=3, conv_channels=64, slice_position=True, perceiver=SMALL)
LARGE = {"num_freq_bands": 6, "max_freq": 10.0, "depth": 6, "input_channels": 1, "num_classes": 2}
AUGMENT = AugmentConfig(horizontal_flip="swap_label")
CONFIG = TrainConfig(label_smoothing=0.05)
AKOA_SLICES = 13_960
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bf16": torch.bfloat16}
# A row of the table: what, of which case, the number and its unit.
Row = tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class Scale:
    """The sizes of a run.

    Args:
        device: The device.
        sizes: Heights and widths of images.
        batch: Examples of a batch.
        num_slices: Slices of an epoch.
        epochs: Epochs of training.
        rounds: How often a call is timed.
        latents: The latents of the large model.
        slices: The file of slices that training reads; None for made-up images.
    """

    device: torch.device
    sizes: tuple[tuple[int, int], ...]
    batch: int
    num_slices: int
    epochs: int
    rounds: int
    latents: int
    slices: Path | None

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"


def plan(is_dry: bool, slices: Path | None) -> Scale:
    if is_dry:
        return Scale(torch.device("cpu"), ((8, 8), (12, 10)), 2, 16, 1, 1, 8, slices)
    sizes = ((64, 64), (128, 114), (260, 228))
    return Scale(torch.device("cuda"), sizes, 64, AKOA_SLICES, 12, 5, 512, slices)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget-s", type=float, default=480.0, help="seconds after which no part is started")
    parser.add_argument("--slices", type=Path, help="slices to train on, of --make-slices")
    parser.add_argument("--make-slices", type=Path, metavar="STORE", help="write the slices of a prepared store")
    parser.add_argument("--output", type=Path, default=Path("gpu.md"), help="the table")
    parser.add_argument("--dry", action="store_true", help="run everything on the CPU with tiny sizes")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what is measured, in order")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make_slices:
        make_slices(arguments.make_slices, arguments.output)
        return
    scale = plan(arguments.dry, arguments.slices)
    if arguments.part:
        for row in run_part(arguments.part, scale):
            print(json.dumps(row), flush=True)
        return
    if not arguments.dry and not torch.cuda.is_available():
        parser.error("no GPU; --dry runs the script on the CPU")
    started = time.perf_counter()
    rows: list[Row] = []
    for name in arguments.parts:
        left_s = arguments.budget_s - (time.perf_counter() - started)
        rows += run_within(name, min(PARTS[name], left_s), arguments)
        arguments.output.write_text(describe(rows, scale, time.perf_counter() - started))
    print(arguments.output.read_text())


def run_within(name: str, limit_s: float, arguments: argparse.Namespace) -> list[Row]:
    """Run a part in a process of its own; what it measured before it failed or ran out of time is kept."""
    if limit_s <= 5:
        return [(name, "", "not measured: no time left")]
    command = [sys.executable, __file__, "--part", name]
    command += ["--dry"] if arguments.dry else []
    command += ["--slices", str(arguments.slices)] if arguments.slices else []
    end: list[Row] = []
    with tempfile.TemporaryFile("w+") as output:
        try:
            answer = subprocess.run(
                command, stdout=output, stderr=subprocess.PIPE, text=True, timeout=limit_s, check=False
            )
        except subprocess.TimeoutExpired:
            end = [(name, "", f"the rest not measured: more than {limit_s:.0f} s")]
        else:
            if answer.returncode != 0:
                end = [(name, "", f"failed: {(answer.stderr.strip().splitlines() or ['no message'])[-1]}")]
        output.seek(0)
        lines = output.read().splitlines()
    return [*(tuple(json.loads(line)) for line in lines if line.startswith("[")), *end]


def run_part(name: str, scale: Scale) -> Iterator[Row]:
    """Run a part and yield each row when it is measured; an exception ends its own part alone."""
    fix_arithmetic()
    try:
        for case, value in MEASURES[name](scale):
            yield name, case, value
    except Exception as error:  # noqa: BLE001 - a lent machine does not wait for a fix
        traceback.print_exc()
        yield name, "", f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def describe(rows: list[Row], scale: Scale, seconds: float) -> str:
    dry = "" if scale.is_gpu else "**A dry run on a CPU with tiny sizes: no figure counts.**\n\n"
    head = (
        f"{dry}`python {' '.join(sys.argv)}`: batch {scale.batch}, {seconds:.0f} s in all.\n"
        f"{read_hardware(name_accelerator(scale.device))}; Python {platform.python_version()}, torch "
        f"{torch.__version__}; commit {read_commit()}.\n\n| part | case | found |\n|---|---|---|\n"
    )
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows)


# --- Models and examples ---


def build_small(device: torch.device) -> ImagePerceiver:
    torch.manual_seed(0)
    return ImagePerceiver(STEM, channels=1, height=64, width=64, num_classes=2, num_slices=40).to(device)


def build_large(scale: Scale, who: str = "ours") -> nn.Module:
    torch.manual_seed(0)
    shape = LARGE | {"num_latents": scale.latents, "latent_dim": scale.latents}
    if who == "ours":
        return Perceiver.from_image_config(**shape).to(scale.device)
    from perceiver_pytorch import Perceiver as Peer

    return Peer(**shape).to(scale.device)


def draw_slices(number: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Images (number, 1, 64, 64) uint8 with a bright half, their labels, and places."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (number,), generator=generator)
    images = torch.randint(0, 120, (number, 1, 64, 64), generator=generator, dtype=torch.uint8)
    images[..., :32] += (60 * (1 - labels)).to(torch.uint8)[:, None, None, None]
    images[..., 32:] += (60 * labels).to(torch.uint8)[:, None, None, None]
    places = torch.rand(number, generator=generator) * 2 - 1
    return images.to(device), labels.to(device), places.to(device)


def cast_to(name: str, device: torch.device) -> contextlib.AbstractContextManager[None]:
    return torch.autocast(device.type, torch.bfloat16) if name == "bf16" else contextlib.nullcontext()


def wait(scale: Scale) -> None:
    if scale.is_gpu:
        torch.cuda.synchronize()


def timed(work: Callable[[], Any], scale: Scale, rounds: int) -> float:
    """Return the median of the seconds of a few calls, after two that are not counted."""
    for _ in range(2):
        work()
    seconds = []
    for _ in range(rounds):
        wait(scale)
        started = time.perf_counter()
        work()
        wait(scale)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def compile_as(how: str, model: nn.Module, scale: Scale) -> None:
    """Compile a model in place: eager (not at all), compiled or graphs; in a dry run without a C++ compiler."""
    if how != "eager" and scale.is_gpu:
        model.compile(mode="reduce-overhead" if how == "graphs" else None, dynamic=False)
    elif how != "eager":
        model.compile(backend="aot_eager", dynamic=False)


# --- Parts ---


def measure_parity(scale: Scale) -> Iterator[tuple[str, str]]:
    """The largest difference of logits and gradients from float64 on the CPU, as a fraction of the largest."""
    cases = {"stem, slice positions": False, "27 channels": False, "27 channels, with padding": True}
    for case, is_padded in cases.items():
        small = case.startswith("stem")
        cpu_scale = dataclasses.replace(scale, device=torch.device("cpu"))
        model = build_small(cpu_scale.device) if small else build_large(cpu_scale)
        images, labels, places = draw_slices(2, cpu_scale.device)
        values = images.double() / 255 - 0.4
        if not small:
            values = values[:, 0, ::4, ::4, None]
        padding = torch.zeros(values.shape[:3], dtype=torch.bool)
        padding[0, -4:] = True

        def compute(
            name: str,
            device: torch.device,
            model: nn.Module = model,
            values: Tensor = values,
            padding: Tensor | None = padding if is_padded else None,
            places: Tensor | None = places if small else None,
            labels: Tensor = labels,
        ) -> tuple[Tensor, Tensor]:
            dtype = torch.float32 if name == "bf16" else DTYPES[name]
            model = model.to(device, dtype).eval()
            model.zero_grad()
            extra = (places.to(device, dtype),) if places is not None else (None, None)
            if padding is not None:
                extra = (None, padding.to(device))
            with cast_to(name, device):
                logits = model(values.to(device, dtype), *extra)
            functional.cross_entropy(logits.to(torch.promote_types(dtype, torch.float32)), labels.to(device)).backward()
            gradients = [p.grad.flatten().cpu().double() for p in model.parameters() if p.grad is not None]
            return logits.detach().cpu().double(), torch.cat(gradients)

        wanted = compute("float64", cpu_scale.device)
        for name in DTYPES:
            found = compute(name, scale.device)
            worst = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True)]
            yield f"{case}, {name}", f"logits {worst[0]:.1e}, gradients {worst[1]:.1e}"


def measure_kernels(scale: Scale) -> Iterator[tuple[str, str]]:
    """The kernel of each case as the profiler names it, next to what the table says."""
    for name, dtype in DTYPES.items():
        for width in (27, 32, 64):
            for is_masked in (False, True):
                queries = torch.randn(2, 1, 128, width, device=scale.device, dtype=dtype, requires_grad=True)
                inputs = torch.randn(2, 1, 256, width, device=scale.device, dtype=dtype)
                mask = torch.ones(2, 1, 1, 256, dtype=torch.bool, device=scale.device) if is_masked else None
                with torch.profiler.profile() as profile:
                    functional.scaled_dot_product_attention(queries, inputs, inputs, attn_mask=mask)
                    wait(scale)
                events = {event.key for event in profile.key_averages()}
                found = [kind for kind in ("flash", "efficient", "cudnn") if any(kind in event for event in events)]
                case = f"{name}, width {width}{', mask' if is_masked else ''}"
                table = f"; table: {name_kernel(dtype, width, is_masked)}" if scale.is_gpu else ""
                yield case, f"{'/'.join(found) or 'math'}{table}"


class Training:
    """A training of the small model with all that the pipeline does in a step.

    Args:
        scale: The sizes.
        images: The slices, uint8.
        labels: Their classes.
        places: Their places.
        how: eager, compiled or graphs.
    """

    def __init__(self, scale: Scale, images: Tensor, labels: Tensor, places: Tensor, how: str = "eager") -> None:
        self.scale, self.images, self.labels, self.places = scale, images, labels, places
        self.model = build_small(scale.device)
        compile_as(how, self.model, scale)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
        self.generator = torch.Generator(device=scale.device).manual_seed(0)
        self.loss = torch.zeros((), device=scale.device)
        self.num_correct = torch.zeros((), device=scale.device)

    def step(self, chosen: Tensor) -> None:
        """Take a step with the slices of these places, on the device."""
        device = self.scale.device
        shape = (len(chosen), 1, 64, 64)
        transforms = sample_transforms(AUGMENT, shape, self.generator, device)
        images = apply_transforms(self.images[chosen].float() / 255, transforms)
        labels = flip_labels(self.labels[chosen], transforms, AUGMENT)
        with cast_to("bf16", device):
            logits = self.model((images - 0.3) / 0.25, self.places[chosen])
        loss = compute_loss_sum(logits.float(), labels, CONFIG)
        (loss / len(chosen)).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.loss += loss
            self.num_correct += count_correct(logits, labels, CONFIG.loss)

    def epoch(self, seed: int) -> None:
        """Take the steps of an epoch, all of one size."""
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed)).to(self.scale.device)
        self.model.train()
        size = min(self.scale.batch, len(order))
        for start in range(0, len(order) - size + 1, size):
            self.step(order[start : start + size])

    @torch.no_grad()
    def score(self, images: Tensor, labels: Tensor, places: Tensor) -> float:
        """Return the accuracy; a last batch that is not full is left out."""
        self.model.eval()
        size, correct = min(self.scale.batch, len(images)), torch.zeros((), device=self.scale.device)
        starts = range(0, len(images) - size + 1, size)
        for start in starts:
            part = slice(start, start + size)
            with cast_to("bf16", self.scale.device):
                logits = self.model((images[part].float() / 255 - 0.3) / 0.25, places[part])
            correct += (logits.argmax(dim=1) == labels[part]).sum()
        return float(correct) / (len(starts) * size)


def check_synchronisation(scale: Scale) -> Iterator[tuple[str, str]]:
    """A step of training in which torch refuses every wait for the GPU."""
    training = Training(scale, *draw_slices(4 * scale.batch, scale.device))
    chosen = torch.arange(scale.batch, device=scale.device)
    for _ in range(3):
        training.step(chosen)
    if scale.is_gpu:
        torch.cuda.set_sync_debug_mode("error")
    try:
        training.step(chosen)
    finally:
        if scale.is_gpu:
            torch.cuda.set_sync_debug_mode("default")
    yield "a step of training", "no wait"


def measure_throughput(scale: Scale) -> Iterator[tuple[str, str]]:
    """Images a second of forward and backward pass, and peak memory, ours and the peer's; the quickest ways first."""
    for name, how in (("bf16", "eager"), ("float32", "eager"), ("bf16", "compiled"), ("bf16", "graphs")):
        for size in scale.sizes:
            images = torch.randn(scale.batch, *size, 1, device=scale.device)
            labels = torch.zeros(scale.batch, dtype=torch.int64, device=scale.device)
            for who in ("ours", PEER):
                case = f"{size[0]} x {size[1]}, {name}, {how}, {who}"
                yield case, measure_rate(scale, who, how, name, images, labels)


def measure_rate(scale: Scale, who: str, how: str, name: str, images: Tensor, labels: Tensor) -> str:
    """Measure one way; one that fails says so, so that the others are measured."""
    try:
        model = build_large(scale, who)
        compile_as(how, model, scale)

        def work() -> None:
            with cast_to(name, scale.device):
                logits = model(images)
            functional.cross_entropy(logits.float(), labels).backward()
            model.zero_grad(set_to_none=True)

        if scale.is_gpu:
            torch.cuda.reset_peak_memory_stats()
        seconds = timed(work, scale, scale.rounds)
        peak = torch.cuda.max_memory_allocated() / 2**30 if scale.is_gpu else float("nan")
    except (ImportError, RuntimeError) as error:  # torch.OutOfMemoryError among them
        return f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    finally:
        torch.compiler.reset()
        if scale.is_gpu:
            torch.cuda.empty_cache()
    return f"{len(images) / seconds:,.0f} images/s, {peak:.2f} GiB"


def measure_epoch(scale: Scale) -> Iterator[tuple[str, str]]:
    """Seconds of an epoch of AKOA's size, of the model of configs/akoa.yaml."""
    slices = draw_slices(scale.num_slices, scale.device)
    for how in ("eager", "graphs"):
        training = Training(scale, *slices, how=how)
        training.epoch(0)
        wait(scale)
        started = time.perf_counter()
        training.epoch(1)
        wait(scale)
        seconds = time.perf_counter() - started
        yield f"{scale.num_slices:,} slices, {how}", f"{seconds:.2f} s, {scale.num_slices / seconds:,.0f} slices/s"


def measure_training(scale: Scale) -> Iterator[tuple[str, str]]:
    """Accuracy of validation by epoch, seconds to 97 and 99 %, and whether a second run has the same losses."""
    train, val, source = read_slices(scale)
    losses: list[list[float]] = []
    for run in range(2):
        training = Training(scale, *train)
        reached: dict[float, float] = {}
        accuracies, losses_of_run, seconds = [], [], 0.0
        for epoch in range(scale.epochs):
            started = time.perf_counter()
            training.loss.zero_()
            training.epoch(epoch)
            losses_of_run.append(float(training.loss))
            accuracies.append(training.score(*val))
            seconds += time.perf_counter() - started
            for goal in (0.97, 0.99):
                if accuracies[-1] >= goal:
                    reached.setdefault(goal, seconds)
        losses.append(losses_of_run)
        if run == 0:
            shown = ", ".join(f"{accuracy:.4f}" for accuracy in accuracies)
            yield f"{source}: validation accuracy by epoch", shown
            times = [
                f"{goal:.0%} in {reached[goal]:.1f} s" if goal in reached else f"{goal:.0%} not reached"
                for goal in (0.97, 0.99)
            ]
            yield f"{source}: time to accuracy", "; ".join(times)
    yield "the same seed twice", "the same losses" if losses[0] == losses[1] else "other losses"


def read_slices(scale: Scale) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], str]:
    if scale.slices is None:
        slices = draw_slices(scale.num_slices, scale.device)
        cut = scale.num_slices * 3 // 4
        return tuple(part[:cut] for part in slices), tuple(part[cut:] for part in slices), "made-up images"
    kept = np.load(scale.slices)
    parts = [
        tuple(torch.from_numpy(kept[f"{role}_{name}"]).to(scale.device) for name in ("images", "labels", "places"))
        for role in ("train", "val")
    ]
    return parts[0], parts[1], scale.slices.name


def make_slices(store_folder: Path, output: Path) -> None:
    """Write the training and the validation slices of a prepared store into a file that travels."""
    import pandas as pd

    from pipeline.data.store import read_store

    store = read_store(store_folder)
    splits = pd.read_csv(store_folder / "splits.csv", dtype=str).set_index("group_id")["split"]
    roles = store.index["group_id"].map(splits).to_numpy()
    content: dict[str, Any] = {}
    for role in ("train", "val"):
        rows = np.flatnonzero(roles == role)
        index = store.index.iloc[rows]
        content[f"{role}_images"] = np.asarray(store.examples[rows])[:, None]
        content[f"{role}_labels"] = index["label"].map(list(store.class_names).index).to_numpy(dtype=np.int64)
        content[f"{role}_places"] = index["slice_position"].to_numpy(dtype=np.float32)
    np.savez_compressed(output, **content)


def compare_backends(scale: Scale) -> Iterator[tuple[str, str]]:
    """Milliseconds of forward and backward pass of attention in input space with each kernel."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    torch.backends.cuda.enable_cudnn_sdp(True)
    num_inputs = scale.sizes[-1][0] * scale.sizes[-1][1]
    inputs = torch.randn(scale.batch, 1, num_inputs, 32, device=scale.device, dtype=torch.bfloat16)
    queries = torch.randn(scale.batch, 1, scale.latents, 32, device=scale.device, dtype=torch.bfloat16).requires_grad_()
    kinds = (
        ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION") if scale.is_gpu else ("FLASH_ATTENTION", "MATH")
    )
    for kind in kinds:

        def work() -> None:
            functional.scaled_dot_product_attention(queries, inputs, inputs).sum().backward()

        try:
            with sdpa_kernel(getattr(SDPBackend, kind)):
                seconds = timed(work, scale, scale.rounds)
            found = f"{1000 * seconds:.2f} ms"
        except RuntimeError as error:
            found = f"failed: {str(error).splitlines()[0]}"
        yield f"{num_inputs:,} inputs, bf16, width 32: {kind}", found


# In the order of their value, with the most seconds that each may take.
PARTS = {
    "parity": 60.0,
    "kernels": 40.0,
    "synchronisation": 40.0,
    "epoch": 80.0,
    "training": 100.0,
    "throughput": 220.0,
    "backends": 40.0,
}
MEASURES: dict[str, Callable[[Scale], Iterator[tuple[str, str]]]] = {
    "parity": measure_parity,
    "kernels": measure_kernels,
    "synchronisation": check_synchronisation,
    "epoch": measure_epoch,
    "training": measure_training,
    "throughput": measure_throughput,
    "backends": compare_backends,
}


if __name__ == "__main__":
    main()
