"""Fine-tuning: the weights of another checkpoint as the start of a training, and a frozen backbone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from perceiver import ImagePerceiver
from perceiver.positions import LearnedPositions
from pipeline.config.experiment import Experiment
from pipeline.config.training import FreezeName
from pipeline.core.errors import UserError
from pipeline.core.serialization import flatten
from pipeline.core.text import plural
from pipeline.data.certified_data import CertifiedData
from pipeline.models.networks import SliceModel, build_model
from pipeline.training.checkpoint import Checkpoint, build_from_checkpoint, compute_weights_digest
from pipeline.training.seen_patients import START_PATIENTS, check_seen_patients

# The modes of ``torch.nn.functional.interpolate`` by the number of axes.
INTERPOLATIONS = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class Start:
    """The start of a training from another checkpoint.

    Args:
        weights: The tensors that are taken, by their names in the new model; all others are drawn.
        settings: The settings of the run that say where they come from, and what of them is new.
    """

    weights: dict[str, torch.Tensor]
    settings: dict[str, Any]


def check_no_start(stage: str, experiment: Experiment) -> None:
    """Refuse the weights of another model, and to freeze them, where a stage draws the weights of all that it trains.

    Args:
        stage: The name of the stage, for the message.
        experiment: All options.

    Raises:
        UserError: ``train.start_from``, without which there is no ``train.freeze``.
    """
    if experiment.train.start_from is not None:
        raise UserError(
            f"{stage}: found train.start_from {experiment.train.start_from}; all networks start from drawn weights. "
            "Set it to null, and train.freeze to none."
        )


def prepare_start(path: Path, checkpoint: Checkpoint, data: CertifiedData, experiment: Experiment) -> Start:
    """Check the checkpoint that a training starts from, and fit its weights to the new model.

    Args:
        path: The file of the checkpoint, for messages.
        checkpoint: The checkpoint.
        data: The examples and their splits.
        experiment: All options.

    Raises:
        UserError: the checkpoint is of another network, or saw patients who validate or are tested.
    """
    spec = data.store.input_spec(experiment.preprocess.num_slices)
    found = checkpoint.spec
    for title, has, needs in (
        ("architecture", checkpoint.model.architecture, experiment.model.architecture),
        ("data", *("images" if kind.is_image else plural(kind.example) for kind in (found.kind, spec.kind))),
    ):
        if has != needs:
            raise UserError(
                f"train.start_from: {path} has the {title} {has}, this experiment {needs}; nothing of it can be taken. "
                "Give a checkpoint of the same, or set train.start_from: null."
            )
    keeps_head = (found.class_names, checkpoint.settings["train.loss"]) == (spec.class_names, experiment.train.loss)
    model = build_model(experiment.model, spec, seed=0)
    try:
        weights, notes = fit_weights(model, checkpoint, keeps_head)
    except ValueError as error:
        before, now = flatten(checkpoint.model, "model"), flatten(experiment.model, "model")
        changes = [f"{name} was {before.get(name)}, is {now[name]}" for name in now if before.get(name) != now[name]]
        found_others = f"Other options of the network: {'; '.join(changes)}. Set them back"
        advice = found_others if changes else "Its options are the same and its data others. Give another checkpoint"
        raise UserError(f"train.start_from: {path}: {error}. {advice}, or set train.start_from: null.") from error
    seen = check_seen_patients("train.start_from", path, checkpoint, data, experiment)
    words = "; ".join([f"{len(weights)} of {len(model.state_dict())} tensors taken", *notes])
    origin = f"checkpoint {compute_weights_digest(checkpoint.weights)}"
    return Start(weights, {"train.start_from": origin, START_PATIENTS: seen, "start": words})


def fit_weights(
    model: SliceModel, checkpoint: Checkpoint, keeps_head: bool
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Fit the weights of a checkpoint to a model that may have other classes, channels and sizes.

    Learned positions of another grid are interpolated between those of the old one, which has the same corners. Where
    an image has other channels, the first weights are summed over the old ones and spread over the new ones evenly, so
    that a grey image gets the same answer with one channel as with three equal ones.

    Args:
        model: The new model, which is not changed.
        checkpoint: The checkpoint.
        keeps_head: Whether the last linear layer is taken; its classes and its loss are the same.

    Returns:
        The tensors by name, without those that stay as drawn, and a note on each that is new or changed.

    Raises:
        ValueError: a tensor has no counterpart; the message names it.
    """
    old = build_from_checkpoint(checkpoint).model
    found, wanted = old.state_dict(), model.state_dict()
    unknown = sorted(found.keys() ^ wanted.keys())
    if unknown:
        raise ValueError(f"tensor {unknown[0]} is in one of the two models alone")
    head = find_head(model.network)
    taken, notes = {}, []
    for name, value in wanted.items():
        owner = name.rpartition(".")[0]
        if model.get_submodule(owner) is head and not keeps_head:
            continue
        fitted = _fit_tensor(name, found[name], (old.get_submodule(owner), model.get_submodule(owner)), (old, model))
        if fitted.shape != value.shape:
            raise ValueError(
                f"tensor {name} has shape {tuple(found[name].shape)}, the model needs {tuple(value.shape)}"
            )
        if found[name].shape != value.shape:
            notes.append(f"{name} changed from {tuple(found[name].shape)} to {tuple(value.shape)}")
        taken[name] = fitted
    if not keeps_head:
        notes.append("the last layer is new")
    sizes = [part.network.grid_size for part in (old, model) if isinstance(part.network, ImagePerceiver)]
    if len(set(sizes)) == 2 and checkpoint.model.perceiver.positions == "fourier":
        notes.append(f"features of positions computed for {sizes[1][0]} x {sizes[1][1]} places")
    if old.place_unit != model.place_unit:
        unit = "mm" if checkpoint.spec.kind.reads_scans else "voxels"
        notes.append(f"the field of view was {2 * old.place_unit:.0f} {unit} and is {2 * model.place_unit:.0f} {unit}")
    return taken, notes


def _fit_tensor(
    name: str, value: torch.Tensor, owners: tuple[nn.Module, nn.Module], models: tuple[SliceModel, SliceModel]
) -> torch.Tensor:
    """Fit a tensor of the old model to the new one; one that cannot be fitted is returned as it is."""
    old_owner, owner = owners
    if isinstance(old_owner, LearnedPositions) and isinstance(owner, LearnedPositions):
        return interpolate_table(value, old_owner.sizes, owner.sizes)
    if isinstance(old_owner, nn.Conv2d) and isinstance(owner, nn.Conv2d) and name.endswith("weight"):
        return spread_channels(value, owner.in_channels)
    old_network, network = (model.network for model in models)
    reads_inputs = name.endswith(("to_key.weight", "to_value.weight", "input_gain", "input_shift"))
    if reads_inputs and isinstance(old_network, ImagePerceiver) and isinstance(network, ImagePerceiver):
        old, new = (part.perceiver.input_channels for part in (old_network, network))
        cells = network.patch_size**2
        if old != new and old_network.patch_size == network.patch_size:
            values, positions = value[..., :old], value[..., old:]
            by_channel = values.reshape(*values.shape[:-1], old // cells, cells).movedim(-2, 0)[None]
            spread = spread_channels(by_channel, new // cells)
            if value.ndim == 1:  # gains and shifts are for each channel, not summed over them
                spread = spread * (new / old)
            return torch.cat([spread[0].movedim(0, -2).flatten(-2), positions], dim=-1)
    return value


def spread_channels(weights: torch.Tensor, num_channels: int) -> torch.Tensor:
    """Sum weights over the channels that they read, and spread the sum evenly over another number of channels.

    Args:
        weights: The weights (outputs, channels, ...).
        num_channels: The new number of channels; where it is the old one, the weights are returned as they are.
    """
    if weights.shape[1] == num_channels:
        return weights
    shape = (weights.shape[0], num_channels, *weights.shape[2:])
    return (weights.sum(dim=1, keepdim=True) / num_channels).expand(shape).contiguous()


def interpolate_table(table: torch.Tensor, old_sizes: tuple[int, ...], sizes: tuple[int, ...]) -> torch.Tensor:
    """Interpolate learned positions linearly along each axis; both grids run from -1 to 1.

    Args:
        table: The vectors of the old grid, (points, channels), last axis fastest.
        old_sizes: The number of points of the old grid along each axis.
        sizes: The number of points of the new one.

    Returns:
        The vectors of the new grid, (points, channels).
    """
    if old_sizes == sizes or len(old_sizes) != len(sizes):
        return table
    grid = table.T.reshape(1, -1, *old_sizes)
    resized = functional.interpolate(grid, size=sizes, mode=INTERPOLATIONS[len(sizes)], align_corners=True)
    return resized[0].flatten(1).T.contiguous()


def find_head(network: nn.Module) -> nn.Linear:
    """Return the linear layer that gives the logits, the last one of every network here."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]


def freeze_backbone(model: SliceModel) -> None:
    """Keep all weights but those of the last layer from being trained."""
    model.requires_grad_(False)
    find_head(model.network).requires_grad_(True)


def set_training_mode(parallel_model: nn.Module, model: SliceModel, freeze: FreezeName) -> None:
    """Set a model to training; a frozen backbone computes as it does in scoring, without dropout.

    Args:
        parallel_model: The model as Fabric runs it.
        model: The same model.
        freeze: The part that is not trained.
    """
    parallel_model.train()
    if freeze == "backbone":
        model.eval()
        find_head(model.network).train()
