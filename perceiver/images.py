"""Images as sets of inputs, and a Perceiver for images."""

import dataclasses
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from perceiver.config import ImageConfig, PerceiverConfig
from perceiver.model import Perceiver
from perceiver.positions import Grid, Part, grid_positions


def image_tokens(
    images: Tensor, patch_size: int = 1, slice_position: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Cut images into inputs of a Perceiver.

    Args:
        images: The images, ``(batch, channels, height, width)``.
        patch_size: The side of a patch in pixels; height and width must be multiples of it.
        slice_position: The position ``(batch,)`` in [-1, 1] of each slice in its volume; None for two position axes.

    Returns:
        Values ``(batch, inputs, channels * patch_size ** 2)`` and positions: the grid ``(1, inputs, 2)``, rows
        first, and, if given, the positions of the slices ``(batch, 1, 1)``.

    Raises:
        ValueError: Height or width is not a multiple of the patch size.
    """
    values, grid = cut_patches(images, patch_size)
    dtype = torch.promote_types(images.dtype, torch.float32)
    positions = grid_positions(grid.sizes, dtype, images.device).unsqueeze(0)
    if slice_position is None:
        return values, (positions,)
    return values, (positions, rearrange(slice_position, "batch -> batch 1 1"))


def cut_patches(images: Tensor, patch_size: int) -> tuple[Tensor, Grid]:
    """Cut images into the values and the grid of a Perceiver; arguments and errors are those of ``image_tokens``."""
    height, width = images.shape[-2:]
    if height % patch_size != 0 or width % patch_size != 0:
        raise ValueError(
            f"image_tokens: found images of {height} x {width} pixels for patch_size {patch_size}, "
            "allowed are multiples of it"
        )
    values = rearrange(
        images,
        "batch channels (rows down) (columns across) -> batch (rows columns) (channels down across)",
        down=patch_size,
        across=patch_size,
    )
    return values, Grid((height // patch_size, width // patch_size))


def build_conv_stem(channels: int, num_layers: int, out_channels: int, num_blocks: int = 0) -> nn.Sequential:
    """Build convolutions that each halve height and width and double the channels.

    Each layer is a 3 x 3 convolution, 2 x 2 max pooling, batch normalisation and ReLU. Pooling comes before the
    normalisation because the normalisation then has a quarter of the work. The weights lie channel by channel in
    memory (``channels_last``), and with them all that is computed: two thirds of the time on a CPU.

    Args:
        channels: The number of channels of the image.
        num_layers: The number of layers.
        out_channels: The number of channels of the last layer.
        num_blocks: The number of residual blocks after each layer.
    """
    layers: list[nn.Module] = []
    for layer_index in range(num_layers):
        width = max(1, out_channels // 2 ** (num_layers - 1 - layer_index))
        convolution = nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False)
        layers += [convolution, nn.MaxPool2d(2), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [ResidualBlock(width) for _ in range(num_blocks)]
        channels = width
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


class ResidualBlock(nn.Module):
    """Two convolutions, whose result is added to what they read (https://arxiv.org/abs/1512.03385).

    The second normalisation starts with a scale of 0, so that a new block passes on what it reads
    (https://arxiv.org/abs/1706.02677).

    Args:
        channels: The number of channels that come in and go out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.second_norm.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Turn features that are 0 or more, ``(batch, channels, height, width)``, into others of that shape."""
        change = self.second_norm(self.second(torch.relu(self.first_norm(self.first(features)))))
        return torch.relu(features + change)


class ImagePerceiver(nn.Module):
    """A Perceiver for images of one size.

    ``grid_size`` is the number of rows and columns of the inputs, ``cell_pixels`` the side of the square of pixels that
    each input represents (after convolutions it also depends on neighbouring pixels).

    Args:
        config: The configuration of stem and Perceiver.
        channels: The number of channels of an image.
        height: The height of an image in pixels.
        width: The width of an image in pixels.
        num_classes: The number of logits.
        num_slices: The resolution of the third axis; needed if ``config.slice_position`` is True.
    """

    def __init__(
        self,
        config: ImageConfig,
        *,
        channels: int,
        height: int,
        width: int,
        num_classes: int,
        num_slices: int | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.image_shape = (channels, height, width)
        self.patch_size = config.patch_size if config.stem == "patches" else 1
        self.stem: nn.Module = nn.Identity()
        if config.stem == "conv":
            self.stem = build_conv_stem(
                channels, config.num_conv_layers, config.conv_channels, config.num_residual_blocks
            )
            channels = config.conv_channels
            height, width = (size // 2**config.num_conv_layers for size in (height, width))
            if min(height, width) < 1:
                raise ValueError(
                    f"ImageConfig.num_conv_layers: found {config.num_conv_layers} for images of "
                    f"{self.image_shape[1]} x {self.image_shape[2]} pixels, which cannot be halved that often"
                )
        self.grid_size = (height // self.patch_size, width // self.patch_size)
        self.cell_pixels = 2**config.num_conv_layers if config.stem == "conv" else self.patch_size
        axis_sizes: tuple[int, ...] = self.grid_size
        if config.slice_position:
            if num_slices is None:
                raise ValueError("ImagePerceiver: num_slices not given; slice_position needs it for the third axis")
            axis_sizes = (*axis_sizes, num_slices)
        data_fields: dict[str, int | tuple[int, ...]] = {
            "input_channels": channels * self.patch_size**2,
            "axis_sizes": axis_sizes,
            "num_classes": num_classes,
        }
        self.perceiver = Perceiver(fill_config(config.perceiver, data_fields))

    def forward(
        self, images: Tensor, slice_position: Tensor | None = None, chosen_inputs: Tensor | None = None
    ) -> Tensor:
        """Classify images.

        Args:
            images: The images ``(batch, channels, height, width)``, of a floating-point type.
            slice_position: The position ``(batch,)`` in [-1, 1] of each slice in its volume; needed if
                ``config.slice_position`` is True and refused otherwise.
            chosen_inputs: The places ``(batch, chosen)``, int64, of the inputs that are read, rows first; None for all.

        Returns:
            The logits, ``(batch, classes)``.

        Raises:
            ValueError: An image has another shape, or a slice position is missing or not used.
        """
        logits: Tensor = self.perceiver(*self.tokenise(images, slice_position), chosen_inputs=chosen_inputs)
        return logits

    def attention_maps(
        self,
        images: Tensor,
        slice_position: Tensor | None = None,
        *,
        kind: Literal["cross", "self"] = "cross",
        layers: tuple[int, ...] = (0,),
        heads: tuple[int, ...] | None = None,
    ) -> dict[int, Tensor]:
        """Compute the attention weights of the latents; see ``PerceiverEncoder.attention_maps``.

        Args:
            images: The images, as for ``forward``.
            slice_position: The positions of the slices, as for ``forward``.
            kind: The kind of attention. cross: to the grid of inputs. self: to the latents.
            layers: The indices of the attentions of this kind, counted from 0.
            heads: The indices of the heads; None for all.

        Returns:
            For each layer the weights, ``(batch, heads, latents, rows, columns)`` if ``kind`` is cross, with the rows
            and columns of ``grid_size``, and ``(batch, heads, latents, latents)`` if it is self. The weights of each
            latent sum to 1.
        """
        values, positions = self.tokenise(images, slice_position)
        maps = self.perceiver.attention_maps(values, positions, kind=kind, layers=layers, heads=heads)
        if kind == "self":
            return maps
        grid = "batch heads latents (rows columns) -> batch heads latents rows columns"
        return {layer: rearrange(weights, grid, rows=self.grid_size[0]) for layer, weights in maps.items()}

    def tokenise(self, images: Tensor, slice_position: Tensor | None = None) -> tuple[Tensor, tuple[Part, ...]]:
        """Turn images into the values and positions that ``image_tokens`` returns, the grid as a ``Grid``.

        Args:
            images: The images, as for ``forward``.
            slice_position: The positions of the slices, as for ``forward``.
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(
                f"ImagePerceiver images: found shape {tuple(images.shape)}, "
                f"allowed is (batch, channels, height, width) = "
                f"(batch, {', '.join(map(str, self.image_shape))})"
            )
        if (slice_position is not None) != self.config.slice_position:
            presence = "none" if slice_position is None else "one"
            raise ValueError(
                f"ImagePerceiver slice_position: found {presence}, but the configuration has slice_position: "
                f"{self.config.slice_position}"
            )
        values, grid = cut_patches(self.stem(images), self.patch_size)
        return values, (grid,) if slice_position is None else (grid, rearrange(slice_position, "batch -> batch 1 1"))


def fill_config(config: PerceiverConfig, data_fields: dict[str, int | tuple[int, ...]]) -> PerceiverConfig:
    """Fill the fields that follow from the data.

    Args:
        config: The configuration of the Perceiver, with None or the same value in those fields.
        data_fields: The value of each field, by name.

    Returns:
        The completed configuration.

    Raises:
        ValueError: A field of the configuration contradicts the data.
    """
    for name, data_value in data_fields.items():
        config_value = getattr(config, name)
        if config_value is not None and config_value != data_value:
            raise ValueError(
                f"PerceiverConfig.{name}: found {config_value}, but the data have {data_value}; leave the field out"
            )
    return dataclasses.replace(config, **data_fields)  # type: ignore[arg-type]
