"""The cases stage: single scans in a viewer of three planes, with the model's answers."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from rich.console import Console

from pipeline.attention.native_slices import check_digest
from pipeline.config.experiment import Experiment
from pipeline.core.array_types import Array
from pipeline.core.console import progress
from pipeline.core.data_kinds import VOLUMES
from pipeline.core.errors import UserError
from pipeline.core.tables import MANIFEST_COLUMNS, read_table
from pipeline.core.text import count_words
from pipeline.core.workspace import Workspace
from pipeline.data.sources import Source
from pipeline.data.store import Store, read_store
from pipeline.datasets import DATASETS, find_raw_folder, list_sources
from pipeline.evaluation.predictions import read_predictions
from pipeline.evaluation.schema import read_metrics
from pipeline.preprocessing.slicing import find_slice_axis, read_scan
from pipeline.reporting.attention.overlays import draw_plain
from pipeline.reporting.cases.choose import Case, choose_cases
from pipeline.reporting.cases.page import write_cases
from pipeline.reporting.cases.volumes import SmallVolume, shrink_volume, weigh_axis
from pipeline.stages.base import exclusive


@exclusive(lambda experiment: experiment.paths.report_folder)
def cases(experiment: Experiment, console: Console) -> None:
    """Show the scans with the worst answers, the most uncertain ones and a random sample of the tested ones.

    Volumes are read again from their files; images are those of the store.

    Raises:
        UserError: The run was not evaluated, or on another store, or a scan is missing or was changed.
    """
    paths, options = experiment.paths, experiment.cases
    store = read_store(paths.prepared)
    if not store.kind.is_image:
        raise UserError(f"cases: shows scans and images, and these are {store.kind.name}.")
    if not paths.predictions.is_file():
        raise UserError(f"{paths.predictions}: no predictions. Run the evaluate stage first.")
    table = read_predictions(paths.predictions, store.class_names)
    test = table[table["split"] == "test"]
    _check_store(paths, store, test)
    chosen = choose_cases(test, store.class_names, options)
    sources, digests = {}, pd.Series(dtype=str)
    if store.kind.reads_scans:
        wanted = {case.source_id for case in chosen}
        listed = list_sources(experiment).sources
        sources = {source.source_id: source for source in listed if source.source_id in wanted and source.is_volume}
        digests = read_table(paths.manifest, MANIFEST_COLUMNS).set_index("source_id")["sha256"]
    shown: Mapping[str, SmallVolume] | Mapping[str, bytes]
    if sources:
        drawn = progress(chosen, "reading scans", len(chosen), console)
        shown = {case.source_id: _read(experiment, store, test, case, sources, digests) for case in drawn}
    else:
        shown = {case.source_id: draw_plain(_find_middle(store, case)) for case in chosen}
    output = paths.report_folder / "cases.html"
    note = DATASETS[experiment.data.dataset].synthetic_note
    write_cases(output, paths.title, store.class_names, chosen, shown, note)
    console.print(f"{count_words(len(shown), store.kind.source)} -> {output}", highlight=False)


def _check_store(paths: Workspace, store: Store, test: pd.DataFrame) -> None:
    """Refuse answers to other examples than those of the store; an older version kept no fingerprint of theirs."""
    index = store.index
    stored = index[index["source_id"].isin(test["source_id"])]
    columns = ["example_id", "source_id"]
    differing = set(stored[columns].itertuples(index=False, name=None)).symmetric_difference(
        test[columns].itertuples(index=False, name=None)
    )
    if differing:
        example, _ = min(differing)
        raise UserError(
            f"{paths.predictions}: its {count_words(len(test), 'test example')} are not those of the store "
            f"{paths.prepared} ({example} is in one of them alone). Run evaluate again."
        )
    scored = read_metrics(paths.metrics).get("store", store.fingerprint)
    if scored != store.fingerprint:
        raise UserError(
            f"{paths.predictions}: answers to the examples of store {scored}, and {paths.prepared} has those of "
            f"{store.fingerprint}, with the same names. Run evaluate again."
        )


def _read(
    experiment: Experiment,
    store: Store,
    test: pd.DataFrame,
    case: Case,
    sources: Mapping[str, Source],
    digests: "pd.Series[str]",
) -> SmallVolume:
    """Return a scan with the slices' own answers along the slicing axis."""
    raw, options = find_raw_folder(experiment), experiment.preprocess
    if case.source_id not in sources:
        raise UserError(f"{raw}: no scan is called {case.source_id}. Bring it back, or run preprocess again.")
    files = tuple(raw / path for path in sources[case.source_id].paths)
    volume = read_scan(files, options.max_volume_bytes)
    check_digest(files[0], volume.sha256, str(digests.get(case.source_id, "")))
    values = volume.voxels.astype(np.float32) * np.float32(volume.slope) + np.float32(volume.intercept)
    small = shrink_volume(values, volume.spacing_mm, options.intensity_percentiles, experiment.cases.max_voxels)
    if store.kind is not VOLUMES:  # whole scans have one answer for all slices
        return small
    axis = find_slice_axis(values.shape, store.settings["plane"])
    own = test[test["source_id"] == case.source_id]
    positions = store.index.set_index("example_id")["slice_position"].loc[own["example_id"]].to_numpy()
    answers = own[f"probability_{case.predicted}"].to_numpy()
    weights = weigh_axis(positions, answers, small.voxels.shape[axis])
    return SmallVolume(small.voxels, small.spacing_mm, weights, axis)


def _find_middle(store: Store, case: Case) -> Array:
    """Return the stored image of a case, of several slices the middle one, as (channels, height, width)."""
    rows = np.flatnonzero(store.index["source_id"] == case.source_id)
    example = store.draw(int(rows[len(rows) // 2]))
    if example.ndim == 2:
        return example[None]
    middle = len(example) // 2
    return example if len(example) == 3 else example[middle : middle + 1]
