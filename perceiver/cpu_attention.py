"""Attention of which the queries alone want a gradient, on a processor.

Where nothing learned stands before the inputs, and the inputs are both keys and values, the backward pass needs
neither keys' nor values' gradient. With ``P`` the weights, ``dO`` the gradient of the answers ``O`` and ``x`` the
inputs, it is

    dQ = scale * (P * (dO x^T - D)) x,    D = sum over channels of dO * O:

three products instead of five. It goes through the inputs in blocks that stay in the cache; the forward pass
leaves the logarithm of each row's sum, so that a block of ``P`` is one exponential.

Two more channels hold the subtractions: each input gets two ones, a query minus the logarithm and ``dO`` minus
``D``, each as its rounded value and the rest. A product then ends with the difference, which no rounding of a
large score to bfloat16 has spoilt. One more channel holds a large negative number where an input is padding.
"""

import torch
from torch import Tensor
from torch.library import custom_op

# Numbers in a block of weights: 512 latents by 1,024 inputs in float32 are 2 MiB, a core's second cache.
BLOCK_ELEMENTS = 512 * 1024
# Up to here the blocks cost more than they save: 256 examples with 64 queries of width 30 take 1.4 to 2 times
# as long at 196 inputs and 1/1.4 to 1/2 of the time at 784.
FEW_INPUTS = 256
# exp(-3e4) is 0 in every precision, and float16 still holds it.
FAR_BELOW = -3e4
EXTRA_CHANNELS = 3


def needs_query_gradient_alone(queries: Tensor, inputs: Tensor) -> bool:
    """Say whether ``attend_fixed`` computes what is asked for, and faster than the fused attention.

    Args:
        queries: that have come so far.
        inputs: ``(..., inputs, channels)``, key and value at once.
    """
    if queries.device.type != "cpu" or torch.compiler.is_exporting():
        return False
    wanted = torch.is_grad_enabled() and queries.requires_grad and not inputs.requires_grad
    return wanted and inputs.shape[-2] > FEW_INPUTS


def attend_fixed(queries: Tensor, inputs: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Compute ``softmax(scale * queries inputs^T) inputs``; no gradient goes to the inputs.

    Args:
        queries: ``(batch, queries, channels)``.
        inputs: ``(batch, inputs, channels)`` of the same type.
        mask: ``(batch, inputs)``, True where an input may be read.
        scale: factor of the scores.

    Returns:
        ``(batch, queries, channels)``.
    """
    answers: Tensor = _attend(queries, inputs, mask, scale)[0]
    return answers


@custom_op("perceiver::attend_fixed", mutates_args=())
def _attend(queries: Tensor, inputs: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    bias = None
    if mask is not None:
        bias = torch.zeros(mask.shape, dtype=queries.dtype).masked_fill_(~mask, -torch.inf)[:, None, None, :]
    alone = inputs.unsqueeze(1)
    # What scaled_dot_product_attention calls on a processor; only this name gives the logarithms too.
    answers, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        queries.unsqueeze(1), alone, alone, attn_mask=bias, scale=scale
    )
    return answers.squeeze(1).contiguous(), log_sums.squeeze(1).contiguous()


@_attend.register_fake
def _describe_answers(queries: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(queries.dtype, torch.float32)
    return torch.empty_like(queries), queries.new_empty(queries.shape[:2], dtype=dtype)


@custom_op("perceiver::attend_fixed_backward", mutates_args=())
def _compute_query_gradient(
    gradient: Tensor,
    queries: Tensor,
    inputs: Tensor,
    mask: Tensor | None,
    scale: float,
    answers: Tensor,
    log_sums: Tensor,
) -> Tensor:
    batch, num_queries, channels = queries.shape
    num_inputs = inputs.shape[1]
    sums = (gradient.to(log_sums.dtype) * answers).sum(dim=-1)
    block_inputs = min(num_inputs, max(256, BLOCK_ELEMENTS // num_queries))
    block_batch = min(batch, max(1, BLOCK_ELEMENTS // (num_queries * block_inputs)))
    result = torch.empty_like(queries)
    with torch.autocast("cpu", enabled=False):  # the blocks have the type they came in
        for start in range(0, batch, block_batch):
            examples = slice(start, start + block_batch)
            asked = _append(queries[examples] * scale, -log_sums[examples], 1.0)
            wanted = _append(gradient[examples], -sums[examples], 0.0)
            found = torch.zeros(queries[examples].shape, dtype=log_sums.dtype)
            # Laid out for products: an input's channels and then the extra ones.
            block = inputs.new_ones(len(asked), block_inputs, channels + EXTRA_CHANNELS)
            block[..., -1] = 0
            for first in range(0, num_inputs, block_inputs):
                places = slice(first, min(first + block_inputs, num_inputs))
                if first == 0 or places.stop - first < block_inputs:
                    block = block[:, : places.stop - first]
                    # The same memory for all blocks: new pages would cost more than the products.
                    weights, products = (inputs.new_empty(len(asked), num_queries, block.shape[1]) for _ in range(2))
                block[..., :channels] = inputs[examples, places]
                if mask is not None:
                    block[..., -1] = FAR_BELOW * (~mask[examples, places]).to(block.dtype)
                torch.bmm(asked, block.transpose(1, 2), out=weights)
                torch.bmm(wanted, block.transpose(1, 2), out=products)
                found += torch.bmm(weights.exp_().mul_(products), block)[..., :channels]
            result[examples] = found * scale
    return result


def _append(rows: Tensor, subtracted: Tensor, masked: float) -> Tensor:
    """Append the channels that meet the two ones and the mask of an input."""
    rounded = subtracted.to(rows.dtype)
    rest = (subtracted - rounded).to(rows.dtype)
    return torch.cat([rows, torch.stack([rounded, rest, torch.full_like(rounded, masked)], dim=-1)], dim=-1)


@_compute_query_gradient.register_fake
def _describe_gradient(_: Tensor, queries: Tensor, *__: object) -> Tensor:
    return torch.empty_like(queries)


def _keep(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    queries, keys, mask, scale = inputs
    ctx.save_for_backward(queries, keys, mask, *output)
    ctx.scale = scale


def _differentiate(ctx, gradient, _):  # type: ignore[no-untyped-def]
    queries, inputs, mask, answers, log_sums = ctx.saved_tensors
    found = _compute_query_gradient(gradient, queries, inputs, mask, ctx.scale, answers, log_sums)
    return found, None, None, None


_attend.register_autograd(_differentiate, setup_context=_keep)
