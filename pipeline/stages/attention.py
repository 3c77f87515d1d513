"""The attention stage: where the model looks, over pictures that it was not trained on."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console

from pipeline.attention import AttentionMaps, choose_examples, compute_maps
from pipeline.attention_files import list_kept_epochs, read_maps, tabulate_maps, write_map_table, write_maps
from pipeline.attention_pictures import choose_epochs, describe_maps, draw_epochs, draw_maps
from pipeline.checkpoint import Checkpoint, build_from_checkpoint, read_checkpoint
from pipeline.datasets import DATASETS
from pipeline.devices import choose_accelerator
from pipeline.experiment import Experiment
from pipeline.files import write_bytes
from pipeline.leakage import check_certificate
from pipeline.pages import build_figure, write_page
from pipeline.runs import check_trained_on
from pipeline.splits import read_splits, resolve_roles
from pipeline.store import read_store
from pipeline.tracking import open_run

MIN_WIDE_PIXELS = 560  # of a sheet that would be too small beside another
HOW_CHOSEN = "Chosen by their place in the list, spread over classes and patients, not by how they look."


def attention(experiment: Experiment, console: Console) -> None:
    """Draw what the latents of a trained model attend to, and write the maps.

    Validation pictures are shown unless another split is asked for. Where training kept maps
    (``attention.every_epochs``), chosen epochs are drawn too.

    Raises:
        UserError: no trained model, a model without attention, or examples, layers or heads that are not there.
    """
    options, paths = experiment.attention, experiment.paths
    store = read_store(paths.prepared)
    splits = read_splits(paths.splits, experiment.split)
    certificate = check_certificate(paths.certificate, store, splits)
    checkpoint_path = options.checkpoint or paths.best_checkpoint
    checkpoint = read_checkpoint(checkpoint_path)
    check_trained_on(checkpoint_path, checkpoint, store.fingerprint, certificate["splits_fingerprint"])
    classifier = build_from_checkpoint(checkpoint, torch.device(choose_accelerator(experiment.train.accelerator)))
    rows = choose_examples(store, resolve_roles(splits, experiment.split), options)
    maps = compute_maps(classifier, store, rows, options, checkpoint.epoch)

    folder = paths.report_folder / "attention"
    write_maps(folder / "maps.npz", maps)
    write_map_table(folder / "maps.csv", maps)
    pictures = {"attention": draw_maps(maps, f"epoch {checkpoint.epoch}, {maps.kind}-attention")}
    pictures |= _draw_kept(list_kept_epochs(paths.attention_maps), options.epochs, checkpoint.epoch)
    for old in folder.glob("epoch*.png"):
        old.unlink()
    for name, picture in pictures.items():
        write_bytes(folder / f"{name}.png", picture)
    _write_index(folder / "index.html", experiment, checkpoint, maps, pictures)
    tracker = open_run(experiment.tracking, paths, checkpoint.tracking_run)
    tracker.log_file(folder, "attention")
    tracker.finish()
    shape = f"{len(maps.layers)} layers, {len(maps.heads)} heads"
    console.print(f"{len(rows)} {options.split} examples, {shape} -> {folder / 'index.html'}", highlight=False)


def _draw_kept(kept: dict[int, Path], wanted: tuple[int, ...], epoch: int) -> dict[str, bytes]:
    """Draw the maps that training kept: epochs beside each other, and the last of them by layer and head.

    The latter is left out where it would repeat the weights' own ``epoch``.
    """
    if not kept and not wanted:
        return {}
    maps = [read_maps(kept[epoch]) for epoch in choose_epochs(list(kept), wanted)]
    last = maps[-1]
    pictures = {"epochs": draw_epochs(maps, "epochs, mean over layers and heads")}
    if last.epoch != epoch:
        name = f"epoch_{last.epoch:04d}"
        pictures[name] = draw_maps(last, f"epoch {last.epoch}, cross-attention, as kept in training")
    return pictures


def _write_index(
    path: Path, experiment: Experiment, checkpoint: Checkpoint, maps: AttentionMaps, pictures: dict[str, bytes]
) -> None:
    options = experiment.attention
    texts = {
        "attention": (f"Epoch {checkpoint.epoch}, {maps.kind}-attention", "One example a row."),
        "epochs": ("In training", "The mean over layers and heads; below each map the answer after that epoch."),
    }
    figures = []
    for name, picture in pictures.items():
        title, text = texts.get(name, (f"In training: epoch {name.removeprefix('epoch_').lstrip('0')}", "All layers."))
        figures.append(build_figure(title, text, picture, MIN_WIDE_PIXELS))
    facts = {
        "split of the examples": options.split,
        "which examples": "named by the user" if options.examples else HOW_CHOSEN,
        "weights": str(options.checkpoint or experiment.paths.best_checkpoint),
        "epoch of the weights": str(checkpoint.epoch),
        "commit of the training": checkpoint.commit,
    }
    write_page(
        path,
        "attention.html",
        title=f"{' / '.join(part for part in (experiment.name, experiment.run_name) if part)}: attention",
        synthetic_note=DATASETS[experiment.data.dataset].synthetic_note,
        sentences=describe_maps(maps, checkpoint.model.mirror_average),
        figures=figures,
        summary=_summarise(tabulate_maps(maps)),
        facts=facts,
    )


def _summarise(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a row a layer and head: the means of the two numbers over examples and latents."""
    means = table.groupby(["layer", "head"], sort=True)[["num_read", "effective_read", "highest_over_even"]].mean()
    return [
        {"layer": layer, "head": head, "num_read": f"{row.num_read:.0f}"}
        | {"spread": f"{row.effective_read:.1f}", "highest": f"{row.highest_over_even:.1f}"}
        for (layer, head), row in zip(means.index, means.itertuples(index=False), strict=True)
    ]
