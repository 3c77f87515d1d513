"""Layers of a Perceiver: an attention and the feed-forward layer that follows it, each with its residual."""

from typing import Literal

from torch import Tensor, nn

from perceiver.attention import CrossAttention, KeysValues, SelfAttention
from perceiver.config import PerceiverConfig
from perceiver.feedforward import FeedForward


class CrossLayer(nn.Module):
    """Cross-attention and feed-forward layer, each with its residual.

    Args:
        config: The architecture of the model.
        input_channels: The number of channels of an input, positions included.
    """

    def __init__(self, config: PerceiverConfig, input_channels: int) -> None:
        super().__init__()
        self.attention = CrossAttention(
            config.latent_dim,
            input_channels,
            config.cross_heads,
            config.cross_head_dim,
            config.dropout,
            config.attention_dropout,
        )
        self.feedforward = build_feedforward(config, config.latent_dim)

    def forward(self, latents: Tensor, keys_values: KeysValues, mask: Tensor | None) -> Tensor:
        """Update the latents from the keys and values of the inputs.

        Args:
            latents: The latents, ``(batch, latents, latent_dim)``.
            keys_values: The result of ``project_inputs`` of the attention of this layer.
            mask: A mask ``(batch, 1, 1, inputs)``, True for an input to attend to; None for all inputs.

        Returns:
            The updated latents, in the same shape.
        """
        latents = latents + self.attention(latents, keys_values, mask)
        result: Tensor = latents + self.feedforward(latents)
        return result

    def cross_attend(self, latents: Tensor, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """Compute keys and values and update the latents, for a layer that is used once.

        Args:
            latents: The latents, ``(batch, latents, latent_dim)``.
            inputs: The inputs ``(batch, inputs, channels)`` as returned by ``normalise_inputs``.
            mask: A mask ``(batch, 1, 1, inputs)``, True for an input to attend to; None for all inputs.

        Returns:
            The updated latents, in the same shape.
        """
        result: Tensor = self(latents, self.attention.project_inputs(inputs), mask)
        return result


class LatentLayer(nn.Module):
    """Self-attention and feed-forward layer, each with its residual.

    Args:
        config: The architecture of the model.
    """

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(
            config.latent_dim,
            config.latent_heads,
            config.latent_head_dim,
            config.dropout,
            config.attention_dropout,
        )
        self.feedforward = build_feedforward(config, config.latent_dim)

    def forward(self, latents: Tensor) -> Tensor:
        """Map ``(batch, latents, latent_dim)`` to the same shape."""
        latents = latents + self.attention(latents)
        result: Tensor = latents + self.feedforward(latents)
        return result


def build_feedforward(config: PerceiverConfig, dim: int) -> FeedForward:
    """Build the feed-forward layer that follows every attention, for vectors of ``dim`` channels."""
    activation: Literal["geglu", "gelu"] = config.activation
    checkpointed = config.gradient_checkpointing == "feedforward"
    return FeedForward(dim, config.feedforward_widening, activation, config.dropout, checkpointed)


def touch_scalars_before_compile(model: nn.Module) -> float:
    """Read each scalar attribute of attentions and dropouts, so that compiled checkpoints do not read it first.

    If models with other scalars were compiled before, ``torch.compile`` turns such a scalar into an input of the graph.
    If a checkpoint is the first to read it, it is missing in the next checkpoint of the same layer, and PyTorch 2.13
    fails with "lift_tracked_freevar_to_input": https://github.com/pytorch/pytorch/issues/193194. If it is read before
    all checkpoints, it belongs to the whole graph.

    Args:
        model: The model whose layers are checkpointed.

    Returns:
        The sum of the scalars, which has no meaning.
    """
    names = ("scale", "attention_dropout", "p")
    return sum(float(getattr(module, name, 0.0)) for module in model.modules() for name in names)
