"""The leak certificate: its content, and the refusal of one that failed or belongs to other data."""

from pathlib import Path
from typing import TypedDict, cast

import pandas as pd

from pipeline.core.data_kinds import DATA_KINDS, DataKind
from pipeline.core.errors import UserError
from pipeline.core.files import read_checksummed_json
from pipeline.core.provenance import compute_fingerprint
from pipeline.core.text import count_words, plural
from pipeline.data.store import Store

# Certificates of earlier formats are made again: 2 verified copies by one similarity for the whole set, and 3 missed
# copies of patients with many similar images.
FORMAT = 4


class SplitCounts(TypedDict):
    """The numbers of patients, scans and examples in one split."""

    patients: int
    sources: int
    examples: int
    sources_by_label: dict[str, int]


class ExamplePair(TypedDict):
    """Two examples that are the same, bit for bit; each with its split in brackets."""

    first: str
    second: str


class ExamplePairs(TypedDict):
    """The number of pairs, and the first hundred of them."""

    count: int
    pairs: list[ExamplePair]


class CopiedScan(TypedDict):
    """One of two scans: its ids, its split, and its row of the store that is drawn."""

    source_id: str
    group_id: str
    split: str
    label: str
    row: int


class CopyPair(TypedDict):
    """Two scans that show the same.

    ``similarity`` is the correlation of their fine structure after alignment, ``significance`` how far that is above
    what images of this size and sharpness have in common by chance, in standard deviations. ``alteration`` says in
    words how one lies to the other ("mirrored, inverted").
    """

    first: CopiedScan
    second: CopiedScan
    similarity: float
    significance: float
    alteration: str


class CopyPairs(TypedDict):
    """The number of pairs, and the first hundred of them."""

    count: int
    pairs: list[CopyPair]


class CopySearch(TypedDict):
    """The extent of the search, and the pairs of scans that were found.

    ``across_splits`` are copies between patients of two splits (but for single images that are equal bit for bit, which
    are listed elsewhere), ``accepted`` those of them that a person accepted,
    ``within_split`` are between patients of one split and ``within_patient`` between scans of one patient;
    ``unverified`` agree less than copies do; ``threshold`` is the significance from which on copies are verified
    without a comparison with the scans that look most like them.
    ``labels_disagree`` lists copies whose labels differ once more. ``num_limited`` counts the scans that were compared
    with their nearest ones alone, most of them of few patients, because a search among all would have taken too long.
    """

    threshold: float
    num_sources: int
    num_candidates: int
    num_compared: int
    num_limited: int
    accept: list[list[str]]
    across_splits: CopyPairs
    accepted: CopyPairs
    within_split: CopyPairs
    within_patient: CopyPairs
    unverified: CopyPairs
    labels_disagree: CopyPairs


class Certificate(TypedDict):
    """The content of leak_certificate.json. ``page`` is the name of the page with the pairs, empty where none is."""

    format: int
    passed: bool
    kind: str
    store_fingerprint: str
    splits_fingerprint: str
    splits: dict[str, SplitCounts]
    patients_in_two_splits: list[str]
    patients_without_split: list[str]
    identical_images: ExamplePairs
    published_doubles: ExamplePairs
    copies: CopySearch
    page: str


def fingerprint_splits(splits: pd.DataFrame) -> str:
    """Return what changes when a patient moves."""
    rows = sorted(zip(splits["group_id"], splits["split"], strict=True))
    return compute_fingerprint([list(row) for row in rows])


def read_certificate(path: Path) -> Certificate:
    """Read leak_certificate.json.

    Raises:
        UserError: absent, damaged, or of another format.
    """
    if not path.is_file():
        raise UserError(f"{path}: no leak certificate. Run the split stage first.")
    certificate = read_checksummed_json(path)
    if certificate.get("format") != FORMAT:
        raise UserError(
            f"{path}: format {certificate.get('format', 1)}, this version reads {FORMAT}. Run the split stage again."
        )
    return cast(Certificate, certificate)


def check_certificate(path: Path, store: Store, splits: pd.DataFrame) -> Certificate:
    """Read the certificate and refuse one that does not belong to this data and these splits.

    Args:
        path: The file of the certificate.
        store: The examples.
        splits: Columns ``group_id, split``.

    Raises:
        UserError: absent, damaged, failed, or made for other data or splits.
    """
    certificate = read_certificate(path)
    made_for = (certificate["store_fingerprint"], certificate["splits_fingerprint"])
    if made_for != (store.fingerprint, fingerprint_splits(splits)):
        raise UserError(f"{path}: made for other images or other splits than these. Run the split stage again.")
    if not certificate["passed"]:
        raise UserError(_describe_leak(path, certificate))
    return certificate


def _describe_leak(path: Path, certificate: Certificate) -> str:
    kind, copies = DATA_KINDS[certificate["kind"]], certificate["copies"]["across_splits"]
    identical = certificate["identical_images"]
    sentences = [
        f"{path}: the splits leak ({len(certificate['patients_in_two_splits'])} patients in two splits, "
        f"{len(certificate['patients_without_split'])} in none, {identical['count']} identical images across splits, "
        f"{count_words(copies['count'], f'copied {kind.source}')} across splits)."
    ]
    if copies["pairs"]:
        sentences.append(f"{describe_pair(copies['pairs'][0], certificate['kind'])}.")
    elif identical["pairs"]:
        sentences.append(f"{identical['pairs'][0]['first']} is the same as {identical['pairs'][0]['second']}.")
    if certificate["page"]:
        sentences.append(f"All pairs are drawn in {path.with_name(certificate['page'])}.")
    sentences.append("Remove the duplicate scans or fix the table, then preprocess and split again.")
    if copies["pairs"]:
        sentences.append("A pair that is no copy goes into split.accept_copies.")
    return " ".join(sentences)


def describe_pair(pair: CopyPair, kind_name: str) -> str:
    """Return "scan A of patient 1 (train) shows the same as scan B of patient 2 (test), mirrored, similarity 0.97"."""
    kind = DATA_KINDS[kind_name]
    first, second = (_name_scan(scan, kind) for scan in (pair["first"], pair["second"]))
    words = f"{first} shows the same as {second}, {pair['alteration']}, similarity {pair['similarity']:.2f}"
    return words[0].upper() + words[1:]


def _name_scan(scan: CopiedScan, kind: DataKind) -> str:
    patient = f" of {kind.group} {scan['group_id']}" if kind.has_patients else ""
    return f"{kind.source} {scan['source_id']}{patient} ({scan['split']})"


def describe_findings(certificate: Certificate) -> list[str]:
    """Describe what a certificate found next to what it refuses, a sentence each."""
    kind, copies = DATA_KINDS[certificate["kind"]], certificate["copies"]
    sentences = []
    duplicates = certificate["published_doubles"]["count"]
    if duplicates:
        sentences.append(
            f"{count_words(duplicates, 'pair')} of exactly equal {plural(kind.example)} lie across the published "
            "splits, which are kept as they were published."
        )
    # Where they are not kept as published the certificate fails, and the refusal names them.
    kept = [("across_splits", f"of copied {plural(kind.source)} lie across splits of the published set")]
    found = [
        *(kept if certificate["passed"] else []),
        ("accepted", f"of copied {plural(kind.source)} across splits were accepted by split.accept_copies"),
        ("within_split", f"of {plural(kind.group)} in one split have a copied {kind.source}"),
        (
            "unverified",
            f"of {plural(kind.source)} of two {plural(kind.group)} look alike and are not verified as copies",
        ),
        ("labels_disagree", f"of copied {plural(kind.source)} have different labels"),
    ]
    for name, words in found:
        count = copies[name]["count"]  # type: ignore[literal-required]
        if count:
            sentences.append(f"{count_words(count, 'pair')} {words}.")
    num_left = copies["num_candidates"] - copies["num_compared"]
    if num_left:
        sentences.append(f"{count_words(num_left, 'pair')} of similar {plural(kind.source)} were not compared further.")
    if copies["num_limited"]:
        sentences.append(
            f"The search for copies was limited: of {count_words(copies['num_limited'], kind.source)} the nearest are "
            f"all of few {plural(kind.group)}, and more were not compared; a copy may be missed."
        )
    return sentences


def has_pairs(certificate: Certificate) -> bool:
    """Return whether there is a pair to draw."""
    copies = certificate["copies"]
    return any(
        found["count"]
        for found in (
            copies["across_splits"],
            copies["accepted"],
            copies["within_split"],
            copies["unverified"],
            copies["within_patient"],
        )
    )
