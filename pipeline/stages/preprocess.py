"""The preprocess stage: from raw scans or a published set to manifest and example store."""

import numpy as np
from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.core.console import warn, warn_all, working
from pipeline.core.errors import UserError
from pipeline.core.files import read_json, write_bytes, write_json
from pipeline.core.serialization import flatten
from pipeline.core.tables import MANIFEST_COLUMNS, read_table
from pipeline.core.text import make_printable
from pipeline.core.workspace import Workspace
from pipeline.data.store import has_store, read_store
from pipeline.datasets import find_dataset
from pipeline.preprocessing.published_sets import plan_published_set
from pipeline.preprocessing.volumes import plan_volumes
from pipeline.reporting.coverage_page import write_coverage
from pipeline.reporting.figures.image_grid import contact_sheet
from pipeline.stages.base import exclusive

NUM_SHEET_IMAGES = 48


@exclusive(lambda experiment: experiment.paths.prepared)
def preprocess(experiment: Experiment, console: Console) -> None:
    """Slice every scan, or read a published set; write manifest, store, coverage report and contact sheet.

    Raises:
        UserError: There is nothing to read; other options would replace the store that finished runs were trained on;
            or scans were refused and ``preprocess.skip_refused`` is false, and the manifest lists each with its reason.
    """
    dataset, _ = find_dataset(experiment.data)
    plan = plan_published_set if dataset.list_sources is None else plan_volumes
    preparation = plan(experiment)
    warn_all(console, preparation.notes)
    record = preparation.folder / "complete.json"
    if record.is_file() and read_json(record).get("plan") == preparation.plan:
        console.print(f"{preparation.folder}: up to date; nothing to do.")
    else:
        _keep_trained_store(experiment)
        before = _read_fingerprint(experiment.paths)
        # No stage shall find a store that the options no longer describe.
        record.unlink(missing_ok=True)
        (preparation.folder / "store.json").unlink(missing_ok=True)
        is_final = preparation.build(console)
        if preparation.coverage is not None:
            manifest = read_table(experiment.paths.manifest, MANIFEST_COLUMNS)
            write_coverage(experiment.paths.prepared, preparation.coverage, manifest, dataset.synthetic_note)
        if has_store(preparation.folder):
            with working("drawing the contact sheet", console):
                _draw_contact_sheet(experiment.paths)
            _name_runs_of_the_earlier_store(experiment.paths, before, console)
        if is_final:
            write_json(record, {"plan": preparation.plan})
    preparation.report(console)


def _keep_trained_store(experiment: Experiment) -> None:
    """Refuse other options for a store that finished runs were trained on: they could not be evaluated any more."""
    if not has_store(experiment.paths.prepared):
        return
    try:
        store = read_store(experiment.paths.prepared)
    except UserError:  # damaged, or of an earlier version: no run can use it
        return
    wanted = flatten(experiment.preprocess)
    changed = [name for name, value in store.settings.items() if name in wanted and wanted[name] != value]
    if not changed:
        return
    # It loads torch, which slicing does without.
    from pipeline.training.run_state import list_finished_runs

    runs = list_finished_runs(experiment.paths, store.fingerprint)
    if runs:
        name, some = changed[0], ", ".join(runs[:3]) + (", …" if len(runs) > 3 else "")
        raise UserError(
            f"preprocess.{name}: was {store.settings[name]}, is {wanted[name]}; the store of {some} would be replaced, "
            f"and {'it' if len(runs) == 1 else 'they'} could not be evaluated again. Give the experiment another name "
            f"(--name), set the option back, or delete {experiment.paths.run_folder}."
        )


def _read_fingerprint(paths: Workspace) -> str:
    """Return the fingerprint of the store that is there; nothing where none can be used."""
    try:
        return read_store(paths.prepared).fingerprint
    except UserError:
        return ""


def _name_runs_of_the_earlier_store(paths: Workspace, before: str, console: Console) -> None:
    """Name the finished runs whose store was replaced because the data changed, with the options as before."""
    if before in ("", _read_fingerprint(paths)):
        return
    from pipeline.training.run_state import list_finished_runs

    runs = list_finished_runs(paths, before)
    if runs:
        some = ", ".join(runs[:3]) + (", …" if len(runs) > 3 else "")
        warn(
            console,
            f"the data are not those that {some} {'was' if len(runs) == 1 else 'were'} trained on, and the store was "
            "replaced. Bring the earlier data back and preprocess again to evaluate them, or train again.",
        )


def _draw_contact_sheet(paths: Workspace) -> None:
    """Draw the middle slice of scans, or images, that are spread evenly over the store."""
    store = read_store(paths.prepared)
    middle = store.index.groupby("source_id", sort=False)["slice_index"].transform("size") // 2
    rows = np.flatnonzero(store.index["slice_index"] == middle)
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, NUM_SHEET_IMAGES).round().astype(int))]
    table = store.index.iloc[chosen]
    captions = [make_printable(f"{row.group_id} {row.label}") for row in table.itertuples()]
    write_bytes(paths.prepared / "contact_sheet.png", contact_sheet([store.draw(row) for row in chosen], captions))
