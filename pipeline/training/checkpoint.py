"""Checkpoints: one file each that needs no other file and runs no code when it is read.

The file is in the safetensors format: named tensors, and one text in its header. That text is JSON with
the checkpoint's facts and a checksum over facts and tensors.
"""

import dataclasses
import functools
import hashlib
import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from pipeline.config.data import PreprocessConfig
from pipeline.config.model import ModelConfig
from pipeline.config.renames import REMOVED_OPTIONS, find_removed_option
from pipeline.core.data_kinds import InputSpec
from pipeline.core.errors import UserError
from pipeline.core.files import write_bytes
from pipeline.core.serialization import build_record, encode_plain
from pipeline.data.statistics import IntensityReference
from pipeline.models.classifier import Classifier
from pipeline.models.networks import build_model
from pipeline.training.history import EpochResult

FORMAT = 2
# In place of the loss of a model that was not trained to answer.
NO_LOSS = "none"
HEADER_KEY = "perceiver_checkpoint"
WEIGHTS = "model."
HEADS = "heads."
STEP_WEIGHTS = "step."
OPTIMIZER = "optimizer."
# Of networks that files describe; far beyond any that was trained.
MAX_LAYERS = 4096
MAX_PERMUTED_PIXELS = 1 << 22


@dataclass(frozen=True)
class OptimizerState:
    """An optimizer's state in parts that a file without code can hold.

    Args:
        tensors: The tensors, ``number of the parameter.name`` -> value.
        numbers: The other values, by the same names.
        groups: The options of each group, without its parameters.
        scaler: The numbers of the gradient scaler, of float16 training.
    """

    tensors: dict[str, torch.Tensor]
    numbers: dict[str, Any]
    groups: list[dict[str, Any]]
    scaler: dict[str, Any]


@dataclass(frozen=True)
class Origin:
    """The origin of a model, as it is known before its training.

    Args:
        model: The options of the network.
        spec: The examples that the network reads, and its classes.
        preprocess: The options by which volumes became slices.
        store_fingerprint: The fingerprint of the examples.
        split_fingerprint: The fingerprint of each patient's split.
        settings: All options that shaped the weights, ``section.field`` -> value.
        versions: The versions of Python and packages.
        commit: The commit of the source tree.
    """

    model: ModelConfig
    spec: InputSpec
    preprocess: PreprocessConfig
    store_fingerprint: str
    split_fingerprint: str
    settings: dict[str, Any]
    versions: dict[str, str]
    commit: str


@dataclass(frozen=True)
class Checkpoint(Origin):
    """A trained model and its origin.

    Args:
        mean: The mean of each channel over the training images, black 0 and white 1.
        std: The standard deviation of each channel.
        epoch: The number of epochs trained.
        history: The result of each of them.
        tracking_run: The MLflow run, empty without one.
        weights: The model's tensors, of ``train.average_decay`` above 0 their average over the steps.
        intensities: How bright the training volumes were; None for other kinds of data.
        optimizer: The optimizer's state, only in a checkpoint that training resumes from.
        heads: The tensors of the heads that only training has, in such a checkpoint.
        step_weights: The tensors after the last step, only in a checkpoint that training resumes from, and only where
            ``weights`` are their average.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    epoch: int
    history: tuple[EpochResult, ...]
    tracking_run: str
    weights: dict[str, torch.Tensor] = field(repr=False)
    intensities: IntensityReference | None = None
    optimizer: OptimizerState | None = field(default=None, repr=False)
    heads: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)
    step_weights: dict[str, torch.Tensor] | None = field(default=None, repr=False)


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: The file to write; its name ends with ``.safetensors``.
        checkpoint: The model and its origin; tensors may be on any device.
    """
    tensors = {WEIGHTS + name: value for name, value in checkpoint.weights.items()}
    tensors |= {HEADS + name: value for name, value in checkpoint.heads.items()}
    facts = {
        item.name: getattr(checkpoint, item.name)
        for item in dataclasses.fields(checkpoint)
        if item.name not in ("weights", "optimizer", "heads", "step_weights")
    }
    if checkpoint.step_weights is not None:
        tensors |= {STEP_WEIGHTS + name: value for name, value in checkpoint.step_weights.items()}
    if checkpoint.optimizer is not None:
        tensors |= {OPTIMIZER + name: value for name, value in checkpoint.optimizer.tensors.items()}
        facts["optimizer"] = {name: getattr(checkpoint.optimizer, name) for name in ("numbers", "groups", "scaler")}
    # A copy each: an optimizer may keep views of one tensor, which the format does not allow.
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    text = json.dumps(facts, default=encode_plain, sort_keys=True)
    header = json.dumps({"format": FORMAT, "sha256": _compute_checksum(text, tensors), "facts": text})
    write_bytes(path, safetensors.torch.save(tensors, {HEADER_KEY: header}))


def read_checkpoint(path: Path, is_start: bool = False) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: The file that :func:`write_checkpoint` wrote.
        is_start: Whether training starts from it, and it need not answer; pretrained weights are refused otherwise.

    Returns:
        The checkpoint, its tensors on the processor.

    Raises:
        UserError: there is no such file, it is damaged, of another kind or of another version.
    """
    if path.is_dir():
        raise UserError(f"{path}: a folder and no checkpoint. Name the file in it, such as best.safetensors.")
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint. Run the train stage first, or give the path of another one.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER_KEY)
            # A copy: the library's own tensor is the file itself, and could change after its checksum was found right.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
    except safetensors.SafetensorError as error:
        with path.open("rb") as broken:
            start = broken.read(8)
        # A checkpoint begins with its header's length in eight bytes, which can begin as a pickle does; but of a
        # length below 16 MiB the last five are zero.
        is_length = not any(start[3:])
        if start.startswith((b"PK", b"\x80")) and not is_length:
            raise UserError(
                f"{path}: a pickle, which can run any code when it is read, so it is refused. "
                "Give a .safetensors checkpoint that the train stage wrote."
            ) from error
        raise UserError(
            f"{path}: not a whole safetensors file ({error}). Take another copy, or train from scratch "
            "(--train.resume false)."
        ) from error
    if header is None:
        raise UserError(f"{path}: a safetensors file of another program. Give one that the train stage wrote.")
    damaged = UserError(
        f"{path}: damaged, its contents do not fit its checksum. Take another copy, or train from scratch "
        "(--train.resume false)."
    )
    try:
        record = json.loads(header)
    except (json.JSONDecodeError, RecursionError) as error:
        raise damaged from error
    if not isinstance(record, dict):
        raise damaged
    if record.get("format") != FORMAT:
        raise UserError(
            f"{path}: checkpoint format {record.get('format')!r}, this version reads {FORMAT}. Train again, or use "
            "the version that wrote it."
        )
    text = record.get("facts")
    if not isinstance(text, str) or record.get("sha256") != _compute_checksum(text, tensors):
        raise damaged
    try:
        facts = json.loads(text)
        gone = find_removed_option(facts["settings"])
        if gone is not None:
            raise UserError(
                f"{path}: trained with {gone}: {facts['settings'][gone]}, an option that is gone. Train again, or use "
                "the version that wrote it."
            )
        checkpoint = _build_checkpoint(facts, tensors)
        if not is_start and checkpoint.settings.get("train.loss") == NO_LOSS:
            raise UserError(
                f"{path}: pretrained weights, which know no class yet. Train from them: --train.start_from {path}."
            )
        return checkpoint
    except UserError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        # Its checksum is right, so another program or another person made it.
        raise UserError(
            f"{path}: its facts are not those of a checkpoint ({type(error).__name__}). Give one that the train stage "
            "wrote."
        ) from error


def build_from_checkpoint(checkpoint: Checkpoint, device: torch.device | str = "cpu") -> Classifier:
    """Build the trained model.

    Args:
        checkpoint: The checkpoint, as :func:`read_checkpoint` returns it.
        device: The device that the model computes on.

    Returns:
        A classifier in evaluation mode, from stored images (uint8) to logits.

    Raises:
        UserError: the weights are not those of the checkpoint's model config.
    """
    _check_claims(checkpoint)
    model = build_model(checkpoint.model, checkpoint.spec, seed=0)
    model.load_state_dict(checkpoint.weights)
    return (
        Classifier(
            model, checkpoint.model, checkpoint.spec, checkpoint.mean, checkpoint.std, checkpoint.settings["train.loss"]
        )
        .to(device)
        .eval()
    )


def compute_weights_digest(weights: dict[str, torch.Tensor]) -> str:
    """Compute a short text that identifies a set of weights, wherever their file lies."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(name.encode() + value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def load_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Put weights into a model of the same shape.

    Args:
        model: The model; its weights are replaced.
        weights: The tensors by name.

    Raises:
        UserError: a tensor is missing, unknown or of another shape; the message names the first.
    """
    _check_shapes(model, weights)
    model.load_state_dict(weights)


def _check_claims(checkpoint: Checkpoint) -> None:
    """Refuse a config of a larger network than the weights are of, before any memory is allocated for it."""
    model = checkpoint.model
    perceiver = model.perceiver
    # Python itself counts layers and pixels one by one, and an image's pixels need no weights.
    convolutions = model.num_conv_layers * max(1, model.num_residual_blocks)
    counts = (perceiver.num_cross_attends, perceiver.self_attends_per_cross, convolutions)
    height, width = checkpoint.spec.image_size
    num_pixels = 0 if model.pixel_permutation_seed is None else height * width
    if max(counts) > MAX_LAYERS or num_pixels > MAX_PERMUTED_PIXELS:
        raise UserError(
            f"checkpoint: its config claims {max(counts)} layers and images of {(height, width)}; at most "
            f"{MAX_LAYERS} layers and {MAX_PERMUTED_PIXELS} permuted pixels are built. Give one that the train stage "
            "wrote."
        )
    try:
        with torch.device("meta"), warnings.catch_warnings():  # tensors with shapes and without values
            warnings.simplefilter("ignore")  # the network itself is built next, and warns
            described = build_model(dataclasses.replace(model, pixel_permutation_seed=None), checkpoint.spec, seed=0)
    except (RuntimeError, TypeError, OverflowError) as error:  # a size beyond any number, or none at all
        raise UserError(
            f"checkpoint: no network is as its config says ({type(error).__name__}). Give one that train wrote."
        ) from error
    _check_shapes(described, checkpoint.weights)


def _check_shapes(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise UserError(
                f"checkpoint: tensor {name} has shape {found.get(name, 'none')}, the model needs "
                f"{expected.get(name, 'none')}. File and version do not fit; train again."
            )


def _build_checkpoint(facts: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Checkpoint:
    def take(prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    for name in REMOVED_OPTIONS.keys() & facts["settings"].keys():
        *sections, key = name.split(".")
        functools.reduce(dict.__getitem__, sections, facts).pop(key)
    state = facts.pop("optimizer", None)
    optimizer = None if state is None else OptimizerState(tensors=take(OPTIMIZER), **state)
    checkpoint = build_record(Checkpoint, facts | {"weights": take(WEIGHTS), "heads": take(HEADS)})
    return dataclasses.replace(checkpoint, optimizer=optimizer, step_weights=take(STEP_WEIGHTS) or None)


def _compute_checksum(text: str, tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
