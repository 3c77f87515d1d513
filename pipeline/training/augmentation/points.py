"""Random augmentation of training point clouds, for a whole batch at once and on its device.

A cloud is normalised after it was changed, as in the paper. Scaling or displacing a whole cloud before that changes
nothing, so the factors here differ between points or axes, and the displacement comes last.
"""

import math
from dataclasses import dataclass

import torch
from einops import einsum

from pipeline.config.training import AugmentConfig, PointAugmentConfig
from pipeline.config.validation import require

AXES = {"x": 0, "y": 1, "z": 2}
# Changes of images.
OFF_BY_DEFAULT = (
    *("horizontal_flip", "bias_field", "transforms_per_image", "crop_padding", "random_erasing_probability"),
    *("mixup_alpha", "cutmix_alpha"),
)


@dataclass(frozen=True)
class PointTransforms:
    """The changes of each cloud of a batch; a field that is None leaves all clouds as they are.

    Args:
        chosen: The stored points that are taken, some perhaps twice, ``(batch, points)``.
        rotation: The matrices from a column of coordinates to the rotated one, ``(batch, 3, 3)``.
        stretch: The factors on the axes, ``(batch, 1, 3)``.
        factor: The factors on each point, ``(batch, points, 1)``.
        jitter: The noise that is added, ``(batch, points, 3)``.
        shift: The displacements that are added after normalising, ``(batch, 1, 3)``.
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
    """Refuse the augmentation of images that is off by default: on point clouds it would be ignored silently.

    Args:
        config: The options of augmentation. Rotations and the like of images, which are on by default, are not checked.

    Raises:
        UserError: a flip, random crops, random erasing, mixup or cutmix.
    """
    for field_name in OFF_BY_DEFAULT:
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
        config: The options that say how strong the changes may be.
        shape: The shape of the clouds as stored: batch, points, 3.
        num_points: The number of points that the model reads, at most those stored.
        generator: The random number generator of all draws, on ``device``.
        device: The device of the clouds.

    Returns:
        Transforms that :func:`apply_point_transforms` applies.
    """
    batch, num_stored = shape[:2]

    def uniform(*sizes: int) -> torch.Tensor:
        return torch.rand(sizes, generator=generator, device=device) * 2 - 1

    chosen = torch.rand((batch, num_stored), generator=generator, device=device).argsort(dim=1)[:, :num_points]
    if config.dropout_fraction > 0:
        fraction = torch.rand((batch, 1), generator=generator, device=device) * config.dropout_fraction
        draws = torch.rand((batch, num_points), generator=generator, device=device)
        chosen = drop_points(chosen, fraction, draws)
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


def drop_points(chosen: torch.Tensor, fraction: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Put points that are kept in the places of those that are dropped, so that clouds keep one size.

    Args:
        chosen: The stored points that are taken, in random order, ``(batch, points)``.
        fraction: The fraction of each cloud that is dropped, below 1, ``(batch, 1)``.
        draws: The random numbers in [0, 1) that decide which kept point takes a place, ``(batch, points)``.

    Returns:
        ``(batch, points)``: the first ones as they were, the dropped ones' places filled with some of these.
    """
    num_points = chosen.shape[1]
    num_kept = (num_points * (1 - fraction)).ceil().long().clamp(1, num_points)
    places = torch.arange(num_points, device=chosen.device).expand_as(chosen)
    places = torch.where(places < num_kept, places, (draws * num_kept).long())
    return chosen.gather(1, places)


def compute_rotation(degrees: torch.Tensor, up_axis: str) -> torch.Tensor:
    """Compute rotations about an axis, counter-clockwise as seen from its tip towards the origin.

    Args:
        degrees: The angles ``(batch,)``.
        up_axis: The axis: x, y or z.

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
        points: The clouds as stored, of about unit size, ``(batch, stored points, 3)``.
        transforms: The changes that :func:`sample_point_transforms` drew for as many clouds.

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
