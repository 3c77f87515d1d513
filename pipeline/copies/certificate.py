"""The making of the leak certificate: that no patient, no image and no copy of a scan is in two splits."""

import difflib
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from pipeline.copies.search import Found, Pair, search_copies
from pipeline.core.array_types import Array
from pipeline.core.errors import UserError
from pipeline.data.leak_certificate import (
    FORMAT,
    Certificate,
    CopiedScan,
    CopyPair,
    CopyPairs,
    CopySearch,
    ExamplePair,
    ExamplePairs,
    SplitCounts,
    fingerprint_splits,
)
from pipeline.data.store import Store

DIGEST_BYTES = 16
MAX_LISTED = 100
# A left knee and a patient's mirrored right one are alike by symmetry: of 6,604 radiographs of 3,302 patients 66 such
# pairs agreed by 0.60 to 0.76. Between patients that is a copy; within one, only what agrees further.
MIN_SIMILARITY_OF_ONE_PATIENT = 0.9
CHUNK = 512


def certify(
    store: Store,
    splits: pd.DataFrame,
    accept_copies: Sequence[tuple[str, str]] = (),
    has_published_test: bool = False,
) -> Certificate:
    """Check that nothing of one split is in another.

    Args:
        store: The examples.
        splits: Columns ``group_id, split``; with folds each fold counts as a split.
        accept_copies: Pairs of scans that a person looked at and calls no copies, or accepts.
        has_published_test: Whether the test rows are the publisher's; what is both in them and elsewhere is then
            listed and does not fail the certificate.

    Returns:
        The certificate. It passes when every patient is in one split (over all visits and both knees), no patient
        lacks a split, no example is the same, bit for bit, in two splits, and no scan is a copy of another patient's
        scan in another split (:func:`~pipeline.copies.search.search_copies`). What holds one value all over carries
        no information and is left out. Copies do not fail a published set: to leave them out would make scores that
        compare with no one's. Scans
        whose slices are one example are compared slice by slice, point clouds and whole volumes bit for bit alone.

    Raises:
        UserError: ``accept_copies`` names no scan of the store at all.
    """
    _check_accepted(store, accept_copies)
    pairs = splits[["group_id", "split"]].drop_duplicates()
    twice = sorted(pairs.loc[pairs["group_id"].duplicated(), "group_id"])
    split_of = dict(zip(pairs["group_id"], pairs["split"], strict=True))
    example_splits = store.index["group_id"].map(split_of)
    lacking = sorted(set(store.index.loc[example_splits.isna(), "group_id"]))
    kind, counts = store.kind, _count(store.index.assign(split=example_splits.fillna("").to_numpy(dtype=str)))
    store = store.as_slices()
    codes = store.index["group_id"].map(split_of).fillna("").to_numpy(dtype=str)
    accepted = {frozenset(pair) for pair in accept_copies}
    source_ids = store.index["source_id"].to_numpy(dtype=str)
    duplicates = [
        pair
        for pair in _find_identical(store.examples, codes)
        if frozenset((source_ids[pair[0]], source_ids[pair[1]])) not in accepted
    ]
    found = search_copies(store, codes)
    copies = _sort_copies(found, codes, accept_copies, _list_equal_sources(store, duplicates))
    has_leak = bool(duplicates) or copies["across_splits"]["count"] > 0
    example_ids = store.index["example_id"].to_numpy(dtype=str)
    listed = _list_examples(duplicates, example_ids, codes)
    none: ExamplePairs = {"count": 0, "pairs": []}
    return {
        "format": FORMAT,
        "passed": not (twice or lacking or (has_leak and not has_published_test)),
        "kind": kind.name,
        "store_fingerprint": store.fingerprint,
        "splits_fingerprint": fingerprint_splits(splits),
        "splits": counts,
        "patients_in_two_splits": twice,
        "patients_without_split": lacking,
        "identical_images": none if has_published_test else listed,
        "published_doubles": listed if has_published_test else none,
        "copies": copies,
        "page": "",
    }


def list_absent(store: Store, accept_copies: Sequence[tuple[str, str]]) -> list[str]:
    """Return the scans that are named as accepted copies and are not in the store, each once.

    Args:
        store: The examples.
        accept_copies: Pairs of scans.
    """
    known = set(store.index["source_id"])
    return [name for name in dict.fromkeys(name for pair in accept_copies for name in pair) if name not in known]


def _check_accepted(store: Store, accept_copies: Sequence[tuple[str, str]]) -> None:
    """Refuse pairs of which no scan is there: some are absent from a part of a set, all where names are mistyped."""
    absent = list_absent(store, accept_copies)
    if not absent or len(absent) < len({name for pair in accept_copies for name in pair}):
        return
    known = sorted(set(store.index["source_id"]))
    nearest = difflib.get_close_matches(absent[0], known, 3) or known[:3]
    raise UserError(
        f"split.accept_copies: found {absent[0]!r}, and neither it nor another scan of these pairs is in the store, "
        f"which has {', '.join(nearest)}. Write names as the certificate has them, or remove the pairs."
    )


def _list_examples(pairs: list[tuple[int, int]], example_ids: Array, codes: Array) -> ExamplePairs:
    listed: list[ExamplePair] = [
        {"first": f"{example_ids[a]} ({codes[a]})", "second": f"{example_ids[b]} ({codes[b]})"}
        for a, b in pairs[:MAX_LISTED]
    ]
    return {"count": len(pairs), "pairs": listed}


def _sort_copies(
    found: Found, codes: Array, accept_copies: Sequence[tuple[str, str]], equal: set[frozenset[str]]
) -> CopySearch:
    """Sort the pairs by what they mean for the splits; equal images across splits are listed elsewhere."""
    accepted = {frozenset(pair) for pair in accept_copies}
    kinds: dict[str, list[CopyPair]] = defaultdict(list)
    for pair in found.verified:
        entry = _describe(found, pair, codes)
        first, second = entry["first"], entry["second"]
        if first["group_id"] == second["group_id"]:
            if entry["similarity"] < MIN_SIMILARITY_OF_ONE_PATIENT:
                continue
            kinds["within_patient"].append(entry)
        elif first["split"] == second["split"]:
            kinds["within_split"].append(entry)
        elif frozenset((first["source_id"], second["source_id"])) in accepted:
            kinds["accepted"].append(entry)
        elif frozenset((first["source_id"], second["source_id"])) not in equal:
            kinds["across_splits"].append(entry)
        if first["label"] != second["label"]:
            kinds["labels_disagree"].append(entry)
    for pair in found.unverified:
        entry = _describe(found, pair, codes)
        if entry["first"]["group_id"] != entry["second"]["group_id"]:
            kinds["unverified"].append(entry)
    return {
        "threshold": round(found.threshold, 2),
        "num_sources": len(found.sources.rows),
        "num_candidates": found.num_candidates,
        "num_compared": found.num_compared,
        "num_limited": found.num_limited,
        "accept": [list(pair) for pair in accept_copies],
        "across_splits": _list_copies(kinds["across_splits"]),
        "accepted": _list_copies(kinds["accepted"]),
        "within_split": _list_copies(kinds["within_split"]),
        "within_patient": _list_copies(kinds["within_patient"]),
        "unverified": _list_copies(kinds["unverified"]),
        "labels_disagree": _list_copies(kinds["labels_disagree"]),
    }


def _list_equal_sources(store: Store, duplicates: list[tuple[int, int]]) -> set[frozenset[str]]:
    """Return the pairs of images that are equal bit for bit; of volumes only slices are known to be."""
    if store.kind.has_slices:
        return set()
    source_ids = store.index["source_id"].to_numpy(dtype=str)
    return {frozenset((str(source_ids[first]), str(source_ids[second]))) for first, second in duplicates}


def _list_copies(pairs: Iterable[CopyPair]) -> CopyPairs:
    ordered = sorted(pairs, key=lambda pair: -pair["similarity"])
    return {"count": len(ordered), "pairs": ordered[:MAX_LISTED]}


def _describe(found: Found, pair: Pair, codes: Array) -> CopyPair:
    first, second = (
        _describe_scan(found, source, row, codes)
        for source, row in zip((pair.first, pair.second), pair.rows, strict=True)
    )
    alteration = f"{pair.orientation}, inverted" if pair.is_inverted else pair.orientation
    return {
        "first": first,
        "second": second,
        "similarity": round(pair.similarity, 4),
        "significance": round(pair.significance, 2),
        "alteration": alteration,
    }


def _describe_scan(found: Found, source: int, row: int, codes: Array) -> CopiedScan:
    sources = found.sources
    return {
        "source_id": str(sources.source_ids[source]),
        "group_id": str(sources.group_ids[source]),
        "split": str(codes[row]),
        "label": str(sources.labels[source]),
        "row": row,
    }


def _count(index: pd.DataFrame) -> dict[str, SplitCounts]:
    counts: dict[str, SplitCounts] = {}
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
    """Return ``(examples,)``, whether an example has more than one value."""
    informative = [
        chunk.max(axis=tuple(range(1, chunk.ndim))) > chunk.min(axis=tuple(range(1, chunk.ndim)))
        for chunk in (images[start : start + CHUNK] for start in range(0, len(images), CHUNK))
    ]
    return np.concatenate(informative)


def _find_identical(images: Array, codes: Array) -> list[tuple[int, int]]:
    """Return pairs of equal images whose splits differ, each with the first of its kind in the other split."""
    rows = np.flatnonzero(_find_informative(images))
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
                pairs.append((earlier, int(number)))
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
