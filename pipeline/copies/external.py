"""Scans of a run among those of another site: the same file, the same pixels, or a copy that was altered."""

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.copies.certificate import DIGEST_BYTES
from pipeline.copies.search import Found, search_copies
from pipeline.core.array_types import Array
from pipeline.core.errors import UserError
from pipeline.core.text import count_words, plural
from pipeline.data.certified_data import CertifiedData
from pipeline.data.external_data import ExternalData
from pipeline.data.store import Store

EXTERNAL, MARK = "external", "external: "
# The search reads the examples of both into memory.
MAX_SEARCHED_BYTES = 4 << 30
MAX_NAMED = 3


@dataclass(frozen=True)
class SharedScan:
    """A scan of another site that shows what one of the run shows.

    Args:
        source_id: The scan of the other site.
        known: The scan of the run.
        split: The split of that scan.
        likeness: How the two are alike, in words.
    """

    source_id: str
    known: str
    split: str
    likeness: str


def refuse_shared_scans(data: CertifiedData, external: ExternalData) -> str:
    """Refuse scans of another site that show what a training or a validation scan of the run shows.

    Those of test scans are no leak, and are only counted: the external scores are then not independent of the test's.

    Args:
        data: The examples of the run.
        external: The scans of the other site.

    Returns:
        What was compared, and what of the test was found, in sentences.

    Raises:
        UserError: a file or an example is the same, or a copy was verified.
    """
    data, other = dataclasses.replace(data, store=data.store.as_slices()), external.store.as_slices()
    kind, run = data.store.kind, data.store
    # A scan may be in the test and in training: all of what it matches is looked at.
    shared = [*_list_same_files(data, external.manifest), *_list_same_examples(data, other)]
    _refuse(data, external, shared)
    compared = f"No file and no {kind.example} is the same as one of the run's training or validation"
    if run.examples.nbytes + other.examples.nbytes > MAX_SEARCHED_BYTES:
        compared += "; altered copies were not searched, because the examples do not fit into memory together."
    else:
        copies, found = _search_copies(data, other)
        _refuse(data, external, copies)
        shared += copies
        pairs = count_words(found.num_compared, "pair")
        compared += f", and of {pairs} of similar {plural(kind.source)} none was verified as a copy of one."
        if found.num_limited:
            compared += (
                f" The search was limited: {count_words(found.num_limited, kind.source)} met the nearest ones alone."
            )
    num_shared = len({scan.source_id for scan in shared})
    if not num_shared:
        return compared
    return (
        f"{compared} {count_words(num_shared, kind.source)} also {'is' if num_shared == 1 else 'are'} in the run's "
        "test, so that the external scores are not independent of the test's."
    )


def _refuse(data: CertifiedData, external: ExternalData, shared: list[SharedScan]) -> None:
    """Name the scans of the other site that are in the run's training or validation."""
    # Each is named once, by the first that was found.
    first: dict[str, SharedScan] = {}
    for scan in shared:
        if scan.split != "test":
            first.setdefault(scan.source_id, scan)
    leaks = list(first.values())
    if not leaks:
        return
    kind = data.store.kind
    named = "; ".join(f"{s.source_id} {s.likeness} {s.known} ({s.split})" for s in leaks[:MAX_NAMED])
    more = f"; and {len(leaks) - MAX_NAMED} more" if len(leaks) > MAX_NAMED else ""
    raise UserError(
        f"{external.table.given.path}: {count_words(len(leaks), kind.source)} of the run among the external ones: "
        f"{named}{more}. External data are of other people: delete the rows."
    )


def _list_same_files(data: CertifiedData, other: pd.DataFrame) -> Iterator[SharedScan]:
    """Yield the scans whose files have the checksum of one of the run, with one of each split."""
    accepted = data.manifest[(data.manifest["status"] == "accepted") & (data.manifest["sha256"] != "")]
    known: dict[str, dict[str, str]] = defaultdict(dict)
    for row in accepted.itertuples():
        known[row.sha256].setdefault(data.roles[row.group_id], row.path)
    for source_id, checksum in zip(other["source_id"], other["sha256"], strict=True):
        for split, path in known.get(checksum, {}).items():
            yield SharedScan(source_id, path, split, "is the file")


def _list_same_examples(data: CertifiedData, other: Store) -> Iterator[SharedScan]:
    """Yield the scans that have an example in common, with one of each split.

    An example of a single value shows nothing and is passed over.
    """
    rows: dict[bytes, list[int]] = defaultdict(list)
    for row, image in enumerate(other.examples):
        if image.max() > image.min():
            rows[_digest(image)].append(row)
    source_ids, known = (store.index["source_id"].to_numpy(dtype=str) for store in (other, data.store))
    seen = set()
    for row, image in enumerate(data.store.examples):
        digest, split = _digest(image), str(data.split_of[row])
        if digest in rows and (digest, split) not in seen:
            seen.add((digest, split))
            for found in rows[digest]:
                yield SharedScan(str(source_ids[found]), str(known[row]), split, "has the pixels of")


def _digest(image: Array) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=DIGEST_BYTES).digest()


def _search_copies(data: CertifiedData, other: Store) -> tuple[list[SharedScan], Found]:
    """Return the scans that are verified copies of one of the run, and what the search found."""
    run = data.store
    # A file of the other site may have the name of one of the run, and a patient the number.
    names = {column: MARK + other.index[column] for column in ("source_id", "group_id")}
    index = other.index.assign(**names)
    joined = dataclasses.replace(
        run,
        examples=np.concatenate([run.examples, other.examples]),
        index=pd.concat([run.index, index], ignore_index=True),
    )
    # Pairs within the run were looked at when its certificate was made.
    parts = np.where(np.arange(len(joined.index)) < len(run.index), "run", EXTERNAL)
    found = search_copies(joined, parts, only_across=True)
    copies = []
    for pair in found.verified:
        known, copy = sorted((pair.first, pair.second), key=lambda place: int(found.sources.rows[place][0]))
        split = str(data.split_of[found.sources.rows[known][0]])
        likeness = f"is a copy ({pair.orientation}, similarity {pair.similarity:.2f}) of"
        name = str(found.sources.source_ids[copy]).removeprefix(MARK)
        copies.append(SharedScan(name, str(found.sources.source_ids[known]), split, likeness))
    return copies, found
