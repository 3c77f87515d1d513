"""The feed-forward layer after each attention."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional


def geglu(hidden: Tensor) -> Tensor:
    """Multiply the first half of the channels by the GELU of the second half.

    The **second** half is the gate: ``(a, b) -> a * gelu(b)``, so 2 * width channels become width.

    Args:
        hidden: ``(..., 2 * width)``.

    Returns:
        ``(..., width)``.

    Source:
        Shazeer 2020, arXiv 2002.05202, which leaves the order of the halves open.
    """
    linear, gate = hidden.chunk(2, dim=-1)
    return linear * functional.gelu(gate)


class FeedForward(nn.Module):
    """Pre-norm feed-forward layer: norm, widen, activate, drop, narrow, drop.

    ``width = widening * dim`` is what the last product reads. With GEGLU the first product gives
    2 * width channels, so it has more weights than GELU at the same widening.

    Args:
        dim: channels in and out.
        widening: hidden width in multiples of ``dim``.
        activation: geglu or gelu.
        dropout: share of activations dropped in training.
    """

    def __init__(self, dim: int, widening: int, activation: Literal["geglu", "gelu"], dropout: float) -> None:
        super().__init__()
        self.gated = activation == "geglu"
        width = widening * dim
        self.norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, 2 * width if self.gated else width)
        self.narrow = nn.Linear(width, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, latents: Tensor) -> Tensor:
        """Map ``(batch, latents, dim)`` to the same shape; the caller adds the residual."""
        hidden = self.widen(self.norm(latents))
        activated = geglu(hidden) if self.gated else functional.gelu(hidden)
        narrowed: Tensor = self.dropout(self.narrow(self.dropout(activated)))
        return narrowed
