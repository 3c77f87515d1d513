"""Print what one knee, AKOA and the whole OAI cost, from rates measured here and the tables next to this file.

    python reports/benchmarks/capacity.py --volumes FOLDER [--source WORDS] [--config configs/akoa.yaml]
        [--gpu-slices-per-second N] [--page docs/scaling.md]

FOLDER holds some NIfTI volumes of the size that is to be planned for. Rates are of processor time on one core, so
that other processes do not count. Tables of 8,000,000 slices are read from scale.md. A rate of a GPU is never guessed:
it is the ``images/s`` of a training on one.
"""

import argparse
import dataclasses
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.fabric import Fabric

from pipeline.cli import parse_experiment
from pipeline.config.experiment import Experiment
from pipeline.copies.certificate import certify
from pipeline.core.data_kinds import VOLUMES, InputSpec
from pipeline.core.files import write_bytes
from pipeline.core.provenance import read_commit, read_hardware, read_versions
from pipeline.core.tables import INDEX_COLUMNS, prediction_columns, write_table
from pipeline.core.text import count_words
from pipeline.data.batches import place_examples
from pipeline.data.sources import Source
from pipeline.data.splits import assign_splits
from pipeline.data.store import read_store, write_store
from pipeline.evaluation.predictions import build_predictions
from pipeline.inference.probabilities import compute_probabilities
from pipeline.models.classifier import Classifier
from pipeline.models.networks import build_model
from pipeline.preprocessing.parts import compute_part_key, prepare_part
from pipeline.training.devices.fabric import build_fabric
from pipeline.training.loop.epochs import train_epochs
from pipeline.training.loop.state import TrainingSetup, TrainingState
from pipeline.training.optimization.optimizers import build_optimizer

FOLDER = Path(__file__).parent
SIDES = ("left", "right")
NUM_VOLUMES_TIMED = 6
NUM_STEPS_TIMED = 30
# As the set that others scored on has it: 467 volumes of 101 patients.
AKOA_VOLUMES, AKOA_SLICES, AKOA_PATIENTS = 467, 40, 101
OAI_VOLUMES, OAI_SLICES = 50_000, 160
TABLE_STEPS = ("assign splits", "certificate, without the search for copies")
MARKED = re.compile(r"(<!-- generated: capacity -->\n\n).*?(\n<!-- end: capacity -->)", re.DOTALL)
SCORE_STEPS = ("write predictions", "read predictions", "scores and intervals, 2,000 resamples")


@dataclass(frozen=True)
class Archive:
    """What is planned for; ``is_oai`` counts the measured tables of its size."""

    name: str
    volumes: int
    slices_each: int
    is_oai: bool = False

    @property
    def slices(self) -> int:
        return self.volumes * self.slices_each


ARCHIVES = (
    Archive("one knee", 1, AKOA_SLICES),
    Archive("AKOA", AKOA_VOLUMES, AKOA_SLICES),
    Archive("the whole OAI", OAI_VOLUMES, OAI_SLICES, is_oai=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volumes", type=Path, required=True, help="a folder of NIfTI volumes, whose cost is measured")
    parser.add_argument("--source", default="scans", help="what the volumes are, for the page")
    parser.add_argument("--config", default="configs/akoa.yaml")
    parser.add_argument("--gpu-slices-per-second", type=float, help="as measured in training on a GPU")
    parser.add_argument("--page", type=Path, help="also write it between the two marks of this page")
    arguments = parser.parse_args()
    experiment = parse_experiment("train", ["--config", arguments.config])
    with tempfile.TemporaryDirectory() as folder:
        rates = measure_volumes(arguments.volumes, experiment, Path(folder))
        rates |= measure_tables(experiment, Path(folder))
    rates |= measure_model(experiment)
    text = describe(rates, experiment, arguments)
    print(text)
    if arguments.page:
        page = MARKED.sub(lambda match: f"{match[1]}{text}{match[2]}", arguments.page.read_text("utf-8"))
        write_bytes(arguments.page, page.encode())


def core_seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def measure_volumes(folder: Path, experiment: Experiment, scratch: Path) -> dict[str, float]:
    """Measure core-seconds and bytes of a volume, cut into as many slices as each archive has."""
    paths = sorted(path for path in folder.rglob("*") if path.name.lower().endswith(VOLUMES.file_suffixes))
    paths = paths[:NUM_VOLUMES_TIMED]
    rates: dict[str, float] = {"volume_bytes": float(np.mean([path.stat().st_size for path in paths]))}
    for num_slices in (AKOA_SLICES, OAI_SLICES):
        options = dataclasses.replace(experiment.preprocess, num_slices=num_slices)
        sources = [Source(path.name, path.name, "", (Path(path.name),)) for path in paths]
        keys = [compute_part_key(path.parent, [source], options) for path, source in zip(paths, sources, strict=True)]
        parts = [scratch / str(num_slices) / f"{key}.npz" for key in keys]

        def prepare(number: int, options: Any = options, sources: Any = sources, parts: Any = parts) -> None:
            folder = paths[number].parent
            part = prepare_part(folder, [sources[number]], options, parts[number], str(folder))
            assert part.num_channels == 1, part.sources

        prepare(0)  # libraries are loaded, the file is in the system's cache
        rates[f"volume_s_{num_slices}"] = core_seconds(lambda: [prepare(n) for n in range(len(paths))]) / len(paths)
        rates[f"part_bytes_{num_slices}"] = float(np.mean([part.stat().st_size for part in parts]))
    return rates


def measure_tables(experiment: Experiment, scratch: Path) -> dict[str, float]:
    """Measure a store of AKOA's size: bytes of a slice, and core-seconds of the split stage."""
    volume = np.repeat(np.arange(AKOA_VOLUMES), AKOA_SLICES)
    place = np.tile(np.arange(AKOA_SLICES), AKOA_VOLUMES)
    sources = [f"OAI9{n:06d}_BaseLine_3_de3d1_SAG_3D_DESS_WE_{SIDES[n % 2].upper()}" for n in range(AKOA_VOLUMES)]
    patients = np.array([f"9{n % AKOA_PATIENTS:06d}" for n in range(AKOA_VOLUMES)], dtype=object)
    columns = (
        [f"{sources[n]}_{i}" for n, i in zip(volume, place, strict=True)],
        np.array(sources, dtype=object)[volume],
        patients[volume],
        np.array(SIDES, dtype=object)[volume % 2],
        place,
        np.round(place / (AKOA_SLICES - 1) * 2 - 1, 6),
    )
    index = pd.DataFrame(dict(zip(INDEX_COLUMNS, columns, strict=True)))
    slices = np.random.default_rng(0).integers(0, 256, (len(index), *experiment.preprocess.image_size), dtype=np.uint8)
    write_store(scratch / "store", [slices], index, {})
    rates = {
        "slice_bytes": sum(path.stat().st_size for path in (scratch / "store").iterdir()) / len(index),
        "split_s": core_seconds(lambda: split_once(scratch / "store", experiment)) / len(index),
    }
    scores = np.random.default_rng(0).dirichlet((1, 1), len(index))
    test = build_predictions(index, scores, SIDES, "test")
    write_table(scratch / "predictions.csv", test, prediction_columns(SIDES))
    return rates | {"prediction_bytes": (scratch / "predictions.csv").stat().st_size / len(index)}


def split_once(folder: Path, experiment: Experiment) -> None:
    store = read_store(folder, verify=True)
    certify(store, assign_splits(store.index, experiment.split))


def measure_model(experiment: Experiment) -> dict[str, float]:
    """Measure core-seconds of training on a slice and of scoring one."""
    config = dataclasses.replace(experiment.train, accelerator="cpu")
    fabric = build_fabric(config)
    number = NUM_STEPS_TIMED * config.batch_size
    generator = np.random.default_rng(0)
    slices = generator.integers(0, 256, (number, *experiment.preprocess.image_size), dtype=np.uint8)
    positions = np.zeros(number, np.float32)
    examples = place_examples(slices, np.arange(number), np.arange(number) % 2, positions, fabric.device)
    few = place_examples(slices, np.arange(2), np.arange(2), positions[:2], fabric.device)
    spec = InputSpec(VOLUMES, 1, experiment.preprocess.image_size, experiment.preprocess.num_slices, ("left", "right"))
    model = build_model(experiment.model, spec, seed=0)
    classifier = Classifier(model, experiment.model, spec, (0.5,), (0.3,))
    epochs = start_epochs(fabric, classifier, examples, few, experiment)
    next(epochs)  # loads kernels
    train_s = core_seconds(lambda: next(epochs)) / number
    classifier.eval()

    def score() -> None:
        compute_probabilities(classifier, slices, positions, fabric.device, config.batch_size)

    score()
    return {"train_s": train_s, "score_s": core_seconds(score) / number}


def start_epochs(fabric: Fabric, classifier: Classifier, examples: Any, few: Any, experiment: Experiment) -> Any:
    config = dataclasses.replace(experiment.train, epochs=3)
    model, optimizer = fabric.setup(classifier.model, build_optimizer(classifier.model, config))
    state = TrainingState(classifier, model, optimizer, [])
    experiment = dataclasses.replace(experiment, train=config)
    return train_epochs(TrainingSetup(experiment, fabric, classifier.spec, examples, few), state)


def read_last_row(name: str, row: str, column: int) -> float:
    """Read a number from the last row of a committed table that begins so."""
    rows = [line for line in (FOLDER / name).read_text().splitlines() if line.startswith(f"| {row} |")]
    return float(rows[-1].split("|")[column].split()[0])


def count_cost(archive: Archive, rates: dict[str, float], experiment: Experiment) -> dict[str, float]:
    """Return bytes and core-seconds of an archive."""
    split = experiment.split
    num_test, num_val = (round(archive.slices * part) for part in (split.test_fraction, split.val_fraction))
    if archive.volumes == 1:
        num_test, num_val = archive.slices, 0  # a new knee is scored and not learned from
    num_train = archive.slices - num_test - num_val
    table_s = score_s = 0.0
    if archive.is_oai:
        table_s = sum(read_last_row("scale.md", step, 3) for step in TABLE_STEPS)
        score_s = sum(read_last_row("scale.md", step, 3) for step in SCORE_STEPS)
    return {
        "raw": archive.volumes * rates["volume_bytes"],
        "parts": archive.volumes * rates[f"part_bytes_{archive.slices_each}"],
        "store": archive.slices * rates["slice_bytes"],
        "predictions": num_test * rates["prediction_bytes"],
        "slices": num_train * float(np.prod(experiment.preprocess.image_size)),
        "preprocess": archive.volumes * rates[f"volume_s_{archive.slices_each}"],
        "split": archive.slices * rates["split_s"] + table_s,
        "epoch": num_train * rates["train_s"] + num_val * rates["score_s"],
        "score": num_test * rates["score_s"] + score_s,
        "num_train": num_train,
    }


def show_bytes(number: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number / 1e3:.0f} KB"


def show_time(seconds: float) -> str:
    if seconds >= 60:
        return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
    return f"{seconds:.1f} s"


def describe(rates: dict[str, float], experiment: Experiment, arguments: argparse.Namespace) -> str:
    gpu_rate: float | None = arguments.gpu_slices_per_second
    costs = [count_cost(archive, rates, experiment) for archive in ARCHIVES]
    size, epochs = experiment.preprocess.image_size, experiment.train.epochs

    def row(name: str, key: str, show: Callable[[float], str], times: float = 1.0) -> str:
        return f"| {name} | {' | '.join(show(times * cost[key]) if cost[key] > 0 else '' for cost in costs)} |"

    def gpu(times: float) -> str:
        seconds = [times * cost["num_train"] for cost in costs]
        shown = ["not measured" if gpu_rate is None else show_time(number / gpu_rate) for number in seconds]
        return " | ".join(text if number > 0 else "" for text, number in zip(shown, seconds, strict=True))

    tables = read_last_row("scale.md", "peak of memory", 3)
    versions = read_versions()
    header = " | ".join(f"{a.name}: {count_words(a.volumes, 'volume')}, {a.slices:,} slices" for a in ARCHIVES)
    lines = [
        f"What the stages cost with `{arguments.config}`: slices of {size[0]} x {size[1]}, {epochs} epochs. Computed "
        "by `reports/benchmarks/capacity.py` from measured rates.",
        "",
        f"| | {header} |",
        "|---|" + "---|" * len(ARCHIVES),
        row("disk: scans", "raw", show_bytes),
        row("disk: parts, from which preprocessing resumes", "parts", show_bytes),
        row("disk: store", "store", show_bytes),
        row("disk: `predictions.csv`", "predictions", show_bytes),
        row("memory: training slices, else read from disk", "slices", show_bytes),
        f"| memory: peak of tables | | | {tables:.1f} GiB |",
        row("core: preprocess", "preprocess", show_time),
        row("core: split and certificate", "split", show_time),
        row("core: train, an epoch with its validation", "epoch", show_time),
        row(f"core: train, {epochs} epochs", "epoch", show_time, epochs),
        row("core: score the test rows (of one knee, all)", "score", show_time),
        f"| GPU: train, an epoch | {gpu(1)} |",
        f"| GPU: train, {epochs} epochs | {gpu(epochs)} |",
        "",
        f"Rates of one core: {rates[f'volume_s_{AKOA_SLICES}']:.3f} s a volume into {AKOA_SLICES} slices and "
        f"{rates[f'volume_s_{OAI_SLICES}']:.3f} s into {OAI_SLICES}; {1 / rates['split_s']:,.0f} slices a second "
        f"through split and certificate, {1 / rates['train_s']:,.0f} trained on, {1 / rates['score_s']:,.0f} scored. A "
        f"volume ({arguments.source}) has {show_bytes(rates['volume_bytes'])}. The OAI's tables are "
        "those measured at its size ([scale](../reports/benchmarks/scale.md)). The search for copies is in the rate of "
        "the split, but for its comparison of all pairs of volumes, which grows with their square "
        "([benchmark](../reports/benchmarks/copies.md)).",
        "",
        "Times are of processor time on one core. Preprocessing takes that divided by the number of cores; the "
        "report's figures, baselines and probes are not counted.",
        "A GPU's rate is put in with `--gpu-slices-per-second`"
        + ("; none was measured." if gpu_rate is None else f": {gpu_rate:,.0f}."),
        "",
        f"{read_hardware()}; Python {versions['python']}, torch {versions['torch']}, {torch.get_num_threads()} thread; "
        f"commit {read_commit()}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
