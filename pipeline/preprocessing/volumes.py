"""From a list of scans to manifest and example store, in parallel."""

import shutil
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError
from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.core.array_types import Array
from pipeline.core.console import progress, warn
from pipeline.core.errors import UserError
from pipeline.core.files import read_json, write_json
from pipeline.core.provenance import compute_fingerprint, count_cores
from pipeline.core.tables import INDEX_COLUMNS, MANIFEST_COLUMNS, find_formula, read_table, write_table
from pipeline.core.text import make_printable
from pipeline.core.workspace import Workspace
from pipeline.data.sources import Source
from pipeline.data.store import FORMAT, write_store
from pipeline.datasets import find_raw_folder, list_sources
from pipeline.preprocessing.dask_jobs import Job, run_on_cluster
from pipeline.preprocessing.parts import (
    PartSummary,
    check_written,
    compute_part_key,
    describe_options,
    export_images,
    prepare_part,
    read_images,
    read_summary,
)
from pipeline.preprocessing.preparation import Preparation

# Scans, each with the path of its part.
Scans = list[tuple[Source, Path]]


def plan_volumes(experiment: Experiment) -> Preparation:
    """List the scans of a data set, and how they become a store.

    Args:
        experiment: The experiment: its data, options and workspace.

    Raises:
        UserError: there is nothing to read.
    """
    raw, options, folder = find_raw_folder(experiment), experiment.preprocess, experiment.paths.prepared
    sources, notes = list_sources(experiment)
    scans = [(source, folder / "parts" / f"{compute_part_key(raw, source, options)}.npz") for source in sources]
    part_names, spellings = [path.name for _, path in scans], [source.spelling for source in sources]
    # What the manifest and the index have from a table, and no part.
    given = [
        [source.visit, source.site, source.published_split, source.weight, source.covariates] for source in sources
    ]
    return Preparation(
        folder,
        compute_fingerprint(FORMAT, part_names, spellings, given, options.export_png),
        build=partial(_build, experiment, scans),
        report=partial(_report, experiment),
        notes=notes,
    )


def _build(experiment: Experiment, scans: Scans, console: Console) -> bool:
    """Write manifest, coverage report and, where a scan is accepted, the store; return whether no part is lacking."""
    summaries = _prepare_parts(experiment, scans, console)
    _write_manifest(experiment.paths, scans, summaries)
    if not any(summary.is_accepted for summary in summaries.values()):
        return False
    _assemble_store(experiment, scans, summaries, console)
    for leftover in set((experiment.paths.prepared / "parts").iterdir()) - {path for _, path in scans}:
        leftover.unlink()
    return all(summary.is_kept for summary in summaries.values())


def _prepare_parts(experiment: Experiment, scans: Scans, console: Console) -> dict[str, PartSummary]:
    """Make the parts that are not there yet, or damaged, in parallel.

    Returns:
        From a part's name to what it holds, or why it was not made; ignored files have none.
    """
    work = [(source, path) for source, path in scans if not source.ignored]
    summaries = {path.name: summary for _, path in work if (summary := read_summary(path)) is not None}
    if summaries:
        console.print(f"{len(summaries)} of {len(work)} scans need no work.")
    missing = [(source, path) for source, path in work if path.name not in summaries]
    for _, path in missing:
        path.unlink(missing_ok=True)  # damaged
    raw, options = find_raw_folder(experiment), experiment.preprocess
    jobs = [
        (source.paths[0].as_posix(), delayed(prepare_part)(raw, source, options, path, str(raw)))
        for source, path in missing
    ]
    summaries |= {summary.name: summary for summary in _run(jobs, "slicing", experiment, console)}
    check_written([path for _, path in missing if summaries[path.name].is_kept])
    return summaries


def _run(jobs: list[tuple[str, Job]], description: str, experiment: Experiment, console: Console) -> list[Any]:
    """Do all jobs, here or on a cluster; each has the name of its scan. Return what they gave, in any order."""
    if not jobs:
        return []
    options, raw = experiment.preprocess, find_raw_folder(experiment)
    if options.dask_scheduler is not None:
        sample = next((raw / name for name, _ in jobs if (raw / name).is_file()), None)
        done = run_on_cluster(options.dask_scheduler, jobs, experiment.paths.prepared, sample)
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


def _write_manifest(paths: Workspace, scans: Scans, summaries: Mapping[str, PartSummary]) -> None:
    """Write the fate of every file, and the number of files that each spelling of name matched."""
    rows = []
    for source, path in scans:
        facts, num_examples = {"status": "ignored", "reason": source.refusal}, 0
        if not source.ignored:
            facts, num_examples = summaries[path.name].facts, len(summaries[path.name].positions)
        rows.append(_manifest_row(source, facts, num_examples))
    covariates = tuple(name for name, _ in scans[0][0].covariates) if scans else ()
    columns = (*MANIFEST_COLUMNS, *covariates)
    manifest = pd.DataFrame(rows, columns=list(columns))
    write_table(paths.manifest, manifest, columns)
    write_json(paths.prepared / "coverage.json", _count_coverage(manifest))


def _assemble_store(
    experiment: Experiment, scans: Scans, summaries: Mapping[str, PartSummary], console: Console
) -> None:
    """Join the accepted parts, in the order of their ids, into the store; export.

    Only here is a part read that this run made, once, and by the processes that export it again.
    """
    folder = experiment.paths.prepared
    accepted = [(source, path) for source, path in scans if not source.ignored and summaries[path.name].is_accepted]
    index = pd.concat(
        [_index_rows(source, summaries[path.name].positions) for source, path in accepted], ignore_index=True
    )
    stacks = (read_images(path) for _, path in accepted)
    write_store(folder, stacks, index, describe_options(experiment.preprocess))
    shutil.rmtree(folder / "png", ignore_errors=True)
    if experiment.preprocess.export_png:
        jobs = [
            (source.paths[0].as_posix(), delayed(export_images)(path, source, folder / "png"))
            for source, path in accepted
        ]
        _run(jobs, "exporting", experiment, console)


def _manifest_row(source: Source, facts: dict[str, Any], num_examples: int) -> dict[str, Any]:
    copied = ("source_id", "group_id", "label", "visit", "side", "site", "spelling", "published_split", "weight")
    row: dict[str, Any] = dict.fromkeys(MANIFEST_COLUMNS, "") | {name: getattr(source, name) for name in copied}
    row |= {"path": source.paths[0].as_posix(), "num_files": len(source.paths), "num_examples": num_examples}
    return row | facts | dict(source.covariates)


def _index_rows(source: Source, positions: Array) -> pd.DataFrame:
    num_slices = len(positions)
    rows = {
        "example_id": [f"{source.source_id}_{slice_index}" for slice_index in range(num_slices)],
        "source_id": source.source_id,
        "group_id": source.group_id,
        "label": source.label,
        "slice_index": range(num_slices),
        "slice_position": positions,
    }
    weight = {"weight": float(source.weight)} if source.weight else {}
    return pd.DataFrame(rows | weight, columns=[*INDEX_COLUMNS, *weight])


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


def _report(experiment: Experiment, console: Console) -> None:
    """Print what the manifest holds.

    Raises:
        UserError: no scan can be used, or some were refused and ``preprocess.skip_refused`` is false.
    """
    paths = experiment.paths
    manifest = read_table(paths.manifest, MANIFEST_COLUMNS)
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
    _refuse(paths, manifest, experiment.preprocess.skip_refused)


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
            "Fix or remove them, or set preprocess.skip_refused: true."
        )
