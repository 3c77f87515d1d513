"""Attention on a CPU with a faster backward pass for inputs without a gradient.

If no learned layer precedes the inputs, and the inputs are both keys and values, the backward pass needs the gradient
of the queries alone. With ``P`` the attention weights, ``dO`` the gradient of the output ``O`` and ``x`` the inputs,
it is

    dQ = scale * (P * (dO x^T - D)) x,    D = sum over channels of dO * O:

three matrix products instead of five. The inputs are processed in blocks that fit into the cache. The forward pass
saves the logarithm of the sum of each row, so that a block of ``P`` is one exponential.

Two extra channels compute the subtractions within the matrix products: both are 1 in each input, and hold minus the
logarithm in a query and ``-D`` in ``dO``, each as its rounded value and the remainder. The products then are the
differences, without an intermediate rounding of a large score to bfloat16. A third extra channel holds a large negative
number in each input that is padding.
"""

import torch
from torch import Tensor
from torch.func import debug_unwrap
from torch.library import custom_op

# The size of a block of attention weights: 512 latents by 1,024 inputs in float32 are 2 MiB, the L2 cache of a core.
BLOCK_ELEMENTS = 512 * 1024
# Up to this number of inputs the blocks cost more time than they save: 256 examples with 64 queries of width 30 take
# 1.4 to 2 times as long at 196 inputs and 1/1.4 to 1/2 of the time at 784.
MAX_INPUTS_FOR_FUSED_BACKWARD = 256
# exp(-3e4) is 0 in every precision, and float16 can represent -3e4.
MASKED_SCORE = -3e4
NUM_EXTRA_CHANNELS = 3


def all_derivatives_are_asked_for() -> bool:
    """Return whether the call is within ``sdpa_kernel(SDPBackend.MATH)``.

    Torch's fused attention has first derivatives alone, in reverse mode. Within that context everything is computed in
    operators that also have second derivatives and forward mode, and more slowly.
    """
    return not (torch.compiler.is_compiling() or torch.backends.cuda.flash_sdp_enabled())  # type: ignore[no-untyped-call]


def inputs_need_no_gradient(queries: Tensor, inputs: Tensor) -> bool:
    """Return whether ``attend_without_input_gradient`` applies and is faster than the fused attention.

    Args:
        queries: The queries, mapped into the space of the inputs.
        inputs: The inputs ``(..., inputs, channels)``, which are both keys and values.
    """
    if queries.device.type != "cpu" or torch.compiler.is_exporting():
        return False
    if all_derivatives_are_asked_for():
        return False
    if not torch.compiler.is_compiling() and debug_unwrap(queries) is not queries:  # within torch.func.grad or vmap
        return False
    only_queries_train = torch.is_grad_enabled() and queries.requires_grad and not inputs.requires_grad
    return only_queries_train and inputs.shape[-2] > MAX_INPUTS_FOR_FUSED_BACKWARD


def attend_without_input_gradient(queries: Tensor, inputs: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Compute ``softmax(scale * queries inputs^T) inputs``, without a gradient for the inputs.

    Args:
        queries: The queries, ``(batch, queries, channels)``.
        inputs: The inputs ``(batch, inputs, channels)``, of the same type as the queries.
        mask: A mask ``(batch, inputs)``, True for an input to attend to; None for all inputs.
        scale: The factor of the scores.

    Returns:
        The weighted means of the inputs, ``(batch, queries, channels)``.
    """
    attended: Tensor = _attend(queries, inputs, mask, scale)[0]
    return attended


@custom_op("perceiver::attend_without_input_gradient", mutates_args=())
def _attend(queries: Tensor, inputs: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    bias = None
    if mask is not None:
        bias = torch.zeros(mask.shape, dtype=queries.dtype).masked_fill_(~mask, -torch.inf)[:, None, None, :]
    one_head = inputs.unsqueeze(1)
    # scaled_dot_product_attention calls this operator on a CPU; only the operator itself also returns the logarithms.
    attended, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        queries.unsqueeze(1), one_head, one_head, attn_mask=bias, scale=scale
    )
    return attended.squeeze(1).contiguous(), log_sums.squeeze(1).contiguous()


@_attend.register_fake
def _fake_attend(queries: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(queries.dtype, torch.float32)
    return torch.empty_like(queries), queries.new_empty(queries.shape[:2], dtype=dtype)


@custom_op("perceiver::attend_without_input_gradient_backward", mutates_args=())
def _compute_query_gradient(
    gradient: Tensor,
    queries: Tensor,
    inputs: Tensor,
    mask: Tensor | None,
    scale: float,
    attended: Tensor,
    log_sums: Tensor,
) -> Tensor:
    batch, num_queries, channels = queries.shape
    num_inputs = inputs.shape[1]
    gradient_dot_output = (gradient.to(log_sums.dtype) * attended).sum(dim=-1)
    block_inputs = min(num_inputs, max(256, BLOCK_ELEMENTS // num_queries))
    block_batch = max(1, min(batch, BLOCK_ELEMENTS // (num_queries * block_inputs)))
    query_gradient = torch.empty_like(queries)
    # Scaled queries of bfloat16 would be rounded again, and their weights would not match the logarithms of the forward
    # pass; the scores are scaled instead, in float32.
    scales_scores = queries.dtype != log_sums.dtype
    with torch.autocast("cpu", enabled=False):  # the blocks keep the type of the inputs
        for example_start in range(0, batch, block_batch):
            examples = slice(example_start, example_start + block_batch)
            if scales_scores:
                extended_queries = _append_channels(queries[examples], log_sums[examples] / -scale, 1.0)
            else:
                extended_queries = _append_channels(queries[examples] * scale, -log_sums[examples], 1.0)
            extended_gradient = _append_channels(gradient[examples], -gradient_dot_output[examples], 0.0)
            unscaled_gradient = torch.zeros(queries[examples].shape, dtype=log_sums.dtype)
            # The channels of each input, followed by the extra channels.
            block = inputs.new_ones(len(extended_queries), block_inputs, channels + NUM_EXTRA_CHANNELS)
            block[..., -1] = 0
            for input_start in range(0, num_inputs, block_inputs):
                input_range = slice(input_start, min(input_start + block_inputs, num_inputs))
                if input_start == 0 or input_range.stop - input_start < block_inputs:
                    block = block[:, : input_range.stop - input_start]
                    # All blocks reuse the same memory: allocating new pages would take longer than the products.
                    weights, products = (
                        inputs.new_empty(len(extended_queries), num_queries, block.shape[1]) for _ in range(2)
                    )
                block[..., :channels] = inputs[examples, input_range]
                if mask is not None:
                    block[..., -1] = MASKED_SCORE * (~mask[examples, input_range]).to(block.dtype)
                torch.bmm(extended_queries, block.transpose(1, 2), out=weights)
                torch.bmm(extended_gradient, block.transpose(1, 2), out=products)
                exact = weights.to(log_sums.dtype).mul_(scale) if scales_scores else weights
                weighted = exact.exp_().mul_(products).to(block.dtype)
                unscaled_gradient += torch.bmm(weighted, block)[..., :channels]
            query_gradient[examples] = unscaled_gradient * scale
    return query_gradient


def _append_channels(rows: Tensor, offsets: Tensor, mask_value: float) -> Tensor:
    """Append the channels that are multiplied by the two ones and the mask of an input."""
    rounded = offsets.to(rows.dtype)
    rest = (offsets - rounded).to(rows.dtype)
    return torch.cat([rows, torch.stack([rounded, rest, torch.full_like(rounded, mask_value)], dim=-1)], dim=-1)


def _compute_differentiable_query_gradient(
    gradient: Tensor, queries: Tensor, inputs: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """Compute what ``_compute_query_gradient`` does, with the whole matrix of weights, in operators with gradients."""
    transposed = inputs.transpose(1, 2)
    scores = queries @ transposed * scale
    if mask is not None:
        scores = scores.masked_fill(~mask.unsqueeze(1), -torch.inf)
    weights = scores.softmax(dim=-1)
    products = gradient @ transposed
    differences = products - (weights * products).sum(dim=-1, keepdim=True)
    return scale * (weights * differences) @ inputs


@_compute_query_gradient.register_fake
def _fake_query_gradient(_: Tensor, queries: Tensor, *__: object) -> Tensor:
    return torch.empty_like(queries)


def _save_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    queries, keys, mask, scale = inputs
    ctx.save_for_backward(queries, keys, mask, *output)
    ctx.scale = scale


def _backward(ctx, gradient, _):  # type: ignore[no-untyped-def]
    queries, inputs, mask, attended, log_sums = ctx.saved_tensors
    if torch.is_grad_enabled():  # a gradient of this gradient will be asked for
        return _compute_differentiable_query_gradient(gradient, queries, inputs, mask, ctx.scale), None, None, None
    query_gradient = _compute_query_gradient(gradient, queries, inputs, mask, ctx.scale, attended, log_sums)
    return query_gradient, None, None, None


_attend.register_autograd(_backward, setup_context=_save_for_backward)
