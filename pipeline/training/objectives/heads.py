"""Heads that only training has: vectors at any positions, decoded from the latents of a Perceiver."""

from dataclasses import replace

import torch
from torch import nn

from perceiver import ImagePerceiver, PerceiverConfig, VolumePerceiver
from perceiver.perceiver_io import QueryDecoder
from perceiver.positions import FourierPositions, Grid, Part
from pipeline.models.networks import SliceModel
from pipeline.models.volumes import choose_slices
from pipeline.training.objectives.masking import Masking, encode_visible, keep_statistics, place_squares

# The names of the heads.
GUIDANCE, RECONSTRUCTION = "guidance", "reconstruction"


class PositionDecoder(nn.Module):
    """A vector at each of any positions of an image or a volume, from the latents: the decoder of Perceiver IO.

    A query is the Fourier features of a position, and is not added to what its attention returns.

    Args:
        config: The configuration of the Perceiver that computes the latents.
        axis_sizes: The size of the grid that positions lie on along each axis, which limits their frequencies.
        num_outputs: The number of channels at each position.

    Source:
        Jaegle 2021, arXiv 2107.14795, section 3.2.
    """

    def __init__(self, config: PerceiverConfig, axis_sizes: tuple[int, ...], num_outputs: int) -> None:
        super().__init__()
        self.positions = FourierPositions(tuple(max(float(size), 2.0) for size in axis_sizes), config.num_bands)
        decoder_config = replace(
            config,
            decoder_heads=config.latent_heads,
            decoder_head_dim=config.latent_head_dim,
            decoder_dim=config.latent_dim,
            decoder_residual=False,
        )
        self.decoder = QueryDecoder(decoder_config, self.positions.num_channels)
        self.norm = nn.LayerNorm(config.latent_dim)
        self.head = nn.Linear(config.latent_dim, num_outputs)

    def forward(self, latents: torch.Tensor, positions: Part) -> torch.Tensor:
        """Decode latents (batch, latents, latent_dim) at positions (batch or 1, queries, axes), or at those of a grid.

        Returns:
            (batch, queries, outputs).
        """
        queries = self.positions((positions,)).to(latents.dtype).expand(latents.shape[0], -1, -1)
        decoded: torch.Tensor = self.head(self.norm(self.decoder(queries, latents)))
        return decoded


class HeadedModel(nn.Module):
    """A Perceiver for images or scans with heads of training; its own weights are those of the model that is kept.

    Args:
        model: The model, whose network is a Perceiver for images or volumes.
        heads: The heads by name; ``guidance`` decodes a map of features, ``reconstruction`` the pixels of squares.
        map_size: The rows and columns of the map; zeros without one.
        masking: The squares; None where none are hidden.

    Source:
        Das and others, "Limited data, unlimited potential: a study on ViTs augmented by masked autoencoders", arXiv
        2310.20704, for hidden squares next to the labels: two passes through one encoder, the losses added.
    """

    def __init__(
        self, model: SliceModel, heads: nn.ModuleDict, map_size: tuple[int, int], masking: Masking | None = None
    ) -> None:
        super().__init__()
        self.model, self.heads, self.map_size, self.masking = model, heads, map_size, masking

    def forward(
        self,
        images: torch.Tensor,
        slice_position: torch.Tensor,
        chosen_inputs: torch.Tensor | None = None,
        squares: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute logits, and what each head decodes.

        Args:
            images: The normalised images, (batch, channels, height, width), or the slices of scans in order along
                their normal, (batch, slices, height, width).
            slice_position: The places of the slices, (batch,), of scans (batch, slices, 3) in mm.
            chosen_inputs: The inputs that the Perceiver reads for logits and features, of scans the slices,
                (batch, chosen) int64; None for all.
            squares: The squares of each image in an order in which the first are hidden, as ``Masking.draw`` returns
                them; None where none are.

        Returns:
            The logits (batch, classes), and the decoded vectors by the name of their head.
        """
        network = self.model.network
        assert isinstance(network, ImagePerceiver | VolumePerceiver)  # others have no heads
        if isinstance(network, VolumePerceiver):
            read = (images, slice_position / self.model.place_unit)
            read = read if chosen_inputs is None else choose_slices(*read, chosen_inputs)
            latents = network.perceiver.encode(*network.tokenise(*read))
        else:
            places = slice_position if self.model.reads_slice_position else None
            latents = network.perceiver.encode(*network.tokenise(images, places), chosen_inputs=chosen_inputs)
        decoded = {GUIDANCE: self.heads[GUIDANCE](latents, Grid(self.map_size))} if GUIDANCE in self.heads else {}
        if self.masking is not None and squares is not None:
            with keep_statistics(network):
                decoder = self.heads[RECONSTRUCTION]
                decoded[RECONSTRUCTION] = reconstruct(
                    self.model, decoder, self.masking, (images, slice_position), squares
                )
        return network.perceiver.classify(latents), decoded


class MaskedAutoencoder(nn.Module):
    """A Perceiver for images or whole scans with a decoder of hidden squares, for pretraining.

    Args:
        model: The model, whose network is a Perceiver for images or volumes.
        masking: The squares.
        config: The configuration of the Perceiver.
    """

    def __init__(self, model: SliceModel, masking: Masking, config: PerceiverConfig) -> None:
        super().__init__()
        self.model, self.masking = model, masking
        self.heads = nn.ModuleDict({RECONSTRUCTION: build_reconstruction_head(model, masking, config)})

    def forward(self, images: torch.Tensor, slice_position: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
        """Predict the pixels of hidden squares; arguments are those of ``HeadedModel``."""
        return reconstruct(self.model, self.heads[RECONSTRUCTION], self.masking, (images, slice_position), squares)


def reconstruct(
    model: SliceModel,
    decoder: nn.Module,
    masking: Masking,
    inputs: tuple[torch.Tensor, torch.Tensor],
    squares: torch.Tensor,
) -> torch.Tensor:
    """Predict the pixels of hidden squares from those that are visible.

    Args:
        model: The model.
        decoder: The decoder of squares.
        masking: The squares.
        inputs: The normalised images and the places of the slices; those of scans in order along their normal.
        squares: The squares in an order in which the first are hidden, as ``Masking.draw`` returns them.

    Returns:
        (batch, hidden, channels x pixels of a square), see ``compute_reconstruction_loss_sum``.
    """
    hidden, visible = masking.divide(squares, inputs[0].shape[1])
    latents = encode_visible(model, *inputs, masking, visible)
    predicted: torch.Tensor = decoder(latents, place_squares(masking, hidden, inputs[1] / model.place_unit))
    return predicted


def build_reconstruction_head(model: SliceModel, masking: Masking, config: PerceiverConfig) -> PositionDecoder:
    """Build the decoder of the pixels of squares."""
    network = model.network
    assert isinstance(network, ImagePerceiver | VolumePerceiver)
    channels = masking.patch_slices if isinstance(network, VolumePerceiver) else network.image_shape[0]
    return PositionDecoder(config, masking.axis_sizes, channels * masking.patch_size**2)


def build_headed_model(
    model: SliceModel,
    config: PerceiverConfig,
    map_shape: tuple[int, int, int],
    seed: int,
    masking: Masking | None = None,
) -> HeadedModel | None:
    """Build the heads of a training with new weights.

    Args:
        model: The model, whose network is a Perceiver for images wherever there is a map, and one for images or
            volumes where squares are hidden.
        config: The configuration of that Perceiver.
        map_shape: The channels, rows and columns of a teacher's map of features; zeros without one.
        seed: The seed of the heads' weights.
        masking: The squares that are hidden and predicted; None for none.

    Returns:
        The model with its heads; None where there is none.
    """
    channels, *map_size = map_shape
    heads = nn.ModuleDict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if channels > 0:
            heads[GUIDANCE] = PositionDecoder(config, (map_size[0], map_size[1]), channels)
        if masking is not None:
            heads[RECONSTRUCTION] = build_reconstruction_head(model, masking, config)
    return HeadedModel(model, heads, (map_size[0], map_size[1]), masking) if len(heads) > 0 else None
