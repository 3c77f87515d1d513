"""The options of the networks."""

from dataclasses import dataclass, field, fields
from typing import Literal

from perceiver.config import ImageConfig, PerceiverConfig
from pipeline.config.validation import require, require_at_least

# The losses of training, which decide how a model's outputs become probabilities.
LossName = Literal["cross_entropy", "mse", "corn"]


@dataclass(frozen=True)
class CnnConfig:
    """A small convolutional network, the baseline that the Perceiver is compared with.

    Args:
        blocks: The kind of the blocks. plain: a convolution and a max-pooling a stage. residual: a residual network.
        channels: The channels of each stage; each stage halves height and width.
    """

    blocks: Literal["plain", "residual"] = "plain"
    channels: tuple[int, ...] = (24, 48, 96, 192)

    def __post_init__(self) -> None:
        num_stages = len(self.channels)
        good_number = num_stages == 4 or (self.blocks == "plain" and num_stages >= 1)
        allowed = "numbers of 1 or more; four of them for residual blocks"
        require(good_number and min(self.channels) >= 1, "model.cnn.channels", self.channels, allowed)


@dataclass(frozen=True)
class ModelConfig:
    """The network and its shape.

    Args:
        architecture: The network: perceiver, or cnn for a small convolutional network as a baseline.
        stem: The inputs of the Perceiver. pixels: each pixel is one. patches: each square patch is one.
            conv: each place of a small convolutional network's output is one.
        patch_size: The side of a patch in pixels; read only where ``stem`` is patches.
        num_conv_layers: The number of convolutions, each with a max pooling that halves height and width; read only
            where ``stem`` is conv.
        conv_channels: The channels that the convolutions end with; read only where ``stem`` is conv.
        num_residual_blocks: The number of residual blocks of two convolutions after each of these; read only where
            ``stem`` is conv.
        slice_position: Give the Perceiver the place of a slice in its volume.
        slices: The way from the slices of a scan to its answer; read only where ``preprocess.unit`` is volume. joint:
            one Perceiver, or one 3-D CNN where ``architecture`` is cnn, reads all of them at once. mean, max, top3: a
            network of slices, each of whose logits becomes its mean, its maximum or the mean of its three largest over
            the slices. attention: a network of slices whose embeddings are averaged with weights that are learned.
        patch_slices: The number of neighbouring slices that make one input of a Perceiver; read only where ``slices``
            is joint.
        local_contrast: Normalise each pixel by its neighbourhood: the mean of 3 x 3 pixels minus that of 9 x 9, divided
            by the standard deviation of these. Small spots stand out then, whatever the gain of the scanner, and how
            bright large parts are is lost. False normalises by mean and standard deviation of the training images.
        mirror_tta: Test-time augmentation: outside training, answer with the mean of the probabilities of an image and
            its mirror image. Where the classes are left and right these are exchanged in the mirror, so that a mirrored
            knee gets exactly the other answer; other classes are kept, which ``augment.horizontal_flip: keep_label``
            must have trained.
        pixel_permutation_seed: The seed of one fixed permutation of the pixels of all images, after augmentation and
            before positions are attached, so that neighbours carry no information; null leaves pixels in place.
        num_points: The number of points of a cloud that are read, in training a random choice of those stored,
            elsewhere the first ones; null reads all. Stem and patches are not read then.
        perceiver: The Perceiver after the stem; read only where ``architecture`` is perceiver.
        cnn: The convolutional network; read only where ``architecture`` is cnn.
    """

    architecture: Literal["perceiver", "cnn"] = "perceiver"
    stem: Literal["pixels", "patches", "conv"] = ImageConfig.stem
    patch_size: int = ImageConfig.patch_size
    num_conv_layers: int = ImageConfig.num_conv_layers
    conv_channels: int = ImageConfig.conv_channels
    num_residual_blocks: int = ImageConfig.num_residual_blocks
    slice_position: bool = ImageConfig.slice_position
    slices: Literal["joint", "mean", "max", "top3", "attention"] = "joint"
    patch_slices: int = 1
    local_contrast: bool = False
    mirror_tta: bool = False
    pixel_permutation_seed: int | None = None
    num_points: int | None = None
    perceiver: PerceiverConfig = field(default_factory=PerceiverConfig)
    cnn: CnnConfig = field(default_factory=CnnConfig)

    def __post_init__(self) -> None:
        good_number = self.num_points is None or self.num_points >= 1
        require(good_number, "model.num_points", self.num_points, "1 or more, or null")
        require_at_least("model", self, 1, "patch_size", "num_conv_layers", "conv_channels", "patch_slices")
        require_at_least("model", self, 0, "num_residual_blocks")

    @property
    def image_config(self) -> ImageConfig:
        """The part of the options that the Perceiver for images has."""
        return ImageConfig(**{item.name: getattr(self, item.name) for item in fields(ImageConfig)})
