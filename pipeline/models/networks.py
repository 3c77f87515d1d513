"""The networks that an experiment can choose from, with one call."""

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import nn

from perceiver import ImagePerceiver, PointPerceiver, VolumePerceiver
from pipeline.config.model import CnnConfig, ModelConfig
from pipeline.config.validation import require
from pipeline.core.data_kinds import InputSpec
from pipeline.core.errors import UserError
from pipeline.models.pixel_permutation import PixelPermutation
from pipeline.models.volumes import EMBEDDING, ConvolvedVolume, PooledSlices, choose_slices


def build_model(config: ModelConfig, spec: InputSpec, seed: int) -> "SliceModel":
    """Build a network with new weights.

    Args:
        config: The options of the network.
        spec: The examples that it reads, and its classes.
        seed: The seed of the weights; they are the same on every device, because they are drawn on the processor.

    Returns:
        A model on the processor.

    Raises:
        UserError: the options do not fit each other or the examples.
    """
    permutation = (
        None
        if config.pixel_permutation_seed is None
        else PixelPermutation(spec.image_size, config.pixel_permutation_seed)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if not spec.kind.is_image:
            return SliceModel(_build_point_perceiver(config, spec), reads_slice_position=False)
        if spec.kind.has_places:
            network = _build_volume_network(config, spec)
            half_mm = spec.field_of_view_mm / 2
            return SliceModel(network, reads_slice_position=True, permutation=permutation, place_unit=half_mm)
        if config.architecture == "cnn":
            # The layout of the Perceiver's convolutions, so that the two are compared like with like.
            cnn = _build_cnn(config.cnn, spec).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            return SliceModel(cnn, reads_slice_position=False, permutation=permutation)
        network = _build_image_perceiver(config, spec)
        return SliceModel(network, reads_slice_position=config.slice_position, permutation=permutation)


def _build_volume_network(config: ModelConfig, spec: InputSpec) -> nn.Module:
    """Build the network of whole scans: a Perceiver or a CNN of all slices, or a network of slices and a pooling."""
    require(not config.slice_position, "model.slice_position", True, "false where preprocess.unit is volume")
    if config.slices != "joint":
        num_outputs = EMBEDDING if config.slices == "attention" else len(spec.class_names)
        of_slice = replace(spec, class_names=tuple(map(str, range(num_outputs))))
        if config.architecture == "cnn":
            network = _build_cnn(config.cnn, of_slice)
        else:
            network = _build_image_perceiver(config, of_slice)
        return PooledSlices(network, config.slices, len(spec.class_names))
    if config.architecture == "cnn":
        return ConvolvedVolume(_group_norms(_build_cnn(config.cnn, spec, num_axes=3), config.cnn))
    _check_patches(config, spec)
    height, width = spec.image_size
    try:
        return VolumePerceiver(
            config.image_config,
            height=height,
            width=width,
            num_slices=spec.num_slices,
            num_classes=len(spec.class_names),
            patch_slices=config.patch_slices,
        )
    except ValueError as error:  # the package's only error for options that do not fit
        raise UserError(f"model: {error}. Change the model section.") from error


def _check_patches(config: ModelConfig, spec: InputSpec) -> None:
    height, width = spec.image_size
    if config.stem == "patches" and (height % config.patch_size != 0 or width % config.patch_size != 0):
        raise UserError(
            f"model.patch_size: found {config.patch_size}, but images of {height} x {width} pixels need a size "
            "that divides both. Change it or preprocess.image_size."
        )


def _build_image_perceiver(config: ModelConfig, spec: InputSpec) -> nn.Module:
    """Build the Perceiver for images."""
    height, width = spec.image_size
    _check_patches(config, spec)
    try:
        return ImagePerceiver(
            config.image_config,
            channels=spec.num_channels,
            height=height,
            width=width,
            num_classes=len(spec.class_names),
            num_slices=spec.num_slices if config.slice_position else None,
        )
    except ValueError as error:  # the package's only error for options that do not fit
        raise UserError(f"model: {error}. Change the model section.") from error


def _build_point_perceiver(config: ModelConfig, spec: InputSpec) -> nn.Module:
    """Build the Perceiver for point clouds, which has no stem; refuse options that are for images alone."""
    for field_name in ("architecture", "slice_position", "local_contrast", "mirror_tta", "pixel_permutation_seed"):
        found, allowed = getattr(config, field_name), getattr(ModelConfig, field_name)
        require(found == allowed, f"model.{field_name}", found, f"{allowed!r} for point clouds")
    if config.num_points is not None:
        num_stored = spec.image_size[0]
        require(config.num_points <= num_stored, "model.num_points", config.num_points, f"at most {num_stored}")
    try:
        return PointPerceiver(config.perceiver, num_classes=len(spec.class_names))
    except ValueError as error:  # the package's only error for options that do not fit
        raise UserError(f"model: {error}. Change the model section.") from error


def _build_cnn(config: CnnConfig, spec: InputSpec, num_axes: Literal[2, 3] = 2) -> nn.Module:
    """Build the baseline from MONAI's blocks, which take seconds to import and so are imported here."""
    num_channels, image_size, num_classes = spec.num_channels, spec.image_size, len(spec.class_names)
    shortest = 2 ** len(config.channels)
    if min(image_size) < shortest:
        raise UserError(
            f"model.cnn.channels: {len(config.channels)} stages halve images of {image_size[0]} x {image_size[1]} "
            f"pixels to nothing; {shortest} pixels are needed. Use fewer stages or enlarge preprocess.image_size."
        )
    if config.blocks == "plain":
        from monai.networks.blocks.convolutions import Convolution

        halve, average = (nn.MaxPool2d, nn.AdaptiveAvgPool2d) if num_axes == 2 else (nn.MaxPool3d, nn.AdaptiveAvgPool3d)
        stages: list[nn.Module] = []
        for width in config.channels:
            stages += [
                Convolution(num_axes, num_channels, width, act="RELU", norm="BATCH", adn_ordering="NA"),
                halve(2, ceil_mode=num_axes == 3),  # a single slice stays one
            ]
            num_channels = width
        return nn.Sequential(*stages, average(1), nn.Flatten(), nn.Linear(num_channels, num_classes))
    from monai.networks.nets.resnet import ResNet, ResNetBlock

    network: nn.Module = ResNet(
        block=ResNetBlock,
        layers=[1] * len(config.channels),
        block_inplanes=list(config.channels),
        spatial_dims=num_axes,
        n_input_channels=num_channels,
        conv1_t_size=3,
        conv1_t_stride=2,
        no_max_pool=True,
        num_classes=num_classes,
    )
    return network


def _group_norms(network: nn.Module, config: CnnConfig) -> nn.Module:
    """Put group norms in the place of batch norms, which would let other scans of a batch change an answer.

    MONAI's residual network takes a kind of norm, and uses it for the first of its norms alone.
    """
    # Two channels a group or more: of the single voxel that small scans end with, one has no standard deviation.
    num_groups = max(1, math.gcd(16, *config.channels) // 2)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm3d):
                setattr(module, name, nn.GroupNorm(num_groups, child.num_features))
    return network


def count_parameters(model: nn.Module) -> int:
    """Return the number of trained numbers in a model."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


class SliceModel(nn.Module):
    """A network for images or clouds, with one call whether or not it reads a slice's place.

    Args:
        network: The network, from normalised images (batch, channels, height, width) or clouds (batch, points, 3), and
            from places (batch,) where it reads them, to logits.
        reads_slice_position: Whether the network reads the places.
        permutation: The permutation of the pixels before the network; None leaves them in place.
        place_unit: The number that places are divided by: of whole scans half the field of view in mm.
    """

    def __init__(
        self,
        network: nn.Module,
        reads_slice_position: bool,
        permutation: PixelPermutation | None = None,
        place_unit: float = 1.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.reads_slice_position = reads_slice_position
        self.place_unit = place_unit
        self.permutation = permutation

    def forward(
        self, images: torch.Tensor, slice_position: torch.Tensor, chosen_inputs: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Turn normalised images and their slices' places into logits (batch, classes).

        Args:
            images: The images (batch, channels, height, width), clouds, or scans (batch, slices, height, width).
            slice_position: The places of the slices, (batch,); of scans (batch, slices, 3) in mm, NaN for padding.
            chosen_inputs: Of a Perceiver, the inputs that it reads, (batch, chosen) int64; of a network of whole scans
                the slices, and -1 for none; None for all.
        """
        if self.permutation is not None:
            images = self.permutation(images)
        if self.place_unit != 1.0:
            slice_position = slice_position / self.place_unit
        if chosen_inputs is not None and isinstance(self.network, VolumePerceiver | PooledSlices | ConvolvedVolume):
            images, slice_position = choose_slices(images, slice_position, chosen_inputs)
            chosen_inputs = None  # so that the stem, too, has fewer slices to read
        arguments = (images, slice_position) if self.reads_slice_position else (images,)
        chosen = {} if chosen_inputs is None else {"chosen_inputs": chosen_inputs}
        logits: torch.Tensor = self.network(*arguments, **chosen)
        return logits

    def count_inputs(self, images: torch.Tensor) -> int:
        """Return the number of inputs that a Perceiver reads of each image or cloud."""
        return math.prod(self.network.grid_size) if isinstance(self.network, ImagePerceiver) else images.shape[1]
