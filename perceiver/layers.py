"""An attention with the feed-forward layer that follows it, each with its residual."""

from typing import Literal

from torch import Tensor, nn

from perceiver.attention import CrossAttention, KeysValues, SelfAttention
from perceiver.config import PerceiverConfig
from perceiver.feedforward import FeedForward


class CrossLayer(nn.Module):
    """Cross-attention and feed-forward, each with its residual."""

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
        """Let ``latents (batch, latents, latent_dim)`` read the inputs; ``keys_values`` is this layer's own."""
        latents = latents + self.attention(latents, keys_values, mask)
        result: Tensor = latents + self.feedforward(latents)
        return result

    def cross_attend(self, latents: Tensor, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """Prepare the memory from ``inputs (batch, inputs, channels)`` and read it, for a layer used once."""
        result: Tensor = self(latents, self.attention.project_inputs(inputs), mask)
        return result


class LatentLayer(nn.Module):
    """Self-attention and feed-forward, each with its residual."""

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
    """Read every number that an attention or a dropout has as an attribute; call it before checkpoints are compiled.

    Where models of other numbers were compiled before, ``torch.compile`` turns such a number into an input of the
    graph. Read first within a checkpoint, it is then missing in the next checkpoint of the same layer, and PyTorch
    2.13 fails with "lift_tracked_freevar_to_input": https://github.com/pytorch/pytorch/issues/193194. Read here, it
    belongs to the whole graph.

    Args:
        model: whose layers are checkpointed.

    Returns:
        The sum, which has no meaning.
    """
    names = ("scale", "attention_dropout", "p")
    return sum(float(getattr(module, name, 0.0)) for module in model.modules() for name in names)
