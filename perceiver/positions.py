"""Positions of inputs: coordinates in [-1, 1] and the features computed from them."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import debug_unwrap

# The features of so many grids are kept, each of at most 64 MiB in float32.
MAX_KEPT_GRIDS = 8
MAX_KEPT_ELEMENTS = 2**24


@dataclass(frozen=True)
class Grid:
    """The positions of all points of a regular grid, last axis fastest, without computing them.

    A model keeps the features of a grid that it has seen, on its device, so that they are computed once.

    Args:
        sizes: The number of grid points along each axis.
    """

    sizes: tuple[int, ...]


# Coordinates ``(batch or 1, inputs or 1, some axes)``, or a grid.
Part = Tensor | Grid


def grid_positions(
    sizes: tuple[int, ...], dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Tensor:
    """Compute the coordinates of a regular grid, last axis fastest.

    Args:
        sizes: The number of grid points along each axis.
        dtype: The type of the result.
        device: The device that computes and holds the result; None for torch's default.

    Returns:
        The coordinates ``(inputs, axes)``: each axis runs from -1 to 1 in equal steps; an axis of size 1 has the
        coordinate 0.
    """
    axis_coordinates = [_axis_coordinates(size, dtype, device) for size in sizes]
    return torch.stack(torch.meshgrid(*axis_coordinates, indexing="ij"), dim=-1).reshape(-1, len(sizes))


def _axis_coordinates(size: int, dtype: torch.dtype, device: torch.device | None) -> Tensor:
    if torch.compiler.is_compiling():  # linspace would make the size a constant of the graph
        return (2 * torch.arange(size, dtype=dtype, device=device) - (size - 1)) / max(size - 1, 1)
    if size == 1:
        return torch.zeros(1, dtype=dtype, device=device)
    return torch.linspace(-1, 1, size, dtype=dtype, device=device)


def fourier_frequencies(max_freq: tuple[float, ...], num_bands: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Compute the frequencies of each axis: ``num_bands`` numbers in equal steps from 1 to ``max_freq / 2``.

    Args:
        max_freq: Twice the highest frequency, for each axis.
        num_bands: The number of frequencies for each axis.
        dtype: The type of the result.

    Returns:
        The frequencies ``(axes, bands)``, in half cycles per unit of the coordinate.
    """
    return torch.stack([torch.linspace(1, highest / 2, num_bands, dtype=dtype) for highest in max_freq])


def warn_far_from_nyquist(max_freq: tuple[float, ...], axis_sizes: tuple[int, ...]) -> None:
    """Warn if a frequency is more than twice as high or as low as the samples of an axis can carry.

    If it is too high, distant positions get similar features (aliasing); if it is far too low, neighbours do.

    Args:
        max_freq: Twice the highest frequency, for each axis.
        axis_sizes: The number of grid points along each axis.
    """
    mismatches = []
    for axis, (frequency, size) in enumerate(zip(max_freq, axis_sizes, strict=True)):
        nyquist = max(size, 2)
        factor = max(frequency / nyquist, nyquist / frequency)
        if factor > 2:
            side = "above" if frequency > nyquist else "below"
            mismatches.append(f"axis {axis}: found {frequency:g}, {factor:.1f} times {side} {size}")
    if mismatches:
        warnings.warn(
            f"PerceiverConfig.max_freq is far from what the resolution carries ({'; '.join(mismatches)}); "
            "leave max_freq out to use the resolution, unless this is intended",
            UserWarning,
            stacklevel=2,
        )


def fourier_features(positions: Tensor, frequencies: Tensor) -> Tensor:
    """Compute ``sin(pi f x)`` and ``cos(pi f x)`` for each coordinate ``x`` and all ``f``, and append ``x`` itself.

    Args:
        positions: The positions ``(batch, inputs, axes)`` in [-1, 1].
        frequencies: The frequencies, ``(axes, bands)``.

    Returns:
        The features ``(batch, inputs, axes * (2 * bands + 1))``, one axis after the other, in the higher precision of
        the two arguments.

    Source:
        Jaegle 2021, arXiv 2103.03206, section 3.2.
    """
    coordinates = positions.to(torch.promote_types(positions.dtype, frequencies.dtype)).unsqueeze(-1)
    angles = coordinates * (math.pi * frequencies)
    return torch.cat([angles.sin(), angles.cos(), coordinates], dim=-1).flatten(-2)


def grid_indices(positions: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Compute the index of the grid point that is nearest to each position.

    Args:
        positions: The positions ``(batch, inputs, axes)`` in [-1, 1].
        sizes: The number of grid points along each axis.

    Returns:
        The index ``(batch, inputs)``, int64, of the nearest row of ``grid_positions(sizes)``.
    """
    indices = torch.zeros(positions.shape[:-1], dtype=torch.int64, device=positions.device)
    for axis, size in enumerate(sizes):
        nearest = ((positions[..., axis].float() + 1) / 2 * (size - 1)).round().long().clamp(0, size - 1)
        indices = indices * size + nearest
    return indices


class FourierPositions(nn.Module):
    """Fixed Fourier features of positions.

    Args:
        max_freq: Twice the highest frequency, for each axis.
        num_bands: The number of frequencies for each axis.
    """

    frequencies: Tensor

    def __init__(self, max_freq: tuple[float, ...], num_bands: int) -> None:
        super().__init__()
        self.max_freq = max_freq
        self.num_bands = num_bands
        if torch.get_default_device().type == "meta":
            # To stack what has no values, torch would load its compiler, which takes seconds.
            frequencies = torch.empty(len(max_freq), num_bands)
        else:
            frequencies = fourier_frequencies(max_freq, num_bands)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.num_channels = len(max_freq) * (2 * num_bands + 1)
        self.kept_features: dict[tuple[Any, ...], Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what a copy can compute again."""
        return {**self.__dict__, "kept_features": {}}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow ``model.to``, but keep at least float32: in bfloat16 a frequency of 100 is wrong by up to 0.25."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        dtype = torch.promote_types(self.frequencies.dtype, torch.float32)
        exact = fourier_frequencies(self.max_freq, self.num_bands, dtype)
        self.frequencies = exact.to(self.frequencies.device)
        self.kept_features.clear()
        return self

    def forward(self, parts: tuple[Part, ...]) -> Tensor:
        """Compute the features of each part in its own shape, then join them.

        Args:
            parts: Grids, or tensors ``(batch or 1, inputs or 1, some axes)``, that together hold all axes, in order.

        Returns:
            The features, ``(batch or 1, inputs, channels)``.
        """
        features, axis = [], 0
        frequencies = torch.split(self.frequencies, [count_axes(part) for part in parts])
        for part, part_frequencies in zip(parts, frequencies, strict=True):
            if isinstance(part, Grid):
                features.append(self._grid_features(part, part_frequencies, axis))
            else:
                features.append(fourier_features(part, part_frequencies))
            axis += count_axes(part)
        return join_channels(features)

    def _grid_features(self, grid: Grid, frequencies: Tensor, axis: int) -> Tensor:
        """Return the features of a grid whose first axis is ``axis`` of all, kept from the last call."""
        # A compiler computes them within its graph; those of a fake or stacked model would be found by a true one.
        keeps = (
            not torch.compiler.is_compiling()
            and type(self.frequencies) is Tensor
            and debug_unwrap(self.frequencies) is self.frequencies
        )
        key = (grid.sizes, axis, frequencies.dtype, frequencies.device)
        if keeps and key in self.kept_features:
            return self.kept_features[key]
        if not keeps:
            return _compute_grid_features(grid, frequencies)
        with torch.inference_mode(mode=False):  # a tensor of inference mode could not be used in training
            features = _compute_grid_features(grid, frequencies)
        if features.numel() <= MAX_KEPT_ELEMENTS:
            while len(self.kept_features) >= MAX_KEPT_GRIDS:
                self.kept_features.pop(next(iter(self.kept_features)))
            # Within torch.func.grad and the like a tensor is wrapped, and the wrapper ends with the call.
            self.kept_features[key] = debug_unwrap(features)
        return features


def _compute_grid_features(grid: Grid, frequencies: Tensor) -> Tensor:
    coordinates = grid_positions(grid.sizes, frequencies.dtype, frequencies.device)
    return fourier_features(coordinates.unsqueeze(0), frequencies)


def initialise_vectors(vectors: nn.Parameter, std: float) -> None:
    """Draw learned vectors from a normal distribution of mean 0, truncated at 2, or five times ``std`` if that is more.

    The paper's truncation at 2 would make a standard deviation of 1 to 0.88 and one of 2 to 1.08; at five it takes less
    than a hundred-thousandth. For 0.02, the default, 2 is a hundred times the standard deviation.

    Args:
        vectors: The latents, queries or positions, which are overwritten.
        std: The standard deviation.

    Source:
        Jaegle 2021, arXiv 2103.03206, appendix C.
    """
    bound = max(2.0, 5 * std)
    nn.init.trunc_normal_(vectors, std=std, a=-bound, b=bound)


class LearnedPositions(nn.Module):
    """One learned vector for each point of a grid, looked up by coordinate.

    Args:
        sizes: The number of grid points along each axis.
        num_channels: The number of channels of a vector.
        std: The standard deviation of the vectors at the start.
    """

    def __init__(self, sizes: tuple[int, ...], num_channels: int, std: float) -> None:
        super().__init__()
        self.sizes = sizes
        self.num_channels = num_channels
        self.table = nn.Parameter(torch.empty(math.prod(sizes), num_channels))
        initialise_vectors(self.table, std)

    def forward(self, parts: tuple[Part, ...]) -> Tensor:
        """Look up the vector of the nearest grid point; arguments and result are those of ``FourierPositions``."""
        if parts == (Grid(self.sizes),):
            return self.table.unsqueeze(0)
        coordinates = [
            grid_positions(part.sizes, device=self.table.device).unsqueeze(0) if isinstance(part, Grid) else part
            for part in parts
        ]
        return self.table[grid_indices(join_channels(coordinates), self.sizes)]


class NoPositions(nn.Module):
    """No channels for positions, for values that contain their positions or have none."""

    num_channels = 0
    nothing: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("nothing", torch.empty(1, 1, 0), persistent=False)

    def forward(self, parts: tuple[Part, ...]) -> Tensor:
        """Return ``(batch or 1, inputs, 0)``; arguments are those of ``FourierPositions``."""
        return join_channels(
            [
                self.nothing.expand(1, math.prod(part.sizes), 0) if isinstance(part, Grid) else part[..., :0]
                for part in parts
            ]
        )


def count_axes(part: Part) -> int:
    """Return the number of axes of a part of the positions."""
    return len(part.sizes) if isinstance(part, Grid) else part.shape[-1]


def take_inputs(tensor: Tensor, chosen_inputs: Tensor) -> Tensor:
    """Take some inputs of each example.

    Args:
        tensor: The tensor ``(batch or 1, inputs or 1, channels)``.
        chosen_inputs: The places of the inputs, ``(batch, chosen)``, int64.

    Returns:
        The tensor ``(batch, chosen, channels)``; one that all inputs share is returned as it is.
    """
    if tensor.shape[1] == 1:
        return tensor
    if tensor.shape[0] == 1:
        return tensor[0][chosen_inputs]
    return torch.take_along_dim(tensor, chosen_inputs.unsqueeze(-1), dim=1)


def join_channels(tensors: list[Tensor]) -> Tensor:
    """Concatenate tensors along the channels; batch and inputs of size 1 are repeated.

    Args:
        tensors: The tensors, each ``(batch or 1, inputs or 1, channels)``.

    Returns:
        The concatenation, ``(batch, inputs, all channels)``.
    """
    if len(tensors) == 1:
        return tensors[0]
    # torch.broadcast_shapes would load sympy, for half a second of the first forward.
    no_channels = [tensor[..., :0] for tensor in tensors]
    batch, inputs, _ = torch.broadcast_tensors(*no_channels)[0].shape  # type: ignore[no-untyped-call]
    return torch.cat([tensor.expand(batch, inputs, -1) for tensor in tensors], dim=-1)
