"""Random changes of training point clouds, for a whole batch at once and on its device.

A cloud is normalised after it was changed, as in the paper. So scaling or displacing a whole cloud before that is
no change at all: the factors here differ between points or axes, and the displacement comes last.
"""

import math
from dataclasses import dataclass

import torch
from einops import einsum

from pipeline.config.training import AugmentConfig, PointAugmentConfig
from pipeline.config.validation import require

AXES = {"x": 0, "y": 1, "z": 2}


@dataclass(frozen=True)
class PointTransforms:
    """What happens to each cloud of a batch; a field that is None leaves all clouds as they are.

    Args:
        chosen: ``(batch, points)``, the stored points that are taken, some perhaps twice.
        rotation: ``(batch, 3, 3)``, from a column of coordinates to the rotated one.
        stretch: ``(batch, 1, 3)``, on the axes.
        factor: ``(batch, points, 1)``, on each point.
        jitter: ``(batch, points, 3)``, added.
        shift: ``(batch, 1, 3)``, added after normalising.
    """

    chosen: torch.Tensor
    rotation: torch.Tensor | None = None
    stretch: torch.Tensor | None = None
    factor: torch.Tensor | None = None
    jitter: torch.Tensor | None = None
    shift: torch.Tensor | None = None

    def shard(self, rank_slice: slice) -> "PointTransforms":
        """Return the transforms of a device's shard of the batch."""
        return PointTransforms(**{name: field[rank_slice] for name, field in vars(self).items() if field is not None})


def check_point_transforms(config: AugmentConfig) -> None:
    """Refuse changes of pictures that someone asked for: on point clouds they would be passed over in silence.

    Args:
        config: the wish. Rotations and the like of pictures, which are on by default, are not looked at.

    Raises:
        UserError: a mirror, random crops, random erasing, mixup or cutmix.
    """
    for field_name in ("horizontal_flip", "crop_padding", "random_erasing_probability", "mixup_alpha", "cutmix_alpha"):
        found, allowed = getattr(config, field_name), getattr(AugmentConfig, field_name)
        require(found == allowed, f"augment.{field_name}", found, f"{allowed!r} for point clouds")


def sample_point_transforms(
    config: PointAugmentConfig,
    shape: tuple[int, ...],
    num_points: int,
    generator: torch.Generator,
    device: torch.device,
) -> PointTransforms:
    """Draw the changes of one batch.

    Args:
        config: how strong they may be.
        shape: of the clouds as stored: batch, points, 3.
        num_points: points that the model reads, at most those stored.
        generator: the source of all draws; it lives on ``device``.
        device: where the clouds are.

    Returns:
        Transforms that :func:`apply_point_transforms` applies.
    """
    batch, num_stored = shape[:2]

    def uniform(*sizes: int) -> torch.Tensor:
        return torch.rand(sizes, generator=generator, device=device) * 2 - 1

    chosen = torch.rand((batch, num_stored), generator=generator, device=device).argsort(dim=1)[:, :num_points]
    if config.dropout_fraction > 0:
        share = torch.rand((batch, 1), generator=generator, device=device) * config.dropout_fraction
        draws = torch.rand((batch, num_points), generator=generator, device=device)
        chosen = drop_points(chosen, share, draws)
    rotation = stretch = factor = jitter = shift = None
    if config.rotation_degrees > 0:
        rotation = compute_rotation(uniform(batch) * config.rotation_degrees, config.up_axis)
    if config.stretch_fraction > 0:
        stretch = torch.exp(uniform(batch, 1, 3) * math.log1p(config.stretch_fraction))
    if config.scale_fraction > 0:
        factor = 1 + uniform(batch, num_points, 1) * config.scale_fraction
    if config.jitter_std > 0:
        jitter = torch.randn((batch, num_points, 3), generator=generator, device=device) * config.jitter_std
    if config.shift > 0:
        shift = uniform(batch, 1, 3) * config.shift
    return PointTransforms(chosen, rotation, stretch, factor, jitter, shift)


def drop_points(chosen: torch.Tensor, share: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Put points that are kept in the places of those that are dropped, so that clouds keep one size.

    Args:
        chosen: ``(batch, points)`` in random order.
        share: ``(batch, 1)``, the part of each cloud that is dropped, below 1.
        draws: ``(batch, points)`` in [0, 1), which kept point takes a place.

    Returns:
        ``(batch, points)``: the first ones as they were, the dropped ones' places filled with some of these.
    """
    num_points = chosen.shape[1]
    num_kept = (num_points * (1 - share)).ceil().long().clamp(1, num_points)
    places = torch.arange(num_points, device=chosen.device).expand_as(chosen)
    places = torch.where(places < num_kept, places, (draws * num_kept).long())
    return chosen.gather(1, places)


def compute_rotation(degrees: torch.Tensor, up_axis: str) -> torch.Tensor:
    """Compute rotations about an axis, counter-clockwise for who looks from its tip towards the origin.

    Args:
        degrees: ``(batch,)``.
        up_axis: x, y or z.

    Returns:
        ``(batch, 3, 3)``, to multiply columns of coordinates from the left.
    """
    up = AXES[up_axis]
    first, second = (up + 1) % 3, (up + 2) % 3
    angle = torch.deg2rad(degrees)
    rotation = torch.zeros((len(degrees), 3, 3), device=degrees.device)
    rotation[:, up, up] = 1
    rotation[:, first, first] = rotation[:, second, second] = torch.cos(angle)
    rotation[:, second, first] = torch.sin(angle)
    rotation[:, first, second] = -torch.sin(angle)
    return rotation


def apply_point_transforms(points: torch.Tensor, transforms: PointTransforms) -> torch.Tensor:
    """Apply sampled transforms to clouds that are not normalised yet.

    Args:
        points: ``(batch, stored points, 3)``, of about unit size.
        transforms: of :func:`sample_point_transforms` for as many clouds.

    Returns:
        ``(batch, points, 3)``.
    """
    points = points.gather(1, transforms.chosen[:, :, None].expand(-1, -1, points.shape[2]))
    if transforms.rotation is not None:
        points = einsum(transforms.rotation, points, "batch row column, batch point column -> batch point row")
    if transforms.stretch is not None:
        points = points * transforms.stretch
    if transforms.factor is not None:
        points = points * transforms.factor
    if transforms.jitter is not None:
        points = points + transforms.jitter
    return points


def shift_points(points: torch.Tensor, transforms: PointTransforms) -> torch.Tensor:
    """Displace normalised clouds ``(batch, points, 3)``."""
    return points if transforms.shift is None else points + transforms.shift
