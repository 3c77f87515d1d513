"""What a Perceiver is made of: one frozen record, checked when it is made."""

from dataclasses import dataclass
from typing import Literal


def check_at_least(owner: str, name: str, value: float | None, minimum: float) -> None:
    """Refuse a number that is too small; ``None`` means "not given" and passes."""
    if value is not None and value < minimum:
        raise ValueError(f"{owner}.{name}: found {value}, allowed are numbers of at least {minimum}")


def check_choice(owner: str, name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a word that is not on the list."""
    if value not in allowed:
        raise ValueError(f"{owner}.{name}: found '{value}', allowed are {', '.join(allowed)}")


def check_probability(owner: str, name: str, value: float) -> None:
    """Refuse a dropout rate outside [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{owner}.{name}: found {value}, allowed are numbers from 0 up to, but not including, 1")


@dataclass(frozen=True)
class PerceiverConfig:
    """The shape of a Perceiver.

    The first three fields are facts of the data. Whoever builds the model for a data set
    (``ImagePerceiver`` for images) fills those that are None and refuses those that disagree.

    Args:
        input_channels: channels of each input, 0 where the positions are all there is (a point cloud).
        axis_sizes: resolution along each position axis, e.g. height and width; also the default ``max_freq``.
            May stay None for inputs of any resolution where ``max_freq`` says the number of axes.
        num_classes: number of logits.
        num_latents: number of latent vectors.
        latent_dim: width of a latent vector.
        num_cross_attends: how often the latents look at the inputs (the depth).
        self_attends_per_cross: self-attention layers after each look at the inputs.
        cross_heads: heads of a cross-attention.
        cross_head_dim: width of one head of a cross-attention.
        latent_heads: heads of a self-attention.
        latent_head_dim: width of one head of a self-attention.
        weight_sharing: none: every layer has its own weights. all: each repetition of cross-attend and
            self-attends has the same. all_but_first: as all, but the first cross-attend has its own, as in the
            paper. all_but_first_block: as all, but the first cross-attend and the self-attends after it have
            their own, as perceiver-pytorch ties them.
        activation: of the feed-forward layers, geglu (gated) or gelu.
        feedforward_widening: hidden width of a feed-forward layer, in multiples of ``latent_dim``.
        pooling: mean: the head reads the mean of the latents. cls: it reads the first latent alone.
            query: it reads what the latents answer to one learned query, as in Perceiver IO.
        decoder_heads: heads of the attention of queries to latents; read where ``pooling`` is query and by
            ``PerceiverIO``.
        decoder_head_dim: width of one of those heads.
        positions: fourier: fixed sines and cosines. learned: one learned vector for each place of the grid.
            none: the values are all that is read.
        num_bands: Fourier frequencies for each axis.
        max_freq: highest Fourier frequency for each axis, as twice the cycles over an axis of length 2; None
            takes the axis's own resolution, the highest that its samples can carry (Nyquist). A number more than
            twice as high or as low gets a warning.
        learned_position_dim: width of a learned position; read only where ``positions`` is learned.
        dropout: share of activations dropped in feed-forward layers and after each attention, in training.
        attention_dropout: share of attention weights dropped in training; above 0 it makes training slower.
        gradient_checkpointing: what is computed again in the backward pass instead of kept for it, with the same
            gradients. none. feedforward: the feed-forward layers, whose activations are the widest, for about a
            tenth more time. layers: all but the latents between layers, for a quarter to a third more time.
        latent_init_std: standard deviation of the truncated normal that the latents, and the query of ``pooling``
            query, start from.
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
    positions: Literal["fourier", "learned", "none"] = "fourier"
    num_bands: int = 8
    max_freq: tuple[float, ...] | None = None
    learned_position_dim: int = 32
    dropout: float = 0.0
    attention_dropout: float = 0.0
    gradient_checkpointing: Literal["none", "feedforward", "layers"] = "none"
    latent_init_std: float = 0.02

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
        if self.latent_init_std <= 0:
            raise ValueError(f"{owner}.latent_init_std: found {self.latent_init_std}, allowed are numbers above 0")
        if self.pooling == "cls" and self.self_attends_per_cross == 0:
            raise ValueError(
                f"{owner}.self_attends_per_cross: found 0 with pooling 'cls', allowed are numbers of at "
                "least 1 (without self-attention the first latent never sees the others); use pooling 'mean'"
            )
        if self.positions == "none" and self.input_channels == 0:
            raise ValueError(
                f"{owner}.positions: found 'none' for inputs of 0 channels, which leaves nothing to read; "
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
