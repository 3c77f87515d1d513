"""Random changes of training pictures, for a whole batch at once and on its device."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch.nn import functional

from pipeline.config.data import Plane
from pipeline.config.training import AugmentConfig
from pipeline.core.data_kinds import LATERALITY, DataKind
from pipeline.core.errors import UserError
from pipeline.training.mixing import draw_erased_boxes


@dataclass(frozen=True)
class ImageTransforms:
    """What happens to each picture of a batch; a field that is None leaves all pictures as they are.

    Args:
        mirrored: (batch,) bool, the pictures that are mirrored left to right.
        geometry: (batch, 2, 3), for ``affine_grid``: from output to input coordinates in [-1, 1].
        exponent: (batch,), of the intensities.
        factor: (batch,), on the intensities.
        noise: (batch, channels, height, width), added.
        displacement: (batch, 2) int64, whole pixels downwards and to the right.
        erased: (batch, 4), a box of each, for :func:`pipeline.training.mixing.erase_boxes` after normalising.
    """

    mirrored: torch.Tensor | None = None
    geometry: torch.Tensor | None = None
    exponent: torch.Tensor | None = None
    factor: torch.Tensor | None = None
    noise: torch.Tensor | None = None
    displacement: torch.Tensor | None = None
    erased: torch.Tensor | None = None

    def shard(self, rank_slice: slice) -> "ImageTransforms":
        """Return the transforms of a device's shard of the batch."""
        return ImageTransforms(*(None if field is None else field[rank_slice] for field in vars(self).values()))


def check_mirror(config: AugmentConfig, class_names: tuple[str, ...], plane: Plane) -> None:
    """Refuse a mirror that would make labels wrong.

    Args:
        config: the wish.
        class_names: the labels.
        plane: the anatomical plane of the pictures.

    Raises:
        UserError: ``swap_label`` without left and right, or in sagittal slices; ``keep_label`` with left and right.
    """
    if config.horizontal_flip == "swap_label":
        check_swap(
            "augment.horizontal_flip: 'swap_label'",
            "'keep_label' where a mirror image has the same label, else 'none'",
            class_names,
            plane,
        )
    if config.horizontal_flip == "keep_label" and tuple(class_names) == LATERALITY:
        raise UserError(
            "augment.horizontal_flip: 'keep_label' would call the mirror image of a left knee left, although it "
            "shows a right one. Use 'swap_label' (axial and coronal slices), else 'none'."
        )


def check_swap(option: str, instead: str, class_names: tuple[str, ...], plane: Plane) -> None:
    """Refuse to take a picture's mirror image for one of the other side.

    A mirror turns the picture of a left knee into that of a right one wherever the picture's columns
    run along the body's left-right axis: in axial and coronal slices. In a sagittal slice the columns
    run from front to back, and no mirror inside the picture turns one side into the other.

    Args:
        option: what wants to, for the message.
        instead: what to set it to, for the message.
        class_names: the labels.
        plane: the anatomical plane of the pictures.

    Raises:
        UserError: the labels are not left and right, or the slices are sagittal.
    """
    if tuple(class_names) != LATERALITY:
        found = ", ".join(class_names)
        raise UserError(
            f"{option} exchanges the labels left and right, but the labels here are {found}. Use {instead}."
        )
    if plane == "sagittal":
        raise UserError(
            f"{option} needs pictures whose columns run from left to right, but sagittal ones run from front to back. "
            f"Use {instead}, or set preprocess.plane to axial or coronal."
        )


def sample_transforms(
    config: AugmentConfig, shape: tuple[int, int, int, int], generator: torch.Generator, device: torch.device
) -> ImageTransforms:
    """Draw the changes of one batch.

    Args:
        config: how strong they may be.
        shape: of the pictures: batch, channels, height, width.
        generator: the source of all draws; it lives on ``device``.
        device: where the pictures are.

    Returns:
        Transforms that :func:`apply_transforms` and :func:`flip_labels` apply.

    Raises:
        UserError: ``crop_padding`` is as large as a picture.
    """
    batch, _, height, width = shape
    if config.crop_padding >= min(height, width):
        raise UserError(
            f"augment.crop_padding: found {config.crop_padding}, but pictures of {height} x {width} pixels would leave "
            "their frame. Use a few pixels, as 4 of 32."
        )

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(batch, generator=generator, device=device) * 2 - 1) * limit

    mirrored = geometry = exponent = factor = noise = displacement = erased = None
    if config.horizontal_flip != "none":
        mirrored = torch.rand(batch, generator=generator, device=device) < 0.5
    if config.rotation_degrees > 0 or config.zoom_fraction > 0 or config.shift_fraction > 0:
        geometry = compute_geometry(
            degrees=uniform(config.rotation_degrees),
            zoom=1 + uniform(config.zoom_fraction),
            shift_right=uniform(config.shift_fraction),
            shift_down=uniform(config.shift_fraction),
            height=height,
            width=width,
        )
    if config.gamma > 0:
        exponent = torch.exp(uniform(math.log1p(config.gamma)))
    if config.brightness_fraction > 0:
        factor = 1 + uniform(config.brightness_fraction)
    if config.noise_std > 0:
        noise = torch.randn(shape, generator=generator, device=device) * config.noise_std
    if config.crop_padding > 0:
        limits = (-config.crop_padding, config.crop_padding + 1)
        displacement = torch.randint(*limits, (batch, 2), generator=generator, device=device)
    if config.random_erasing_probability > 0:
        erased = draw_erased_boxes(config, batch, height, width, generator, device)
    return ImageTransforms(mirrored, geometry, exponent, factor, noise, displacement, erased)


def compute_geometry(
    degrees: torch.Tensor,
    zoom: torch.Tensor,
    shift_right: torch.Tensor,
    shift_down: torch.Tensor,
    height: int,
    width: int,
) -> torch.Tensor:
    """Compute the matrices that turn, zoom and then displace pictures about their centre.

    ``affine_grid`` asks for the way back, from a place in the result to its origin: displaced back,
    shrunk and turned back. It measures both sides of a picture as 2, so that a rotation needs the
    ratio of the sides.

    Args:
        degrees: (batch,), counter-clockwise as one looks at the picture.
        zoom: (batch,), above 1 enlarges.
        shift_right: (batch,), as a fraction of the width.
        shift_down: (batch,), as a fraction of the height.
        height: of the pictures in pixels.
        width: of the pictures in pixels.

    Returns:
        (batch, 2, 3) matrices; the rows are x (to the right) and y (downwards).
    """
    angle = torch.deg2rad(degrees)
    cosine, sine = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    turn_x = torch.stack([cosine, -sine * (height / width)], dim=-1)
    turn_y = torch.stack([sine * (width / height), cosine], dim=-1)
    turn = torch.stack([turn_x, turn_y], dim=-2)
    displacement = 2 * torch.stack([shift_right, shift_down], dim=-1)
    origin = -torch.einsum("b i j, b j -> b i", turn, displacement)
    return torch.cat([turn, origin[:, :, None]], dim=-1)


def apply_transforms(images: torch.Tensor, transforms: ImageTransforms) -> torch.Tensor:
    """Apply drawn changes to pictures.

    Args:
        images: (batch, channels, height, width), 0 is black and 1 is white.
        transforms: of :func:`sample_transforms` for as many pictures.

    Returns:
        Pictures of the same shape; what comes in from outside is black. Values may leave [0, 1] by noise
        and brightness alone.
    """

    def per_image(values: torch.Tensor) -> torch.Tensor:
        return values[:, None, None, None]

    if transforms.mirrored is not None:
        images = torch.where(per_image(transforms.mirrored), images.flip(-1), images)
    if transforms.geometry is not None:
        grid = functional.affine_grid(transforms.geometry, list(images.shape), align_corners=False)
        images = functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    if transforms.displacement is not None:
        images = displace_images(images, transforms.displacement)
    if transforms.exponent is not None:
        # Resampling can leave -1e-8 beside black, and a negative number has no broken power.
        images = images.clamp(min=0) ** per_image(transforms.exponent)
    if transforms.factor is not None:
        images = images * per_image(transforms.factor)
    if transforms.noise is not None:
        images = images + transforms.noise
    return images


def displace_images(images: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """Move pictures by whole pixels, without resampling: the same as a crop of a picture padded with black.

    Args:
        images: (batch, channels, height, width).
        displacement: (batch, 2) int64, pixels downwards and to the right.

    Returns:
        Pictures of the same shape; what comes in from outside is black.
    """
    batch, _, height, width = images.shape
    rows = torch.arange(height, device=images.device) - displacement[:, :1]
    columns = torch.arange(width, device=images.device) - displacement[:, 1:]
    is_row, is_column = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    picture = torch.arange(batch, device=images.device)[:, None, None]
    pixels = rearrange(images, "batch channels height width -> batch height width channels")
    moved = pixels[picture, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]]
    inside = is_row[:, None, :, None] & is_column[:, None, None, :]
    return rearrange(moved, "batch height width channels -> batch channels height width").masked_fill(~inside, 0.0)


def flip_labels(labels: torch.Tensor, transforms: ImageTransforms, config: AugmentConfig) -> torch.Tensor:
    """Exchange left and right where a picture was mirrored under ``augment.horizontal_flip: swap_label``.

    Args:
        labels: (batch,) class indices, 0 and 1 under ``swap_label``.
        transforms: of the same pictures.
        config: whether the mirror swaps.

    Returns:
        (batch,) class indices.
    """
    if config.horizontal_flip != "swap_label" or transforms.mirrored is None:
        return labels
    return torch.where(transforms.mirrored, 1 - labels, labels)


def shows_laterality(kind: DataKind, class_names: Sequence[str], plane: Plane) -> bool:
    """Tell whether a mirror image is one of the other label: left and right, in axial or coronal slices."""
    return kind.has_slices and tuple(class_names) == LATERALITY and plane != "sagittal"
