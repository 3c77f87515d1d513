"""Cross-attention to the inputs and self-attention among the latents.

Cross-attention is computed in one of two ways, with the same result. With ``x`` an input normalised to mean 0 and
standard deviation 1, and ``g`` and ``s`` the gain and shift of the layer, a key is ``W_k (g x + s)``. Its score with a
query ``q`` is

    q . W_k (g x + s) = (g W_k^T q) . x + constant,

and a constant does not change the softmax over the inputs. The weights ``w_i`` sum to 1, so the result is

    sum_i w_i W_v (g x_i + s) = (W_v g) sum_i w_i x_i + W_v s.

Where ``x`` has no more channels than a head, the right-hand sides are cheaper: the queries are mapped into the space of
the inputs, and ``x`` itself is key and value of every head of every layer. No other tensor of the size of the inputs is
computed or kept.
"""

from typing import NamedTuple

import torch
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.nn import functional

from perceiver.cpu_attention import attend_without_input_gradient, inputs_need_no_gradient

CHANNEL_MULTIPLE = 8


class KeysValues(NamedTuple):
    """Keys and values of a cross-attention.

    ``keys`` and ``values`` are ``(batch, heads, inputs, head_dim)`` if ``projected`` is True; otherwise both are the
    normalised inputs, ``(batch, 1, inputs, channels)``.
    """

    keys: Tensor
    values: Tensor
    projected: bool


def normalise_inputs(inputs: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Scale each input to mean 0 and standard deviation 1 over its channels, once for all layers.

    Mean and standard deviation are computed in at least float32, so that no large input overflows. Under autocast the
    result has the lower precision, so that no layer casts it again. For a GPU channels of zeros are appended, see
    ``pad_channels``.

    Args:
        inputs: The inputs, ``(batch, inputs, channels)``.
        dtype: The type of the result outside of autocast; None for the type of the inputs.

    Returns:
        The scaled inputs ``(batch, inputs, channels)``; on a GPU the channels may be a few more.
    """
    exact = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    normalised = functional.layer_norm(exact, inputs.shape[-1:])
    # Autocast refuses to be asked about tensors without memory.
    if inputs.device.type != "meta" and torch.is_autocast_enabled(inputs.device.type):
        normalised = normalised.to(torch.get_autocast_dtype(inputs.device.type))
    else:
        normalised = normalised.to(inputs.dtype if dtype is None else dtype)
    return pad_channels(normalised) if inputs.device.type == "cuda" else normalised


def pad_channels(inputs: Tensor) -> Tensor:
    """Append channels of zeros up to a multiple of eight, which change neither scores nor, left out again, answers.

    Torch's kernels for GPUs want such widths. Of 27 channels they would pad keys and values in each layer, and in
    float32, or with a mask, compute the whole matrix of weights.

    Args:
        inputs: The normalised inputs, ``(batch, inputs, channels)``.

    Source:
        Torch, ``aten/src/ATen/native/transformers/cuda/sdp_utils.cpp``, ``check_head_dim_size_mem_efficient``.
    """
    missing = -inputs.shape[-1] % CHANNEL_MULTIPLE
    return functional.pad(inputs, (0, missing)) if missing > 0 else inputs


def prefers_explicit_softmax(queries: Tensor, keys: Tensor) -> bool:
    """Return whether ``attend`` should compute the attention weights as a matrix.

    The matrix is faster in one case: training in bfloat16 on a CPU with few keys, where the fused backward pass takes
    up to seven times as long (64 examples, 4 heads, 32 latents, width 32, on one core with AMX: 20.1 ms against 2.9 ms
    for forward and backward; equal at 512 keys). An exported graph always uses the fused attention.

    Args:
        queries: The queries, ``(batch, heads, latents, width)``.
        keys: The keys, ``(batch, heads, inputs, width)``.
    """
    if torch.compiler.is_exporting():
        return False
    trains_in_bfloat16 = queries.device.type == "cpu" and queries.dtype == torch.bfloat16 and torch.is_grad_enabled()
    return trains_in_bfloat16 and keys.shape[-2] <= 256


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float, scale: float) -> Tensor:
    """Compute ``softmax(scale * queries keys^T) values``.

    Args:
        queries: The queries, ``(batch, heads, latents, width)``.
        keys: The keys, ``(batch, heads, inputs, width)``.
        values: The values, ``(batch, heads, inputs, width)``.
        mask: A mask ``(batch, 1, 1, inputs)``, True for an input to attend to; None for all inputs.
        dropout: The fraction of the attention weights that is dropped.
        scale: The factor of the scores.

    Returns:
        The weighted means of the values, ``(batch, heads, latents, width)``.
    """
    if not prefers_explicit_softmax(queries, keys):
        return functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, dropout_p=dropout, scale=scale
        )
    scores = torch.matmul(queries * scale, keys.transpose(-1, -2))
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = functional.dropout(scores.softmax(dim=-1), dropout)
    return torch.matmul(weights.to(values.dtype), values)


class CrossAttention(nn.Module):
    """Attention of the latents (queries) to the inputs (keys and values).

    The layer norm comes first (pre-norm); the caller adds the residual.

    Args:
        latent_dim: The number of channels of a latent.
        input_channels: The number of channels of an input, positions included.
        num_heads: The number of heads.
        head_dim: The number of channels of a head.
        dropout: The fraction of the result that is dropped in training.
        attention_dropout: The fraction of the attention weights that is dropped in training.
    """

    def __init__(
        self,
        latent_dim: int,
        input_channels: int,
        num_heads: int,
        head_dim: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        self.fits_input_space = input_channels <= head_dim
        self.scale = head_dim**-0.5
        self.query_norm = nn.LayerNorm(latent_dim)
        self.input_gain = nn.Parameter(torch.ones(input_channels))
        self.input_shift = nn.Parameter(torch.zeros(input_channels))
        self.to_query = nn.Linear(latent_dim, num_heads * head_dim, bias=False)
        self.to_key = nn.Linear(input_channels, num_heads * head_dim, bias=False)
        self.to_value = nn.Linear(input_channels, num_heads * head_dim, bias=False)
        self.to_out = nn.Linear(num_heads * head_dim, latent_dim)
        self.dropout = nn.Dropout(dropout)

    def weigh_channels(self, weight: Tensor, num_channels: int) -> Tensor:
        """Multiply a weight for keys or values by the gain of the inputs, with zeros for channels that are padding.

        Args:
            weight: The weight, ``(heads * width, channels)``.
            num_channels: The number of channels that the inputs have, padding included.

        Returns:
            The weight of ``normalise_inputs``'s result, ``(heads * width, num_channels)``.
        """
        weighed = weight * self.input_gain
        missing = num_channels - weighed.shape[-1]
        return functional.pad(weighed, (0, missing)) if missing > 0 else weighed

    def project_inputs(self, inputs: Tensor) -> KeysValues:
        """Compute keys and values; in input space both are the inputs themselves.

        Dropped attention weights no longer sum to 1, so attention dropout in training needs the projection.

        Args:
            inputs: The inputs ``(batch, inputs, channels)`` as returned by ``normalise_inputs``.
        """
        if self.fits_input_space and not (self.training and self.attention_dropout > 0):
            one_head = inputs.unsqueeze(1)
            return KeysValues(one_head, one_head, projected=False)
        keys = functional.linear(inputs, self.weigh_channels(self.to_key.weight, inputs.shape[-1]))
        shift = self.to_value.weight @ self.input_shift
        values = functional.linear(inputs, self.weigh_channels(self.to_value.weight, inputs.shape[-1]), shift)
        split_heads = "batch inputs (heads width) -> batch heads inputs width"
        return KeysValues(
            rearrange(keys, split_heads, heads=self.num_heads),
            rearrange(values, split_heads, heads=self.num_heads),
            projected=True,
        )

    def forward(self, latents: Tensor, keys_values: KeysValues, mask: Tensor | None = None) -> Tensor:
        """Compute the attention of each latent to the inputs.

        Args:
            latents: The latents, ``(batch, latents, latent_dim)``.
            keys_values: The result of ``project_inputs`` of this layer.
            mask: A mask ``(batch, 1, 1, inputs)``, True for an input to attend to; None for all inputs.

        Returns:
            The update of the latents, ``(batch, latents, latent_dim)``.
        """
        queries = self.to_query(self.query_norm(latents))
        attended = (
            self._attend_projected(queries, keys_values, mask)
            if keys_values.projected
            else self._attend_in_input_space(queries, keys_values, mask)
        )
        result: Tensor = self.dropout(self.to_out(attended))
        return result

    def _attend_projected(self, queries: Tensor, keys_values: KeysValues, mask: Tensor | None) -> Tensor:
        queries = rearrange(queries, "batch latents (heads width) -> batch heads latents width", heads=self.num_heads)
        dropout = self.attention_dropout if self.training else 0.0
        attended = attend(queries, keys_values.keys, keys_values.values, mask, dropout, self.scale)
        return rearrange(attended, "batch heads latents width -> batch latents (heads width)")

    def _attend_in_input_space(self, queries: Tensor, keys_values: KeysValues, mask: Tensor | None) -> Tensor:
        heads, num_channels = self.num_heads, keys_values.keys.shape[-1]
        key_weight, value_weight = (
            rearrange(self.weigh_channels(weight, num_channels), "(heads width) c -> heads width c", heads=heads)
            for weight in (self.to_key.weight, self.to_value.weight)
        )
        queries = rearrange(queries, "batch latents (heads width) -> batch latents heads width", heads=heads)
        queries = einsum(queries, key_weight, "batch latents heads width, heads width c -> batch heads latents c")
        # All heads share the keys, so the heads become further queries of a single head and the inputs are read once.
        queries = rearrange(queries, "batch heads latents c -> batch 1 (heads latents) c")
        if inputs_need_no_gradient(queries, keys_values.keys):
            input_mask = None if mask is None else mask[:, 0, 0]
            attended = attend_without_input_gradient(
                queries[:, 0], keys_values.keys[:, 0], input_mask, self.scale
            ).unsqueeze(1)
        else:
            attended = attend(queries, keys_values.keys, keys_values.values, mask, 0.0, self.scale)
        attended = rearrange(attended, "batch 1 (heads latents) c -> batch heads latents c", heads=heads)
        attended = einsum(attended, value_weight, "batch heads latents c, heads width c -> batch latents heads width")
        attended = rearrange(attended, "batch latents heads width -> batch latents (heads width)")
        return attended + self.to_value.weight @ self.input_shift


class SelfAttention(nn.Module):
    """Attention among the latents.

    The layer norm comes first (pre-norm); the caller adds the residual.

    Args:
        latent_dim: The number of channels of a latent.
        num_heads: The number of heads.
        head_dim: The number of channels of a head.
        dropout: The fraction of the result that is dropped in training.
        attention_dropout: The fraction of the attention weights that is dropped in training.
    """

    def __init__(
        self,
        latent_dim: int,
        num_heads: int,
        head_dim: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        self.scale = head_dim**-0.5
        self.norm = nn.LayerNorm(latent_dim)
        self.to_query_key_value = nn.Linear(latent_dim, 3 * num_heads * head_dim, bias=False)
        self.to_out = nn.Linear(num_heads * head_dim, latent_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, latents: Tensor) -> Tensor:
        """Map ``(batch, latents, latent_dim)`` to the same shape."""
        queries, keys, values = rearrange(
            self.to_query_key_value(self.norm(latents)),
            "batch latents (three heads width) -> three batch heads latents width",
            three=3,
            heads=self.num_heads,
        )
        dropout = self.attention_dropout if self.training else 0.0
        attended = attend(queries, keys, values, None, dropout, self.scale)
        attended = rearrange(attended, "batch heads latents width -> batch latents (heads width)")
        result: Tensor = self.dropout(self.to_out(attended))
        return result
