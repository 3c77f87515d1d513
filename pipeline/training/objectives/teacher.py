"""The teacher of a training: its checkpoint, the patients that it saw, and its answers."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric import Fabric
from torch import nn

from pipeline.config.data import SHAPING
from pipeline.config.experiment import Experiment
from pipeline.config.validation import require
from pipeline.core.data_kinds import InputSpec
from pipeline.core.errors import UserError
from pipeline.core.text import plural
from pipeline.data.certified_data import CertifiedData
from pipeline.data.store import check_field_of_view
from pipeline.models.classifier import Classifier, compute_log_probabilities
from pipeline.training.checkpoint import Checkpoint, build_from_checkpoint, compute_weights_digest
from pipeline.training.seen_patients import TEACHER_PATIENTS, check_seen_patients

# Options that a teacher that is trained first does not have.
OF_A_PERCEIVER: dict[str, Any] = {
    "teacher": None,
    "auxiliary_weight": 0.0,
    "keep_attention_every_epochs": 0,
    "input_fraction": 1.0,
    "start_from": None,
    "freeze": "none",
}
# How many slices are cut, and how large a file may be, changes no slice.
OF_ANY_CUT = ("num_slices", "max_volume_gib")
# A map of fewer rows or columns says little about where something is.
MIN_MAP_SIZE = 4


class Lesson(NamedTuple):
    """The answers of a teacher to a batch: logarithms of probabilities (batch, classes), and its map of features."""

    log_probabilities: torch.Tensor
    features: torch.Tensor | None


@dataclass(frozen=True)
class Teacher:
    """A trained model whose answers are learned.

    Args:
        classifier: The model with its statistics, on the device and in evaluation mode.
        local: The module of a convolutional network whose output is the map of features; None where none is wanted.
        map_shape: The channels, rows and columns of the map; zeros where none is wanted.
    """

    classifier: Classifier
    local: nn.Module | None = None
    map_shape: tuple[int, int, int] = (0, 0, 0)

    @torch.no_grad()
    def answer(self, inputs: torch.Tensor, slice_position: torch.Tensor, student: Classifier) -> Lesson:
        """Answer to the inputs of a student.

        Args:
            inputs: What the student reads, normalised with its statistics.
            slice_position: The places of the slices, (batch,), of scans (batch, slices, 3).
            student: The model that learns.
        """
        teacher = self.classifier
        differs = (teacher.mean_values, teacher.std_values) != (student.mean_values, student.std_values)
        if differs and not student.local_contrast:  # which has taken both out already
            inputs = (inputs * student.std + student.mean - teacher.mean) / teacher.std
        maps: list[torch.Tensor] = []
        hook = None if self.local is None else self.local.register_forward_hook(lambda *call: maps.append(call[2]))
        try:
            outputs = teacher.model(inputs, slice_position).float()
        finally:
            if hook is not None:
                hook.remove()
        return Lesson(compute_log_probabilities(outputs, teacher.loss), maps[0] if maps else None)


def check_teacher_options(experiment: Experiment, spec: InputSpec) -> None:
    """Refuse a teacher where these data, or other options, do not allow one.

    Args:
        experiment: All options.
        spec: The examples.

    Raises:
        UserError: the option that has to change.
    """
    config, model = experiment.train, experiment.model
    if config.teacher is None:
        return
    wanted = f"train.teacher {config.teacher}"
    if config.teacher == "cnn":
        require(spec.kind.is_image, "train.teacher", config.teacher, "a checkpoint or null: no cnn reads point clouds")
        num_devices = config.devices * config.num_nodes
        allowed = f"1 with {wanted}; train the cnn as a run of its own and name its checkpoint"
        require(num_devices == 1, "train.devices x train.num_nodes", num_devices, allowed)
    if config.distillation_weight > 0:
        allowed = "cross_entropy or corn, whose outputs are probabilities, or train.distillation_weight 0"
        require(config.loss != "mse", "train.loss", config.loss, allowed)
    if config.guidance_weight > 0:
        are_images = spec.kind.is_image and not spec.kind.has_places
        reads_places = are_images and model.architecture == "perceiver" and model.pixel_permutation_seed is None
        allowed = "0: features at places guide a Perceiver of images or slices whose pixels are in place"
        require(reads_places, "train.guidance_weight", config.guidance_weight, allowed)
        allowed = "ddp, or train.guidance_weight 0"
        require(config.strategy == "ddp", "train.strategy", config.strategy, allowed)


def build_teacher_recipe(experiment: Experiment) -> Experiment:
    """Return the options of the convolutional network that is trained first, for ``train.teacher: cnn``.

    Args:
        experiment: The options of the model that learns from it.
    """
    of_a_perceiver = OF_A_PERCEIVER
    if experiment.preprocess.unit == "volume" and experiment.model.slices == "joint":
        of_a_perceiver = OF_A_PERCEIVER | {"compile": "none"}
    return replace(
        experiment,
        model=replace(experiment.model, architecture="cnn"),
        train=replace(experiment.train, **of_a_perceiver),
    )


def describe_teacher(path: Path, checkpoint: Checkpoint, data: CertifiedData, experiment: Experiment) -> dict[str, Any]:
    """Check a teacher, and list what a run records of it.

    Args:
        path: The file of the checkpoint.
        checkpoint: The teacher.
        data: The examples and their splits.
        experiment: All options.

    Returns:
        Settings of the run: the teacher by the digest of its weights, because a path means nothing elsewhere, and
        whether the patients that it saw are known.

    Raises:
        UserError: the teacher reads other inputs, knows other classes, or saw patients who validate or are tested.
    """
    _check_spec(path, checkpoint.spec, data.store.input_spec(experiment.preprocess.num_slices))
    if data.store.kind.has_patients:
        _check_cut(path, checkpoint, experiment)
    if data.store.kind.has_places:
        advice = "Train a teacher on these data, or let train.teacher: cnn do it."
        check_field_of_view(f"train.teacher: {path}", data.store, checkpoint.spec.field_of_view_mm, advice)
    taught, learns = checkpoint.model.local_contrast, experiment.model.local_contrast
    allowed = f"{taught}, which the teacher {path} has: both read the same normalised images"
    require(taught == learns, "model.local_contrast", learns, allowed)
    if experiment.train.guidance_weight > 0 and checkpoint.model.architecture != "cnn":
        raise UserError(
            f"train.guidance_weight: found {experiment.train.guidance_weight:g}, but {path} is a "
            f"{checkpoint.model.architecture}, and the features that guide are those of a cnn. Set it to 0."
        )
    seen = check_seen_patients("train.teacher", path, checkpoint, data, experiment)
    return {"train.teacher": f"checkpoint {compute_weights_digest(checkpoint.weights)}", TEACHER_PATIENTS: seen}


def _check_spec(path: Path, found: InputSpec, wanted: InputSpec) -> None:
    """Refuse a teacher that does not read what the student reads, or answers otherwise."""
    for title, has, needs in (
        ("classes", ", ".join(found.class_names), ", ".join(wanted.class_names)),
        (
            "inputs",
            f"{found.num_channels} x {found.image_size[0]} x {found.image_size[1]}, {plural(found.kind.example)}",
            f"{wanted.num_channels} x {wanted.image_size[0]} x {wanted.image_size[1]}, {plural(wanted.kind.example)}",
        ),
    ):
        if has != needs:
            raise UserError(
                f"train.teacher: {path} has the {title} {has}; allowed are those of these data, {needs}. Train a "
                "teacher on them, or let train.teacher: cnn do it."
            )


def _check_cut(path: Path, checkpoint: Checkpoint, experiment: Experiment) -> None:
    """Refuse a teacher whose images were cut or fitted in another way."""
    for name in SHAPING:
        has, needs = (getattr(options, name) for options in (checkpoint.preprocess, experiment.preprocess))
        if name not in OF_ANY_CUT and has != needs:
            raise UserError(
                f"train.teacher: {path} learned with preprocess.{name} {has}; allowed is that of these data, {needs}. "
                "Train a teacher on them, or let train.teacher: cnn do it."
            )


def place_teacher(checkpoint: Checkpoint, fabric: Fabric, wants_map: bool) -> Teacher:
    """Build a teacher on the device.

    Args:
        checkpoint: The teacher.
        fabric: The devices and the precision.
        wants_map: Whether its features guide the student.
    """
    classifier = build_from_checkpoint(checkpoint, fabric.device).requires_grad_(False)
    if not wants_map:
        return Teacher(classifier)
    return Teacher(classifier, *find_local_map(classifier.model.network, checkpoint.spec, fabric.device))


def find_local_map(network: nn.Module, spec: InputSpec, device: torch.device) -> tuple[nn.Module, tuple[int, int, int]]:
    """Find the last module of a convolutional network whose map has at least four rows and columns.

    Args:
        network: The network.
        spec: The images that it reads.
        device: The device of the network.

    Returns:
        The module, and the channels, rows and columns of its output.

    Raises:
        UserError: even the first map is smaller.
    """
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def keep(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        shapes[module] = tuple(output.shape[1:])

    hooks = [child.register_forward_hook(keep) for child in network.children()]
    with torch.no_grad():
        network(torch.zeros((1, spec.num_channels, *spec.image_size), device=device))
    for hook in hooks:
        hook.remove()
    local = [(module, shape) for module, shape in shapes.items() if len(shape) == 3 and min(shape[1:]) >= MIN_MAP_SIZE]
    if not local:
        raise UserError(
            f"train.guidance_weight: the teacher's features have fewer than {MIN_MAP_SIZE} rows or columns everywhere. "
            "Set it to 0, or enlarge preprocess.image_size."
        )
    module, (channels, rows, columns) = local[-1]
    return module, (channels, rows, columns)
