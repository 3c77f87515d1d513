"""Baselines of a Perceiver that reads all slices of a scan: networks of slices with a pooling, and 3-D networks.

Source:
    Ilse, Tomczak and Welling 2018, arXiv 1802.04712, equation 9 (gated attention).
"""

import math
from typing import Literal

import torch
from torch import nn

from perceiver.volumes import apply_to_slices, sort_slices

PoolingName = Literal["mean", "max", "top3", "attention"]
# The length of a slice's embedding, and of the hidden layer of the attention.
EMBEDDING = 64
TOP = 3


class PooledSlices(nn.Module):
    """A network of slices and the pooling of its answers to one answer a scan.

    Args:
        network: A network from slices ``(slices, 1, height, width)`` to their logits, or for attention to embeddings
            ``(slices, EMBEDDING)``.
        pooling: mean, max or top3: each logit's mean, maximum or mean of the three largest over the slices. attention:
            the mean of the embeddings, weighted by an attention that is learned, then a linear layer.
        num_classes: The number of logits.
    """

    def __init__(self, network: nn.Module, pooling: PoolingName, num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.pooling = pooling
        if pooling == "attention":
            self.content, self.gate = nn.Linear(EMBEDDING, EMBEDDING), nn.Linear(EMBEDDING, EMBEDDING)
            self.score = nn.Linear(EMBEDDING, 1)
            self.head = nn.Linear(EMBEDDING, num_classes)

    def forward(self, volumes: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Turn normalised slices and their places into logits.

        Args:
            volumes: The slices, ``(batch, slices, height, width)``.
            places: The place of each slice, ``(batch, slices, 3)``; NaN for padding, and not read otherwise.

        Returns:
            Logits ``(batch, classes)``.
        """
        is_padding = places[..., 0].isnan()
        answers = apply_to_slices(self.network, volumes, is_padding)
        if self.pooling == "attention":
            weights = self.weigh(answers, is_padding)
            logits: torch.Tensor = self.head(torch.einsum("bs,bse->be", weights, answers))
            return logits
        return pool_logits(answers, is_padding, self.pooling)

    def weigh_slices(self, volumes: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Return the attention to each slice, ``(batch, slices)``; arguments are those of ``forward``."""
        is_padding = places[..., 0].isnan()
        return self.weigh(apply_to_slices(self.network, volumes, is_padding), is_padding)

    def weigh(self, embeddings: torch.Tensor, is_padding: torch.Tensor) -> torch.Tensor:
        """Return the weight of each slice, ``(batch, slices)``; they sum to 1 over the slices of a scan."""
        scores = self.score(self.content(embeddings).tanh() * self.gate(embeddings).sigmoid())[..., 0]
        weights: torch.Tensor = scores.masked_fill(is_padding, -torch.inf).softmax(dim=1)
        return weights


class ConvolvedVolume(nn.Module):
    """A 3-D network that reads each scan by itself, without padding: batches change no answer.

    Scans of the batch with equally many slices are read together, so that the network's layers must not mix the
    examples of a batch; batch norms would. Slices are in their order along the normal, and their distance is not read.
    A GPU has to tell the processor how many slices each scan has.

    Args:
        network: A network from volumes ``(batch, 1, slices, height, width)`` of any number of slices to logits.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, volumes: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Turn normalised slices and their places into logits ``(batch, classes)``; see ``PooledSlices``."""
        volumes, places = sort_slices(volumes, places)
        num_slices = (~places[..., 0].isnan()).sum(dim=1)
        rows, answers = [], []
        for count in sorted(set(num_slices.tolist())):
            rows.append((num_slices == count).nonzero()[:, 0])
            answers.append(self.network(volumes[rows[-1], None, : max(1, count)]))
        return torch.cat(answers)[torch.cat(rows).argsort()]


def pool_logits(logits: torch.Tensor, is_padding: torch.Tensor, pooling: PoolingName) -> torch.Tensor:
    """Pool the logits of slices to those of their scan.

    Of the logits 1, 5, 3, 4 of four slices the mean is 3.25, the maximum 5 and the mean of the top three 4.

    Args:
        logits: The logits, ``(batch, slices, classes)``.
        is_padding: Whether a slice is padding, ``(batch, slices)``.
        pooling: mean, max or top3.

    Returns:
        Logits ``(batch, classes)``.
    """
    count = (~is_padding).sum(dim=1, keepdim=True).clamp(min=1)
    if pooling == "mean":
        return logits.masked_fill(is_padding[..., None], 0.0).sum(dim=1) / count
    largest = logits.masked_fill(is_padding[..., None], -torch.inf)
    if pooling == "max":
        return largest.amax(dim=1)
    # Padded, so that a scan of one or two slices has a top three as well, and an exported graph needs no other case.
    top = nn.functional.pad(largest, (0, 0, 0, TOP), value=-torch.inf).topk(TOP, dim=1).values
    return top.masked_fill(top.isinf(), 0.0).sum(dim=1) / count.clamp(max=TOP)


def draw_slices(places: torch.Tensor, fraction: float, scores: torch.Tensor) -> torch.Tensor:
    """Draw a subset of the slices of each scan, each subset of its size as likely as any.

    With the fraction 0.5 a scan of 40 slices has 20 of them, one of 11 slices 6, and one of a single slice that one.

    Args:
        places: The places of the slices ``(batch, slices, 3)``; NaN for padding.
        fraction: The fraction that is drawn, rounded, and at least one slice.
        scores: Random numbers in [0, 1), of which those of a scan's slices are compared, ``(batch, slices or more)``.

    Returns:
        (batch, chosen) int64 indices of slices in growing order, then -1 where a scan has fewer than others.
    """
    is_padding = places[..., 0].isnan()
    order = scores[:, : places.shape[1]].masked_fill(is_padding, -1.0).argsort(dim=1, descending=True)
    num_chosen = ((~is_padding).sum(dim=1) * fraction).round().long().clamp(min=1)
    rank = torch.arange(places.shape[1], device=places.device)
    end = places.shape[1]
    # A GPU would have to tell the processor how many slices the largest scan has left; there padding may remain.
    most = int(num_chosen.max()) if places.device.type == "cpu" else min(end, math.ceil(fraction * end))
    kept = torch.where(rank < num_chosen[:, None], order, end).sort(dim=1).values[:, :most]
    return kept.masked_fill(kept == end, -1)


def choose_slices(
    volumes: torch.Tensor, places: torch.Tensor, chosen: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take the chosen slices of each scan.

    Args:
        volumes: The slices, ``(batch, slices, height, width)``.
        places: The place of each slice, ``(batch, slices, 3)``.
        chosen: Their indices, as from ``draw_slices``.

    Returns:
        Both with as many slices as are chosen; what is -1 is padding.
    """
    rows = torch.arange(len(chosen), device=chosen.device)[:, None]
    at = chosen.clamp(min=0)
    return volumes[rows, at], places[rows, at].masked_fill(chosen[..., None] < 0, torch.nan)
