"""The leak certificate: the checks that no patient and no image is in two splits."""

import hashlib
import itertools
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.core.array_types import Array
from pipeline.core.data_kinds import DATA_KINDS
from pipeline.core.errors import UserError
from pipeline.core.files import read_checksummed_json
from pipeline.core.provenance import compute_fingerprint
from pipeline.core.text import count_words, plural
from pipeline.data.near_duplicates import MAX_LISTED, compute_perceptual_hashes, find_informative, find_near_duplicates
from pipeline.data.store import Store

DIGEST_BYTES = 16


def fingerprint_splits(splits: pd.DataFrame) -> str:
    """Return what changes when a patient moves."""
    rows = sorted(zip(splits["group_id"], splits["split"], strict=True))
    return compute_fingerprint([list(row) for row in rows])


def certify(
    store: Store, splits: pd.DataFrame, near_duplicate_max_bits: int, has_published_test: bool = False
) -> dict[str, Any]:
    """Check that nothing of one split is in another.

    Args:
        store: The examples.
        splits: Columns ``group_id, split``; with folds each fold counts as a split.
        near_duplicate_max_bits: Largest Hamming distance of two perceptual hashes that is listed.
        has_published_test: Whether the test rows are the publisher's; examples that are both in them and elsewhere are
            then listed and do not fail the certificate.

    Returns:
        The certificate. It passes when every patient is in one split (over all visits and both knees),
        no patient lacks a split, and no example is the same, bit for bit, in two splits. Examples that
        hold one value all over carry no information and are left out. Near-duplicates are listed and do not
        fail it: neighbouring anatomy can look alike. Nor do duplicates between published test rows and the
        others: to leave them out would make scores that compare with no one's. Point clouds are compared
        bit for bit alone.
    """
    pairs = splits[["group_id", "split"]].drop_duplicates()
    twice = sorted(pairs.loc[pairs["group_id"].duplicated(), "group_id"])
    split_of = dict(zip(pairs["group_id"], pairs["split"], strict=True))
    example_splits = store.index["group_id"].map(split_of)
    lacking = sorted(set(store.index.loc[example_splits.isna(), "group_id"]))
    codes = example_splits.fillna("").to_numpy(dtype=str)
    informative = find_informative(store.examples)
    example_ids = store.index["example_id"]
    duplicates = _find_identical(store.examples, informative, codes)
    is_published = [has_published_test and "test" in (codes[first], codes[second]) for first, second, _ in duplicates]
    published = list(itertools.compress(duplicates, is_published))
    identical = [pair for pair, is_theirs in zip(duplicates, is_published, strict=True) if not is_theirs]
    num_near = 0
    near: list[tuple[int, int, int]] = []
    if store.kind.is_image:
        hashes = compute_perceptual_hashes(store.examples)
        num_near, near = find_near_duplicates(
            store.examples, hashes, informative, codes, near_duplicate_max_bits, duplicates
        )

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
        "kind": store.kind.name,
        "store_fingerprint": store.fingerprint,
        "splits_fingerprint": fingerprint_splits(splits),
        "splits": _count(store.index.assign(split=codes)),
        "patients_in_two_splits": twice,
        "patients_without_split": lacking,
        "identical_images": {"count": len(identical), "pairs": listed(identical)},
        "published_doubles": {"count": len(published), "pairs": listed(published)},
        "near_identical_images": {"bits": near_duplicate_max_bits, "count": num_near, "pairs": listed(near)},
    }


def check_certificate(path: Path, store: Store, splits: pd.DataFrame) -> dict[str, Any]:
    """Read the certificate and refuse one that does not belong to this data and these splits.

    Args:
        path: The file of the certificate.
        store: The examples.
        splits: Columns ``group_id, split``.

    Raises:
        UserError: absent, damaged, failed, or made for other data or splits.
    """
    if not path.is_file():
        raise UserError(f"{path}: no leak certificate. Run the split stage first.")
    certificate = read_checksummed_json(path)
    made_for = (certificate["store_fingerprint"], certificate["splits_fingerprint"])
    if made_for != (store.fingerprint, fingerprint_splits(splits)):
        raise UserError(f"{path}: made for other images or other splits than these. Run the split stage again.")
    if not certificate["passed"]:
        raise UserError(
            f"{path}: the splits leak ({len(certificate['patients_in_two_splits'])} patients in two splits, "
            f"{len(certificate['patients_without_split'])} in none, "
            f"{certificate['identical_images']['count']} identical images across splits). "
            "Remove the duplicate scans or fix the table, then preprocess and split again."
        )
    return certificate


def describe_findings(certificate: dict[str, Any]) -> list[str]:
    """Describe what a certificate that passed found nevertheless, a sentence each."""
    kind = DATA_KINDS[certificate["kind"]]
    sentences = []
    duplicates = certificate["published_doubles"]["count"]
    if duplicates:
        sentences.append(
            f"{count_words(duplicates, 'pair')} of exactly equal {plural(kind.example)} lie across the published test "
            "split, which is kept as it was published."
        )
    near = certificate["near_identical_images"]["count"]
    if near:
        sentences.append(f"{count_words(near, 'pair')} of images in different splits look alike.")
    return sentences


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


def _find_identical(images: Array, informative: Array, codes: Array) -> list[tuple[int, int, int]]:
    """Return pairs of equal images whose splits differ, each with the first of its kind in the other split."""
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
    """Return the places, in order, of the digests ``(images, words)`` that occur more than once.

    Of eight million images few are duplicates: a dictionary of all of them took four gigabytes, this takes a tenth.
    """
    order = np.lexsort(digests.T)
    ordered = digests[order]
    is_same = (ordered[1:] == ordered[:-1]).all(axis=1)
    return np.unique(np.concatenate([order[1:][is_same], order[:-1][is_same]]))
