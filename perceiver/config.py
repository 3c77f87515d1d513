"""The configuration of a Perceiver: one frozen dataclass, checked when it is created."""

from dataclasses import dataclass, field
from typing import Literal


def check_at_least(owner: str, name: str, value: float | None, minimum: float) -> None:
    """Refuse a number below the minimum; ``None`` means "not given" and is accepted.

    Args:
        owner: The name of the configuration class, for the error message.
        name: The name of the field, for the error message.
        value: The value of the field.
        minimum: The lowest value that is allowed.

    Raises:
        ValueError: The value is below the minimum.
    """
    if value is not None and value < minimum:
        raise ValueError(f"{owner}.{name}: found {value}, allowed are numbers of at least {minimum}")


def check_choice(owner: str, name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a word that is not among the allowed ones.

    Args:
        owner: The name of the configuration class, for the error message.
        name: The name of the field, for the error message.
        value: The value of the field.
        allowed: The words that are allowed.

    Raises:
        ValueError: The value is not allowed.
    """
    if value not in allowed:
        raise ValueError(f"{owner}.{name}: found '{value}', allowed are {', '.join(allowed)}")


def check_probability(owner: str, name: str, value: float) -> None:
    """Refuse a dropout rate outside [0, 1).

    Args:
        owner: The name of the configuration class, for the error message.
        name: The name of the field, for the error message.
        value: The value of the field.

    Raises:
        ValueError: The value is below 0, or 1 or more.
    """
    if not 0 <= value < 1:
        raise ValueError(f"{owner}.{name}: found {value}, allowed are numbers from 0 up to, but not including, 1")


@dataclass(frozen=True)
class PerceiverConfig:
    """The architecture of a Perceiver.

    The first three fields follow from the data. The class that builds the model for a data set (``ImagePerceiver`` for
    images) fills those that are None and refuses those that contradict the data.

    Args:
        input_channels: The number of channels of each input, 0 if an input is its position alone (a point cloud).
        axis_sizes: The resolution along each position axis, e.g. height and width; also the default of ``max_freq``.
            May stay None, for inputs of any resolution, if ``max_freq`` defines the number of axes.
        num_classes: The number of logits.
        num_latents: The number of latent vectors.
        latent_dim: The number of channels of a latent vector.
        num_cross_attends: The number of cross-attentions to the inputs (the depth).
        self_attends_per_cross: The number of self-attention layers after each cross-attention.
        cross_heads: The number of heads of a cross-attention.
        cross_head_dim: The number of channels of one head of a cross-attention.
        latent_heads: The number of heads of a self-attention.
        latent_head_dim: The number of channels of one head of a self-attention.
        weight_sharing: The layers that share weights. none: every layer has its own weights. all: each repetition of
            cross-attention and self-attentions has the same weights. all_but_first: like all, but the first
            cross-attention has its own weights, as in the paper. all_but_first_block: like all, but the first
            cross-attention and the self-attentions after it have their own weights, as in perceiver-pytorch.
        activation: The activation of the feed-forward layers, geglu (gated) or gelu.
        feedforward_widening: The hidden width of a feed-forward layer, in multiples of ``latent_dim``.
        pooling: The input of the classification head. mean: the mean of the latents. cls: the first latent alone.
            query: the output of a cross-attention of one learned query to the latents, as in Perceiver IO.
        decoder_heads: The number of heads of the attention of queries to latents; used only if ``pooling`` is query and
            by ``PerceiverIO``.
        decoder_head_dim: The number of channels of one of those heads.
        decoder_dim: The number of channels of what that attention returns and of the layers after it; None for the
            channels of a query. Outputs that hold more than their queries, such as dense labels from the features of
            positions, need more.
        decoder_residual: Whether the query is added to what the attention returns, as in Perceiver IO for
            classification; false, as there for optical flow and language, allows another ``decoder_dim``.
        positions: The features of a position. fourier: fixed sines and cosines. learned: one learned vector for each
            point of the grid. none: no features; the model reads the values alone.
        num_bands: The number of Fourier frequencies for each axis.
        max_freq: The highest Fourier frequency for each axis, as twice the number of cycles over the axis, whose
            coordinate runs from -1 to 1; None for the resolution of the axis, the highest that its samples can carry
            (Nyquist). A value more than twice as high or as low gets a warning.
        learned_position_dim: The number of channels of a learned position; used only if ``positions`` is learned.
        learned_position_init_std: The standard deviation of the normal distribution from which learned positions are
            initialised, truncated as ``latent_init_std`` is. With 0.02, that of the paper, positions are small next
            to values of 1 until training has made them larger; a sine, as in Fourier features, has 0.7.
        dropout: The fraction of activations that is dropped in training, in feed-forward layers and after each
            attention.
        attention_dropout: The fraction of attention weights that is dropped in training; values above 0 make training
            slower.
        gradient_checkpointing: The activations that the backward pass computes again instead of keeping them, with the
            same gradients. none. feedforward: those of the feed-forward layers, which are the widest, for about a
            tenth more time. layers: all except the latents between layers, for a quarter to a third more time.
        latent_init_std: The standard deviation of the normal distribution from which the latents, and the query if
            ``pooling`` is query, are initialised; it is truncated at 2, or at five standard deviations if that is more.
        query_init_gain: The factor of the initial weights that turn latents into the queries of cross-attentions. With
            1 attention starts as nearly the mean over all inputs. With about 8 each latent starts with a few of them,
            which a finding that fills a few of thousands of inputs needs; few inputs need none.
    """

    input_channels: int | None = None
    axis_sizes: tuple[int, ...] | None = None
    num_classes: int | None = None
    num_latents: int = 64
    latent_dim: int = 128
    num_cross_attends: int = 2
    self_attends_per_cross: int = 2
    cross_heads: int = 1
    cross_head_dim: int = 64
    latent_heads: int = 4
    latent_head_dim: int = 32
    weight_sharing: Literal["none", "all", "all_but_first", "all_but_first_block"] = "none"
    activation: Literal["geglu", "gelu"] = "geglu"
    feedforward_widening: int = 2
    pooling: Literal["mean", "cls", "query"] = "mean"
    decoder_heads: int = 1
    decoder_head_dim: int = 64
    decoder_dim: int | None = None
    decoder_residual: bool = True
    positions: Literal["fourier", "learned", "none"] = "fourier"
    num_bands: int = 8
    max_freq: tuple[float, ...] | None = None
    learned_position_dim: int = 32
    learned_position_init_std: float = 0.02
    dropout: float = 0.0
    attention_dropout: float = 0.0
    gradient_checkpointing: Literal["none", "feedforward", "layers"] = "none"
    latent_init_std: float = 0.02
    query_init_gain: float = 1.0

    def __post_init__(self) -> None:
        owner = type(self).__name__
        positive_fields = (
            "num_classes",
            "num_latents",
            "latent_dim",
            "num_cross_attends",
            "cross_heads",
            "cross_head_dim",
            "latent_heads",
            "latent_head_dim",
            "decoder_heads",
            "decoder_head_dim",
            "decoder_dim",
            "feedforward_widening",
            "num_bands",
            "learned_position_dim",
        )
        for name in positive_fields:
            check_at_least(owner, name, getattr(self, name), 1)
        for name in ("input_channels", "self_attends_per_cross"):
            check_at_least(owner, name, getattr(self, name), 0)
        sharing_choices = ("none", "all", "all_but_first", "all_but_first_block")
        check_choice(owner, "weight_sharing", self.weight_sharing, sharing_choices)
        check_choice(owner, "activation", self.activation, ("geglu", "gelu"))
        check_choice(owner, "pooling", self.pooling, ("mean", "cls", "query"))
        check_choice(owner, "gradient_checkpointing", self.gradient_checkpointing, ("none", "feedforward", "layers"))
        check_choice(owner, "positions", self.positions, ("fourier", "learned", "none"))
        check_probability(owner, "dropout", self.dropout)
        check_probability(owner, "attention_dropout", self.attention_dropout)
        for name in ("latent_init_std", "learned_position_init_std", "query_init_gain"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{owner}.{name}: found {getattr(self, name)}, allowed are numbers above 0")
        if self.pooling == "cls" and self.self_attends_per_cross == 0:
            raise ValueError(
                f"{owner}.self_attends_per_cross: found 0 with pooling 'cls', allowed are numbers of at "
                "least 1 (without self-attention the first latent does not depend on the others); use pooling 'mean'"
            )
        if self.positions == "none" and self.input_channels == 0:
            raise ValueError(
                f"{owner}.positions: found 'none' for inputs of 0 channels, which would have no features at all; "
                "allowed are fourier, learned"
            )
        self._check_axes(owner)

    def _check_axes(self, owner: str) -> None:
        if self.axis_sizes is not None and (len(self.axis_sizes) == 0 or min(self.axis_sizes) < 1):
            raise ValueError(
                f"{owner}.axis_sizes: found {self.axis_sizes}, allowed are one or more sizes of at least 1"
            )
        if self.max_freq is None:
            return
        if len(self.max_freq) == 0 or min(self.max_freq) < 2:
            raise ValueError(
                f"{owner}.max_freq: found {self.max_freq}, allowed is one number of at least 2 for each axis "
                "(frequencies run from 1 to max_freq / 2)"
            )
        if self.axis_sizes is not None and len(self.max_freq) != len(self.axis_sizes):
            raise ValueError(
                f"{owner}.max_freq: found {len(self.max_freq)} numbers for {len(self.axis_sizes)} axes "
                f"{self.axis_sizes}, allowed is one for each axis"
            )


@dataclass(frozen=True)
class ImageConfig:
    """The conversion of an image to inputs of a Perceiver, and the Perceiver.

    Args:
        stem: The inputs that an image becomes. pixels: one input for each pixel. patches: one for each square patch.
            conv: one for each point of the output of a small convolutional network.
        patch_size: The side of a patch in pixels; used only if ``stem`` is patches.
        num_conv_layers: The number of convolutions, each with a max pooling that halves height and width; used only if
            ``stem`` is conv.
        conv_channels: The number of channels of the last convolution; used only if ``stem`` is conv.
        num_residual_blocks: The number of residual blocks of two convolutions after each of these; used only if
            ``stem`` is conv.
        slice_position: Whether the position of the slice in its volume is a third position axis.
        perceiver: The configuration of the Perceiver after the stem.
    """

    stem: Literal["pixels", "patches", "conv"] = "conv"
    patch_size: int = 4
    num_conv_layers: int = 2
    conv_channels: int = 64
    num_residual_blocks: int = 0
    slice_position: bool = False
    perceiver: PerceiverConfig = field(default_factory=PerceiverConfig)

    def __post_init__(self) -> None:
        owner = type(self).__name__
        check_choice(owner, "stem", self.stem, ("pixels", "patches", "conv"))
        for name in ("patch_size", "num_conv_layers", "conv_channels"):
            check_at_least(owner, name, getattr(self, name), 1)
        check_at_least(owner, "num_residual_blocks", self.num_residual_blocks, 0)
