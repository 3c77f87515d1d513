"""The preprocess stage: raw scans or a published set in, manifest and example store out."""

import numpy as np
import pandas as pd
from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.config.validation import require
from pipeline.core.console import warn
from pipeline.core.errors import UserError
from pipeline.core.files import read_json, write_bytes, write_json
from pipeline.core.provenance import compute_fingerprint
from pipeline.core.tables import MANIFEST_COLUMNS, find_formula, read_table
from pipeline.core.text import make_printable
from pipeline.core.workspace import Workspace
from pipeline.data.sources import list_table_sources
from pipeline.data.store import FORMAT, read_store
from pipeline.datasets import DATASETS, find_raw_folder
from pipeline.preprocessing.parts import compute_part_key
from pipeline.preprocessing.published_sets import prepare_ready_made
from pipeline.preprocessing.volumes import assemble_store, prepare_parts, write_manifest
from pipeline.reporting.figures.image_grid import contact_sheet
from pipeline.stages.base import alone_in

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
        problems = prepare_parts(experiment, sources, part_paths, console)
        manifest = write_manifest(paths, sources, part_paths, problems)
        if (manifest["status"] == "accepted").any():
            assemble_store(experiment, sources, part_paths, console)
            _draw_contact_sheet(paths)
            for leftover in set(parts.iterdir()) - set(part_paths):
                leftover.unlink()
            if not problems:
                write_json(complete, {"plan": plan})
    _report(paths, manifest, console)
    _refuse(paths, manifest, experiment.preprocess.skip_refused)


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
