"""Masked autoencoding: squares of an image that a Perceiver does not read, and predicts from those that it reads.

Of a whole scan they are squares of each slice, hidden in each slice by itself, or in neighbouring slices together that
the model joins to one input.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional

from perceiver import ImagePerceiver, VolumePerceiver
from perceiver.images import cut_patches
from perceiver.positions import grid_positions
from perceiver.volumes import join_slices, volume_positions
from pipeline.config.model import ModelConfig
from pipeline.config.training import PretrainConfig
from pipeline.config.validation import require
from pipeline.core.data_kinds import InputSpec
from pipeline.models.networks import SliceModel
from pipeline.training.losses import add_up

DEFAULT_PIXELS = 4
# Added to a square's variance, where the variance over the training images is 1: black squares stay black.
SMALL_VARIANCE = 0.01


@dataclass(frozen=True)
class Masking:
    """The squares of an image, and how many of them are hidden.

    Args:
        patch_size: The side of a square in pixels.
        grid_size: The rows and columns of squares.
        num_hidden: The number of squares that are hidden.
        num_layers: Of whole scans the layers of inputs along the normal that the largest one has; 0 for images.
        patch_slices: Of whole scans the slices that make a layer.
    """

    patch_size: int
    grid_size: tuple[int, int]
    num_hidden: int
    num_layers: int = 0
    patch_slices: int = 1

    @property
    def axis_sizes(self) -> tuple[int, ...]:
        """The squares along each axis of a position."""
        return (*self.grid_size, self.num_layers) if self.num_layers > 0 else self.grid_size

    def draw(self, num_images: int, generator: torch.Generator, device: torch.device) -> torch.Tensor:
        """Draw the squares of each image, or of each layer of a scan, in random order; the first ones are hidden.

        Returns:
            (images, squares) or (scans, layers, squares), of which the first ``num_hidden`` are hidden.
        """
        layers = (self.num_layers,) if self.num_layers > 0 else ()
        shape = (num_images, *layers, self.grid_size[0] * self.grid_size[1])
        return torch.rand(shape, generator=generator, device=device).argsort(dim=-1)

    def divide(self, squares: torch.Tensor, num_slices: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the hidden and the visible squares of images or of scans of so many slices, the latter in order."""
        if self.num_layers > 0:
            squares = squares[:, : -(-num_slices // self.patch_slices)]
        return squares[..., : self.num_hidden], squares[..., self.num_hidden :].sort(dim=-1).values


def plan_masking(config: PretrainConfig, model: ModelConfig, spec: InputSpec) -> Masking:
    """Plan the squares of these images.

    Args:
        config: The fraction that is hidden, and the side of a square.
        model: The network.
        spec: The images.

    Raises:
        UserError: the network or the data cannot be masked, or squares do not fit them.
    """
    allowed = "images: a point is its position, so that the query of a hidden point would be its answer"
    require(spec.kind.is_image, "masked autoencoding: the data", spec.kind.name, allowed)
    require(model.architecture == "perceiver", "model.architecture", model.architecture, "perceiver, to be masked")
    if spec.kind.has_places:
        allowed = "joint where preprocess.unit is volume: one Perceiver that reads all slices is masked"
        require(model.slices == "joint", "model.slices", model.slices, allowed)
    seed = model.pixel_permutation_seed
    require(seed is None, "model.pixel_permutation_seed", seed, "null: squares of permuted pixels are no neighbours")
    cell = {"pixels": 1, "patches": model.patch_size, "conv": 2**model.num_conv_layers}[model.stem]
    patch_size = config.patch_size or (DEFAULT_PIXELS if model.stem == "pixels" else cell)
    height, width = spec.image_size
    sides = [side for side in range(cell, min(height, width) + 1, cell) if height % side == width % side == 0]
    option = "num_conv_layers" if model.stem == "conv" else "patch_size"
    allowed = f"one whose inputs of {cell} x {cell} pixels divide images of {height} x {width} pixels, for masking"
    require(len(sides) > 0, f"model.{option}", getattr(model, option), allowed)
    allowed = f"{', '.join(map(str, sides))}: multiples of {cell} that divide images of {height} x {width} pixels"
    require(patch_size in sides, "pretrain.patch_size", patch_size, allowed)
    grid_size = (height // patch_size, width // patch_size)
    num_squares = grid_size[0] * grid_size[1]
    num_hidden = round(config.mask_fraction * num_squares)
    allowed = f"a fraction that hides some and not all of {num_squares} squares"
    require(0 < num_hidden < num_squares, "pretrain.mask_fraction", config.mask_fraction, allowed)
    if spec.kind.has_places:
        num_layers = -(-spec.num_slices // model.patch_slices)
        return Masking(patch_size, grid_size, num_hidden, num_layers, model.patch_slices)
    return Masking(patch_size, grid_size, num_hidden)


def encode_visible(
    model: SliceModel, images: torch.Tensor, slice_position: torch.Tensor, masking: Masking, visible: torch.Tensor
) -> torch.Tensor:
    """Encode the squares of images that are not hidden; the encoder reads no other input.

    A convolutional stem reads neighbouring pixels, so that hidden ones are replaced by 0, the mean, before it.

    Args:
        model: The model, whose network is a Perceiver for images or volumes.
        images: The normalised images, (batch, channels, height, width), or the slices of scans in order along their
            normal, (batch, slices, height, width).
        slice_position: The places of the slices, (batch,), of scans (batch, slices, 3) in mm.
        masking: The squares.
        visible: The squares that are read, (batch, visible), of scans (batch, layers, visible).

    Returns:
        The latents, (batch, latents, latent_dim).
    """
    network = model.network
    if isinstance(network, VolumePerceiver):
        return _encode_visible_layers(network, images, slice_position / model.place_unit, masking, visible)
    assert isinstance(network, ImagePerceiver)  # plan_masking has refused all else
    if network.config.stem == "conv":
        images = images * cover_squares(visible, masking)
    values, parts = network.tokenise(images, slice_position if model.reads_slice_position else None)
    chosen = choose_inputs(visible, masking, network.cell_pixels)
    positions = grid_positions(network.grid_size, device=images.device)[chosen]
    values = torch.take_along_dim(values, chosen.unsqueeze(-1), dim=1)
    return network.perceiver.encode(values, (positions, *parts[1:]))


def _encode_visible_layers(
    network: VolumePerceiver, scans: torch.Tensor, places: torch.Tensor, masking: Masking, visible: torch.Tensor
) -> torch.Tensor:
    """Encode the squares of scans that are not hidden; places are in units of half the field of view."""
    if not isinstance(network.stem, nn.Identity):
        cover = cover_squares(visible.flatten(0, 1), masking)[:, 0].unflatten(0, visible.shape[:2])  # type: ignore[no-untyped-call]
        scans = scans * cover.repeat_interleave(masking.patch_slices, dim=1)[:, : scans.shape[1]]
    values, positions, padding = network.tokenise(scans, places)
    chosen = choose_in_layers(visible, masking, network.cell_pixels)
    values, positions = (torch.take_along_dim(each, chosen[..., None], dim=1) for each in (values, positions))
    padding = None if padding is None else torch.take_along_dim(padding, chosen, dim=1)
    return network.perceiver.encode(values, positions, padding)


def choose_in_layers(squares: torch.Tensor, masking: Masking, cell_pixels: int) -> torch.Tensor:
    """Return the places of the inputs of scans that lie in squares of their layers.

    Args:
        squares: The squares, (batch, layers, some).
        masking: Their size.
        cell_pixels: The side of the square of pixels that an input represents.

    Returns:
        (batch, inputs in them) int64, layers first, then rows.
    """
    inputs = choose_inputs(squares.flatten(0, 1), masking, cell_pixels).unflatten(0, squares.shape[:2])  # type: ignore[no-untyped-call]
    rows, columns = masking.grid_size
    num_inputs = rows * columns * (masking.patch_size // cell_pixels) ** 2
    chosen: torch.Tensor = inputs + num_inputs * torch.arange(squares.shape[1], device=squares.device)[:, None]
    return chosen.flatten(1)


def place_squares(masking: Masking, squares: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return the positions of squares, by which a decoder is asked for them.

    Args:
        masking: The squares.
        squares: Their numbers, (batch, some), of scans (batch, layers, some).
        places: Of scans the places of the slices in units of half the field of view, (batch, slices, 3); of images not
            read.

    Returns:
        (batch, squares, axes).
    """
    if masking.num_layers == 0:
        return grid_positions(masking.grid_size, device=squares.device)[squares]
    is_padding = places[..., 0].isnan()
    blank = places.new_zeros((*is_padding.shape, 1, 1, 1))
    filled = torch.where(is_padding[..., None], 0.0, places)
    _, layers, _ = join_slices(blank, filled, is_padding, masking.patch_slices)
    chosen = choose_in_layers(squares, masking, masking.patch_size)
    return torch.take_along_dim(volume_positions(layers, *masking.grid_size), chosen[..., None], dim=1)


def cover_squares(squares: torch.Tensor, masking: Masking) -> torch.Tensor:
    """Return 1 in the pixels of these squares (batch, some) and 0 elsewhere, (batch, 1, height, width) float32."""
    rows, columns = masking.grid_size
    cover = torch.zeros((len(squares), rows * columns), device=squares.device).scatter(1, squares, 1.0)
    cover = rearrange(cover, "batch (rows columns) -> batch 1 rows columns", rows=rows)
    return cover.repeat_interleave(masking.patch_size, dim=2).repeat_interleave(masking.patch_size, dim=3)


def choose_inputs(squares: torch.Tensor, masking: Masking, cell_pixels: int) -> torch.Tensor:
    """Return the places of the inputs that lie in squares.

    Args:
        squares: The squares, (batch, some), rows first.
        masking: Their size.
        cell_pixels: The side of the square of pixels that an input represents.

    Returns:
        (batch, inputs in them) int64, rows first.
    """
    rows, columns = masking.grid_size
    side = masking.patch_size // cell_pixels
    inputs = torch.arange(rows * columns * side**2, device=squares.device)
    inputs = rearrange(
        inputs,
        "(rows down columns across) -> (rows columns) (down across)",
        rows=rows,
        down=side,
        columns=columns,
        across=side,
    )
    return inputs[squares].flatten(1)


def compute_reconstruction_loss_sum(
    predicted: torch.Tensor,
    images: torch.Tensor,
    masking: Masking,
    hidden: torch.Tensor,
    places: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute the squared error in the pixels of the hidden squares, added up over the images.

    The pixels of a square are brought to mean 0 and standard deviation 1 first. The error of an image is the mean over
    hidden squares and their pixels, of a scan over all its layers. A slice that the last layer of a scan lacks is 0.

    Args:
        predicted: The prediction, (batch, hidden, channels x pixels of a square), of scans for their layers one after
            the other, (batch, layers x hidden, slices of a layer x pixels of a square).
        images: The normalised images, (batch, channels, height, width), or the slices of scans in order along their
            normal, (batch, slices, height, width).
        masking: The squares.
        hidden: The squares that were hidden, (batch, hidden), of scans (batch, layers, hidden).
        places: Of scans the places of the slices, (batch, slices, 3), NaN for padding; None for images.
        weights: The weight of each example, (batch,), from the table of labels; None for 1.

    Returns:
        A scalar.

    Source:
        He and others, "Masked autoencoders are scalable vision learners", arXiv 2111.06377, section 3 ("Reconstruction
        target"), with a larger constant in the standard deviation, for images that are black at their edges.
    """
    if places is None:
        return add_up(_compute_errors(predicted, images, masking, hidden), weights)
    is_slice, joined = ~places[..., 0].isnan(), masking.patch_slices
    missing = -images.shape[1] % joined
    images = functional.pad(images.masked_fill(~is_slice[..., None, None], 0.0), (0, 0, 0, 0, 0, missing))
    is_layer = functional.pad(is_slice, (0, missing)).unflatten(1, (-1, joined)).any(dim=-1)  # type: ignore[no-untyped-call]
    layers = rearrange(
        images, "batch (layers joined) height width -> (batch layers) joined height width", joined=joined
    )
    of_layers = rearrange(
        predicted, "batch (layers hidden) pixels -> (batch layers) hidden pixels", layers=hidden.shape[1]
    )
    errors = _compute_errors(of_layers, layers, masking, hidden.flatten(0, 1)).view(is_layer.shape)
    return add_up((errors * is_layer).sum(dim=1) / is_layer.sum(dim=1).clamp(min=1), weights)


def _compute_errors(
    predicted: torch.Tensor, images: torch.Tensor, masking: Masking, hidden: torch.Tensor
) -> torch.Tensor:
    """Return the error of each image, (batch,)."""
    squares, _ = cut_patches(images.float(), masking.patch_size)
    wanted = torch.take_along_dim(squares, hidden.unsqueeze(-1), dim=1)
    wanted = functional.layer_norm(wanted, wanted.shape[-1:], eps=SMALL_VARIANCE)
    return (predicted.float() - wanted).square().mean(dim=(1, 2))


@contextlib.contextmanager
def keep_statistics(module: nn.Module) -> Iterator[None]:
    """Leave the running averages of batch norms as they are: masked images are not those that the model will see."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
