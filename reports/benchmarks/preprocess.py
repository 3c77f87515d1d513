"""Measure preprocessing against the plain way, on the same volumes, in the same run.

    python reports/benchmarks/preprocess.py [--data FOLDER] [--rounds 3] [--output FILE]

The plain way is that of a short script: ``nibabel.load().get_fdata()``, min-max scaling of the whole
volume, 40 axial slices resized and written as PNG with Pillow, one process. Without ``--data`` the
volumes are synthetic ones of the size that OAI has (160 x 384 x 384).
"""

import argparse
import dataclasses
import hashlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from isal import isal_zlib
from joblib import Parallel, delayed
from PIL import Image
from threadpoolctl import threadpool_limits

from pipeline.config.data import PreprocessConfig
from pipeline.config.phantom import PhantomConfig
from pipeline.core.data_kinds import VOLUMES
from pipeline.core.files import write_bytes
from pipeline.core.provenance import count_cores, read_commit, read_hardware, read_versions
from pipeline.data.sources import Source
from pipeline.datasets.phantom.scans import make_phantom
from pipeline.preprocessing.parts import compute_part_key, prepare_part

OPTIONS = PreprocessConfig(num_slices=40, image_size=(64, 64), spacing_mm=2.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder of NIfTI volumes; by default full-size synthetic ones")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is timed; the median counts")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        folder = arguments.data or make_full_size(scratch / "raw")
        paths = sorted(path for path in folder.rglob("*") if path.name.lower().endswith(VOLUMES.file_suffixes))
        for path in paths:
            path.read_bytes()  # all ways find the files in the system's cache
        text = measure(paths, scratch, arguments.rounds, "synthetic" if arguments.data is None else folder.name)
    print(text)
    if arguments.output:
        write_bytes(arguments.output, text.encode())


def make_full_size(folder: Path) -> Path:
    full = {"shape": (160, 384, 384), "spacing_mm": (0.7, 0.365, 0.365)}
    config = dataclasses.replace(PhantomConfig(), num_patients=4, max_visits=1, **full)
    make_phantom(folder, config, count_cores())
    return folder


def measure(paths: list[Path], scratch: Path, num_rounds: int, source: str) -> str:
    num_workers = count_cores()
    ours = scratch / "ours"
    rounds: dict[str, list[float]] = {"plain": [], "ours": [], "ours, one core": [], "hash": [], "igzip": []}
    with Parallel(n_jobs=num_workers) as workers:
        workers(delayed(prepare_one)(path, scratch / "warm") for path in paths[: 2 * num_workers])
        for _ in range(num_rounds):
            rounds["plain"].append(timed(lambda: [slice_plainly(path, scratch / "plain") for path in paths]))
            shutil.rmtree(ours, ignore_errors=True)
            rounds["ours"].append(timed(lambda: workers(delayed(prepare_one)(path, ours) for path in paths)))
            # Processor time of this process alone: what one core does for a volume, whatever else runs here.
            one_core = timed(lambda: [prepare_one(path, ours) for path in paths], time.process_time)
            rounds["ours, one core"].append(one_core)
            rounds["igzip"].append(timed(lambda: [inflate(path) for path in paths], time.process_time))
            rounds["hash"].append(
                timed(lambda: [hashlib.sha256(path.read_bytes()) for path in paths], time.process_time)
            )
    seconds = {name: statistics.median(values) / len(paths) for name, values in rounds.items()}
    shape = "x".join(map(str, nibabel.load(paths[0]).shape))
    megabytes = sum(path.stat().st_size for path in paths) / len(paths) / 1e6
    versions = read_versions()
    lines = [
        f"Preprocessing {len(paths)} volumes ({source}), {shape} as stored, {megabytes:.1f} MB a file, "
        f"into 40 axial slices of 64 x 64; median of {num_rounds} rounds.",
        f"{read_hardware()}; Python {versions['python']}, numpy {versions['numpy']}, nibabel {versions['nibabel']}; "
        f"commit {read_commit()}.",
        "",
        "| way | seconds a volume | volumes a second |",
        "|---|---|---|",
        f"| plain: nibabel, min-max, Pillow PNG, one process | {seconds['plain']:.3f} | {1 / seconds['plain']:.2f} |",
        f"| this project, {num_workers} processes | {seconds['ours']:.3f} | {1 / seconds['ours']:.2f} |",
        "",
        f"Volumes a second, this project against the plain way: **{seconds['plain'] / seconds['ours']:.1f} times**.",
        f"Processor time a volume: {seconds['ours, one core']:.3f} s; decompressing alone (igzip) "
        f"{seconds['igzip']:.3f} s, ratio **{seconds['ours, one core'] / seconds['igzip']:.2f}**; "
        f"{seconds['hash']:.3f} s of it are the SHA-256 of the file for the manifest.",
        "",
    ]
    return "\n".join(lines)


def timed(work: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


def prepare_one(path: Path, folder: Path) -> None:
    source = Source(path.name, path.name, "", (Path(path.name),))
    key = compute_part_key(path.parent, [source], OPTIONS)
    part = prepare_part(path.parent, [source], OPTIONS, folder / f"{key}.npz", str(path.parent))
    assert part.num_channels == 1, part.sources


def inflate(path: Path) -> int:
    """Decompress as the reader does: in one piece, checksum compared."""
    return len(isal_zlib.decompress(path.read_bytes(), wbits=31))


def slice_plainly(path: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    image = nibabel.as_closest_canonical(nibabel.load(path))
    volume = image.get_fdata()
    volume = (volume - volume.min()) / (volume.max() - volume.min())
    for number, index in enumerate(np.linspace(0.1, 0.9, 40) * (volume.shape[2] - 1)):
        png = Image.fromarray((volume[:, :, round(index)].T[::-1, ::-1] * 255).astype(np.uint8))
        png.resize((64, 64), Image.Resampling.BILINEAR).save(folder / f"{path.name}_{number}.png")


if __name__ == "__main__":
    with threadpool_limits(1):  # as joblib does in its processes
        main()
