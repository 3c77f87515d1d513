"""What a training works with: the examples, the checkpoint that they will fill, the network and its optimizer."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from lightning.fabric import Fabric

from pipeline.config.experiment import Experiment
from pipeline.core.errors import UserError
from pipeline.core.provenance import read_commit, read_versions
from pipeline.core.seeds import derive_seed
from pipeline.data.batches import Examples, compute_room, place_examples
from pipeline.data.statistics import IntensityReference, compute_reference, compute_statistics
from pipeline.data.store import Store
from pipeline.models.classifier import Classifier
from pipeline.models.networks import build_model
from pipeline.training.checkpoint import Checkpoint, load_weights, read_checkpoint
from pipeline.training.loop import TrainingState
from pipeline.training.optimizers import build_optimizer, restore_optimizer
from pipeline.training.run_state import describe_settings, read_preprocess
from pipeline.training.sync_batch_norm import share_batch_norms


@dataclass(frozen=True)
class Task:
    """What a run works with and does not change.

    Args:
        experiment: all options.
        fabric: devices and precision.
        blank: the checkpoint as it is before training, without statistics and weights.
        train_examples: learned from.
        val_examples: judged by.
        store: all pictures.
        roles: each patient's split.
    """

    experiment: Experiment
    fabric: Fabric
    blank: Checkpoint
    train_examples: Examples
    val_examples: Examples
    store: Store
    roles: dict[str, str]

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return bool(self.fabric.global_rank == 0)


def describe_blank(experiment: Experiment, store: Store, split_fingerprint: str) -> Checkpoint:
    """Fill in what is known of the checkpoints before training.

    Args:
        experiment: all options.
        store: all examples.
        split_fingerprint: of the splits that the certificate vouches for.
    """
    return Checkpoint(
        model=experiment.model,
        spec=store.input_spec(experiment.preprocess.num_slices),
        preprocess=read_preprocess(experiment, store),
        mean=(),
        std=(),
        store_fingerprint=store.fingerprint,
        split_fingerprint=split_fingerprint,
        settings=describe_settings(experiment, store, split_fingerprint),
        versions=read_versions(),
        commit=read_commit(),
        epoch=0,
        history=(),
        tracking_run="",
        weights={},
    )


def build_task(experiment: Experiment, fabric: Fabric, blank: Checkpoint, store: Store, roles: dict[str, str]) -> Task:
    """Place the examples where training reads them, and measure the grey levels of those to learn from.

    Args:
        experiment: all options.
        fabric: devices and precision.
        blank: from :func:`describe_blank`.
        store: all examples.
        roles: each patient's split.

    Raises:
        UserError: a split has no examples, or a class has none to learn from.
    """
    # Each process has a GPU of its own, but all those of a machine have the same memory.
    num_sharing = experiment.train.devices if fabric.device.type == "cpu" else 1
    train_examples, val_examples = (
        _select_examples(store, roles, role, fabric.device, num_sharing) for role in ("train", "val")
    )
    blank = dataclasses.replace(blank, intensities=_measure_intensities(store, roles))
    return Task(experiment, fabric, blank, train_examples, val_examples, store, roles)


def _measure_intensities(store: Store, roles: dict[str, str]) -> IntensityReference | None:
    """Measure the training volumes, one after the other; images and point clouds have none."""
    if not store.kind.has_slices:
        return None
    train_rows = store.index.index[(store.index["group_id"].map(roles) == "train").to_numpy()]
    rows_by_source = store.index.loc[train_rows].groupby("source_id", sort=True).indices
    volumes = (store.examples[train_rows[places]] for places in rows_by_source.values())
    return compute_reference(volumes) if rows_by_source else None


def _select_examples(
    store: Store, roles: dict[str, str], role: str, device: torch.device, num_sharing: int
) -> Examples:
    """Place the examples of the patients of one role."""
    rows = np.flatnonzero((store.index["group_id"].map(roles) == role).to_numpy())
    chosen = store.index.iloc[rows]
    code_of = {name: code for code, name in enumerate(store.class_names)}
    labels = chosen["label"].map(code_of).to_numpy(dtype=np.int64)
    missing = [name for name, code in code_of.items() if role == "train" and code not in labels]
    if len(rows) == 0 or missing:
        lacking = f"no picture labelled {missing[0]}" if missing else "no picture"
        raise UserError(f"split: there is {lacking} in {role}. Run the split stage again with other fractions or seed.")
    positions = chosen["slice_position"].to_numpy()
    return place_examples(store.examples, rows, labels, positions, device, compute_room(device, num_sharing))


def build_state(task: Task) -> TrainingState:
    """Build model and optimizer, fresh or as the last checkpoint has them; all processes do it at the same time."""
    config, path = task.experiment.train, task.experiment.paths.last_checkpoint
    last = read_checkpoint(path) if path.is_file() else None
    options, spec = task.experiment.model, task.blank.spec
    model = build_model(options, spec, derive_seed(config.seed, "weights"))
    if last is None:
        # Each cloud is normalised by itself.
        mean, std = compute_statistics(task.train_examples) if spec.kind.is_image else ((), ())
    else:
        mean, std = last.mean, last.std
        load_weights(model, last.weights)
    share_batch_norms(model)
    classifier = Classifier(model, options, spec, mean, std, config.loss)
    if config.strategy == "ddp":  # a divided model may not fit on one device
        classifier.to(task.fabric.device)
    parallel_model = task.fabric.setup_module(torch.compile(model) if config.compile else model)
    classifier.to(task.fabric.device)
    optimizer = build_optimizer(model, config, fused=config.precision != "16-mixed")
    if last is not None and last.optimizer is not None:
        restore_optimizer(optimizer, last.optimizer)
        if last.optimizer.scaler:
            task.fabric.strategy.precision.load_state_dict(last.optimizer.scaler)
    parallel_optimizer = task.fabric.setup_optimizers(optimizer)
    return TrainingState(classifier, parallel_model, parallel_optimizer, list(last.history) if last else [])
