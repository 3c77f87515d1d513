"""The leak certificate: what was checked so that a test score means what it says."""

import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.provenance import compute_fingerprint
from pipeline.slicing import resampling_weights
from pipeline.store import Store

HASH_SIDE = 16
# In grey levels: a smaller step between neighbouring cells is noise on something flat.
MIN_STEP = 2.0
CHUNK = 512
MAX_LISTED = 100

Array = np.ndarray[Any, Any]


def fingerprint_splits(splits: pd.DataFrame) -> str:
    """Return what changes when a patient moves."""
    rows = sorted(zip(splits["group_id"], splits["split"], strict=True))
    return compute_fingerprint([list(row) for row in rows])


def certify(store: Store, splits: pd.DataFrame, near_identical_bits: int) -> dict[str, Any]:
    """Check that nothing of one split is in another.

    Args:
        store: the examples.
        splits: columns ``group_id, split``; with folds each fold counts as a split.
        near_identical_bits: largest Hamming distance of two perceptual hashes that is listed.

    Returns:
        The certificate. It passes when every patient is in one split (over all visits and both knees),
        no patient lacks a split, and no picture is the same, pixel for pixel, in two splits. Pictures that
        are one grey all over say nothing and are left out. Near-identical pictures are listed and do not
        fail it: neighbouring anatomy can look alike.
    """
    pairs = splits[["group_id", "split"]].drop_duplicates()
    twice = sorted(pairs.loc[pairs["group_id"].duplicated(), "group_id"])
    split_of = dict(zip(pairs["group_id"], pairs["split"], strict=True))
    example_splits = store.index["group_id"].map(split_of)
    lacking = sorted(set(store.index.loc[example_splits.isna(), "group_id"]))
    codes = example_splits.fillna("").to_numpy(dtype=str)
    informative = _find_informative(store.images)
    example_ids = store.index["example_id"].to_numpy(dtype=str)
    identical = _find_identical(store.images, informative, codes)
    near = _find_near_identical(store.images, informative, codes, near_identical_bits)
    known = {(first, second) for first, second, _ in identical}
    near = [pair for pair in near if pair[:2] not in known]

    def listed(found: list[tuple[int, int, int]]) -> list[dict[str, Any]]:
        return [
            {"first": f"{example_ids[a]} ({codes[a]})", "second": f"{example_ids[b]} ({codes[b]})", "bits": bits}
            for a, b, bits in found[:MAX_LISTED]
        ]

    return {
        "passed": not (twice or lacking or identical),
        "store_fingerprint": store.fingerprint,
        "splits_fingerprint": fingerprint_splits(splits),
        "splits": _count(store.index.assign(split=codes)),
        "patients_in_two_splits": twice,
        "patients_without_split": lacking,
        "identical_images": {"count": len(identical), "pairs": listed(identical)},
        "near_identical_images": {"bits": near_identical_bits, "count": len(near), "pairs": listed(near)},
    }


def check_certificate(path: Path, store: Store, splits: pd.DataFrame) -> dict[str, Any]:
    """Read the certificate and refuse to go on where it does not vouch for this data and these splits.

    Raises:
        UserError: absent, failed, or made for other data or splits.
    """
    if not path.is_file():
        raise UserError(f"{path}: no leak certificate. Run the split stage first.")
    certificate: dict[str, Any] = read_json(path)
    made_for = (certificate["store_fingerprint"], certificate["splits_fingerprint"])
    if made_for != (store.fingerprint, fingerprint_splits(splits)):
        raise UserError(f"{path}: made for other pictures or other splits than these. Run the split stage again.")
    if not certificate["passed"]:
        raise UserError(
            f"{path}: the splits leak ({len(certificate['patients_in_two_splits'])} patients in two splits, "
            f"{len(certificate['patients_without_split'])} in none, "
            f"{certificate['identical_images']['count']} identical pictures across splits). "
            "Remove the doubled scans or mend the table, then preprocess and split again."
        )
    return certificate


def compute_perceptual_hashes(images: Array) -> Array:
    """Return ``(examples, 4)`` uint64: for each of 16 x 16 cells, whether its right neighbour is brighter.

    The hash ignores brightness, contrast and small noise, and changes with what is shown.

    Source:
        The difference hash of N. Krawetz, "Kind of Like That" (2013), at 256 bits.
    """
    height, width = images.shape[-2:]
    down = resampling_weights(height, 1.0, HASH_SIDE, height / HASH_SIDE)
    across = resampling_weights(width, 1.0, HASH_SIDE + 1, width / (HASH_SIDE + 1))
    hashes = []
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK].astype(np.float32)
        cells = down @ (chunk if chunk.ndim == 3 else chunk.mean(axis=1)) @ across.T
        brighter = np.diff(cells, axis=2) > MIN_STEP
        hashes.append(np.packbits(brighter.reshape(len(chunk), -1), axis=1).view(np.uint64))
    return np.concatenate(hashes)


def _count(index: pd.DataFrame) -> dict[str, Any]:
    counts = {}
    for split, rows in index.groupby("split", sort=True):
        counts[str(split)] = {
            "patients": int(rows["group_id"].nunique()),
            "sources": int(rows["source_id"].nunique()),
            "examples": len(rows),
            "sources_by_label": {
                str(label): int(number) for label, number in rows.groupby("label")["source_id"].nunique().items()
            },
        }
    return counts


def _find_informative(images: Array) -> Array:
    informative = [
        (chunk.max(axis=tuple(range(1, chunk.ndim))) > chunk.min(axis=tuple(range(1, chunk.ndim))))
        for chunk in (images[start : start + CHUNK] for start in range(0, len(images), CHUNK))
    ]
    return np.concatenate(informative)


def _find_identical(images: Array, informative: Array, codes: Array) -> list[tuple[int, int, int]]:
    """Return pairs of equal pictures whose splits differ, each with the first of its kind in the other split."""
    seen: dict[bytes, dict[str, int]] = defaultdict(dict)
    pairs = []
    for number in np.flatnonzero(informative):
        digest = hashlib.blake2b(images[number].tobytes(), digest_size=16).digest()
        for split, earlier in seen[digest].items():
            if split != codes[number]:
                pairs.append((earlier, int(number), 0))
        seen[digest].setdefault(codes[number], int(number))
    return pairs


def _find_near_identical(images: Array, informative: Array, codes: Array, max_bits: int) -> list[tuple[int, int, int]]:
    """Return pairs of pictures of different splits with close hashes, closest first."""
    rows = np.flatnonzero(informative)
    hashes = compute_perceptual_hashes(images)[rows]
    pairs = []
    for start in range(0, len(rows), CHUNK):
        chunk = slice(start, start + CHUNK)
        distance = np.zeros((len(rows[chunk]), len(rows) - start), np.uint16)
        for word in range(hashes.shape[1]):
            distance += np.bitwise_count(hashes[chunk, None, word] ^ hashes[None, start:, word])
        close = (distance <= max_bits) & (codes[rows[chunk], None] != codes[None, rows[start:]])
        for first, second in np.argwhere(close):
            if second > first:
                pairs.append((int(rows[start + first]), int(rows[start + second]), int(distance[first, second])))
    return sorted(pairs, key=lambda pair: (pair[2], pair[:2]))
