"""Measure the search for copies: recall of each alteration, false alarms, time, and copies that must stop training.

    python reports/benchmarks/copies.py [--stores FOLDER ...] [--radiographs FOLDER] [--volumes 200000] [--output FILE]
    python reports/benchmarks/copies.py --leaks FOLDER

FOLDER of ``--stores`` is a prepared store of volumes; that of ``--radiographs`` holds ``knees.csv`` (path, patient,
kl_grade, published_split) and the files that it names. A copied scan is found where it is among the candidates of the
copy, and agrees with it more significantly than with its look-alikes. The search at size is on
made-up descriptors, in a process of its own. FOLDER of ``--leaks`` is a store of volumes, one of which is altered and
put into training under a patient of its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from pipeline.copies.alterations import ALTERATIONS, VOLUME_ALTERATIONS, Alteration, compress, crop, to_grey
from pipeline.copies.candidates import NUM_DIRECTIONS, find_candidates, fit_metric, read_grey
from pipeline.copies.certificate import certify
from pipeline.copies.descriptors import Sources, describe_sources, describe_stacks
from pipeline.copies.search import MIN_SIMILARITY, Comparer, measure_bounds, measure_thresholds, search_copies
from pipeline.core.files import write_bytes
from pipeline.core.provenance import read_commit, read_hardware, read_versions
from pipeline.data.store import Store, read_store

NUM_COPIED_VOLUMES, NUM_COPIED_IMAGES = 16, 100
Array = np.ndarray[Any, Any]


def _rotate(stack: Array, degrees: float) -> Array:
    return to_grey(ndimage.rotate(stack.astype(float), degrees, (1, 2), reshape=False, order=1))


def _zoom(stack: Array) -> Array:
    """Pad each slice at its border by a thirty-second part of its height, and reduce it to the old size."""
    height, width = stack.shape[1:]
    padded = np.pad(stack.astype(float), ((0, 0), (height // 32,) * 2, (height // 32,) * 2), mode="edge")
    return to_grey(ndimage.zoom(padded, (1, height / padded.shape[1], width / padded.shape[2]), order=1))


def _average_neighbours(stack: Array) -> Array:
    between = to_grey((stack[:-1].astype(float) + stack[1:]) / 2)
    return np.concatenate([between, between[-1:]])


# Others than those that the metric is fitted on, made with another library.
LEAKS: dict[str, Alteration] = {
    "identical": lambda stack, _: stack,
    "one grey level brighter": lambda stack, _: to_grey(stack + 1.0),
    "contrast of 90 %": lambda stack, _: to_grey(stack * 0.9),
    "contrast of 85 %, 8 grey levels brighter": lambda stack, _: to_grey(stack * 0.85 + 8),
    "gamma 1.3": lambda stack, _: to_grey(255 * (stack / 255) ** 1.3),
    "inverted": lambda stack, _: 255 - stack,
    "noise of 2 grey levels": lambda stack, generator: to_grey(stack + generator.normal(0, 2, stack.shape)),
    "noise of 5 grey levels": lambda stack, generator: to_grey(stack + generator.normal(0, 5, stack.shape)),
    "JPEG of quality 50": lambda stack, _: compress(stack),
    "shifted by one pixel": lambda stack, _: np.roll(stack, 1, 2),
    "shifted by two pixels": lambda stack, _: np.roll(stack, 2, 2),
    "shifted by half a pixel": lambda stack, _: to_grey(ndimage.shift(stack.astype(float), (0, 0, 0.5), order=1)),
    "rotated by 2 degrees": lambda stack, _: _rotate(stack, 2),
    "rotated by 5 degrees": lambda stack, _: _rotate(stack, 5),
    "zoomed out by 6 %": lambda stack, _: _zoom(stack),
    "cropped by 10 %": lambda stack, _: crop(stack, 0.1, (0.5, 0.5)),
    "mirrored, with the other label": lambda stack, _: stack[:, :, ::-1],
    "slices half-way between neighbours": lambda stack, _: _average_neighbours(stack),
    "each slice the next one": lambda stack, _: np.concatenate([stack[1:], stack[-1:]]),
}


@dataclass(frozen=True)
class Result:
    """The measurements on one store; ``recall`` holds found copies, least similarity and significance by alteration."""

    name: str
    num_scans: int
    num_copied: int
    threshold: float
    recall: dict[str, tuple[int, float, float]]
    pairs: int
    candidates: int
    compared: int
    false_stops: int
    unverified: int
    closest: float
    search_s: float
    slice_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stores", type=Path, nargs="*", default=[Path("data/phantom/prepared")])
    parser.add_argument("--radiographs", type=Path, help="folder of knees.csv")
    parser.add_argument("--side", type=int, help="reduce the radiographs to so many pixels first")
    parser.add_argument("--volumes", type=int, default=200_000, help="size of the made-up archive; 0 for none")
    parser.add_argument("--images", type=int, default=NUM_COPIED_IMAGES, help="radiographs that are copied")
    parser.add_argument("--scans", type=int, default=NUM_COPIED_VOLUMES, help="volumes of a store that are copied")
    parser.add_argument("--output", type=Path, help="also write the tables to this file")
    parser.add_argument("--one", type=int, help="search among this number alone and print JSON")
    parser.add_argument(
        "--leaks", type=Path, help="alter a scan of this store and certify splits with its copy, no more"
    )
    arguments = parser.parse_args()
    if arguments.leaks is not None:
        print("\n".join(describe_leaks(read_store(arguments.leaks))))
        return
    if arguments.one is not None:
        print(json.dumps(search_at_size(arguments.one)))
        return
    stores = [(folder.parent.name, read_store(folder)) for folder in arguments.stores]
    results = []
    if arguments.radiographs:
        store, is_train = read_radiographs(arguments.radiographs, arguments.side)
        name = f"radiographs, {store.examples.shape[1]} x {store.examples.shape[2]}"
        results.append(measure(name, store, is_train, arguments.images))
    results += [
        measure(name, store, np.ones(store.index["source_id"].nunique(), bool), arguments.scans)
        for name, store in stores
    ]
    at_size = None
    if arguments.volumes:
        words = [sys.executable, __file__, "--one", str(arguments.volumes)]
        at_size = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)
    text = describe(results, at_size)
    print(text)
    if arguments.output:
        write_bytes(arguments.output, text.encode())


def read_radiographs(folder: Path, side: int | None) -> tuple[Store, Array]:
    """Read the radiographs, reduced to ``side`` pixels, and which of them are in the published train split."""
    table = pd.read_csv(folder / "knees.csv", dtype=str)
    opened = (Image.open(folder / path).convert("L") for path in table["path"])
    images = np.stack(
        [np.asarray(image if side is None else image.resize((side, side), Image.Resampling.BOX)) for image in opened]
    )
    names = [Path(path).stem for path in table["path"]]
    index = pd.DataFrame({"example_id": names, "source_id": names, "group_id": table["patient"]})
    index = index.assign(label=table["kl_grade"], slice_index=0, slice_position=0.0)
    return Store(images, index, (), {}, ""), (table["published_split"] == "train").to_numpy()


def measure(name: str, store: Store, is_copied: Array, number: int) -> Result:
    """Measure false alarms on a store as it is, and the recall of altered copies of some of its scans.

    Args:
        name: The name in the tables.
        store: The scans.
        is_copied: The scans that may be copied, a mask.
        number: How many are.
    """
    started = time.process_time()
    sources = describe_sources(store)
    slice_ms = 1e3 * (time.process_time() - started) / len(store.index)
    started = time.process_time()
    found = search_copies(store, np.full(len(store.index), ""))
    search_s = time.process_time() - started
    others = [
        [pair for pair in pairs if sources.group_ids[pair.first] != sources.group_ids[pair.second]]
        for pairs in (found.verified, found.unverified)
    ]
    closest = max((pair.similarity for pair in (*others[0], *others[1])), default=0.0)
    print(
        name, "verified", others[0][:5], "unverified", others[1][:5], f"{search_s:.0f} s", file=sys.stderr, flush=True
    )
    num_unrelated = sum(
        int((sources.group_ids[place + 1 :] != group).sum()) for place, group in enumerate(sources.group_ids)
    )
    recall, threshold, num_copied = measure_recall(store, sources, is_copied, number)
    return Result(
        name, len(sources.rows), num_copied, threshold, recall, num_unrelated, found.num_candidates, found.num_compared,
        len(others[0]), len(others[1]), closest, search_s, slice_ms,
    )  # fmt: skip


def measure_recall(
    store: Store, sources: Sources, is_copied: Array, number: int
) -> tuple[dict[str, tuple[int, float, float]], float, int]:
    generator = np.random.default_rng(1)
    has_slices = max(len(rows) for rows in sources.rows) > 1
    chosen = np.sort(generator.permutation(np.flatnonzero(is_copied))[:number])
    number = len(chosen)
    metric = fit_metric(store, sources)
    points = metric.project(sources.descriptors)
    comparer = Comparer(store, sources, metric)
    neighbours = find_candidates(points, sources.group_ids, metric.max_distance).neighbours
    threshold = measure_thresholds(comparer, neighbours)[2]
    bounds = measure_bounds(comparer, chosen.tolist(), neighbours)
    originals = [read_grey(store, sources.rows[source]) for source in chosen]
    recall = {}
    for name, alter in {**ALTERATIONS, **(VOLUME_ALTERATIONS if has_slices else {})}.items():
        copies = [alter(stack, generator) for stack in originals]
        groups = np.concatenate([sources.group_ids, [f"alias {place}" for place in range(number)]])
        copied_points = metric.project(describe_stacks(copies))
        candidates = find_candidates(np.concatenate([points, copied_points]), groups, metric.max_distance)
        pairs = {tuple(pair) for pair in candidates.pairs.tolist()}
        is_candidate = [(int(source), len(points) + place) in pairs for place, source in enumerate(chosen)]
        similarity, significance = compare_copies(comparer, originals, copies)
        needed = np.array([bounds.get(int(source), threshold) for source in chosen])
        is_found = np.array(is_candidate) & (similarity >= MIN_SIMILARITY) & (significance >= needed)
        recall[name] = (int(is_found.sum()), float(similarity.min()), float(significance.min()))
        print(name, recall[name], sum(is_candidate), needed.max(), file=sys.stderr, flush=True)
    return recall, threshold, number


def compare_copies(comparer: Comparer, originals: list[Array], copies: list[Array]) -> tuple[Array, Array]:
    """Return similarity and significance of each scan and its copy; 0 where they do not agree."""
    stacks = [*originals, *copies]
    ends = np.cumsum([len(stack) for stack in stacks])
    rows = tuple(np.arange(end - len(stack), end) for end, stack in zip(ends, stacks, strict=True))
    none = np.array([])
    store = Store(np.concatenate(stacks), pd.DataFrame(), (), {}, "")
    both = Comparer(store, Sources(none, none, none, rows, none), comparer.metric)
    pairs = np.stack([np.arange(len(copies)), len(copies) + np.arange(len(copies))], axis=1)
    found = {pair.first: (pair.similarity, pair.significance) for pair in both.compare(pairs)}
    similarity, significance = np.array([found.get(place, (0.0, 0.0)) for place in range(len(copies))]).T
    return similarity, significance


def describe_leaks(store: Store) -> Iterator[str]:
    """Put altered copies of the first scan, which is tested, into training, each by itself, and list what stops it."""
    scans = store.index["source_id"].unique()
    # Two scans alone and their copy leave nothing to learn thresholds from.
    two = np.isin(store.index["source_id"], [scans[0], scans[len(scans) // 2]])
    yield f"| what was done to the copy | among 3 scans | among {len(scans) + 1:,} scans |"
    yield "|---|---|---|"
    for name, alter in LEAKS.items():
        cells = [_certify_with_copy(store, chosen, name, alter) for chosen in (two, np.ones(len(two), bool))]
        yield f"| {name} | {' | '.join(cells)} |"


def _certify_with_copy(store: Store, is_chosen: Array, name: str, alter: Alteration) -> str:
    index = store.index[is_chosen]
    original = (index["source_id"] == index["source_id"].iloc[0]).to_numpy()
    patient, label = index.loc[original, ["group_id", "label"]].iloc[0]
    copied = alter(store.examples[is_chosen][original], np.random.default_rng(0))
    other_label = next(known for known in store.index["label"] if known != label)
    rows = index[original].assign(
        group_id="alias", source_id="copy", label=other_label if "other label" in name else label
    )
    rows = rows.assign(example_id=[f"copy_{place}" for place in range(len(rows))])
    both = replace(
        store,
        examples=np.concatenate([store.examples[is_chosen], copied]),
        index=pd.concat([index, rows], ignore_index=True),
    )
    splits = pd.DataFrame({"group_id": both.index["group_id"].unique()})
    split_of = {patient: "test", "alias": "train"}
    found = certify(both, splits.assign(split=[split_of.get(group, "val") for group in splits["group_id"]]))
    pairs = [
        pair
        for pair in found["copies"]["across_splits"]["pairs"]
        if {pair["first"]["source_id"], pair["second"]["source_id"]} == {"copy", index["source_id"].iloc[0]}
    ]
    others_found = found["copies"]["across_splits"]["count"] - len(pairs)
    verdict = "passes" if found["passed"] else "stopped"
    named = f"{pairs[0]['similarity']:.2f}, {pairs[0]['significance']:.0f}" if pairs else "not named"
    return f"{verdict} ({named}{f', {others_found} others' * bool(others_found)})"


def search_at_size(number: int) -> dict[str, float]:
    """Search among made-up points, of which one in a thousand is a copy of another one; all of these must be found."""
    generator = np.random.default_rng(0)
    points = generator.standard_normal((number, NUM_DIRECTIONS), dtype=np.float32) * 8
    num_copies = number // 1000
    points[:num_copies] = points[num_copies : 2 * num_copies] + generator.standard_normal((num_copies, NUM_DIRECTIONS))
    groups = (np.arange(number) // 4).astype(str)
    before, before_s = time.perf_counter(), time.process_time()
    found = find_candidates(points, groups, 12.0)
    pairs = {tuple(pair) for pair in found.pairs.tolist()}
    return {
        "points": number,
        "seconds": time.perf_counter() - before,
        "processor_seconds": time.process_time() - before_s,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "planted": num_copies,
        "found": sum((place, num_copies + place) in pairs for place in range(num_copies)),
    }


def describe(results: list[Result], at_size: dict[str, float] | None) -> str:
    versions = read_versions()
    headings = " | ".join(f"{r.name}: {r.num_copied} of {r.num_scans:,} scans" for r in results)
    lines = [
        "Search for copies of scans between patients.",
        f"{read_hardware()}; Python {versions['python']}, numpy {versions['numpy']}, OMP_NUM_THREADS "
        f"{os.environ.get('OMP_NUM_THREADS', 'not set')}; commit {read_commit()}. "
        "Other processes ran at the same time.",
        "",
        "## Recall",
        "",
        "Copies found, with the smallest similarity and the smallest significance. Seed 1.",
        "",
        f"| what was done to the copy | {headings} |",
        "|---|" + "---|" * len(results),
    ]
    for name in {name: None for result in results for name in result.recall}:
        cells = []
        for result in results:
            count, low, least = result.recall.get(name, (-1, 0.0, 0.0))
            part = 100 * count / result.num_copied
            cells.append("" if count < 0 else f"{part:.1f} % ({low:.2f}, {least:.0f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "## False alarms",
        "",
        "Of scans of different patients, as they are.",
        "",
        "| | scans | pairs of two patients | candidates | aligned | verified | listed | threshold | search |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.name} | {r.num_scans:,} | {r.pairs:,} | {r.candidates:,} | {r.compared:,} | {r.false_stops:,} | "
        f"{r.unverified:,} | {r.threshold:.1f} | {r.search_s:.0f} s |"
        for r in results
    ]
    lines += [
        "",
        "Candidates and aligned pairs are those within a patient too; listed pairs are not verified. The search is in "
        "seconds of one core.",
        "",
        "## Time",
        "",
        "Descriptors: " + ", ".join(f"{r.slice_ms:.2f} ms a slice ({r.name})" for r in results) + ", on one core.",
    ]
    if at_size is not None:
        lines.append(
            f"Search among descriptors of {at_size['points']:,} volumes: {at_size['seconds']:.0f} s, "
            f"{at_size['processor_seconds']:.0f} s of processor time, peak of memory {at_size['peak_gib']:.2f} GiB; of "
            f"{at_size['planted']:,} planted copies {at_size['found']:,} were found."
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
