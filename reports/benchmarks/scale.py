"""Measure how tables, splits, certificate and scores grow up to the size of the whole OAI.

    python reports/benchmarks/scale.py [--volumes 5000 50000] [--output FILE]

The archive is made up: 160 slices a volume, ten volumes a patient, labels by side. Slices are 4 x 4 pixels of noise,
because only the tables are measured. Each size runs in a process of its own, so that its peak of memory is its own.
The search for copies is not part of it.
"""

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.config.sources import SplitConfig
from pipeline.copies.certificate import certify
from pipeline.core.data_kinds import POINTS
from pipeline.core.files import write_bytes
from pipeline.core.provenance import read_commit, read_hardware, read_versions
from pipeline.core.tables import INDEX_COLUMNS, SPLIT_COLUMNS, prediction_columns, write_table
from pipeline.data.leak_certificate import check_certificate
from pipeline.data.splits import assign_splits, resolve_roles
from pipeline.data.store import read_store, write_store
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.metrics import compute_levels
from pipeline.evaluation.predictions import build_predictions, read_predictions

SLICES = 160
VOLUMES_PER_PATIENT = 10
SIDES = ("left", "right")
NUM_RESAMPLES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volumes", type=int, nargs="+", default=[5_000, 50_000], help="sizes of the archive")
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    parser.add_argument("--one", type=int, help="measure this size alone and print JSON")
    arguments = parser.parse_args()
    if arguments.one is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(Path(folder), arguments.one)))
        return
    results = [run_alone(number) for number in arguments.volumes]
    text = describe(results)
    print(text)
    if arguments.output:
        write_bytes(arguments.output, text.encode())


def run_alone(num_volumes: int) -> dict[str, Any]:
    words = [sys.executable, __file__, "--one", str(num_volumes)]
    ended = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def measure(folder: Path, num_volumes: int) -> dict[str, Any]:
    steps: dict[str, dict[str, float]] = {}

    def step(name: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        steps[name] = {"seconds": seconds, "peak_gib": peak}
        print(f"{num_volumes} {name} {seconds:.1f} s {peak:.2f} GiB", file=sys.stderr, flush=True)
        return result

    made = [step("make up the index", lambda: make_index(num_volumes))]
    step("write the store", lambda: write_store(folder, make_slices(num_volumes), made.pop(), {}))
    store = step("read the store, checksums compared", lambda: read_store(folder, verify=True))
    splits = step("assign splits", lambda: assign_splits(store.index, SplitConfig()))
    step("write splits", lambda: write_table(folder / "splits.csv", splits, SPLIT_COLUMNS))
    step("certificate, without the search for copies", lambda: certify_tables(folder, store, splits))
    roles = resolve_roles(splits, SplitConfig())
    test = step("predictions of the test rows", lambda: make_predictions(store, roles))
    columns = prediction_columns(SIDES)
    step("write predictions", lambda: write_table(folder / "predictions.csv", test, columns))
    num_test, num_patients = len(test), int(test["group_id"].nunique())
    del test
    test = step("read predictions", lambda: read_predictions(folder / "predictions.csv", SIDES))
    step("scores and intervals, 2,000 resamples", lambda: compute_levels(test, SIDES, Bootstrap(NUM_RESAMPLES)))
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    return {
        "volumes": num_volumes,
        "slices": num_volumes * SLICES,
        "steps": steps,
        "sizes": sizes,
        "test_rows": num_test,
        "test_patients": num_patients,
    }


def make_index(num_volumes: int) -> pd.DataFrame:
    volume = np.repeat(np.arange(num_volumes), SLICES)
    slice_index = np.tile(np.arange(SLICES), num_volumes)
    sources = np.array([f"90{n:05d}_visit{n // 2 % 5}_{SIDES[n % 2]}" for n in range(num_volumes)], dtype=object)
    patients = np.array([f"9{n // VOLUMES_PER_PATIENT:06d}" for n in range(num_volumes)], dtype=object)
    examples = [f"{sources[n]}_{place}" for n in range(num_volumes) for place in range(SLICES)]
    columns = (
        examples,
        sources[volume],
        patients[volume],
        np.array(SIDES, dtype=object)[volume % 2],
        slice_index,
        np.round(slice_index / (SLICES - 1) * 2 - 1, 6),
    )
    return pd.DataFrame(dict(zip(INDEX_COLUMNS, columns, strict=True)))


def make_slices(num_volumes: int) -> Any:
    generator = np.random.default_rng(0)
    for _ in range(num_volumes):
        yield generator.integers(0, 256, (SLICES, 4, 4), dtype=np.uint8)


def certify_tables(folder: Path, store: Any, splits: pd.DataFrame) -> None:
    """Certify patients and exact duplicates; of point clouds the certificate compares bits alone."""
    certificate = certify(dataclasses.replace(store, kind=POINTS), splits)
    write_bytes(folder / "leak_certificate.json", json.dumps(certificate).encode())
    check_certificate(folder / "leak_certificate.json", store, splits)


def make_predictions(store: Any, roles: dict[str, str]) -> pd.DataFrame:
    rows = np.flatnonzero((store.index["group_id"].map(roles) == "test").to_numpy())
    index = store.index.iloc[rows]
    generator = np.random.default_rng(0)
    is_right = (index["label"] == "right").to_numpy()
    right = 1 / (1 + np.exp(-generator.normal(np.where(is_right, 1.5, -1.5), 1.5)))
    return build_predictions(index, np.stack([1 - right, right], axis=1), SIDES, "test")


def describe(results: list[dict[str, Any]]) -> str:
    versions = read_versions()
    lines = [
        "Tables, splits, certificate and scores of a made-up archive, 160 slices a volume, ten volumes a patient.",
        f"{read_hardware()}; Python {versions['python']}, numpy {versions['numpy']}, OMP_NUM_THREADS "
        f"{os.environ.get('OMP_NUM_THREADS', 'not set')}; commit {read_commit()}. "
        "Other processes ran at the same time.",
        "",
        "| step | " + " | ".join(f"{r['volumes']:,} volumes, {r['slices']:,} slices" for r in results) + " | growth |",
        "|---|" + "---|" * (len(results) + 1),
    ]
    for name in results[0]["steps"]:
        found = [result["steps"][name]["seconds"] for result in results]
        growth = f"{found[-1] / max(found[0], 1e-9):.1f} times" if len(found) > 1 else ""
        lines.append(f"| {name} | " + " | ".join(f"{seconds:.2f} s" for seconds in found) + f" | {growth} |")
    totals = [sum(step["seconds"] for step in result["steps"].values()) for result in results]
    peaks = [max(step["peak_gib"] for step in result["steps"].values()) for result in results]
    lines.append(f"| all | {' | '.join(f'{total:.0f} s' for total in totals)} | {totals[-1] / totals[0]:.1f} times |")
    lines.append(f"| peak of memory | {' | '.join(f'{p:.2f} GiB' for p in peaks)} | {peaks[-1] / peaks[0]:.1f} times |")
    tests = [f"{result['test_rows']:,} rows of {result['test_patients']:,} patients" for result in results]
    lines.append(f"| tested | {' | '.join(tests)} | |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
