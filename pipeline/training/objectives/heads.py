"""Heads that only training has: vectors at any positions, decoded from the latents of a Perceiver."""

from dataclasses import replace

import torch
from torch import nn

from perceiver import ImagePerceiver, PerceiverConfig
from perceiver.perceiver_io import QueryDecoder
from perceiver.positions import FourierPositions, Grid, Part
from pipeline.models.networks import SliceModel

# The names of the heads.
GUIDANCE = "guidance"


class PositionDecoder(nn.Module):
    """A vector at each of any positions of an image, from the latents: the decoder of Perceiver IO.

    A query is the Fourier features of a position, and is not added to what its attention returns.

    Args:
        config: The configuration of the Perceiver that computes the latents.
        grid_size: The rows and columns of the grid that positions lie on, which limits their frequencies.
        num_outputs: The number of channels at each position.

    Source:
        Jaegle 2021, arXiv 2107.14795, section 3.2.
    """

    def __init__(self, config: PerceiverConfig, grid_size: tuple[int, int], num_outputs: int) -> None:
        super().__init__()
        self.positions = FourierPositions(tuple(max(float(size), 2.0) for size in grid_size), config.num_bands)
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
        """Decode latents (batch, latents, latent_dim) at positions (batch or 1, queries, 2), or at those of a grid.

        Returns:
            (batch, queries, outputs).
        """
        queries = self.positions((positions,)).to(latents.dtype).expand(latents.shape[0], -1, -1)
        decoded: torch.Tensor = self.head(self.norm(self.decoder(queries, latents)))
        return decoded


class HeadedModel(nn.Module):
    """A Perceiver for images with heads of training; its own weights are those of the model that is kept.

    Args:
        model: The model, whose network is a Perceiver for images.
        heads: The heads by name; ``guidance`` decodes a map of features.
        map_size: The rows and columns of that map.
    """

    def __init__(self, model: SliceModel, heads: nn.ModuleDict, map_size: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.heads, self.map_size = model, heads, map_size

    def forward(
        self, images: torch.Tensor, slice_position: torch.Tensor, chosen_inputs: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the logits (batch, classes) of normalised images, and what each head decodes.

        Args:
            images: The images.
            slice_position: The places of the slices, (batch,).
            chosen_inputs: The inputs that the Perceiver reads, (batch, chosen) int64; None for all.
        """
        network = self.model.network
        assert isinstance(network, ImagePerceiver)  # others have no heads
        places = slice_position if self.model.reads_slice_position else None
        latents = network.perceiver.encode(*network.tokenise(images, places), chosen_inputs=chosen_inputs)
        decoded = {GUIDANCE: self.heads[GUIDANCE](latents, Grid(self.map_size))} if GUIDANCE in self.heads else {}
        return network.perceiver.classify(latents), decoded


def build_headed_model(
    model: SliceModel, config: PerceiverConfig, map_shape: tuple[int, int, int], seed: int
) -> HeadedModel | None:
    """Build the heads of a training with new weights.

    Args:
        model: The model, whose network is a Perceiver for images wherever there is a map.
        config: The configuration of that Perceiver.
        map_shape: The channels, rows and columns of a teacher's map of features; zeros without one.
        seed: The seed of the heads' weights.

    Returns:
        The model with its heads; None where there is none.
    """
    channels, *map_size = map_shape
    if channels == 0:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = nn.ModuleDict({GUIDANCE: PositionDecoder(config, (map_size[0], map_size[1]), channels)})
    return HeadedModel(model, heads, (map_size[0], map_size[1]))
