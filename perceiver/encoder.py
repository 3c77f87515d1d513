"""The encoder of every Perceiver: cross-attention to the inputs and self-attention among the latents."""

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
from perceiver.positions import (
    FourierPositions,
    Grid,
    LearnedPositions,
    NoPositions,
    Part,
    count_axes,
    initialise_vectors,
    join_channels,
    take_inputs,
    warn_far_from_nyquist,
)

# Coordinates of all axes, a tuple of parts that together hold all axes, or None for the grid of the values.
Positions = Part | tuple[Part, ...] | None


def check_required_fields(config: PerceiverConfig, names: tuple[str, ...]) -> None:
    """Refuse a configuration without the fields that follow from the data.

    If no resolution is needed, the number of axes is enough: ``max_freq`` then replaces ``axis_sizes``, unless
    positions are learned.

    Args:
        config: The architecture of the model.
        names: The fields that must not be None.

    Raises:
        ValueError: A field is missing.
    """
    missing = [name for name in names if getattr(config, name) is None]
    if "axis_sizes" in missing and config.max_freq is not None and config.positions != "learned":
        missing.remove("axis_sizes")
    if missing:
        raise ValueError(
            f"PerceiverConfig: {', '.join(missing)} not given; a Perceiver needs them, ImagePerceiver fills them"
        )


def assign_weight_indices(num_layers: int, weight_sharing: str, first_has_own_weights: bool) -> list[int]:
    """Assign to each repetition the index of the weights that it uses.

    Args:
        num_layers: The number of repetitions.
        weight_sharing: One of none, all, all_but_first and all_but_first_block.
        first_has_own_weights: Whether all_but_first applies to this kind of layer (it does to cross-attentions, not to
            latent layers); all_but_first_block applies to both.

    Returns:
        One index for each repetition, e.g. [0, 1, 1] for three cross-attentions with all_but_first.
    """
    if weight_sharing == "none":
        return list(range(num_layers))
    if weight_sharing == "all_but_first_block" or (weight_sharing == "all_but_first" and first_has_own_weights):
        return [min(layer_index, 1) for layer_index in range(num_layers)]
    return [0] * num_layers


def build_positions(config: PerceiverConfig) -> FourierPositions | LearnedPositions | NoPositions:
    """Build the module that turns coordinates into channels."""
    if config.positions == "none":
        return NoPositions()
    axis_sizes = config.axis_sizes
    if config.positions == "learned":
        assert axis_sizes is not None  # check_required_fields has refused None
        return LearnedPositions(axis_sizes, config.learned_position_dim, config.learned_position_init_std)
    if config.max_freq is not None:
        if axis_sizes is not None:
            warn_far_from_nyquist(config.max_freq, axis_sizes)
        return FourierPositions(config.max_freq, config.num_bands)
    assert axis_sizes is not None
    # The highest frequency that n samples on [-1, 1] can carry is n / 2, so the size of an axis is its max_freq.
    return FourierPositions(tuple(max(float(size), 2.0) for size in axis_sizes), config.num_bands)


class PerceiverEncoder(nn.Module):
    """Repeated cross-attention to the inputs, each followed by self-attention among the latents.

    Each repetition starts from the latents that the one before it returned. ``Perceiver`` and ``PerceiverIO`` add the
    layers that turn the last latents into logits.

    Args:
        config: The architecture of the model; ``input_channels`` and ``axis_sizes`` must be given.

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
        initialise_vectors(self.latents, config.latent_init_std)
        self.cross_layers = nn.ModuleList(
            CrossLayer(config, channels) for _ in range(max(self.cross_weight_indices) + 1)
        )
        with torch.no_grad():
            for layer in self.cross_layers:
                cast(CrossLayer, layer).attention.to_query.weight.mul_(config.query_init_gain)
        self.latent_layers = nn.ModuleList(
            nn.Sequential(*[LatentLayer(config) for _ in range(config.self_attends_per_cross)])
            for _ in range(max(self.latent_weight_indices) + 1)
        )

    def encode(
        self,
        values: Tensor,
        positions: Positions = None,
        padding: Tensor | None = None,
        chosen_inputs: Tensor | None = None,
    ) -> Tensor:
        """Encode a batch of sets of inputs as latents; arguments and errors are those of ``Perceiver``.

        Args:
            values: The values ``(batch, inputs, channels)``; without positions a regular grid
                ``(batch, axes, channels)``.
            positions: The positions ``(batch or 1, inputs, axes)`` in [-1, 1], a ``Grid``, a tuple of parts, or None
                for the grid of the values.
            padding: A boolean mask ``(batch, inputs)``, or ``(batch, axes)`` on a grid, True for an input to ignore.
            chosen_inputs: The places ``(batch, chosen)``, int64, of the inputs that are read; None for all.

        Returns:
            The latents, ``(batch, latents, latent_dim)``.
        """
        inputs, mask = self.prepare_inputs(values, positions, padding, chosen_inputs)
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
        """Compute the attention weights of the latents, for the requested layers and heads alone.

        Up to the last requested layer, the other layers run as usual, without a matrix of weights; layers after it do
        not run. Use ``torch.no_grad()`` if no gradient of the maps is needed.

        Args:
            values: The values, as for ``encode``.
            positions: The positions, as for ``encode``.
            padding: The mask of the padding, as for ``encode``.
            kind: The kind of attention. cross: from each latent to the inputs. self: from each latent to the latents.
            layers: The indices of the attentions of this kind, counted from 0 in the order of computation.
            heads: The indices of the heads; None for all.

        Returns:
            For each layer the weights ``(batch, heads, latents, inputs or latents)`` in float32, before any dropout:
            rows sum to 1, the weights of padding are 0.

        Raises:
            ValueError: The kind, a layer or a head does not exist.
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
        """Run a layer; with gradient checkpointing, the backward pass runs it a second time."""
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
        """Run the cross-attention of one repetition; repetitions that share weights share keys and values."""
        cross_index, cross_layer = self.cross_weight_indices[repetition], self._cross_layer(repetition)
        if self.cross_weight_indices.count(cross_index) == 1:  # then a checkpoint need not keep the keys and values
            return self._run_layer(cross_layer.cross_attend, latents, inputs, mask)
        if cross_index not in keys_values_cache:
            keys_values_cache[cross_index] = cross_layer.attention.project_inputs(inputs)
        return self._run_layer(cross_layer, latents, keys_values_cache[cross_index], mask)

    def prepare_inputs(
        self, values: Tensor, positions: Positions, padding: Tensor | None, chosen_inputs: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Join values and positions to the inputs of every cross-attention.

        Args:
            values: The values ``(batch, inputs, channels)``; without positions a regular grid
                ``(batch, axes, channels)``.
            positions: The positions ``(batch or 1, inputs, axes)`` in [-1, 1], a ``Grid``, a tuple of parts, or None
                for the grid of the values.
            padding: A boolean mask ``(batch, inputs)``, or ``(batch, axes)`` on a grid, True for an input to ignore.
            chosen_inputs: The places ``(batch, chosen)``, int64, of the inputs that are read; None for all.

        Returns:
            The normalised inputs ``(batch, inputs, all channels)``, and a mask ``(batch, 1, 1, inputs)``, True for an
            input to attend to, or None for all inputs. Where all inputs of an example are padding, they are zeros, and
            the mask is True for all of them.
        """
        if positions is None:
            axis_sizes = tuple(values.shape[1:-1])
            values, positions, padding = flatten_grid(values, padding, self.num_axes, self.input_channels)
            if self._needs_nyquist_check():
                warn_far_from_nyquist(self.config.max_freq or (), axis_sizes)
        parts = (positions,) if isinstance(positions, Tensor | Grid) else positions
        self._check_shapes(values, parts, padding)
        if chosen_inputs is None:
            inputs = join_channels([values, self.positions(parts)])
        else:
            features = self._choose_features(parts, chosen_inputs)
            inputs = join_channels([take_inputs(values, chosen_inputs), features])
            padding = None if padding is None else padding.gather(1, chosen_inputs)
        mask = None
        if padding is not None:
            inputs = inputs.masked_fill(padding.unsqueeze(-1), 0.0)  # 0 times NaN would be NaN
            # An example that is all padding attends to these zeros: a softmax over nothing is NaN on some devices.
            mask = (~padding | padding.all(dim=1, keepdim=True))[:, None, None, :]
        return normalise_inputs(inputs, self.latents.dtype), mask

    def _choose_features(self, parts: tuple[Part, ...], chosen_inputs: Tensor) -> Tensor:
        """Compute the features of the chosen positions; those of a grid are kept for all of it."""
        if any(isinstance(part, Grid) for part in parts):
            return take_inputs(self.positions(parts), chosen_inputs)
        chosen = tuple(take_inputs(cast(Tensor, part), chosen_inputs) for part in parts)
        return cast(Tensor, self.positions(chosen))

    def _check_shapes(self, values: Tensor, parts: tuple[Part, ...], padding: Tensor | None) -> None:
        if values.ndim != 3 or values.shape[2] != self.input_channels:
            raise ValueError(
                f"Perceiver values: found shape {tuple(values.shape)}, "
                f"allowed is (batch, inputs, channels) with {self.input_channels} channels"
            )
        num_given_axes = sum(count_axes(part) for part in parts)
        tensors = [part for part in parts if isinstance(part, Tensor)]
        if num_given_axes != self.num_axes or any(part.ndim != 3 for part in tensors):
            raise ValueError(
                f"Perceiver positions: found shapes {[tuple(part.shape) for part in tensors]}, "
                f"allowed is (batch or 1, inputs, axes) with {self.num_axes} axes"
            )
        if padding is not None and (padding.shape != values.shape[:2] or padding.dtype != torch.bool):
            raise ValueError(
                f"Perceiver padding: found shape {tuple(padding.shape)} of {padding.dtype}, "
                f"allowed is {tuple(values.shape[:2])} of torch.bool, True for an input to ignore"
            )
