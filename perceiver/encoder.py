"""What every Perceiver begins with: latents that read the inputs and think in between."""

from typing import Literal

import torch
from torch import Tensor, nn

from perceiver.attention import CrossAttention, Memory, SelfAttention, normalise_inputs
from perceiver.config import PerceiverConfig
from perceiver.feedforward import FeedForward
from perceiver.grids import flatten_grid
from perceiver.positions import FourierPositions, LearnedPositions, NoPositions, join_channels

# Coordinates of all axes, parts that together hold them, or None for a regular grid.
Positions = Tensor | tuple[Tensor, ...] | None


def check_given(config: PerceiverConfig, names: tuple[str, ...]) -> None:
    """Refuse a config without the facts of the data that a model needs.

    The number of axes is enough where no resolution is read: ``max_freq`` stands in for ``axis_sizes`` unless
    positions are learned.

    Args:
        config: the shape of the model.
        names: fields that must not be None.

    Raises:
        ValueError: one is missing.
    """
    missing = [name for name in names if getattr(config, name) is None]
    if "axis_sizes" in missing and config.max_freq is not None and config.positions != "learned":
        missing.remove("axis_sizes")
    if missing:
        raise ValueError(
            f"PerceiverConfig: {', '.join(missing)} not given; a Perceiver needs them, ImagePerceiver fills them"
        )


def assign_weights(num_layers: int, sharing: str, first_is_own: bool) -> list[int]:
    """Say which set of weights each repetition uses.

    Args:
        num_layers: number of repetitions.
        sharing: none, all, all_but_first or all_but_first_block.
        first_is_own: whether all_but_first concerns this kind of layer (cross-attends, not latent layers);
            all_but_first_block concerns both.

    Returns:
        One index a repetition, e.g. [0, 1, 1] for three cross-attends with all_but_first.
    """
    if sharing == "none":
        return list(range(num_layers))
    if sharing == "all_but_first_block" or (sharing == "all_but_first" and first_is_own):
        return [min(layer_index, 1) for layer_index in range(num_layers)]
    return [0] * num_layers


class CrossLayer(nn.Module):
    """Cross-attention and feed-forward, each with its residual."""

    def __init__(self, config: PerceiverConfig, input_channels: int) -> None:
        super().__init__()
        self.attention = CrossAttention(
            config.latent_dim,
            input_channels,
            config.cross_heads,
            config.cross_head_dim,
            config.dropout,
            config.attention_dropout,
        )
        self.feedforward = build_feedforward(config, config.latent_dim)

    def forward(self, latents: Tensor, memory: Memory, mask: Tensor | None) -> Tensor:
        """Let ``latents (batch, latents, latent_dim)`` read the inputs; ``memory`` is this layer's own."""
        latents = latents + self.attention(latents, memory, mask)
        result: Tensor = latents + self.feedforward(latents)
        return result


class LatentLayer(nn.Module):
    """Self-attention and feed-forward, each with its residual."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(
            config.latent_dim,
            config.latent_heads,
            config.latent_head_dim,
            config.dropout,
            config.attention_dropout,
        )
        self.feedforward = build_feedforward(config, config.latent_dim)

    def forward(self, latents: Tensor) -> Tensor:
        """Map ``(batch, latents, latent_dim)`` to the same shape."""
        latents = latents + self.attention(latents)
        result: Tensor = latents + self.feedforward(latents)
        return result


def build_feedforward(config: PerceiverConfig, dim: int) -> FeedForward:
    """Build the feed-forward layer that follows every attention, for vectors of ``dim`` channels."""
    activation: Literal["geglu", "gelu"] = config.activation
    return FeedForward(dim, config.feedforward_widening, activation, config.dropout)


def build_positions(config: PerceiverConfig) -> FourierPositions | LearnedPositions | NoPositions:
    """Build what turns coordinates into channels."""
    if config.positions == "none":
        return NoPositions()
    axis_sizes = config.axis_sizes
    if config.positions == "learned":
        assert axis_sizes is not None  # check_given has refused it
        return LearnedPositions(axis_sizes, config.learned_position_dim)
    if config.max_freq is not None:
        return FourierPositions(config.max_freq, config.num_bands)
    assert axis_sizes is not None
    # The highest frequency that n samples on [-1, 1] carry is n / 2, so the axis's size is its max_freq.
    return FourierPositions(tuple(max(float(size), 2.0) for size in axis_sizes), config.num_bands)


class PerceiverEncoder(nn.Module):
    """Latents that read the inputs several times and think in between.

    Each repetition takes the latents that the one before has left. ``Perceiver`` and ``PerceiverIO`` add what
    turns the last latents into an answer.

    Args:
        config: the shape of the model; ``input_channels`` and ``axis_sizes`` must be given.

    Source:
        Jaegle 2021, arXiv 2103.03206.
    """

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        check_given(config, ("input_channels", "axis_sizes"))
        self.config = config
        self.input_channels = config.input_channels or 0
        self.num_axes = len(config.axis_sizes or config.max_freq or ())
        self.positions = build_positions(config)
        channels = self.input_channels + self.positions.num_channels
        self.cross_weights = assign_weights(config.num_cross_attends, config.weight_sharing, first_is_own=True)
        self.latent_weights = assign_weights(config.num_cross_attends, config.weight_sharing, first_is_own=False)
        self.latents = nn.Parameter(torch.empty(config.num_latents, config.latent_dim))
        nn.init.trunc_normal_(self.latents, std=config.latent_init_std)
        self.cross_layers = nn.ModuleList(CrossLayer(config, channels) for _ in range(max(self.cross_weights) + 1))
        self.latent_layers = nn.ModuleList(
            nn.Sequential(*[LatentLayer(config) for _ in range(config.self_attends_per_cross)])
            for _ in range(max(self.latent_weights) + 1)
        )

    def encode(self, values: Tensor, positions: Positions = None, padding: Tensor | None = None) -> Tensor:
        """Turn a batch of sets of inputs into latents; arguments and errors as for ``Perceiver``.

        Args:
            values: ``(batch, inputs, channels)``; without positions ``(batch, axes, channels)``, a regular grid.
            positions: ``(batch or 1, inputs, axes)`` in [-1, 1], a tuple of parts, or None for a grid.
            padding: ``(batch, inputs)`` bool, or ``(batch, axes)`` on a grid, True for an input to ignore.

        Returns:
            ``(batch, latents, latent_dim)``.
        """
        inputs, mask = self.prepare(values, positions, padding)
        latents = self.latents.expand(inputs.shape[0], -1, -1)
        memories: dict[int, Memory] = {}
        for cross_index, latent_index in zip(self.cross_weights, self.latent_weights, strict=True):
            cross_layer = self.cross_layers[cross_index]
            if cross_index not in memories:  # layers that share weights share keys and values
                memories[cross_index] = cross_layer.attention.read(inputs)  # type: ignore[union-attr, operator]
            latents = cross_layer(latents, memories[cross_index], mask)
            latents = self.latent_layers[latent_index](latents)
        return latents

    def prepare(self, values: Tensor, positions: Positions, padding: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Join values and positions to what every cross-attend reads.

        Args:
            values: ``(batch, inputs, channels)``; without positions ``(batch, axes, channels)``, a regular grid.
            positions: ``(batch or 1, inputs, axes)`` in [-1, 1], a tuple of parts, or None for a grid.
            padding: ``(batch, inputs)`` bool, or ``(batch, axes)`` on a grid, True for an input to ignore.

        Returns:
            Normalised inputs ``(batch, inputs, all channels)``, and ``(batch, 1, 1, inputs)``, True where an
            input may be read, or None for all.
        """
        if positions is None:
            values, positions, padding = flatten_grid(values, padding, self.num_axes, self.input_channels)
        parts = (positions,) if isinstance(positions, Tensor) else positions
        self._check(values, parts, padding)
        inputs = join_channels([values, self.positions(parts)])
        mask = None
        if padding is not None:
            inputs = inputs.masked_fill(padding.unsqueeze(-1), 0.0)  # 0 times NaN would be NaN
            mask = ~padding[:, None, None, :]
        return normalise_inputs(inputs), mask

    def _check(self, values: Tensor, parts: tuple[Tensor, ...], padding: Tensor | None) -> None:
        if values.ndim != 3 or values.shape[2] != self.input_channels:
            raise ValueError(
                f"Perceiver values: found shape {tuple(values.shape)}, "
                f"allowed is (batch, inputs, channels) with {self.input_channels} channels"
            )
        axes = sum(part.shape[-1] for part in parts)
        if axes != self.num_axes or any(part.ndim != 3 for part in parts):
            raise ValueError(
                f"Perceiver positions: found shapes {[tuple(part.shape) for part in parts]}, "
                f"allowed is (batch or 1, inputs, axes) with {self.num_axes} axes"
            )
        if padding is not None and (padding.shape != values.shape[:2] or padding.dtype != torch.bool):
            raise ValueError(
                f"Perceiver padding: found shape {tuple(padding.shape)} of {padding.dtype}, "
                f"allowed is {tuple(values.shape[:2])} of torch.bool, True for an input to ignore"
            )
