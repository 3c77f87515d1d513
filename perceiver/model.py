"""The Perceiver classifier."""

from torch import Tensor, nn

from perceiver.config import PerceiverConfig
from perceiver.encoder import PerceiverEncoder, check_given


class Perceiver(PerceiverEncoder):
    """An encoder whose latents are pooled and read by a linear head.

    Args:
        config: the shape of the model; ``input_channels``, ``axis_sizes`` and ``num_classes`` must be given.

    Source:
        Jaegle 2021, arXiv 2103.03206.
    """

    def __init__(self, config: PerceiverConfig) -> None:
        check_given(config, ("input_channels", "axis_sizes", "num_classes"))
        super().__init__(config)
        self.head_norm = nn.LayerNorm(config.latent_dim)
        self.head = nn.Linear(config.latent_dim, config.num_classes or 0)

    def forward(self, values: Tensor, positions: Tensor | tuple[Tensor, ...], padding: Tensor | None = None) -> Tensor:
        """Classify a batch of sets of inputs.

        Positions that a batch shares cost once: give them with a batch of 1. Where some axes are shared and
        others are not, give a tuple: a pixel grid ``(1, inputs, 2)`` and the slices' places ``(batch, 1, 1)``.

        Args:
            values: ``(batch, inputs, channels)``; channels may be 0.
            positions: ``(batch or 1, inputs, axes)`` in [-1, 1], or a tuple of parts
                ``(batch or 1, inputs or 1, some axes)`` that together hold all axes in order.
            padding: ``(batch, inputs)`` bool, True for an input to ignore whatever it holds; each example
                needs at least one input that is not padding.

        Returns:
            Logits ``(batch, classes)``.

        Raises:
            ValueError: channels, axes or padding do not fit the config or one another.
        """
        latents = self.encode(values, positions, padding)
        pooled = latents[:, 0] if self.config.pooling == "cls" else latents.mean(dim=1)
        logits: Tensor = self.head(self.head_norm(pooled))
        return logits
