"""The feed-forward layer after each attention."""

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from perceiver.cpu_attention import all_derivatives_are_asked_for


def geglu(hidden: Tensor) -> Tensor:
    """Multiply the first half of the channels by the GELU of the second half.

    The **second** half is the gate: ``(a, b) -> a * gelu(b)``, so 2 * width channels become width channels.

    Args:
        hidden: The activations, ``(..., 2 * width)``.

    Returns:
        The gated activations, ``(..., width)``.

    Source:
        Shazeer 2020, arXiv 2002.05202, which leaves the order of the halves open.
    """
    linear, gate = hidden.chunk(2, dim=-1)
    return linear * functional.gelu(gate)


class GegluLinear(torch.autograd.Function):
    """``geglu`` followed by a linear layer, which keeps its input alone for the backward pass.

    The backward pass computes the gate and the product of the halves again; together they are as large as the input.
    That takes two passes over a matrix, in addition to the products with the weights.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Compute ``linear(geglu(hidden), weight, bias)`` in the type of ``hidden``.

        Autocast would keep its copy of the weight; making the copy again takes a hundredth of the step.

        Args:
            hidden: The activations, ``(..., 2 * width)``.
            weight: The weight of the linear layer, ``(outputs, width)``.
            bias: The bias of the linear layer, ``(outputs,)``.

        Returns:
            The output of the linear layer, ``(..., outputs)``.
        """
        return functional.linear(geglu(hidden), weight.to(hidden.dtype), bias.to(hidden.dtype))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004
        """Save the input and the weight."""
        hidden, weight, _ = inputs
        ctx.save_for_backward(hidden, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the gradients of ``hidden``, ``weight`` and ``bias``."""
        hidden, weight = ctx.saved_tensors
        linear, gate = hidden.chunk(2, dim=-1)
        gate_activation = functional.gelu(gate)
        if torch.is_grad_enabled():  # a gradient of these gradients will be asked for: nothing is changed in place
            activated_gradient = gradient @ weight.to(gradient.dtype)
            gate_gradient = torch.ops.aten.gelu_backward(activated_gradient * linear, gate)
            return (
                torch.cat([gate_activation * activated_gradient, gate_gradient], dim=-1),
                gradient.flatten(0, -2).t() @ (linear * gate_activation).flatten(0, -2),
                gradient.flatten(0, -2).sum(dim=0),
            )
        gradient_rows = gradient.flatten(0, -2)
        weight_gradient = gradient_rows.t() @ (linear * gate_activation).flatten(0, -2)
        activated_gradient = gradient @ weight.to(gradient.dtype)
        # The halves are written in place, because concatenating them would hold both twice.
        hidden_gradient = torch.empty_like(hidden)
        hidden_gradient[..., : linear.shape[-1]] = gate_activation.mul_(activated_gradient)
        hidden_gradient[..., linear.shape[-1] :] = torch.ops.aten.gelu_backward(activated_gradient.mul_(linear), gate)
        return hidden_gradient, weight_gradient, gradient_rows.sum(dim=0)


class FeedForward(nn.Module):
    """Pre-norm feed-forward layer: norm, widen, activate, drop, narrow, drop.

    The last linear layer has ``width = widening * dim`` input channels. With GEGLU the first one has 2 * width output
    channels, so it has more weights than with GELU at the same widening.

    Args:
        dim: The number of channels of input and output.
        widening: The hidden width, in multiples of ``dim``.
        activation: The activation, geglu or gelu.
        dropout: The fraction of activations that is dropped in training.
        checkpointed: Whether the backward pass computes the layer again instead of keeping its activations.
    """

    def __init__(
        self,
        dim: int,
        widening: int,
        activation: Literal["geglu", "gelu"],
        dropout: float,
        checkpointed: bool = False,
    ) -> None:
        super().__init__()
        self.checkpointed = checkpointed
        self.gated = activation == "geglu"
        width = widening * dim
        self.norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, 2 * width if self.gated else width)
        self.narrow = nn.Linear(width, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, latents: Tensor) -> Tensor:
        """Map ``(batch, latents, dim)`` to the same shape; the caller adds the residual."""
        if self.checkpointed and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(self._transform, latents, use_reentrant=False))
        return self._transform(latents)

    def _transform(self, latents: Tensor) -> Tensor:
        hidden = self.widen(self.norm(latents))
        drops_activations = self.training and self.dropout.p > 0
        if self.gated and not drops_activations and not all_derivatives_are_asked_for():
            product: Tensor = GegluLinear.apply(hidden, self.narrow.weight, self.narrow.bias)  # type: ignore[no-untyped-call]
            return product
        activated = geglu(hidden) if self.gated else functional.gelu(hidden)
        narrowed: Tensor = self.dropout(self.narrow(self.dropout(activated)))
        return narrowed
