"""From a list of scans, or of images of patients, to manifest and example store, in parallel."""

import hashlib
import itertools
import math
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError
from rich.console import Console

from pipeline.config.data import PreprocessConfig, Unit
from pipeline.config.experiment import Experiment
from pipeline.core.array_types import Array
from pipeline.core.console import progress, warn
from pipeline.core.data_kinds import PATIENT_IMAGES, SCANS, VOLUMES, DataKind
from pipeline.core.errors import UserError
from pipeline.core.files import read_json, write_json
from pipeline.core.provenance import compute_fingerprint, count_cores
from pipeline.core.tables import INDEX_COLUMNS, MANIFEST_COLUMNS, find_formula, read_table, write_table
from pipeline.core.text import count_labels, count_words, make_printable, plural
from pipeline.data.sources import Listing, Source
from pipeline.data.store import FORMAT, write_store
from pipeline.datasets import find_raw_folder, list_sources
from pipeline.formats.volume import describe_obliquity, describe_spacing
from pipeline.preprocessing.dask_jobs import Job, run_on_cluster
from pipeline.preprocessing.parts import (
    PartSummary,
    SourceSummary,
    check_written,
    compute_part_key,
    describe_options,
    export_images,
    match_channels,
    prepare_part,
    read_images,
    read_summary,
)
from pipeline.preprocessing.preparation import Preparation

# Images of a part: enough that starting a job costs little, and few that are read again after an interruption.
IMAGES_A_PART = 128
MAX_LISTED = 20  # refused files that are printed


class _Used(NamedTuple):
    """An accepted source: its positions, and the part that holds its images from a place on."""

    source: Source
    positions: Array
    part: Path
    first: int


@dataclass(frozen=True)
class Plan:
    """The sources of a data set, and the parts that they are read into.

    Args:
        raw: The folder that the sources' paths are relative to.
        folder: The folder of the store.
        options: The options of slicing.
        kind: The kind of data.
        sources: All sources, ignored ones too, in the order of the manifest: by their ids.
        parts: The path of each part, with its sources.
    """

    raw: Path
    folder: Path
    options: PreprocessConfig
    kind: DataKind
    sources: tuple[Source, ...]
    parts: Mapping[Path, Sequence[Source]]

    @property
    def manifest(self) -> Path:
        """The table of the sources."""
        return self.folder / "manifest.csv"


def plan_volumes(experiment: Experiment) -> Preparation:
    """List the scans or images of a data set, and how they become a store.

    Args:
        experiment: The experiment: its data, options and workspace.

    Raises:
        UserError: there is nothing to read.
    """
    listing = list_sources(experiment)
    return plan_listing(listing, find_raw_folder(experiment), experiment.paths.prepared, experiment.preprocess)


def plan_listing(listing: Listing, raw: Path, folder: Path, options: PreprocessConfig) -> Preparation:
    """List how scans or images that are known become a store.

    Args:
        listing: The scans.
        raw: The folder that their paths are relative to.
        folder: The folder of the store.
        options: The options of slicing.

    Raises:
        UserError: volumes and images are among them.
    """
    sources, coverage = sorted(listing.sources, key=_order), listing.coverage
    kind = find_kind(sources, options.unit)
    used = [source for source in sources if not source.ignored]
    step = IMAGES_A_PART if kind is PATIENT_IMAGES else 1
    groups = [used[start : start + step] for start in range(0, len(used), step)]
    parts = {folder / "parts" / f"{compute_part_key(raw, group, options)}.npz": group for group in groups}
    part_names, spellings = [path.name for path in parts], [source.spelling for source in sources]
    ignored = [[source.paths[0].as_posix(), source.refusal] for source in sources if source.ignored]
    # What the manifest and the index have from a table, and no part.
    given = [
        [source.visit, source.site, source.published_split, source.weight, source.covariates] for source in sources
    ]
    delivered = 0 if coverage is None else int(pd.util.hash_pandas_object(coverage, index=False).sum())
    plan = Plan(raw, folder, options, kind, tuple(sources), parts)
    return Preparation(
        folder,
        compute_fingerprint(FORMAT, part_names, spellings, ignored, given, delivered, options.export_png),
        build=partial(_build, plan),
        report=partial(_report, plan),
        notes=listing.notes,
        coverage=coverage,
    )


def find_kind(sources: Sequence[Source], unit: Unit) -> DataKind:
    """Return the kind of data that sources are: volumes as slices or whole, or images of patients.

    Args:
        sources: The sources, ignored ones too.
        unit: What one example of a scan is.

    Raises:
        UserError: both are there.
    """
    used = [source for source in sources if not source.ignored]
    images, scans = ([source for source in used if source.is_image == wanted] for wanted in (True, False))
    scans = [source for source in scans if not source.refusal]
    if images and scans:
        raise UserError(
            f"preprocess: {images[0].paths[0]} is an image and {scans[0].paths[0]} a volume; a model takes one kind. "
            f"Name the {len(images):,} images or the {len(scans):,} volumes alone."
        )
    return PATIENT_IMAGES if images else SCANS if unit == "volume" else VOLUMES


def _order(source: Source) -> tuple[Any, ...]:
    """Return what sources are sorted by: a table knows patient, visit and side of a file, whatever it is called.

    A training draws its batches from the rows of the store in their order, so that this order decides its weights.
    """
    return not source.group_id, source.ignored, *_describe_scan(source), source.source_id


def _describe_scan(source: Source) -> tuple[str, ...]:
    return source.group_id, source.visit, source.side, source.site, source.label


def _build(plan: Plan, console: Console) -> bool:
    """Write manifest, coverage report and, where a scan is accepted, the store; return whether no part is lacking."""
    summaries = _prepare_parts(plan, console)
    by_source = {
        source.paths: summary
        for path, sources in plan.parts.items()
        for source, summary in zip(sources, summaries[path.name].sources, strict=True)
    }
    _write_manifest(plan, by_source)
    if not any(summary.is_accepted for summary in by_source.values()):
        return False
    _assemble_store(plan, summaries, console)
    for leftover in set((plan.folder / "parts").iterdir()) - set(plan.parts):
        leftover.unlink()
    return all(summary.is_kept for summary in summaries.values())


def _prepare_parts(plan: Plan, console: Console) -> dict[str, PartSummary]:
    """Make the parts that are not there yet, or damaged, in parallel.

    Returns:
        From a part's name to what it holds, or why it was not made.
    """
    found = {path.name: read_summary(path) for path in plan.parts}
    summaries = {name: summary for name, summary in found.items() if summary is not None and summary.is_kept}
    if summaries:
        done, work = (
            sum(map(len, parts))
            for parts in ([part for path, part in plan.parts.items() if path.name in summaries], plan.parts.values())
        )
        console.print(f"{done} of {count_words(work, plan.kind.source)} need no work.", highlight=False)
    missing = {path: sources for path, sources in plan.parts.items() if path.name not in summaries}
    for path in missing:
        path.unlink(missing_ok=True)  # damaged
    jobs = [
        (sources[0].paths[0].as_posix(), delayed(prepare_part)(plan.raw, sources, plan.options, path, str(plan.raw)))
        for path, sources in missing.items()
    ]
    verb = "slicing" if plan.kind.reads_scans else "fitting"
    summaries |= {summary.name: summary for summary in _run(jobs, verb, plan, console)}
    check_written([path for path in missing if summaries[path.name].is_kept])
    return summaries


def _run(jobs: list[tuple[str, Job]], description: str, plan: Plan, console: Console) -> list[Any]:
    """Do all jobs, here or on a cluster; each has the name of its scan. Return what they gave, in any order."""
    if not jobs:
        return []
    options, raw = plan.options, plan.raw
    if options.dask_scheduler is not None:
        sample = next((raw / name for name, _ in jobs if (raw / name).is_file()), None)
        done = run_on_cluster(options.dask_scheduler, jobs, plan.folder, sample)
    else:
        num_workers = min(options.num_workers or count_cores(), len(jobs))
        done = Parallel(n_jobs=num_workers, return_as="generator_unordered")(job for _, job in jobs)
    try:
        return list(progress(done, description, len(jobs), console))
    except TerminatedWorkerError as error:
        raise UserError(
            f"preprocess: a worker process died while {description}, killed or out of memory. The scans that were done "
            "are kept: run the stage again, and if memory was short with a smaller preprocess.num_workers."
        ) from error


def _write_manifest(plan: Plan, by_source: Mapping[tuple[Path, ...], SourceSummary]) -> None:
    """Write the fate of every file, and the number of files that each spelling of name matched."""
    rows = []
    for source in plan.sources:
        facts, num_examples = {"status": "ignored", "reason": source.refusal}, 0
        if not source.ignored:
            facts, num_examples = by_source[source.paths].facts, len(by_source[source.paths].positions)
            num_examples = min(num_examples, 1) if plan.kind is SCANS else num_examples
        rows.append(_manifest_row(source, facts, num_examples))
    covariates = tuple(name for name, _ in plan.sources[0].covariates) if plan.sources else ()
    columns = (*MANIFEST_COLUMNS, *covariates)
    manifest = pd.DataFrame([{"side_evidence": ""} | row for row in rows], columns=[*columns, "side_evidence"])
    write_table(plan.manifest, manifest, columns)
    write_json(plan.folder / "coverage.json", {"kind": plan.kind.name} | _count_coverage(manifest))


def _assemble_store(plan: Plan, summaries: Mapping[str, PartSummary], console: Console) -> None:
    """Join the accepted sources, in the order of their ids, into the store; export.

    Only here is a part read that this run made, and by the processes that export it again.
    """
    folder = plan.folder
    accepted = {path: sources for path, sources in plan.parts.items() if summaries[path.name].num_channels}
    found = [used for path in accepted for used in _list_used(path, plan.parts[path], summaries[path.name])]
    num_channels = max(summaries[path.name].num_channels for path in accepted)
    ordered = _order_alike(found, num_channels)
    used = [(each.source, each.positions) for each in ordered]
    stacks = _read_stacks(ordered, num_channels)
    if num_channels == 1:
        stacks = (stack[:, 0] for stack in stacks)
    places_mm, settings = None, describe_options(plan.options)
    if plan.kind is SCANS:
        most = max(len(positions) for _, positions in used)
        stacks = (_fill_up(stack, most, 0)[None] for stack in stacks)
        places_mm = np.stack([_fill_up(positions, most, np.nan) for _, positions in used])
        used = [(source, np.zeros(1, np.float32)) for source, _ in used]
    index = _tabulate_index(used, is_split=plan.kind.has_slices)
    write_store(folder, stacks, index, settings, plan.kind, places_mm=places_mm)
    shutil.rmtree(folder / "png", ignore_errors=True)
    if plan.options.export_png:
        jobs = [
            (sources[0].paths[0].as_posix(), delayed(export_images)(path, sources, folder / "png"))
            for path, sources in accepted.items()
        ]
        _run(jobs, "exporting", plan, console)


def _list_used(path: Path, sources: Sequence[Source], summary: PartSummary) -> Iterator[_Used]:
    """Yield the accepted sources of a part with the place of their images in it."""
    first = 0
    for source, facts in zip(sources, summary.sources, strict=True):
        if facts.is_accepted:
            yield _Used(source, facts.positions, path, first)
            first += len(facts.positions)


def _order_alike(found: Sequence[_Used], num_channels: int) -> list[_Used]:
    """Order scans whose ids are the same by their images: nothing but names of files tells them apart."""
    ordered: list[_Used] = []
    for _, group in itertools.groupby(found, key=lambda used: _describe_scan(used.source)):
        alike = list(group)
        if len(alike) > 1:
            digests = [hashlib.sha256(stack.tobytes()).digest() for stack in _read_stacks(alike, num_channels)]
            alike = [used for _, used in sorted(zip(digests, alike, strict=True), key=lambda pair: pair[0])]
        ordered += alike
    return ordered


def _read_stacks(used: Iterable[_Used], num_channels: int) -> Iterator[Array]:
    """Yield the images of each source, ``(images, channels, height, width)``; a part is read once for its sources."""
    path, images = None, np.zeros(0)
    for each in used:
        if path != each.part:
            path, images = each.part, read_images(each.part)
        yield match_channels(images[each.first : each.first + len(each.positions)], num_channels)


def _fill_up(values: Array, length: int, value: float) -> Array:
    """Append rows of one value, so that there are ``length`` of them."""
    padding = [(0, length - len(values))] + [(0, 0)] * (values.ndim - 1)
    return np.pad(values, padding, constant_values=value)


def _manifest_row(source: Source, facts: dict[str, Any], num_examples: int) -> dict[str, Any]:
    copied = ("source_id", "group_id", "label", "visit", "side", "site", "spelling", "published_split", "weight")
    row: dict[str, Any] = dict.fromkeys(MANIFEST_COLUMNS, "") | {name: getattr(source, name) for name in copied}
    row |= {"path": source.paths[0].as_posix(), "num_files": len(source.paths), "num_examples": num_examples}
    return row | facts | dict(source.covariates)


def _tabulate_index(used: Sequence[tuple[Source, Array]], is_split: bool) -> pd.DataFrame:
    """Make the index: a row for each slice, with its position, or where scans are not split for each scan or image."""
    rows = [
        (
            f"{source.source_id}_{slice_index}" if is_split else source.source_id,
            source.source_id,
            source.group_id,
            source.label,
            slice_index,
        )
        for source, positions in used
        for slice_index in range(len(positions))
    ]
    index = pd.DataFrame(rows, columns=list(INDEX_COLUMNS[:-1]))
    index["slice_position"] = np.concatenate([positions for _, positions in used])
    if any(source.weight for source, _ in used):
        weights = [float(source.weight or 1) for source, _ in used]
        index["weight"] = np.repeat(weights, [len(positions) for _, positions in used])
    return index


def _count_coverage(manifest: pd.DataFrame) -> dict[str, Any]:
    """Return how many files each spelling matched, and what became of them."""
    matched = manifest[manifest["spelling"] != ""]
    spellings = matched.groupby("spelling", sort=True)["num_files"].sum()
    disagreements = manifest[(manifest["side"] != "") & (manifest["side_by_position"] != "")]
    disagreements = disagreements[disagreements["side"] != disagreements["side_by_position"]]
    contradicted = manifest[manifest["side_evidence"] != ""]
    return {
        "files_by_spelling": {str(spelling): int(count) for spelling, count in spellings.items()},
        "scans_by_status": dict(sorted(Counter(manifest["status"]).items())),
        "scans_by_label": dict(sorted(Counter(manifest.loc[manifest["status"] == "accepted", "label"]).items())),
        "side_disagreements": disagreements["path"].tolist(),
        "side_evidence": dict(zip(contradicted["path"], contradicted["side_evidence"], strict=True)),
    }


def _report(plan: Plan, console: Console) -> None:
    """Print what the manifest holds.

    Raises:
        UserError: no scan can be used, or some were refused and ``preprocess.skip_refused`` is false.
    """
    manifest = read_table(plan.manifest, MANIFEST_COLUMNS)
    coverage = read_json(plan.folder / "coverage.json")
    for spelling, count in coverage["files_by_spelling"].items():
        console.print(f"  {count:6d}  {spelling}", highlight=False)
    accepted = manifest[manifest["status"] == "accepted"]
    kind = plan.kind
    labels = f" ({count_labels(coverage['scans_by_label'])})" if len(accepted) else ""
    counts = f"{len(accepted)} {plural(kind.source)} of {count_words(accepted['group_id'].nunique(), 'patient')}"
    console.print(f"{counts}{labels} -> {plan.folder}", highlight=False)
    for path in coverage["side_disagreements"]:
        found = coverage["side_evidence"].get(path, "")
        warn(console, f"{path}: the named side and the knee's place in the scanner disagree ({found})")
    columns = ["path", "spacing_mm", "obliquity_degrees", "reason"]
    read = accepted[columns].itertuples(index=False, name=None) if kind.reads_scans else ()
    doubts = [
        (path, doubt)
        for path, sizes, degrees, found in read
        for doubt in (_doubt_spacing(sizes), describe_obliquity(float(degrees or 0)), found)
        if doubt
    ]
    for path, doubt in doubts[:MAX_LISTED]:
        warn(console, f"{path}: {doubt}")
    shrinking = _describe_shrunk(accepted, plan.options) if kind is PATIENT_IMAGES else ""
    if shrinking:
        warn(console, shrinking)
    formula = find_formula(accepted)
    if formula:
        warn(console, f"{formula!r}: a spreadsheet takes this for a formula. Import the tables' columns as text.")
    ignored = manifest[manifest["status"] == "ignored"]
    if len(ignored):
        first = ignored.iloc[0]
        such = make_printable(f"such as {first['path']}: {first['reason']}")
        console.print(f"{count_words(len(ignored), 'file')} ignored, {such}", highlight=False, markup=False)
    _refuse(plan, manifest)


def _describe_shrunk(accepted: pd.DataFrame, options: PreprocessConfig) -> str:
    if accepted.empty or options.spacing_mm is not None:
        return ""
    longest = np.median([max(map(int, shape.split("x"))) for shape in accepted["shape"]])
    return describe_shrinking(float(longest) / max(options.image_size))


def describe_shrinking(factor: float) -> str:
    """Say what is lost where images shrink by more than a quarter of their new size; return nothing for others.

    Args:
        factor: How many times longer the longer side was.
    """
    if factor <= 1.25:
        return ""
    return (
        f"images shrink {factor:.1f} times, and details of fewer than {math.ceil(factor)} pixels are lost. A larger "
        "preprocess.image_size keeps them; time grows with its square."
    )


def _doubt_spacing(sizes: str) -> str:
    return describe_spacing(float(size) for size in sizes.split("x")) if sizes else ""


def _refuse(plan: Plan, manifest: pd.DataFrame) -> None:
    """List the refused scans; end with an error where nothing is left or they are not to be skipped."""
    what = count_words(len(manifest), plan.kind.source)
    refused = manifest[manifest["status"] == "refused"]
    errors = Console(stderr=True, soft_wrap=True)
    for reason in refused["reason"][:MAX_LISTED]:
        errors.print(f"refused: {reason}", markup=False, highlight=False)
    if len(refused) > MAX_LISTED:
        errors.print(f"and {len(refused) - MAX_LISTED:,} more, each with its reason in {plan.manifest}")
    if not (manifest["status"] == "accepted").any():
        raise UserError(f"{plan.manifest}: none of {what} can be used; each is there with its reason.")
    if len(refused) and not plan.options.skip_refused:
        verb, them = ("was", "it") if len(refused) == 1 else ("were", "them")
        raise UserError(
            f"{plan.manifest}: {len(refused):,} of {what} {verb} refused; each is there with its reason. "
            f"Fix or remove {them}, or set preprocess.skip_refused: true."
        )
