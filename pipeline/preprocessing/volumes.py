"""From a list of scans to manifest and example store, in parallel."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError
from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.core.console import progress
from pipeline.core.errors import UserError
from pipeline.core.files import write_json
from pipeline.core.provenance import count_cores
from pipeline.core.tables import INDEX_COLUMNS, MANIFEST_COLUMNS, write_table
from pipeline.core.workspace import Workspace
from pipeline.data.sources import Source
from pipeline.data.store import write_store
from pipeline.datasets import find_raw_folder
from pipeline.preprocessing.dask_jobs import Job, run_on_cluster
from pipeline.preprocessing.parts import (
    Part,
    check_written,
    describe_options,
    export_pictures,
    is_whole,
    prepare_part,
    read_part,
)


def prepare_parts(
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


def write_manifest(
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


def assemble_store(experiment: Experiment, sources: list[Source], part_paths: list[Path], console: Console) -> None:
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
