"""Attention weights as matrices, computed separately from the forward pass and only on request."""

import torch
from einops import einsum, rearrange
from torch import Tensor
from torch.nn import functional

from perceiver.attention import CrossAttention, SelfAttention


def check_indices(name: str, indices: tuple[int, ...], num_available: int) -> None:
    """Refuse layers or heads that do not exist.

    Args:
        name: The name of the argument, for the error message.
        indices: The requested indices.
        num_available: The number of layers or heads that exist.

    Raises:
        ValueError: There is no index, or one that does not exist.
    """
    if len(indices) == 0 or min(indices) < 0 or max(indices) >= num_available:
        raise ValueError(
            f"attention_maps {name}: found {indices}, allowed are one or more from 0 to {num_available - 1}"
        )


def compute_cross_attention_weights(
    attention: CrossAttention, latents: Tensor, inputs: Tensor, mask: Tensor | None, heads: tuple[int, ...]
) -> Tensor:
    """Compute the attention weights from each latent to each input.

    Args:
        attention: The attention layer.
        latents: The latents ``(batch, latents, latent_dim)`` before the layer.
        inputs: The inputs ``(batch, inputs, channels)`` as returned by ``normalise_inputs``.
        mask: A mask ``(batch, 1, 1, inputs)``, True for an input to attend to; None for all inputs.
        heads: The indices of the heads.

    Returns:
        The weights ``(batch, heads, latents, inputs)`` in float32; rows sum to 1.
    """
    split_heads = "(heads width) channels -> heads width channels"
    query_weight = rearrange(attention.to_query.weight, split_heads, heads=attention.num_heads)[list(heads)]
    key_weight = attention.weigh_channels(attention.to_key.weight, inputs.shape[-1])
    key_weight = rearrange(key_weight, split_heads, heads=attention.num_heads)
    normalised_latents = attention.query_norm(latents)
    queries = einsum(normalised_latents, query_weight, "batch latents c, heads width c -> batch heads latents width")
    # In the space of the inputs, whatever its width: the shift of the norm cancels in the softmax.
    queries = einsum(
        queries, key_weight[list(heads)], "batch heads latents width, heads width c -> batch heads latents c"
    )
    scores = einsum(queries, inputs, "batch heads latents c, batch inputs c -> batch heads latents inputs")
    scores = scores.float() * attention.scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights: Tensor = scores.softmax(dim=-1)
    return weights


def compute_self_attention_weights(attention: SelfAttention, latents: Tensor, heads: tuple[int, ...]) -> Tensor:
    """Compute the attention weights from each latent to each latent.

    Args:
        attention: The attention layer.
        latents: The latents ``(batch, latents, latent_dim)`` before the layer.
        heads: The indices of the heads.

    Returns:
        The weights ``(batch, heads, latents, latents)`` in float32; rows sum to 1.
    """
    weight = rearrange(
        attention.to_query_key_value.weight,
        "(three heads width) channels -> three heads width channels",
        three=3,
        heads=attention.num_heads,
    )
    query_key_weight = rearrange(weight[:2, list(heads)], "two heads width channels -> (two heads width) channels")
    queries, keys = rearrange(
        functional.linear(attention.norm(latents), query_key_weight),
        "batch latents (two heads width) -> two batch heads latents width",
        two=2,
        heads=len(heads),
    )
    scores = torch.matmul(queries, keys.transpose(-1, -2)).float() * attention.scale
    weights: Tensor = scores.softmax(dim=-1)
    return weights
