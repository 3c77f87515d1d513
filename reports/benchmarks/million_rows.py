"""Measure the memory and the time of evaluating a store of a million test rows.

    python reports/benchmarks/million_rows.py [--volumes 6250] [--folder FOLDER] [--output FILE]

The archive is made up: 160 slices of 8 x 8 pixels a volume, ten volumes a patient, the side as the label, a brighter
half as its sign. The stages themselves train a tiny model on ten patients and evaluate it on the patients of
``--volumes``, each in a process of its own. Tracking is off, and the search for copies is not part of it.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.cli import parse_experiment
from pipeline.copies.certificate import certify
from pipeline.core.array_types import Array
from pipeline.core.data_kinds import POINTS
from pipeline.core.files import write_bytes, write_checksummed_json
from pipeline.core.provenance import read_commit, read_hardware, read_versions
from pipeline.core.serialization import flatten
from pipeline.core.tables import INDEX_COLUMNS, MANIFEST_COLUMNS, SPLIT_COLUMNS, write_table
from pipeline.core.workspace import Workspace
from pipeline.data.store import read_store, write_store

ROOT = Path(__file__).parents[2]
SLICES, SIZE, VOLUMES_PER_PATIENT = 160, 8, 10
SIDES = ("left", "right")
# Patients of train, and as many of val; all others are tested.
NUM_TRAINED = 10
OPTIONS = (
    *("--name", "rows", "--tracking.enabled", "false", "--preprocess.num_slices", str(SLICES)),
    *("--preprocess.image_size", f"[{SIZE},{SIZE}]", "--model.num_conv_layers", "1", "--model.conv_channels", "16"),
    *("--model.mirror_tta", "false", "--model.perceiver.num_latents", "4", "--model.perceiver.latent_dim", "32"),
    *("--model.perceiver.self_attends_per_cross", "1", "--train.epochs", "1", "--evaluate.batch_size", "1024"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volumes", type=int, default=6_250, help="volumes that are tested, 160 rows each")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to be read")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        words = ["--config", str(ROOT / "configs" / "phantom.yaml"), "--workspace", folder, *OPTIONS]
        num_volumes = arguments.volumes + 2 * NUM_TRAINED * VOLUMES_PER_PATIENT
        make_data(parse_experiment("evaluate", words).paths, num_volumes)
        rows = []
        for stage in ("train", "evaluate"):
            rows.append(f"| {stage} | {run_alone(stage, words)} |")
            print(rows[-1], file=sys.stderr, flush=True)
    text = (
        f"`python reports/benchmarks/million_rows.py`: {arguments.volumes * SLICES:,} test rows of {SIZE} x {SIZE} "
        f"pixels, {arguments.volumes // VOLUMES_PER_PATIENT:,} patients.\n{read_hardware()}; Python "
        f"{read_versions()['python']}, torch {read_versions()['torch']}, OMP_NUM_THREADS "
        f"{os.environ.get('OMP_NUM_THREADS', 'unset')}; commit {read_commit()}. Other processes ran at the same time.\n"
        "\n| stage | processor time | time | peak of resident memory |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )
    print(text)
    if arguments.output:
        write_bytes(arguments.output, text.encode())


def run_alone(stage: str, words: list[str]) -> str:
    """Run a stage in a process of its own; return the cells of its row."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "pipeline", stage, *words], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, stage
    seconds = time.perf_counter() - started
    return f"{usage.ru_utime + usage.ru_stime:.0f} s | {seconds:.0f} s | {usage.ru_maxrss / 2**20:.2f} GiB"


def make_data(paths: Workspace, num_volumes: int) -> None:
    """Write the store with its manifest, the splits, and their certificate."""
    paths.prepared.mkdir(parents=True)
    number = np.arange(num_volumes)
    scans = pd.DataFrame(
        {
            "source_id": [f"9{n // 10:06d}_{n // 2 % 5}_{SIDES[n % 2]}" for n in number],
            "group_id": [f"9{n // VOLUMES_PER_PATIENT:06d}" for n in number],
            "label": [SIDES[n % 2] for n in number],
            "visit": [str(n // 2 % 5) for n in number],
            "status": "accepted",
            "num_files": 1,
            "num_examples": SLICES,
        }
    )
    scans["side"] = scans["label"]
    manifest = scans.reindex(columns=list(MANIFEST_COLUMNS), fill_value="")
    write_table(paths.manifest, manifest, MANIFEST_COLUMNS)
    index = scans.loc[number.repeat(SLICES), ["source_id", "group_id", "label"]].reset_index(drop=True)
    index["slice_index"] = np.tile(np.arange(SLICES), num_volumes)
    index["slice_position"] = np.round(index["slice_index"] / (SLICES - 1) * 2 - 1, 6)
    index["example_id"] = index["source_id"] + "_" + index["slice_index"].astype(str)
    write_store(paths.prepared, draw_slices(num_volumes), index[list(INDEX_COLUMNS)], read_settings(paths))
    patients = scans["group_id"].drop_duplicates().reset_index(drop=True)
    role = np.select([patients.index < NUM_TRAINED, patients.index < 2 * NUM_TRAINED], ["train", "val"], "test")
    splits = pd.DataFrame({"group_id": patients, "split": role})
    write_table(paths.splits, splits, SPLIT_COLUMNS)
    # Of point clouds the certificate compares bits alone.
    certificate = certify(dataclasses.replace(read_store(paths.prepared), kind=POINTS), splits)
    write_checksummed_json(paths.certificate, dict(certificate))


def read_settings(paths: Workspace) -> dict[str, object]:
    words = ["--config", str(ROOT / "configs" / "phantom.yaml"), "--workspace", str(paths.root), *OPTIONS]
    return {"version": 2, "unit": "slice", **flatten(parse_experiment("preprocess", words).preprocess)}


def draw_slices(num_volumes: int) -> Iterator[Array]:
    """Draw the slices of each volume, ``(slices, height, width)`` uint8, a little brighter on its own side."""
    generator = np.random.default_rng(0)
    for n in range(num_volumes):
        slices = generator.integers(0, 200, (SLICES, SIZE, SIZE), dtype=np.uint8)
        half = slice(None, SIZE // 2) if n % 2 == 0 else slice(SIZE // 2, None)
        slices[..., half] += 30
        yield slices


if __name__ == "__main__":
    main()
