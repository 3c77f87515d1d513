"""The preprocess stage: raw scans or a published set in, manifest and example store out."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError
from rich.console import Console

from pipeline.cluster import Job, run_on_cluster
from pipeline.config import require
from pipeline.console import progress, warn
from pipeline.datasets import DATASETS, find_raw_folder
from pipeline.datasets.sources import Source, list_table_sources
from pipeline.errors import UserError
from pipeline.experiment import Experiment
from pipeline.figures import contact_sheet
from pipeline.files import read_json, write_bytes, write_json
from pipeline.locks import alone_in
from pipeline.preparation import (
    Part,
    check_written,
    compute_part_key,
    describe_options,
    export_pictures,
    is_whole,
    prepare_part,
    read_part,
)
from pipeline.printable import make_printable
from pipeline.provenance import compute_fingerprint, count_cores
from pipeline.ready_made_store import prepare_ready_made
from pipeline.store import FORMAT, read_store, write_store
from pipeline.tables import INDEX_COLUMNS, MANIFEST_COLUMNS, find_formula, read_table, write_table
from pipeline.workspace import Workspace

NUM_SHEET_PICTURES = 48


@alone_in(lambda experiment: experiment.paths.prepared)
def preprocess(experiment: Experiment, console: Console) -> None:
    """Slice every scan, or read a published set; write manifest, store, coverage report and contact sheet.

    Raises:
        UserError: there is nothing to read, or scans were refused and ``preprocess.skip_refused`` is false;
            the manifest then lists each with its reason.
    """
    name = experiment.data.dataset
    require(name in DATASETS, "data.dataset", name, ", ".join(DATASETS))
    dataset = DATASETS[name]
    if dataset.list_sources is None:
        prepare_ready_made(experiment, dataset, console, lambda: _draw_contact_sheet(experiment.paths))
        return
    paths = experiment.paths
    raw = find_raw_folder(experiment)
    if experiment.data.table is not None:
        sources = list_table_sources(raw, experiment.data.table)
    else:
        sources = dataset.list_sources(raw, experiment.data.pattern)
    parts = paths.prepared / "parts"
    part_paths = [parts / f"{compute_part_key(raw, source, experiment.preprocess)}.npz" for source in sources]
    names = [path.name for path in part_paths]
    plan = compute_fingerprint(FORMAT, names, [source.spelling for source in sources], experiment.preprocess.export_png)
    complete = paths.prepared / "complete.json"
    if complete.is_file() and read_json(complete).get("plan") == plan:
        manifest = read_table(paths.manifest, MANIFEST_COLUMNS)
        console.print(f"{paths.prepared}: {len(sources)} scans are up to date; nothing to do.")
    else:
        # From here until the end, no stage finds a store that the options no longer describe.
        complete.unlink(missing_ok=True)
        (paths.prepared / "store.json").unlink(missing_ok=True)
        problems = _prepare_parts(experiment, sources, part_paths, console)
        manifest = _write_manifest(paths, sources, part_paths, problems)
        if (manifest["status"] == "accepted").any():
            _assemble(experiment, sources, part_paths, console)
            _draw_contact_sheet(paths)
            for leftover in set(parts.iterdir()) - set(part_paths):
                leftover.unlink()
            if not problems:
                write_json(complete, {"plan": plan})
    _report(paths, manifest, console)
    _refuse(paths, manifest, experiment.preprocess.skip_refused)


def _prepare_parts(
    experiment: Experiment, sources: list[Source], part_paths: list[Path], console: Console
) -> dict[str, str]:
    """Make the parts that are not there yet, or damaged, in parallel; return why parts, by name, were not made."""
    work = [(source, path) for source, path in zip(sources, part_paths, strict=True) if not source.ignored]
    missing = [(source, path) for source, path in work if not is_whole(path)]
    if len(missing) < len(work):
        console.print(f"{len(work) - len(missing)} of {len(work)} scans need no work.")
    raw, options = find_raw_folder(experiment), experiment.preprocess
    jobs = [
        (source.paths[0].as_posix(), delayed(prepare_part)(raw, source, options, part_path, str(raw)))
        for source, part_path in missing
    ]
    for _, path in missing:
        path.unlink(missing_ok=True)  # damaged
    problems = dict(found for found in _run(jobs, "slicing", experiment, console) if found is not None)
    check_written([path for _, path in missing if path.name not in problems])
    return problems


def _run(jobs: list[tuple[str, Job]], description: str, experiment: Experiment, console: Console) -> list[Any]:
    """Do all jobs, here or on a cluster; each has the name of its scan. Return what they gave, in any order."""
    if not jobs:
        return []
    options, raw = experiment.preprocess, find_raw_folder(experiment)
    if options.scheduler is not None:
        sample = next((raw / name for name, _ in jobs if (raw / name).is_file()), None)
        done = run_on_cluster(options.scheduler, jobs, experiment.paths.prepared, sample)
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


def _write_manifest(
    paths: Workspace, sources: list[Source], part_paths: list[Path], problems: dict[str, str]
) -> pd.DataFrame:
    """Write what became of every file, and how many each spelling of name matched."""
    rows = []
    for source, part_path in zip(sources, part_paths, strict=True):
        if source.ignored:
            facts, num_examples = {"status": "ignored", "reason": source.refusal}, 0
        elif part_path.name in problems:
            facts, num_examples = {"status": "refused", "reason": problems[part_path.name]}, 0
        else:
            part = read_part(part_path)
            facts, num_examples = part.facts, len(part.images)
        rows.append(_manifest_row(source, facts, num_examples))
    manifest = pd.DataFrame(rows, columns=list(MANIFEST_COLUMNS))
    write_table(paths.manifest, manifest, MANIFEST_COLUMNS)
    write_json(paths.prepared / "coverage.json", _count_coverage(manifest))
    return manifest


def _assemble(experiment: Experiment, sources: list[Source], part_paths: list[Path], console: Console) -> None:
    """Join the accepted parts, in the order of their ids, into the store; export."""
    paths = experiment.paths
    accepted, tables = [], []
    for source, path in zip(sources, part_paths, strict=True):
        part = read_part(path) if path.is_file() else None
        if part is not None and part.facts["status"] == "accepted":
            accepted.append((source, path))
            tables.append(_index_rows(source, part))
    index = pd.concat(tables, ignore_index=True)
    stacks = (read_part(path).images for _, path in accepted)
    write_store(paths.prepared, stacks, index, describe_options(experiment.preprocess))
    shutil.rmtree(paths.prepared / "png", ignore_errors=True)
    if experiment.preprocess.export_png:
        folder = paths.prepared / "png"
        jobs = [
            (source.paths[0].as_posix(), delayed(export_pictures)(part_path, source, folder))
            for source, part_path in accepted
        ]
        _run(jobs, "exporting", experiment, console)


def _manifest_row(source: Source, facts: dict[str, Any], num_examples: int) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(MANIFEST_COLUMNS, "")
    row |= {
        "source_id": source.source_id,
        "group_id": source.group_id,
        "label": source.label,
        "path": source.paths[0].as_posix(),
        "num_files": len(source.paths),
        "visit": source.visit,
        "side": source.side,
        "spelling": source.spelling,
        "num_examples": num_examples,
    }
    return row | facts


def _index_rows(source: Source, part: Part) -> pd.DataFrame:
    num_slices = len(part.images)
    rows = {
        "example_id": [f"{source.source_id}_{slice_index}" for slice_index in range(num_slices)],
        "source_id": source.source_id,
        "group_id": source.group_id,
        "label": source.label,
        "slice_index": range(num_slices),
        "slice_position": part.positions,
    }
    return pd.DataFrame(rows, columns=list(INDEX_COLUMNS))


def _count_coverage(manifest: pd.DataFrame) -> dict[str, Any]:
    """Return how many files each spelling matched, and what became of them."""
    matched = manifest[manifest["spelling"] != ""]
    spellings = matched.groupby("spelling", sort=True)["num_files"].sum()
    disagreements = manifest[(manifest["side"] != "") & (manifest["side_by_position"] != "")]
    disagreements = disagreements[disagreements["side"] != disagreements["side_by_position"]]
    return {
        "files_by_spelling": {str(spelling): int(count) for spelling, count in spellings.items()},
        "scans_by_status": dict(sorted(Counter(manifest["status"]).items())),
        "scans_by_label": dict(sorted(Counter(manifest.loc[manifest["status"] == "accepted", "label"]).items())),
        "side_disagreements": disagreements["path"].tolist(),
    }


def _draw_contact_sheet(paths: Workspace) -> None:
    """Draw the middle picture of scans, or images, that are spread evenly over the store."""
    store = read_store(paths.prepared)
    middle = store.index.groupby("source_id", sort=False)["slice_index"].transform("size") // 2
    rows = np.flatnonzero(store.index["slice_index"] == middle)
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, NUM_SHEET_PICTURES).round().astype(int))]
    table = store.index.iloc[chosen]
    captions = [make_printable(f"{row.group_id} {row.label}") for row in table.itertuples()]
    write_bytes(paths.prepared / "contact_sheet.png", contact_sheet(store.examples[chosen], captions))


def _report(paths: Workspace, manifest: pd.DataFrame, console: Console) -> None:
    coverage = read_json(paths.prepared / "coverage.json")
    for spelling, count in coverage["files_by_spelling"].items():
        console.print(f"  {count:6d}  {spelling}", highlight=False)
    accepted = manifest[manifest["status"] == "accepted"]
    labels = ", ".join(f"{count} {label}" for label, count in coverage["scans_by_label"].items())
    console.print(f"{len(accepted)} scans of {accepted['group_id'].nunique()} patients ({labels}) -> {paths.prepared}")
    for path in coverage["side_disagreements"]:
        warn(console, f"{path}: the name's side and the knee's place in the scanner disagree")
    formula = find_formula(accepted)
    if formula:
        warn(console, f"{formula!r}: a spreadsheet takes this for a formula. Import the tables' columns as text.")
    ignored = manifest[manifest["status"] == "ignored"]
    if len(ignored):
        first = ignored.iloc[0]
        such = make_printable(f"such as {first['path']}: {first['reason']}")
        console.print(f"{len(ignored)} file(s) ignored, {such}", highlight=False, markup=False)


def _refuse(paths: Workspace, manifest: pd.DataFrame, skip_refused: bool) -> None:
    """List the refused scans; end with an error where nothing is left or they are not to be skipped."""
    refused = manifest[manifest["status"] == "refused"]
    errors = Console(stderr=True, soft_wrap=True)
    for reason in refused["reason"]:
        errors.print(f"refused: {reason}", markup=False, highlight=False)
    if not (manifest["status"] == "accepted").any():
        raise UserError(f"{paths.manifest}: none of {len(manifest)} scans can be used; each is there with its reason.")
    if len(refused) and not skip_refused:
        raise UserError(
            f"{paths.manifest}: {len(refused)} of {len(manifest)} scans were refused; each is there with its reason. "
            "Mend or remove them, or set preprocess.skip_refused: true."
        )
