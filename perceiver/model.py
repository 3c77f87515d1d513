"""The Perceiver classifier."""

from typing import Self

import torch
from torch import Tensor, nn

from perceiver.config import PerceiverConfig
from perceiver.encoder import PerceiverEncoder, Positions, check_required_fields
from perceiver.perceiver_io import QueryDecoder


class Perceiver(PerceiverEncoder):
    """An encoder whose latents are pooled and read by a linear head.

    Args:
        config: the shape of the model; ``input_channels``, ``axis_sizes`` and ``num_classes`` must be given.

    Source:
        Jaegle 2021, arXiv 2103.03206; for ``pooling: query`` arXiv 2107.14795.
    """

    def __init__(self, config: PerceiverConfig) -> None:
        check_required_fields(config, ("input_channels", "axis_sizes", "num_classes"))
        super().__init__(config)
        if config.pooling == "query":
            self.query = nn.Parameter(torch.empty(config.latent_dim))
            nn.init.trunc_normal_(self.query, std=config.latent_init_std)
            self.decoder = QueryDecoder(config, config.latent_dim)
        self.head_norm = nn.LayerNorm(config.latent_dim)
        self.head = nn.Linear(config.latent_dim, config.num_classes or 0)

    @classmethod
    def from_image_config(
        cls,
        num_freq_bands: int,
        max_freq: float | tuple[float, ...],
        depth: int,
        input_channels: int = 3,
        input_axis: int = 2,
        num_latents: int = 512,
        latent_dim: int = 512,
        cross_heads: int = 1,
        latent_heads: int = 8,
        cross_dim_head: int = 64,
        latent_dim_head: int = 64,
        num_classes: int = 1000,
        attn_dropout: float = 0.0,
        ff_dropout: float = 0.0,
        weight_tie_layers: bool = False,
        fourier_encode_data: bool = True,
        self_per_cross_attn: int = 1,
    ) -> Self:
        """Build the model that perceiver-pytorch builds from these arguments, for images of any size.

        The model takes images alone, channels last: ``model(images)`` with images
        ``(batch, height, width, channels)``. ``from_perceiver_pytorch`` gives the same config.

        Args:
            num_freq_bands: Fourier frequencies for each axis.
            max_freq: highest frequency, one number or one for each axis; see ``PerceiverConfig``.
            depth: how often the latents look at the image.
            input_channels: channels of an image.
            input_axis: number of axes, 2 for images, 3 for videos and volumes.
            num_latents: number of latent vectors.
            latent_dim: width of a latent vector.
            cross_heads: heads of a cross-attention.
            latent_heads: heads of a self-attention.
            cross_dim_head: width of one head of a cross-attention.
            latent_dim_head: width of one head of a self-attention.
            num_classes: number of logits.
            attn_dropout: share of attention weights dropped in training.
            ff_dropout: share of activations dropped in training; ``PerceiverConfig.dropout``.
            weight_tie_layers: whether all repetitions but the first have the same weights.
            fourier_encode_data: whether positions are read; False where the values hold them.
            self_per_cross_attn: self-attention layers after each look at the image.

        Returns:
            A model with fresh weights.

        Raises:
            ValueError: an option that does not fit.
        """
        config = PerceiverConfig(
            input_channels=input_channels,
            num_classes=num_classes,
            num_latents=num_latents,
            latent_dim=latent_dim,
            num_cross_attends=depth,
            self_attends_per_cross=self_per_cross_attn,
            cross_heads=cross_heads,
            cross_head_dim=cross_dim_head,
            latent_heads=latent_heads,
            latent_head_dim=latent_dim_head,
            weight_sharing="all_but_first_block" if weight_tie_layers else "none",
            feedforward_widening=4,
            positions="fourier" if fourier_encode_data else "none",
            num_bands=num_freq_bands,
            max_freq=max_freq if isinstance(max_freq, tuple) else (float(max_freq),) * input_axis,
            dropout=ff_dropout,
            attention_dropout=attn_dropout,
            latent_init_std=1.0,
        )
        if len(config.max_freq or ()) != input_axis:
            raise ValueError(
                f"from_image_config max_freq: found {config.max_freq} for {input_axis} axes, "
                "allowed is one number, or one for each axis"
            )
        return cls(config)

    def forward(self, values: Tensor, positions: Positions = None, padding: Tensor | None = None) -> Tensor:
        """Classify a batch of sets of inputs.

        Without positions the inputs are a regular grid with channels last: an image is
        ``(batch, height, width, channels)``.

        Positions that a batch shares cost once: give them with a batch of 1. Where some axes are shared and
        others are not, give a tuple: a pixel grid ``(1, inputs, 2)`` and the slices' places ``(batch, 1, 1)``.

        Args:
            values: ``(batch, inputs, channels)``; channels may be 0. On a grid ``(batch, axes, channels)``.
            positions: ``(batch or 1, inputs, axes)`` in [-1, 1], or a tuple of parts
                ``(batch or 1, inputs or 1, some axes)`` that together hold all axes in order. None for a grid.
            padding: ``(batch, inputs)`` bool, True for an input to ignore whatever it holds; each example
                needs at least one input that is not padding. On a grid ``(batch, axes)``.

        Returns:
            Logits ``(batch, classes)``.

        Raises:
            ValueError: channels, axes or padding do not fit the config or one another.
        """
        latents = self.encode(values, positions, padding)
        logits: Tensor = self.head(self.head_norm(self._pool(latents)))
        return logits

    def _pool(self, latents: Tensor) -> Tensor:
        if self.config.pooling == "query":
            decoded: Tensor = self.decoder(self.query.expand(latents.shape[0], 1, -1), latents)
            return decoded[:, 0]
        return latents[:, 0] if self.config.pooling == "cls" else latents.mean(dim=1)
