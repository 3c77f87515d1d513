"""Masked autoencoding: squares of an image that a Perceiver does not read, and predicts from those that it reads."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional

from perceiver import ImagePerceiver
from perceiver.images import cut_patches
from perceiver.positions import grid_positions
from pipeline.config.model import ModelConfig
from pipeline.config.training import PretrainConfig
from pipeline.config.validation import require
from pipeline.core.data_kinds import InputSpec
from pipeline.models.networks import SliceModel

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
    """

    patch_size: int
    grid_size: tuple[int, int]
    num_hidden: int

    def draw(self, num_images: int, generator: torch.Generator, device: torch.device) -> torch.Tensor:
        """Draw the squares of each image in random order, (images, squares); the first ``num_hidden`` are hidden."""
        squares = self.grid_size[0] * self.grid_size[1]
        return torch.rand((num_images, squares), generator=generator, device=device).argsort(dim=1)


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
    allowed = "images, of scans their slices (preprocess.unit: slice)"
    require(not spec.kind.has_places, "masked autoencoding: the data", spec.kind.name, allowed)
    require(model.architecture == "perceiver", "model.architecture", model.architecture, "perceiver, to be masked")
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
    return Masking(patch_size, grid_size, num_hidden)


def encode_visible(
    model: SliceModel, images: torch.Tensor, slice_position: torch.Tensor, masking: Masking, visible: torch.Tensor
) -> torch.Tensor:
    """Encode the squares of images that are not hidden; the encoder reads no other input.

    A convolutional stem reads neighbouring pixels, so that hidden ones are replaced by 0, the mean, before it.

    Args:
        model: The model, whose network is a Perceiver for images.
        images: The normalised images, (batch, channels, height, width).
        slice_position: The places of the slices, (batch,).
        masking: The squares.
        visible: The squares that are read, (batch, visible).

    Returns:
        The latents, (batch, latents, latent_dim).
    """
    network = model.network
    assert isinstance(network, ImagePerceiver)  # plan_masking has refused all else
    if network.config.stem == "conv":
        images = images * cover_squares(visible, masking)
    values, parts = network.tokenise(images, slice_position if model.reads_slice_position else None)
    chosen = choose_inputs(visible, masking, network.cell_pixels)
    positions = grid_positions(network.grid_size, device=images.device)[chosen]
    values = torch.take_along_dim(values, chosen.unsqueeze(-1), dim=1)
    return network.perceiver.encode(values, (positions, *parts[1:]))


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
    predicted: torch.Tensor, images: torch.Tensor, masking: Masking, hidden: torch.Tensor
) -> torch.Tensor:
    """Compute the squared error in the pixels of the hidden squares, added up over the images.

    The pixels of a square are brought to mean 0 and standard deviation 1 first. The error of an image is the mean over
    hidden squares and their pixels.

    Args:
        predicted: The prediction, (batch, hidden, channels x pixels of a square).
        images: The normalised images, (batch, channels, height, width).
        masking: The squares.
        hidden: The squares that were hidden, (batch, hidden).

    Returns:
        A scalar.

    Source:
        He and others, "Masked autoencoders are scalable vision learners", arXiv 2111.06377, section 3 ("Reconstruction
        target"), with a larger constant in the standard deviation, for images that are black at their edges.
    """
    squares, _ = cut_patches(images.float(), masking.patch_size)
    wanted = torch.take_along_dim(squares, hidden.unsqueeze(-1), dim=1)
    wanted = functional.layer_norm(wanted, wanted.shape[-1:], eps=SMALL_VARIANCE)
    return (predicted.float() - wanted).square().mean(dim=(1, 2)).sum()


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
