"""The leak certificate: what was checked so that a test score means what it says."""

import hashlib
import itertools
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from einops import rearrange

from pipeline.errors import UserError
from pipeline.files import read_sealed
from pipeline.kinds import WORDS, count_words, plural
from pipeline.provenance import compute_fingerprint
from pipeline.slicing import resampling_weights
from pipeline.store import Store

HASH_SIDE = 16
# In grey levels: a smaller step between neighbouring cells is noise on something flat.
MIN_STEP = 2.0
CHUNK = 512
# Of the pixels of two pictures: copies that were brightened, compressed or scaled a little correlate more.
MIN_CORRELATION = 0.99
# A block of products, 512 x 2,048 float32, stays in a processor's cache.
OTHERS_CHUNK = 2048
MAX_LISTED = 100
DIGEST_BYTES = 16

Array = np.ndarray[Any, Any]


def fingerprint_splits(splits: pd.DataFrame) -> str:
    """Return what changes when a patient moves."""
    rows = sorted(zip(splits["group_id"], splits["split"], strict=True))
    return compute_fingerprint([list(row) for row in rows])


def certify(
    store: Store, splits: pd.DataFrame, near_identical_bits: int, has_published_test: bool = False
) -> dict[str, Any]:
    """Check that nothing of one split is in another.

    Args:
        store: the examples.
        splits: columns ``group_id, split``; with folds each fold counts as a split.
        near_identical_bits: largest Hamming distance of two perceptual hashes that is listed.
        has_published_test: whether the test rows are the publisher's, who is then the one to answer for examples
            that are both in them and elsewhere.

    Returns:
        The certificate. It passes when every patient is in one split (over all visits and both knees),
        no patient lacks a split, and no example is the same, bit for bit, in two splits. Examples that
        hold one value all over say nothing and are left out. Near-identical pictures are listed and do not
        fail it: neighbouring anatomy can look alike. Nor do doubles between published test rows and the
        others: to leave them out would make scores that compare with no one's. Point clouds are compared
        bit for bit alone.
    """
    pairs = splits[["group_id", "split"]].drop_duplicates()
    twice = sorted(pairs.loc[pairs["group_id"].duplicated(), "group_id"])
    split_of = dict(zip(pairs["group_id"], pairs["split"], strict=True))
    example_splits = store.index["group_id"].map(split_of)
    lacking = sorted(set(store.index.loc[example_splits.isna(), "group_id"]))
    codes = example_splits.fillna("").to_numpy(dtype=str)
    informative = _find_informative(store.examples)
    example_ids = store.index["example_id"]
    doubles = _find_identical(store.examples, informative, codes)
    is_published = [has_published_test and "test" in (codes[first], codes[second]) for first, second, _ in doubles]
    published = list(itertools.compress(doubles, is_published))
    identical = [pair for pair, is_theirs in zip(doubles, is_published, strict=True) if not is_theirs]
    num_near = 0
    near: list[tuple[int, int, int]] = []
    if store.kind != "points":
        hashes = compute_perceptual_hashes(store.examples)
        num_near, near = _find_near_identical(store.examples, hashes, informative, codes, near_identical_bits, doubles)

    def listed(found: list[tuple[int, int, int]]) -> list[dict[str, Any]]:
        return [
            {
                "first": f"{example_ids.iloc[a]} ({codes[a]})",
                "second": f"{example_ids.iloc[b]} ({codes[b]})",
                "bits": bits,
            }
            for a, b, bits in found[:MAX_LISTED]
        ]

    return {
        "passed": not (twice or lacking or identical),
        "kind": store.kind,
        "store_fingerprint": store.fingerprint,
        "splits_fingerprint": fingerprint_splits(splits),
        "splits": _count(store.index.assign(split=codes)),
        "patients_in_two_splits": twice,
        "patients_without_split": lacking,
        "identical_images": {"count": len(identical), "pairs": listed(identical)},
        "published_doubles": {"count": len(published), "pairs": listed(published)},
        "near_identical_images": {"bits": near_identical_bits, "count": num_near, "pairs": listed(near)},
    }


def check_certificate(path: Path, store: Store, splits: pd.DataFrame) -> dict[str, Any]:
    """Read the certificate and refuse to go on where it does not vouch for this data and these splits.

    Raises:
        UserError: absent, damaged, failed, or made for other data or splits.
    """
    if not path.is_file():
        raise UserError(f"{path}: no leak certificate. Run the split stage first.")
    certificate = read_sealed(path)
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


def describe_findings(certificate: dict[str, Any]) -> list[str]:
    """Say what a certificate that passed found nevertheless, a sentence each."""
    words = WORDS[certificate.get("kind", "volumes")]
    sentences = []
    doubles = certificate.get("published_doubles", {"count": 0})["count"]
    if doubles:
        sentences.append(
            f"{count_words(doubles, 'pair')} of exactly equal {plural(words.example)} lie across the published test "
            "split, which is kept as it was published."
        )
    near = certificate["near_identical_images"]["count"]
    if near:
        sentences.append(f"{count_words(near, 'pair')} of pictures in different splits look alike.")
    return sentences


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
    rows = np.flatnonzero(informative)
    buffer = bytearray(DIGEST_BYTES * len(rows))
    for place, number in enumerate(rows):
        digest = hashlib.blake2b(images[number].tobytes(), digest_size=DIGEST_BYTES).digest()
        buffer[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES] = digest
    seen: dict[bytes, dict[str, int]] = defaultdict(dict)
    pairs = []
    for place in _find_repeated(np.frombuffer(buffer, np.uint64).reshape(-1, DIGEST_BYTES // 8)):
        number = rows[place]
        digest = bytes(buffer[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES])
        for split, earlier in seen[digest].items():
            if split != codes[number]:
                pairs.append((earlier, int(number), 0))
        seen[digest].setdefault(codes[number], int(number))
    return pairs


def _find_repeated(digests: Array) -> Array:
    """Return the places, in order, of the digests ``(pictures, words)`` that occur more than once.

    Of eight million pictures few are doubles: a dictionary of all of them took four gigabytes, this takes a tenth.
    """
    order = np.lexsort(digests.T)
    ordered = digests[order]
    is_same = (ordered[1:] == ordered[:-1]).all(axis=1)
    return np.unique(np.concatenate([order[1:][is_same], order[:-1][is_same]]))


def _find_near_identical(
    images: Array,
    hashes: Array,
    informative: Array,
    codes: Array,
    max_bits: int,
    doubles: list[tuple[int, int, int]],
) -> tuple[int, list[tuple[int, int, int]]]:
    """Compare all pictures with those of the other splits, but for the pairs that are known as doubles.

    With bits written as -1 and 1, the product of two hashes is their length minus twice their distance; products
    of matrices compare a billion pairs in seconds. Pictures that are mostly black have few bits that could differ,
    so pairs with close hashes are then compared pixel by pixel.

    Returns:
        How many pairs are alike, and those with the closest hashes.
    """
    bits = np.unpackbits(hashes.view(np.uint8), axis=1)
    signs = (2 * bits.astype(np.int8) - 1).astype(np.int8)
    num_bits = signs.shape[1]
    rows_of = [np.flatnonzero(informative & (codes == code)) for code in np.unique(codes)]
    count, found = 0, np.zeros((0, 3), np.int64)
    num_kept = MAX_LISTED + len(doubles)
    for rows, others in itertools.combinations(rows_of, 2):
        for first_rows, second_rows in itertools.product(_chunks(rows, CHUNK), _chunks(others, OTHERS_CHUNK)):
            # Sums of so few ones are exact in float32.
            products = signs[first_rows].astype(np.float32) @ signs[second_rows].astype(np.float32).T
            # Of a flat array the search is eight times as quick.
            close = np.flatnonzero(products >= num_bits - 2 * max_bits)
            if len(close) == 0:
                continue
            first, second = np.divmod(close, len(second_rows))
            distance = (num_bits - products[first, second].astype(np.int64)) // 2
            pairs = np.sort(np.stack([first_rows[first], second_rows[second]], axis=1), axis=1)
            alike = _correlate(images, pairs) >= MIN_CORRELATION
            pairs, distance = pairs[alike], distance[alike]
            count += len(pairs)
            found = _keep_closest(np.vstack([found, np.column_stack([pairs, distance])]), num_kept)
    known = {pair[:2] for pair in doubles}
    near = [(int(a), int(b), int(distance)) for a, b, distance in found if (int(a), int(b)) not in known]
    return count - len(known), near


def _correlate(images: Array, pairs: Array) -> Array:
    """Return the correlation of the pixels of each pair of pictures, ``(pairs,)``; brightness does not matter."""
    correlations = []
    for chunk in _chunks(pairs, CHUNK):
        first, second = (
            rearrange(images[chunk[:, side]].astype(np.float32), "pair ... -> pair (...)") for side in range(2)
        )
        first -= first.mean(axis=1, keepdims=True)
        second -= second.mean(axis=1, keepdims=True)
        product, scale = (first * second).sum(axis=1), (first**2).sum(axis=1) * (second**2).sum(axis=1)
        correlations.append(product / np.sqrt(scale))
    return np.concatenate(correlations)


def _chunks(rows: Array, size: int) -> list[Array]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _keep_closest(found: Array, number: int) -> Array:
    """Return the pairs ``(pairs, 3)`` with the smallest distance, in the order of distance and rows."""
    if len(found) <= 1:
        return found
    order = np.lexsort((found[:, 1], found[:, 0], found[:, 2]))
    return found[order[:number]]
