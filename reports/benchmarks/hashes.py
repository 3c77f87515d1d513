"""Measure the search for near-duplicates up to the size of the whole OAI.

    python reports/benchmarks/hashes.py [--images 100000 800000 8000000] [--stores FOLDER ...] [--output FILE]

Hashes are random, or made from a prepared store's as an archive would have them: 1,600 images for each patient, whose
hashes differ from the store's in bits drawn at the rate at which each bit varies there, so that black areas stay black.
One image in ten thousand is a copy of another patient's, with up to six bits changed; all of these must be found.
Each size runs in a process of its own, so that its peak of memory is its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.files import write_bytes
from pipeline.core.provenance import read_commit, read_hardware, read_versions
from pipeline.data.hamming_search import NUM_BITS, find_close_hashes
from pipeline.data.near_duplicates import compute_perceptual_hashes
from pipeline.data.store import read_store

IMAGES_PER_PATIENT = 1600
MAX_BITS = 6
PER_COPY = 10_000
# The part of a bit's own rate of change: two patients' images of one place then differ in some 40 bits.
CHANGE_RATE = 0.3
CHUNK = 65_536
Array = np.ndarray[Any, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[100_000, 800_000, 8_000_000])
    parser.add_argument("--stores", type=Path, nargs="*", default=[Path("data/phantom/prepared")])
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parser.add_argument("--one", type=int, help="measure this size alone, on the first store or at random")
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(measure(arguments.one, arguments.stores[0] if arguments.stores else None)))
        return
    results = [run_alone(number, store) for store in (None, *arguments.stores) for number in sorted(arguments.images)]
    text = describe(results)
    print(text)
    if arguments.output:
        write_bytes(arguments.output, text.encode())


def run_alone(number: int, store: Path | None) -> dict[str, Any]:
    words = [sys.executable, __file__, "--one", str(number), "--stores", *([str(store)] if store else [])]
    ended = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    print(found, file=sys.stderr, flush=True)
    return found


def measure(number: int, store: Path | None) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    if store is None:
        hashes = generator.integers(0, 2**64, (number, NUM_BITS // 64), dtype=np.uint64)
    else:
        hashes = make_hashes(compute_perceptual_hashes(read_store(store).examples), number, generator)
    patients = np.arange(number) // IMAGES_PER_PATIENT % 20
    codes = np.where(patients < 12, 0, np.where(patients < 15, 1, 2))
    planted = plant_copies(hashes, codes, generator)
    before = read_peak_gib()
    started = time.perf_counter()
    found: set[tuple[int, int]] = set()
    count = 0
    for first, second, _ in find_close_hashes(hashes, codes, MAX_BITS):
        found.update(zip(first.tolist(), second.tolist(), strict=True))
        count += len(first)
    seconds = time.perf_counter() - started
    return {
        "images": number,
        "hashes": str(store.parent.name) if store else "random",
        "seconds": seconds,
        "peak_gib": read_peak_gib(),
        "before_gib": before,
        "planted": len(planted),
        "planted_found": len(planted & found),
        "found": count,
    }


def read_peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def make_hashes(true_hashes: Array, number: int, generator: np.random.Generator) -> Array:
    """Return ``(number, 4)`` uint64: hashes drawn from the true ones, with bits changed."""
    fraction = np.unpackbits(true_hashes.view(np.uint8), axis=1).mean(axis=0)
    rate = (CHANGE_RATE * np.minimum(fraction, 1 - fraction)).astype(np.float32)
    hashes = np.empty((number, NUM_BITS // 64), np.uint64)
    for start in range(0, number, CHUNK):
        chunk = hashes[start : start + CHUNK]
        changes = np.packbits(generator.random((len(chunk), NUM_BITS), np.float32) < rate, axis=1).view(np.uint64)
        chunk[:] = true_hashes[generator.integers(0, len(true_hashes), len(chunk))] ^ changes
    return hashes


def plant_copies(hashes: Array, codes: Array, generator: np.random.Generator) -> set[tuple[int, int]]:
    """Make some images near copies of images in another split; return the pairs, the smaller row first."""
    rows = generator.permutation(len(hashes))[: 2 * (len(hashes) // PER_COPY)]
    pairs = set()
    for original, copy in rows.reshape(-1, 2).tolist():
        if codes[original] == codes[copy]:
            continue
        hashes[copy] = hashes[original]
        for place in generator.permutation(NUM_BITS)[: generator.integers(0, MAX_BITS + 1)].tolist():
            hashes[copy, place // 64] ^= np.uint64(1 << place % 64)
        pairs.add((min(original, copy), max(original, copy)))
    return pairs


def describe(results: list[dict[str, Any]]) -> str:
    versions = read_versions()
    lines = [
        f"Search for pairs of images of different splits whose hashes differ in up to {MAX_BITS} of {NUM_BITS} bits.",
        f"{read_hardware()}, one core used; Python {versions['python']}, numpy {versions['numpy']}, OMP_NUM_THREADS "
        f"{os.environ.get('OMP_NUM_THREADS', 'not set')}; commit {read_commit()}. "
        "Other processes ran at the same time.",
        "",
        "| hashes | images | seconds | peak of memory | planted copies found | pairs found |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['hashes']} | {r['images']:,} | {r['seconds']:.1f} | {r['peak_gib']:.2f} GiB | "
        f"{r['planted_found']:,} of {r['planted']:,} | {r['found']:,} |"
        for r in results
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
