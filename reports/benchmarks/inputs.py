"""Measure the reading of images and DICOM series against the libraries alone, on the same files, in the same run.

    python reports/benchmarks/inputs.py [--images FOLDER] [--table CSV] [--rounds 3] [--output FILE]

A table: processor time of reading a synthetic CSV of 100,000 rows (path, patient, label; two files a patient, a folder
for 1,000) and of finding the files, which are empty and there, as ``preprocess`` does before it opens the first.
Images: processor time of fitting images (``prepare_part``: decode, turn, fit, check, keep) against Pillow's decoding
alone. Without ``--images`` they are synthetic JPEGs of 160 x 160 pixels. With ``--table`` the whole preprocess stage is
timed too, without its start, which is that of the same stage on 256 images, two parts for two processes. Series: noise
of 100 slices of 384 x 384 pixels, as folders and as tar.gz, against ``pydicom.dcmread(path).pixel_array`` of each file.
"""

import argparse
import io
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image

from pipeline.config.data import PreprocessConfig
from pipeline.config.sources import DataConfig
from pipeline.core.files import write_bytes
from pipeline.core.provenance import count_cores, read_commit, read_hardware, read_versions
from pipeline.data.label_tables import list_table_sources, read_label_table
from pipeline.data.sources import Source
from pipeline.formats.dicom import read_series
from pipeline.preprocessing.parts import compute_part_key, prepare_part
from tests.builders.dicom import write_series

IMAGES_A_PART = 128
NUM_SYNTHETIC = 1024
NUM_ROWS, FILES_A_FOLDER = 100_000, 1_000
SERIES_SHAPE = (100, 384, 384)
NUM_START = 2 * IMAGES_A_PART  # images of the run that measures the start of the stage and of its two processes
OPTIONS = PreprocessConfig(image_size=(64, 64))
CONFIG = """
name: images
data: {{dataset: labelled, raw_folder: {raw}, label_table: {table}}}
preprocess: {{image_size: [64, 64]}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="a folder of JPEG files; by default synthetic ones")
    parser.add_argument("--table", type=Path, help="a table path, patient, label of them: the whole stage is timed too")
    parser.add_argument("--rounds", type=int, default=3, help="how often each way is timed; the median counts")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        raw = arguments.images or make_images(scratch / "images")
        paths = sorted(path for path in raw.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        lines = [
            f"{read_hardware()}; Python {read_versions()['python']}, numpy {read_versions()['numpy']}, Pillow "
            f"{Image.__version__}, pydicom {pydicom.__version__}; commit {read_commit()}. Median of {arguments.rounds} "
            "rounds; ratios are of one run.",
            "",
            *measure_table(scratch / "rows", arguments.rounds),
            *measure_images(raw, paths, scratch, arguments.rounds),
            *(measure_stage(raw, arguments.table, paths, scratch) if arguments.table else []),
            *measure_series(scratch, arguments.rounds),
        ]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output:
        write_bytes(arguments.output, text.encode())


def make_images(folder: Path) -> Path:
    folder.mkdir()
    rows, columns = np.mgrid[:160, :160]
    for number in range(NUM_SYNTHETIC):
        noise = np.random.default_rng(number).normal(0, 12, (160, 160))
        levels = 128 + 60 * np.sin(rows / (9 + number % 7)) * np.cos(columns / (11 + number % 5)) + noise
        Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)
    return folder


def measure_table(folder: Path, num_rounds: int) -> list[str]:
    rows = ["path,patient,label"]
    for number in range(NUM_ROWS):
        if number % FILES_A_FOLDER == 0:
            (folder / str(number)).mkdir(parents=True)
        name = f"{number - number % FILES_A_FOLDER}/{number}.png"
        (folder / name).touch()
        rows.append(f"{name},{9_000_000 + number // 2},{number % 2}")
    (folder / "scans.csv").write_text("\n".join(rows) + "\n")
    options = DataConfig(label_table=folder / "scans.csv")
    given = read_label_table(options)
    ways: dict[str, Callable[[], Any]] = {
        "reading": lambda: read_label_table(options),
        "finding": lambda: list_table_sources(folder, given),
    }
    assert len(ways["finding"]()) == NUM_ROWS
    seconds = alternate(ways, num_rounds)
    return [
        f"A table of {NUM_ROWS:,} rows, processor time of one core: read in **{seconds['reading']:.2f} s**, its files "
        f"found in {seconds['finding']:.2f} s.",
        "",
    ]


def measure_images(raw: Path, paths: list[Path], scratch: Path, num_rounds: int) -> list[str]:
    sources = [Source(str(path), str(path), "", (path.relative_to(raw),), is_image=True) for path in paths]
    parts = [sources[start : start + IMAGES_A_PART] for start in range(0, len(sources), IMAGES_A_PART)]

    def prepare() -> None:
        for part in parts:
            key = compute_part_key(raw, part, OPTIONS)
            assert prepare_part(raw, part, OPTIONS, scratch / "parts" / f"{key}.npz", str(raw)).num_channels

    def decode() -> None:
        for path in paths:
            with Image.open(path) as image:
                image.load()

    decode()  # the files are in the system's cache
    seconds = alternate({"plain": decode, "ours": prepare}, num_rounds)
    ours, plain = (1e6 * seconds[name] / len(paths) for name in ("ours", "plain"))
    return [
        f"{len(paths):,} JPEG files, into 64 x 64 pixels, processor time of one core:",
        "",
        "| way | microseconds an image |",
        "|---|---|",
        f"| Pillow decodes them, nothing else | {plain:.0f} |",
        f"| this project fits, checks and keeps them | {ours:.0f} |",
        "",
        f"Ratio: **{ours / plain:.2f}**.",
        "",
    ]


def measure_stage(raw: Path, table: Path, paths: list[Path], scratch: Path) -> list[str]:
    rows = table.read_text().splitlines()
    (scratch / "few.csv").write_text("\n".join(rows[: NUM_START + 1]) + "\n")
    seconds = {}
    for name, given in (("few", scratch / "few.csv"), ("all", table.absolute())):
        config = scratch / f"{name}.yaml"
        config.write_text(CONFIG.format(raw=raw.absolute(), table=given))
        words = ("preprocess", "--config", str(config), "--workspace", str(scratch / name))
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "pipeline", *words], check=True, capture_output=True)
        seconds[name] = time.perf_counter() - start
    start = time.perf_counter()
    for path in paths[NUM_START:]:
        with Image.open(path) as image:
            image.load()
    plain, ours = time.perf_counter() - start, seconds["all"] - seconds["few"]
    return [
        f"The whole stage on {len(rows) - 1:,} images, {count_cores()} processes: {ours:.1f} s after its start and the "
        f"first {NUM_START} images, {seconds['few']:.1f} s; Pillow alone in one process on the same {plain:.1f} s. "
        f"Ratio: **{ours / plain:.2f}**.",
        "",
    ]


def measure_series(scratch: Path, num_rounds: int) -> list[str]:
    voxels = np.random.default_rng(0).integers(0, 1000, SERIES_SHAPE).astype(np.int16)
    folder = write_series(scratch / "series", voxels)
    paths, archive = tuple(sorted(folder.iterdir())), scratch / "series.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=6) as packed:
        packed.add(folder, "series")

    def read_plainly() -> None:
        for path in paths:
            assert pydicom.dcmread(path).pixel_array.shape == SERIES_SHAPE[1:]

    def read_archive_plainly() -> None:
        with tarfile.open(archive, "r|gz") as stream:
            for member in stream:
                file = stream.extractfile(member) if member.isfile() else None
                if file is not None:
                    assert pydicom.dcmread(io.BytesIO(file.read())).pixel_array.shape == SERIES_SHAPE[1:]

    ways: dict[str, Callable[[], Any]] = {
        "plain": read_plainly,
        "ours": lambda: read_series("series", paths),
        "plain tar.gz": read_archive_plainly,
        "ours tar.gz": lambda: read_series("series", (archive,)),
    }
    read_series("series", paths)
    seconds = alternate(ways, num_rounds)
    return [
        f"A series of {'x'.join(map(str, SERIES_SHAPE))} voxels, a file a slice, processor time of one core:",
        "",
        "| way | folder, seconds | tar.gz, seconds |",
        "|---|---|---|",
        f"| pydicom reads all pixels, tarfile unpacks | {seconds['plain']:.3f} | {seconds['plain tar.gz']:.3f} |",
        f"| this project: a volume, checked and stacked | {seconds['ours']:.3f} | {seconds['ours tar.gz']:.3f} |",
        "",
        f"Rate against pydicom's: folder **{seconds['plain'] / seconds['ours']:.0%}**, tar.gz "
        f"**{seconds['plain tar.gz'] / seconds['ours tar.gz']:.0%}**.",
        "",
    ]


def alternate(ways: dict[str, Callable[[], Any]], num_rounds: int) -> dict[str, float]:
    """Time each way in turn, in processor time of this process, and return the medians."""
    rounds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(num_rounds):
        for name, work in ways.items():
            start = time.process_time()
            work()
            rounds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in rounds.items()}


if __name__ == "__main__":
    main()
