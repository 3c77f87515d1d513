"""What every Perceiver begins with: latents that read the inputs and think in between."""

from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from perceiver.attention import KeysValues, normalise_inputs
from perceiver.attention_weights import check_indices, compute_cross_attention_weights, compute_self_attention_weights
from perceiver.config import PerceiverConfig, check_choice
from perceiver.grids import flatten_grid
from perceiver.layers import CrossLayer, LatentLayer, touch_scalars_before_compile
from perceiver.positions import FourierPositions, LearnedPositions, NoPositions, join_channels, warn_far_from_nyquist

# Coordinates of all axes, parts that together hold them, or None for a regular grid.
Positions = Tensor | tuple[Tensor, ...] | None


def check_required_fields(config: PerceiverConfig, names: tuple[str, ...]) -> None:
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


def assign_weight_indices(num_layers: int, weight_sharing: str, first_has_own_weights: bool) -> list[int]:
    """Say which set of weights each repetition uses.

    Args:
        num_layers: number of repetitions.
        weight_sharing: none, all, all_but_first or all_but_first_block.
        first_has_own_weights: whether all_but_first concerns this kind of layer (cross-attends, not latent layers);
            all_but_first_block concerns both.

    Returns:
        One index a repetition, e.g. [0, 1, 1] for three cross-attends with all_but_first.
    """
    if weight_sharing == "none":
        return list(range(num_layers))
    if weight_sharing == "all_but_first_block" or (weight_sharing == "all_but_first" and first_has_own_weights):
        return [min(layer_index, 1) for layer_index in range(num_layers)]
    return [0] * num_layers


def build_positions(config: PerceiverConfig) -> FourierPositions | LearnedPositions | NoPositions:
    """Build what turns coordinates into channels."""
    if config.positions == "none":
        return NoPositions()
    axis_sizes = config.axis_sizes
    if config.positions == "learned":
        assert axis_sizes is not None  # check_required_fields has refused it
        return LearnedPositions(axis_sizes, config.learned_position_dim)
    if config.max_freq is not None:
        if axis_sizes is not None:
            warn_far_from_nyquist(config.max_freq, axis_sizes)
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
        check_required_fields(config, ("input_channels", "axis_sizes"))
        self.config = config
        self.input_channels = config.input_channels or 0
        self.num_axes = len(config.axis_sizes or config.max_freq or ())
        self.positions = build_positions(config)
        channels = self.input_channels + self.positions.num_channels
        self.cross_weight_indices = assign_weight_indices(
            config.num_cross_attends, config.weight_sharing, first_has_own_weights=True
        )
        self.latent_weight_indices = assign_weight_indices(
            config.num_cross_attends, config.weight_sharing, first_has_own_weights=False
        )
        self.latents = nn.Parameter(torch.empty(config.num_latents, config.latent_dim))
        nn.init.trunc_normal_(self.latents, std=config.latent_init_std)
        self.cross_layers = nn.ModuleList(
            CrossLayer(config, channels) for _ in range(max(self.cross_weight_indices) + 1)
        )
        self.latent_layers = nn.ModuleList(
            nn.Sequential(*[LatentLayer(config) for _ in range(config.self_attends_per_cross)])
            for _ in range(max(self.latent_weight_indices) + 1)
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
        inputs, mask = self.prepare_inputs(values, positions, padding)
        latents = self.latents.expand(inputs.shape[0], -1, -1)
        keys_values_cache: dict[int, KeysValues] = {}
        if self.config.gradient_checkpointing != "none" and torch.compiler.is_compiling():
            touch_scalars_before_compile(self)
        for repetition in range(self.config.num_cross_attends):
            latents = self._cross_attend(repetition, latents, inputs, mask, keys_values_cache)
            for layer in self._latent_layers(repetition):
                latents = self._run_layer(layer, latents)
        return latents

    def attention_maps(
        self,
        values: Tensor,
        positions: Positions = None,
        padding: Tensor | None = None,
        *,
        kind: Literal["cross", "self"] = "cross",
        layers: tuple[int, ...] = (0,),
        heads: tuple[int, ...] | None = None,
    ) -> dict[int, Tensor]:
        """Compute what latents attend to, for chosen layers and heads alone.

        The layers before the last one asked for run as ever, without a matrix of weights; those behind it do not
        run. Use ``torch.no_grad()`` where no gradient of the maps is needed.

        Args:
            values: as for ``encode``.
            positions: as for ``encode``.
            padding: as for ``encode``.
            kind: cross: weights of the inputs for each latent. self: of the latents for each latent.
            layers: which attentions of this kind, counted from 0 in the order in which they are computed.
            heads: which heads; None for all.

        Returns:
            For each layer ``(batch, heads, latents, inputs or latents)`` float32, before any dropout: rows sum
            to 1, padding has 0.

        Raises:
            ValueError: a kind, a layer or a head that is not there.
        """
        config = self.config
        check_choice("attention_maps", "kind", kind, ("cross", "self"))
        num_layers = config.num_cross_attends * (1 if kind == "cross" else config.self_attends_per_cross)
        num_heads = config.cross_heads if kind == "cross" else config.latent_heads
        head_indices = tuple(range(num_heads)) if heads is None else heads
        check_indices("layers", layers, num_layers)
        check_indices("heads", head_indices, num_heads)
        inputs, mask = self.prepare_inputs(values, positions, padding)
        latents = self.latents.expand(inputs.shape[0], -1, -1)
        keys_values_cache: dict[int, KeysValues] = {}
        maps: dict[int, Tensor] = {}
        for repetition in range(config.num_cross_attends):
            if kind == "cross" and repetition in layers:
                maps[repetition] = compute_cross_attention_weights(
                    self._cross_layer(repetition).attention, latents, inputs, mask, head_indices
                )
                if repetition == max(layers):
                    break
            latents = self._cross_attend(repetition, latents, inputs, mask, keys_values_cache)
            for index, layer in enumerate(self._latent_layers(repetition)):
                layer_index = repetition * config.self_attends_per_cross + index
                if kind == "self" and layer_index in layers:
                    maps[layer_index] = compute_self_attention_weights(layer.attention, latents, head_indices)
                    if layer_index == max(layers):
                        return maps
                latents = layer(latents)
        return maps

    def _needs_nyquist_check(self) -> bool:
        fourier = self.config.positions == "fourier" and self.config.axis_sizes is None
        return fourier and not torch.compiler.is_compiling()

    def _run_layer(self, layer: Callable[..., Tensor], *arguments: object) -> Tensor:
        """Run a layer, or promise to run it again in the backward pass."""
        if self.config.gradient_checkpointing == "layers" and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(layer, *arguments, use_reentrant=False))
        return layer(*arguments)

    def _cross_layer(self, repetition: int) -> CrossLayer:
        return cast(CrossLayer, self.cross_layers[self.cross_weight_indices[repetition]])

    def _latent_layers(self, repetition: int) -> list[LatentLayer]:
        layers = cast(nn.Sequential, self.latent_layers[self.latent_weight_indices[repetition]])
        return [cast(LatentLayer, layer) for layer in layers]

    def _cross_attend(
        self,
        repetition: int,
        latents: Tensor,
        inputs: Tensor,
        mask: Tensor | None,
        keys_values_cache: dict[int, KeysValues],
    ) -> Tensor:
        """Let latents read the inputs; layers that share weights share their ``keys_values_cache``."""
        cross_index, cross_layer = self.cross_weight_indices[repetition], self._cross_layer(repetition)
        if self.cross_weight_indices.count(cross_index) == 1:  # then a checkpoint need not keep them
            return self._run_layer(cross_layer.cross_attend, latents, inputs, mask)
        if cross_index not in keys_values_cache:
            keys_values_cache[cross_index] = cross_layer.attention.project_inputs(inputs)
        return self._run_layer(cross_layer, latents, keys_values_cache[cross_index], mask)

    def prepare_inputs(
        self, values: Tensor, positions: Positions, padding: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
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
            axis_sizes = tuple(values.shape[1:-1])
            values, positions, padding = flatten_grid(values, padding, self.num_axes, self.input_channels)
            if self._needs_nyquist_check():
                warn_far_from_nyquist(self.config.max_freq or (), axis_sizes)
        parts = (positions,) if isinstance(positions, Tensor) else positions
        self._check_shapes(values, parts, padding)
        inputs = join_channels([values, self.positions(parts)])
        mask = None
        if padding is not None:
            inputs = inputs.masked_fill(padding.unsqueeze(-1), 0.0)  # 0 times NaN would be NaN
            mask = ~padding[:, None, None, :]
        return normalise_inputs(inputs, self.latents.dtype), mask

    def _check_shapes(self, values: Tensor, parts: tuple[Tensor, ...], padding: Tensor | None) -> None:
        if values.ndim != 3 or values.shape[2] != self.input_channels:
            raise ValueError(
                f"Perceiver values: found shape {tuple(values.shape)}, "
                f"allowed is (batch, inputs, channels) with {self.input_channels} channels"
            )
        num_given_axes = sum(part.shape[-1] for part in parts)
        if num_given_axes != self.num_axes or any(part.ndim != 3 for part in parts):
            raise ValueError(
                f"Perceiver positions: found shapes {[tuple(part.shape) for part in parts]}, "
                f"allowed is (batch or 1, inputs, axes) with {self.num_axes} axes"
            )
        if padding is not None and (padding.shape != values.shape[:2] or padding.dtype != torch.bool):
            raise ValueError(
                f"Perceiver padding: found shape {tuple(padding.shape)} of {padding.dtype}, "
                f"allowed is {tuple(values.shape[:2])} of torch.bool, True for an input to ignore"
            )
