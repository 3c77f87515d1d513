"""Probabilities of the validation and the test rows of a trained run.

Not in ``probabilities``, which a MONAI bundle carries: a bundle knows neither splits nor options.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from torch import nn

from pipeline.core.array_types import Array
from pipeline.core.console import working_in_parts
from pipeline.core.text import plural
from pipeline.data.certified_data import Answers
from pipeline.data.store import Store
from pipeline.inference.probabilities import RowBuffer, compute_probabilities, score_with_mirrored
from pipeline.models.classifier import Classifier
from pipeline.models.volumes import ConvolvedVolume, PooledSlices
from pipeline.training.augmentation.images import shows_laterality
from pipeline.training.run_state import TrainedRun


def score_splits(run: TrainedRun, batch_size: int, console: Console) -> Answers:
    """Score the validation and the test rows.

    Args:
        run: The trained model and its data.
        batch_size: Examples scored at once.
        console: The console that shows how far it is.
    """
    store, rows = run.data.store, run.data.rows
    classifier = run.classifier
    arguments = (classifier, store.examples, store.places, run.device, batch_size)
    shows_sides = shows_laterality(store.kind, store.class_names, run.checkpoint.preprocess.plane)
    passes = 2 if shows_sides or classifier.mirror_average else 1
    num_scored = len(rows["val"]) * (2 if classifier.mirror_average else 1) + len(rows["test"]) * passes
    with show_scored(classifier, f"scoring {plural(store.kind.example)}", num_scored, console):
        val = compute_probabilities(*arguments, rows["val"])
        with record_features(classifier, len(rows["test"]), passes) as features:
            if shows_sides:
                test, mirrored = score_with_mirrored(*arguments, rows["test"])
            else:
                test, mirrored = compute_probabilities(*arguments, rows["test"]), None
    return Answers({"val": val, "test": test}, features.read(), mirrored)


def score_external(run: TrainedRun, store: Store, batch_size: int) -> Array:
    """Score examples that are not of the run, as its test rows are scored, ``(examples, classes)``.

    Args:
        run: The trained model.
        store: The examples, made as those of the run were.
        batch_size: Examples scored at once.
    """
    return compute_probabilities(run.classifier, store.examples, store.places, run.device, batch_size)


@contextmanager
def show_scored(classifier: Classifier, text: str, total: int, console: Console) -> Iterator[None]:
    """Show how many examples a model has read, with the time left."""
    with working_in_parts(text, total, console) as move:
        hook = classifier.model.register_forward_pre_hook(lambda _, inputs: move("", len(inputs[0])))
        try:
            yield
        finally:
            hook.remove()


@contextmanager
def record_features(classifier: Classifier, num_rows: int, passes: int = 1) -> Iterator[RowBuffer]:
    """Keep what the last layer reads, ``(rows, features)`` float32.

    Args:
        classifier: The classifier, which scores rows meanwhile.
        num_rows: The number of rows that it scores.
        passes: The passes of the network a batch. The first is recorded; a second one is over the mirror images.
    """
    layers = [layer for layer in classifier.modules() if isinstance(layer, nn.Linear)]
    heads = [layer for layer in layers if layer.out_features == len(classifier.spec.class_names)]
    recorded = RowBuffer(num_rows)
    num_passes = 0
    found: list[torch.Tensor] = []

    def record(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        found.append(inputs[0].detach().flatten(1).float())

    def add(model: nn.Module, inputs: tuple[Any, ...], _: torch.Tensor) -> None:
        nonlocal num_passes
        if num_passes % passes == 0:
            recorded.add(_arrange_features(model.network, torch.cat(found), inputs[1]).cpu())
        num_passes += 1
        found.clear()

    hooks = (heads[-1].register_forward_pre_hook(record), classifier.model.register_forward_hook(add))
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()


def _arrange_features(network: nn.Module | torch.Tensor, values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return a row of features for each example of a batch.

    Args:
        network: The network whose last layer read them.
        values: The features in the order in which they were read.
        places: The places of the slices, as the network got them.
    """
    if isinstance(network, ConvolvedVolume):  # which reads scans with equally many slices together, the smallest first
        order = (~places[..., 0].isnan()).sum(dim=1).argsort(stable=True)
        return torch.empty_like(values).index_copy(0, order, values)
    if isinstance(network, PooledSlices) and network.pooling != "attention":
        # The layer reads every slice by itself, and what fills up a scan too; of a scan's own slices the mean is kept.
        is_slice = ~places[..., 0].isnan()
        own = values.view(*is_slice.shape, -1) * is_slice[..., None]
        return own.sum(dim=1) / is_slice.sum(dim=1, keepdim=True)
    return values
