"""Volumes as sets of inputs, and a Perceiver that reads all slices of a scan at once."""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Literal

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from perceiver.config import ImageConfig
from perceiver.images import build_conv_stem, cut_patches, fill_config
from perceiver.model import Perceiver


def can_look(values: Tensor) -> bool:
    """Return whether the values of a tensor can be looked at now, so that work that they make needless can be saved.

    A GPU would have to stop for the answer, and a graph that is compiled or exported must hold for every input.

    Args:
        values: Any tensor.
    """
    return type(values) is Tensor and not torch.compiler.is_compiling() and values.device.type == "cpu"


def sort_slices(volumes: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Order the slices of each volume along their normal, padding last.

    Args:
        volumes: The slices, ``(batch, slices, height, width)``.
        places: The place of each slice, ``(batch, slices, 3)``, as for ``VolumePerceiver``.

    Returns:
        Both in the new order; slices of equal positions keep theirs.
    """
    positions = places[..., 0]
    keys = torch.where(positions.isnan(), torch.inf, positions)
    if can_look(keys) and (keys[:, 1:] >= keys[:, :-1]).all():
        return volumes, places
    # The converter to ONNX knows only the other sort, and ONNX keeps the order of equal numbers.
    order = keys.sort(dim=1).indices if torch.compiler.is_exporting() else keys.argsort(dim=1, stable=True)
    batch = torch.arange(order.shape[0], device=order.device)[:, None]
    return volumes[batch, order], places[batch, order]


def volume_positions(places: Tensor, rows: int, columns: int) -> Tensor:
    """Compute the position of each input of a volume.

    Of a slice of 2 x 1 inputs at 0.5 along the normal, whose image is 1 high and 0.4 wide, they are (-0.25, 0, 0.5)
    and (0.25, 0, 0.5).

    Args:
        places: The place of each slice ``(batch, slices, 3)``, as for ``VolumePerceiver``, without NaN.
        rows: The rows of inputs of a slice.
        columns: The columns of inputs of a slice.

    Returns:
        The centres of the inputs, ``(batch, slices * rows * columns, 3)``: down, across and along the normal.
    """
    along, height, width = places[:, :, None, None].unbind(dim=-1)
    down, across = (
        (torch.arange(count, dtype=places.dtype, device=places.device) + 0.5) / count - 0.5 for count in (rows, columns)
    )
    parts = torch.broadcast_tensors(height * down[:, None], width * across, along)  # type: ignore[no-untyped-call]
    return torch.stack(parts, dim=-1).flatten(1, 3)


class VolumePerceiver(nn.Module):
    """A Perceiver for volumes: stacks of slices of one size, of any number and at any distance.

    Each input is a place of a slice after the stem, which all slices share, and its position has three axes: down and
    across in the slice, and along the normal of the slices. Volumes with fewer slices than others of the batch are
    padded; the place of a slice that is padding is NaN, and nothing of it is read.

    The place of a slice has three numbers, in units of half the field of view: the position of its centre along the
    normal, from the centre of the volume, and the height and width of its image. A slice as large as the field of
    view has the height 2, and all positions of a volume that fits into it are in [-1, 1].

    ``grid_size`` is the number of rows and columns of the inputs of a slice, ``cell_pixels`` the side of the square of
    pixels that each input represents.

    Args:
        config: The configuration of stem and Perceiver; ``slice_position`` is not read.
        height: The height of a slice in pixels.
        width: The width of a slice in pixels.
        num_slices: The resolution of the third axis.
        num_classes: The number of logits.
        patch_slices: The number of neighbouring slices that make one input, with the mean of their positions.
    """

    def __init__(
        self,
        config: ImageConfig,
        *,
        height: int,
        width: int,
        num_slices: int,
        num_classes: int,
        patch_slices: int = 1,
    ) -> None:
        super().__init__()
        self.image_shape = (height, width)
        self.patch_slices = patch_slices
        self.patch_size = config.patch_size if config.stem == "patches" else 1
        self.cell_pixels = 2**config.num_conv_layers if config.stem == "conv" else self.patch_size
        self.stem: nn.Module = nn.Identity()
        channels = 1
        if config.stem == "conv":
            self.stem = build_conv_stem(1, config.num_conv_layers, config.conv_channels, config.num_residual_blocks)
            channels = config.conv_channels
        if min(height, width) < self.cell_pixels:
            raise ValueError(
                f"VolumePerceiver: found slices of {height} x {width} pixels for inputs of {self.cell_pixels} x "
                f"{self.cell_pixels} pixels, allowed are larger slices"
            )
        self.grid_size = (height // self.cell_pixels, width // self.cell_pixels)
        data_fields: dict[str, int | tuple[int, ...]] = {
            "input_channels": channels * self.patch_size**2 * patch_slices,
            "axis_sizes": (*self.grid_size, max(1, num_slices // patch_slices)),
            "num_classes": num_classes,
        }
        self.perceiver = Perceiver(fill_config(config.perceiver, data_fields))

    def forward(self, volumes: Tensor, places: Tensor) -> Tensor:
        """Classify volumes; the order in which their slices are given does not matter.

        Args:
            volumes: The slices ``(batch, slices, height, width)``, of a floating-point type.
            places: The place of each slice, ``(batch, slices, 3)``; NaN for padding.

        Returns:
            The logits, ``(batch, classes)``.

        Raises:
            ValueError: The slices have another shape, or there are not as many places.
        """
        logits: Tensor = self.perceiver(*self.tokenise(volumes, places))
        return logits

    def attention_maps(
        self,
        volumes: Tensor,
        places: Tensor,
        *,
        kind: Literal["cross", "self"] = "cross",
        layers: tuple[int, ...] = (0,),
        heads: tuple[int, ...] | None = None,
    ) -> dict[int, Tensor]:
        """Compute the attention weights of the latents; see ``PerceiverEncoder.attention_maps``.

        Args:
            volumes: The slices, as for ``forward``.
            places: The places of the slices, as for ``forward``.
            kind: The kind of attention. cross: to the inputs. self: to the latents.
            layers: The indices of the attentions of this kind, counted from 0.
            heads: The indices of the heads; None for all.

        Returns:
            For each layer the weights, ``(batch, heads, latents, slices, rows, columns)`` if ``kind`` is cross, with
            slices in their order along the normal and divided by ``patch_slices``, and
            ``(batch, heads, latents, latents)`` if it is self. The weights of each latent sum to 1.
        """
        values, positions, padding = self.tokenise(volumes, places)
        maps = self.perceiver.attention_maps(values, positions, padding, kind=kind, layers=layers, heads=heads)
        if kind == "self":
            return maps
        rows, columns = self.grid_size
        grid = "batch heads latents (slices rows columns) -> batch heads latents slices rows columns"
        return {layer: rearrange(weights, grid, rows=rows, columns=columns) for layer, weights in maps.items()}

    def tokenise(self, volumes: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Turn volumes into the values, positions and padding of a Perceiver.

        Args:
            volumes: The slices, as for ``forward``.
            places: The places of the slices, as for ``forward``.

        Returns:
            Values ``(batch, inputs, channels)``, positions ``(batch, inputs, 3)`` and padding ``(batch, inputs)``,
            which is None where a look at a processor's memory shows that there is none.
        """
        if volumes.ndim != 4 or tuple(volumes.shape[2:]) != self.image_shape:
            raise ValueError(
                f"VolumePerceiver volumes: found shape {tuple(volumes.shape)}, allowed is (batch, slices, height, "
                f"width) = (batch, slices, {self.image_shape[0]}, {self.image_shape[1]})"
            )
        if places.shape != (*volumes.shape[:2], 3):
            raise ValueError(
                f"VolumePerceiver places: found shape {tuple(places.shape)}, allowed is "
                f"{(*volumes.shape[:2], 3)}: position, height and width of each slice"
            )
        volumes, places = sort_slices(volumes, places)
        is_padding = places[..., 0].isnan()
        values = apply_to_slices(self.stem, volumes, is_padding)
        places = torch.where(is_padding[..., None], 0.0, places)
        if self.patch_slices > 1:
            values, places, is_padding = join_slices(values, places, is_padding, self.patch_slices)
        rows, columns = self.grid_size
        values, _ = cut_patches(values.flatten(0, 1), self.patch_size)
        values = values.unflatten(0, is_padding.shape).flatten(1, 2)  # type: ignore[no-untyped-call]
        positions = volume_positions(places, rows, columns)
        if can_look(is_padding) and not is_padding.any():
            return values, positions, None
        return values, positions, repeat(is_padding, "batch slices -> batch (slices cells)", cells=rows * columns)


def apply_to_slices(network: nn.Module, volumes: Tensor, is_padding: Tensor) -> Tensor:
    """Run a network for images on each slice; of padding the result is 0.

    In training padding does not pass the network, whose batch normalisation would count it. A GPU would have to tell
    the processor how many slices are left, and a compiled graph would be of one number of them; there padding passes
    the network, and its batch norms do not count it.

    Args:
        network: A network from images ``(images, 1, height, width)`` to one result an image.
        volumes: The slices, ``(batch, slices, height, width)``.
        is_padding: Whether a slice is padding, ``(batch, slices)``.

    Returns:
        The results, ``(batch, slices, ...)``.
    """
    if can_look(is_padding) and not is_padding.any():
        return network(volumes.flatten(0, 1).unsqueeze(1)).unflatten(0, is_padding.shape)  # type: ignore[no-any-return]
    if network.training and can_look(is_padding):
        found: Tensor = network(volumes[~is_padding].unsqueeze(1))
        results = found.new_zeros((*is_padding.shape, *found.shape[1:]))
        results[~is_padding] = found
        return results
    images = rearrange(volumes, "batch slices height width -> (batch slices) 1 height width")
    if not (network.training and any(isinstance(module, _BatchNorm) for module in network.modules())):
        found = network(images)
    elif torch.compiler.is_compiling():
        # Not as a decorator, which would load the compiler with this module.
        found = torch.compiler.disable(_count_some)(network, images, ~is_padding.flatten())  # type: ignore[no-untyped-call]
    else:
        found = _count_some(network, images, ~is_padding.flatten())
    mask = is_padding.reshape(-1, *(1,) * (found.ndim - 1))
    return found.masked_fill(mask, 0.0).unflatten(0, is_padding.shape)  # type: ignore[no-untyped-call, no-any-return]


def _count_some(network: nn.Module, images: Tensor, is_counted: Tensor) -> Tensor:
    """Run a network in training; never compiled, because a compiler does not see that its layers are replaced."""
    with count_images(network, is_counted):
        return network(images)  # type: ignore[no-any-return]


@contextlib.contextmanager
def count_images(network: nn.Module, is_counted: Tensor) -> Iterator[None]:
    """Let the batch norms of a network in training take mean and variance from some images of a batch alone.

    A batch norm that several processes have in common has a method ``add_up``, which adds up a tensor over them.

    Args:
        network: The network; within the context it must read as many images as there are in ``is_counted``.
        is_counted: Whether an image counts, ``(images,)``.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    try:
        for norm in norms:
            norm.forward = partial(_normalise_counted, norm, is_counted)  # type: ignore[method-assign]
        yield
    finally:
        for norm in norms:
            del norm.forward


def _normalise_counted(norm: _BatchNorm, is_counted: Tensor, images: Tensor) -> Tensor:
    assert norm.running_mean is not None, "a batch norm with running averages"
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    values, counted = images.float(), is_counted.view(-1, 1, 1, 1).float()
    add_up = getattr(norm, "add_up", _leave)
    number = counted.sum(dim=0, keepdim=True) * images.shape[2] * images.shape[3]
    # In one exchange: the last of the sums is the number of pixels.
    sums = add_up(torch.cat([(values * counted).sum(dim=(0, 2, 3), keepdim=True), number], dim=1))
    mean, number = sums[:, :-1] / sums[:, -1:], sums[:, -1:].flatten()
    centred = values - mean
    variance = add_up((centred.square() * counted).sum(dim=(0, 2, 3), keepdim=True)) / number
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean.flatten(), norm.momentum)
        norm.running_var.lerp_(variance.flatten() * (number / (number - 1)), norm.momentum)
    gain, shift = norm.weight.view(1, -1, 1, 1), norm.bias.view(1, -1, 1, 1)
    return (centred * torch.rsqrt(variance + norm.eps) * gain + shift).to(images.dtype)


def _leave(values: Tensor) -> Tensor:
    return values


def join_slices(values: Tensor, places: Tensor, is_padding: Tensor, patch_slices: int) -> tuple[Tensor, Tensor, Tensor]:
    """Join neighbouring slices to one with the channels of all, at the mean of their places.

    The last ones of a volume may be fewer; the channels that they lack are 0.

    Args:
        values: The slices after the stem, ``(batch, slices, channels, height, width)``; of padding 0.
        places: Their places ``(batch, slices, 3)``; of padding 0.
        is_padding: Whether a slice is padding, ``(batch, slices)``; padding comes last.
        patch_slices: The number of slices to join.

    Returns:
        The same three with fewer slices.
    """
    missing = -values.shape[1] % patch_slices
    if missing > 0:
        values = nn.functional.pad(values, (0, 0, 0, 0, 0, 0, 0, missing))
        places = nn.functional.pad(places, (0, 0, 0, missing))
        is_padding = nn.functional.pad(is_padding, (0, missing), value=True)
    values = rearrange(values, "b (slices joined) c h w -> b slices (joined c) h w", joined=patch_slices)
    places = rearrange(places, "b (slices joined) place -> b slices joined place", joined=patch_slices)
    present = rearrange(~is_padding, "b (slices joined) -> b slices joined", joined=patch_slices)
    mean = places.sum(dim=2) / present.sum(dim=2, keepdim=True).clamp(min=1)
    return values, mean, ~present.any(dim=2)
