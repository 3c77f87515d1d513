"""The attention stage: maps of the model's attention on examples that it was not trained on."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console

from pipeline.attention.maps import choose_examples, compute_maps
from pipeline.attention.native_slices import read_native
from pipeline.attention.slices import spread_over_volume, tabulate_slices, weigh_slices
from pipeline.attention.storage import AttentionMaps, list_kept_epochs, read_maps, write_map_table, write_maps
from pipeline.config.experiment import Experiment
from pipeline.config.outputs import AttentionConfig
from pipeline.config.validation import require
from pipeline.core.console import working
from pipeline.core.errors import UserError
from pipeline.core.files import write_bytes
from pipeline.core.tables import MANIFEST_COLUMNS, read_table, write_table
from pipeline.datasets import find_raw_folder, list_sources
from pipeline.formats.nifti import write_volume
from pipeline.formats.volume import Volume
from pipeline.reporting.attention.filmstrips import draw_filmstrip, write_slice_page
from pipeline.reporting.attention.overlays import draw_overlays
from pipeline.reporting.attention.page import DrawnMaps, write_attention_page
from pipeline.reporting.attention.sheets import choose_epochs, draw_epochs, draw_maps
from pipeline.stages.base import exclusive
from pipeline.tracking.mlflow_run import open_run
from pipeline.tracking.records import RunFacts, name_files
from pipeline.training.run_state import TrainedRun, load_trained_run


@exclusive(lambda experiment: experiment.paths.report_folder)
def attention(experiment: Experiment, console: Console) -> None:
    """Draw the attention of a trained model's latents, and write the maps; of whole scans, weigh their slices.

    Validation examples are shown unless ``attention.split`` names another split. Where training kept maps
    (``train.keep_attention_every_epochs``), chosen epochs are drawn too.

    Raises:
        UserError: No trained model, a model without attention, or examples, layers or heads that are not there.
    """
    options, paths = experiment.attention, experiment.paths
    run = load_trained_run(experiment, options.checkpoint)
    store, checkpoint = run.data.store, run.checkpoint
    rows = choose_examples(store, run.data.roles, options)
    if store.kind.has_places:
        _show_slices(experiment, run, rows, console)
        return
    with working("computing attention maps", console):
        maps = compute_maps(run.classifier, store, rows, options, checkpoint.epoch)
    with working("drawing attention over the slices", console):
        backgrounds = _read_backgrounds(experiment, run, rows, maps)
        overlays = draw_overlays(maps, backgrounds, options.interpolation)

    folder = paths.report_folder / "attention"
    write_maps(folder / "maps.npz", maps)
    write_map_table(folder / "maps.csv", maps)
    with working("drawing attention maps", console):
        figures = {"attention": draw_maps(maps, f"epoch {checkpoint.epoch}, {maps.kind}-attention")}
        figures |= _draw_kept(list_kept_epochs(paths.attention_maps), options.epochs, checkpoint.epoch)
    for old in (*folder.glob("epoch*.png"), *folder.glob("overlays/*_layer*_head*.png")):
        old.unlink()
    for name, figure in figures.items():
        write_bytes(folder / f"{name}.png", figure)
    for overlay in overlays:
        write_bytes(folder / "overlays" / f"{overlay.name}.png", overlay.png)
    drawn = DrawnMaps(maps, figures, backgrounds, overlays)
    with working("writing the page of attention maps", console):
        write_attention_page(folder / "index.html", experiment, checkpoint, drawn)
    with working("sending the records", console), open_run(experiment.tracking, paths) as tracked:
        tracked.keep(RunFacts(files=name_files(paths, [folder], "attention")))
    shape = f"{len(maps.layers)} layers, {len(maps.heads)} heads"
    console.print(f"{len(rows)} {options.split} examples, {shape} -> {folder / 'index.html'}", highlight=False)


def _read_backgrounds(
    experiment: Experiment, run: TrainedRun, rows: NDArray[np.int64], maps: AttentionMaps
) -> list[NDArray[Any]]:
    """Return the images under the maps: the stored examples, or their slices in the scans' own pixels.

    Raises:
        UserError: The data set is not made of volumes, or a scan is missing or was changed.
    """
    store = run.data.store
    if not experiment.attention.native_resolution:
        return list(maps.examples)
    if not store.kind.has_slices:
        raise UserError("attention.native_resolution: found True, but this data set has no volumes; allowed is False.")
    slice_indices = store.index["slice_index"].iloc[rows].astype(int)
    scans = _read_scans(experiment, run, rows)
    return [images[index][None] for index, (images, _) in zip(slice_indices, scans, strict=True)]


def _read_scans(
    experiment: Experiment, run: TrainedRun, rows: NDArray[np.int64]
) -> Iterator[tuple[NDArray[Any], Volume | None]]:
    """Yield the slices of each scan in its own pixels, and the scan.

    They are cut by the options that the store was made with, which those of the config may not be.

    Raises:
        UserError: A scan is missing or was changed.
    """
    manifest = read_table(experiment.paths.manifest, MANIFEST_COLUMNS).set_index("source_id")
    sources = {source.source_id: source for source in list_sources(experiment).sources}
    raw, chosen = find_raw_folder(experiment), run.data.store.index["source_id"].iloc[rows]
    missing = sorted(set(chosen) - set(sources))
    if missing:
        raise UserError(f"{raw}: no scan is called {missing[0]}. Set attention.native_resolution: false.")
    options = run.checkpoint.preprocess
    for source_id in chosen:
        yield read_native(raw, sources[source_id], options, str(manifest.loc[source_id, "sha256"]))


def _show_slices(experiment: Experiment, run: TrainedRun, rows: NDArray[np.int64], console: Console) -> None:
    """Write the slices that carry the answers of whole scans: filmstrips, a table, and overlays where scans are read.

    Raises:
        UserError: An option of maps that whole scans do not have, or a scan is missing or was changed.
    """
    options, store = experiment.attention, run.data.store
    for name in ("kind", "layers", "heads", "latents", "mirrored"):
        found, allowed = getattr(options, name), getattr(AttentionConfig, name)
        require(found == allowed, f"attention.{name}", found, f"{allowed!r} where preprocess.unit is volume")
    if options.native_resolution and not store.kind.reads_scans:
        raise UserError("attention.native_resolution: found True, but this data set has no scans; allowed is False.")
    folder = experiment.paths.report_folder / "attention"
    for old in (*folder.glob("filmstrip_*.png"), *folder.glob("overlays/*.nii.gz")):
        old.unlink()
    scans = _read_scans(experiment, run, rows) if options.native_resolution else itertools.repeat((None, None))
    weighed, strips, tables, unit = [], [], [], "mm" if store.kind.reads_scans else "voxels"
    plane = run.checkpoint.preprocess.plane
    for row, (images, volume) in zip(rows.tolist(), scans, strict=False):
        weights = weigh_slices(run.classifier, store, row)
        stored = np.asarray(store.examples[row][: len(weights.lost)])
        strip = draw_filmstrip(stored if images is None else images, weights, unit)
        name = re.sub(r"[^A-Za-z0-9._-]", "_", weights.example_id)
        write_bytes(folder / f"filmstrip_{name}.png", strip)
        if volume is not None:
            maps = {"lost": np.nan_to_num(weights.lost)[:, None, None], "attention": weights.attention}
            for what, values in maps.items():
                if values is not None:
                    spread = spread_over_volume(volume, weights.places_mm, values, plane)
                    path = folder / "overlays" / f"{name}_{what}.nii.gz"
                    write_volume(path, spread, volume.affine, volume.stored_axes)
        weighed.append(weights)
        strips.append(strip)
        tables.append(tabulate_slices(weights))
    table = pd.concat(tables, ignore_index=True)
    write_table(folder / "slices.csv", table, tuple(table.columns))
    write_slice_page(folder / "index.html", experiment, run.checkpoint, weighed, strips)
    with working("sending the records", console), open_run(experiment.tracking, experiment.paths) as tracked:
        tracked.keep(RunFacts(files=name_files(experiment.paths, [folder], "attention")))
    console.print(f"{len(rows)} {options.split} scans -> {folder / 'index.html'}", highlight=False)


def _draw_kept(kept: dict[int, Path], wanted: tuple[int, ...], epoch: int) -> dict[str, bytes]:
    """Draw the maps that training kept: epochs next to each other, and the last of them by layer and head.

    The latter is left out where it would repeat the ``epoch`` of the checkpoint.
    """
    if not kept and not wanted:
        return {}
    maps = [read_maps(kept[epoch]) for epoch in choose_epochs(list(kept), wanted)]
    last = maps[-1]
    figures = {"epochs": draw_epochs(maps, "epochs, mean over layers and heads")}
    if last.epoch != epoch:
        name = f"epoch_{last.epoch:04d}"
        figures[name] = draw_maps(last, f"epoch {last.epoch}, cross-attention, as kept in training")
    return figures
