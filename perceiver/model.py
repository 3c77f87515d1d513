"""The Perceiver classifier."""

from typing import Self

import torch
from torch import Tensor, nn

from perceiver.config import PerceiverConfig
from perceiver.encoder import PerceiverEncoder, Positions, check_required_fields
from perceiver.perceiver_io import QueryDecoder
from perceiver.positions import initialise_vectors


class Perceiver(PerceiverEncoder):
    """An encoder with pooling of the latents and a linear classification head.

    Args:
        config: The architecture of the model; ``input_channels``, ``axis_sizes`` and ``num_classes`` must be given.

    Source:
        Jaegle 2021, arXiv 2103.03206; for ``pooling: query`` arXiv 2107.14795.
    """

    def __init__(self, config: PerceiverConfig) -> None:
        check_required_fields(config, ("input_channels", "axis_sizes", "num_classes"))
        super().__init__(config)
        if config.pooling == "query":
            self.query = nn.Parameter(torch.empty(config.latent_dim))
            initialise_vectors(self.query, config.latent_init_std)
            self.decoder = QueryDecoder(config, config.latent_dim)
        pooled_dim = self.decoder.output_dim if config.pooling == "query" else config.latent_dim
        self.head_norm = nn.LayerNorm(pooled_dim)
        self.head = nn.Linear(pooled_dim, config.num_classes or 0)

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

        The model needs no positions: ``model(images)`` takes images ``(batch, height, width, channels)``, channels
        last. ``from_perceiver_pytorch`` returns the same configuration. With the same weights the models give the same
        logits and gradients, except in two cases: on an axis of one place the coordinate is 0 here and -1 there; and in
        training with ``ff_dropout`` above 0 this model also drops after GEGLU and after each attention.

        Args:
            num_freq_bands: The number of Fourier frequencies for each axis.
            max_freq: The highest frequency, one number for all axes or one for each; see ``PerceiverConfig``.
            depth: The number of cross-attentions to the image.
            input_channels: The number of channels of an image.
            input_axis: The number of axes: 2 for images, 3 for videos and volumes.
            num_latents: The number of latent vectors.
            latent_dim: The number of channels of a latent vector.
            cross_heads: The number of heads of a cross-attention.
            latent_heads: The number of heads of a self-attention.
            cross_dim_head: The number of channels of one head of a cross-attention.
            latent_dim_head: The number of channels of one head of a self-attention.
            num_classes: The number of logits.
            attn_dropout: The fraction of attention weights that is dropped in training.
            ff_dropout: The fraction of activations that is dropped in training (``PerceiverConfig.dropout``).
            weight_tie_layers: Whether all repetitions except the first share their weights.
            fourier_encode_data: Whether the model adds position features; False if the values contain them.
            self_per_cross_attn: The number of self-attention layers after each cross-attention.

        Returns:
            A model with newly initialised weights.

        Raises:
            ValueError: An option is not valid.
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

    def forward(
        self,
        values: Tensor,
        positions: Positions = None,
        padding: Tensor | None = None,
        chosen_inputs: Tensor | None = None,
    ) -> Tensor:
        """Classify a batch of sets of inputs.

        Without positions the inputs are a regular grid with channels last: an image is
        ``(batch, height, width, channels)``.

        The features of positions that are the same for the whole batch are computed once: give such positions with a
        batch size of 1. If some axes are shared and others are not, give a tuple, e.g. a pixel grid ``(1, inputs, 2)``
        and the positions of the slices ``(batch, 1, 1)``.

        Args:
            values: The values ``(batch, inputs, channels)``; there may be 0 channels. On a grid
                ``(batch, axes, channels)``.
            positions: The positions ``(batch or 1, inputs, axes)`` in [-1, 1], a ``Grid``, or a tuple of parts
                ``(batch or 1, inputs or 1, some axes)`` that together hold all axes in order. None for the grid of the
                values.
            padding: A boolean mask ``(batch, inputs)``, True for an input to ignore, whatever it contains. On a grid
                ``(batch, axes)``. An example that is all padding is classified as one with a single input of zeros.
            chosen_inputs: The places ``(batch, chosen)``, int64, of the inputs that are read, as many of each example,
                such as a random subset in training; None for all.

        Returns:
            The logits, ``(batch, classes)``.

        Raises:
            ValueError: Channels, axes or padding do not fit the configuration or one another.
        """
        return self.classify(self.encode(values, positions, padding, chosen_inputs))

    def classify(self, latents: Tensor) -> Tensor:
        """Turn encoded latents ``(batch, latents, latent_dim)`` into logits ``(batch, classes)``."""
        logits: Tensor = self.head(self.head_norm(self._pool(latents)))
        return logits

    def _pool(self, latents: Tensor) -> Tensor:
        if self.config.pooling == "query":
            decoded: Tensor = self.decoder(self.query.expand(latents.shape[0], 1, -1), latents)
            return decoded[:, 0]
        return latents[:, 0] if self.config.pooling == "cls" else latents.mean(dim=1)
