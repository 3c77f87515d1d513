"""Point clouds as sets of inputs, and a Perceiver for point clouds."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from perceiver.config import PerceiverConfig
from perceiver.images import fill_config
from perceiver.model import Perceiver

NUM_AXES = 3


def normalise_points(points: Tensor) -> Tensor:
    """Move the mean of each point cloud to the origin and scale it to fit the cube from -1 to 1 along every axis.

    Moving or scaling a whole point cloud beforehand does not change the result.

    Args:
        points: The points, ``(batch, points, axes)``.

    Returns:
        The points in the same shape, float32: the mean is 0 and the largest absolute coordinate is 1. If all points of
        a point cloud coincide, all its coordinates are 0.

    Source:
        Jaegle 2021, arXiv 2103.03206, section 4.3, "zero-mean and unit-cube normalization".
    """
    centred = points.float() - points.float().mean(dim=1, keepdim=True)
    extent = centred.abs().amax(dim=(1, 2), keepdim=True)
    return centred / torch.where(extent > 0, extent, 1.0)


def point_tokens(points: Tensor) -> tuple[Tensor, Tensor]:
    """Turn point clouds into inputs of a Perceiver: there are no values, and the coordinates are the positions.

    Args:
        points: The points ``(batch, points, axes)``, each coordinate in [-1, 1].

    Returns:
        Values ``(batch, points, 0)`` and positions ``(batch, points, axes)``.
    """
    return points.narrow(-1, 0, 0), points


class PointPerceiver(nn.Module):
    """A Perceiver for point clouds of any number of points.

    Args:
        config: The configuration of the Perceiver. A point cloud has no resolution, so Fourier features need
            ``max_freq`` for each of three axes, and learned positions need the ``axis_sizes`` of the grid to which
            points are rounded.
        num_classes: The number of logits.
    """

    def __init__(self, config: PerceiverConfig, *, num_classes: int) -> None:
        super().__init__()
        required_field = "axis_sizes" if config.positions == "learned" else "max_freq"
        field_value = getattr(config, required_field)
        if field_value is None or len(field_value) != NUM_AXES:
            raise ValueError(
                f"PerceiverConfig.{required_field}: found {field_value}, but a point cloud has no resolution "
                f"to derive it from; allowed are {NUM_AXES} numbers, e.g. "
                f"{(32, 32, 32) if required_field == 'axis_sizes' else (64.0, 64.0, 64.0)}"
            )
        data_fields: dict[str, Any] = {"input_channels": 0, "num_classes": num_classes}
        self.perceiver = Perceiver(fill_config(config, data_fields))

    def forward(self, points: Tensor, padding: Tensor | None = None, chosen_inputs: Tensor | None = None) -> Tensor:
        """Classify point clouds.

        Args:
            points: The points ``(batch, points, 3)``, of a floating-point type, each coordinate in [-1, 1]; see
                ``normalise_points``.
            padding: A boolean mask ``(batch, points)``, True for a point to ignore; None for no padding.
            chosen_inputs: The places ``(batch, chosen)``, int64, of the points that are read; None for all.

        Returns:
            The logits, ``(batch, classes)``.

        Raises:
            ValueError: The points have another shape.
        """
        logits: Tensor = self.perceiver(*self.tokenise(points), padding, chosen_inputs)
        return logits

    def attention_maps(
        self,
        points: Tensor,
        padding: Tensor | None = None,
        *,
        kind: Literal["cross", "self"] = "cross",
        layers: tuple[int, ...] = (0,),
        heads: tuple[int, ...] | None = None,
    ) -> dict[int, Tensor]:
        """Compute the attention weights of the latents; see ``PerceiverEncoder.attention_maps``.

        Args:
            points: The points, as for ``forward``.
            padding: The mask of the padding, as for ``forward``.
            kind: The kind of attention. cross: to the points. self: to the latents.
            layers: The indices of the attentions of this kind, counted from 0.
            heads: The indices of the heads; None for all.

        Returns:
            For each layer the weights ``(batch, heads, latents, points or latents)``; rows sum to 1.
        """
        return self.perceiver.attention_maps(*self.tokenise(points), padding, kind=kind, layers=layers, heads=heads)

    def tokenise(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Turn points into the values and positions that ``point_tokens`` returns.

        Args:
            points: The points, as for ``forward``.
        """
        if points.ndim != 3 or points.shape[2] != NUM_AXES:
            raise ValueError(
                f"PointPerceiver points: found shape {tuple(points.shape)}, allowed is (batch, points, {NUM_AXES})"
            )
        return point_tokens(points)
