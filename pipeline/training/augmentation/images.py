"""Random augmentation of training images, for a whole batch at once and on its device."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch.nn import functional

from pipeline.config.data import Plane
from pipeline.config.training import AugmentConfig
from pipeline.core.data_kinds import VOLUMES, DataKind, InputSpec, are_sides
from pipeline.core.errors import UserError
from pipeline.models.classifier import reverse_slices
from pipeline.training.augmentation.bias_field import compute_bias_fields, list_powers
from pipeline.training.augmentation.mixing import draw_erased_boxes

# The options of the changes of which each image gets one under ``augment.transforms_per_image: one``.
CHANGES = (
    *("rotation_degrees", "zoom_fraction", "shift_fraction", "gamma", "brightness_fraction", "noise_std"),
    *("crop_padding", "bias_field"),
)


@dataclass(frozen=True)
class ImageTransforms:
    """The changes of each image of a batch; a field that is None leaves all images as they are.

    Args:
        flipped: The images that are flipped left to right, (batch,) bool.
        geometry: The matrices for ``affine_grid`` from output to input coordinates in [-1, 1], (batch, 2, 3).
        bias_field: The factors on the pixels, (batch, 1, height, width).
        exponent: The exponents of the intensities, (batch,).
        factor: The factors on the intensities, (batch,).
        noise: The noise that is added, (batch, channels, height, width); of scans for as many slices as the largest
            has, and those of a batch may be fewer.
        displacement: The displacements in whole pixels downwards and to the right, (batch, 2) int64.
        erased: The box of each image, (batch, 4), for
            :func:`pipeline.training.augmentation.mixing.erase_boxes` after normalising.
        reversed: The sagittal scans whose slices are put in reverse order, which flips left to right, (batch,) bool.
        dropped: The slices of scans that are left out, (batch, slices) bool, as many as the noise is for.
    """

    flipped: torch.Tensor | None = None
    geometry: torch.Tensor | None = None
    exponent: torch.Tensor | None = None
    factor: torch.Tensor | None = None
    noise: torch.Tensor | None = None
    displacement: torch.Tensor | None = None
    erased: torch.Tensor | None = None
    bias_field: torch.Tensor | None = None
    reversed: torch.Tensor | None = None
    dropped: torch.Tensor | None = None

    def shard(self, rank_slice: slice) -> "ImageTransforms":
        """Return the transforms of a device's shard of the batch."""
        return ImageTransforms(*(None if field is None else field[rank_slice] for field in vars(self).values()))


def check_horizontal_flip(
    config: AugmentConfig, class_names: tuple[str, ...], plane: Plane, kind: DataKind = VOLUMES
) -> None:
    """Refuse a flip that would make labels wrong.

    Args:
        config: The options of augmentation.
        class_names: The names of the classes.
        plane: The anatomical plane of the images.
        kind: The kind of data.

    Raises:
        UserError: ``swap_label`` without left and right, or in sagittal slices; ``keep_label`` with left and right.
    """
    if config.horizontal_flip == "swap_label":
        check_swap(
            "augment.horizontal_flip: 'swap_label'",
            "'keep_label' where a mirror image has the same label, else 'none'",
            class_names,
            plane,
            kind,
        )
    if config.horizontal_flip == "keep_label" and are_sides(class_names):
        raise UserError(
            "augment.horizontal_flip: 'keep_label' would call the mirror image of a left knee left, although it "
            "shows a right one. Use 'swap_label' (axial and coronal slices), else 'none'."
        )


def check_mirror_tta(
    config: AugmentConfig, class_names: tuple[str, ...], plane: Plane, kind: DataKind = VOLUMES
) -> None:
    """Refuse test-time augmentation with mirror images whose label is another one or was never trained.

    Args:
        config: The options of augmentation.
        class_names: The names of the classes.
        plane: The anatomical plane of the images.
        kind: The kind of data.

    Raises:
        UserError: Sides in sagittal slices; other classes without ``augment.horizontal_flip: keep_label``.
    """
    if are_sides(class_names):
        check_swap("model.mirror_tta", "false", class_names, plane, kind)
    elif config.horizontal_flip != "keep_label":
        raise UserError(
            f"model.mirror_tta: averages over mirror images, but training with augment.horizontal_flip: "
            f"'{config.horizontal_flip}' shows none with the label kept. Use 'keep_label' if a mirror image has the "
            "same label, else model.mirror_tta: false."
        )


def check_crop_padding(config: AugmentConfig, image_size: Sequence[int]) -> None:
    """Refuse crops that could leave their image.

    Args:
        config: The options of augmentation.
        image_size: The height and width of an image, in pixels.

    Raises:
        UserError: ``crop_padding`` is as large as an image.
    """
    height, width = image_size
    if config.crop_padding >= min(height, width):
        raise UserError(
            f"augment.crop_padding: found {config.crop_padding}, but images of {height} x {width} pixels would leave "
            "their frame. Use a few pixels, such as 4 of 32."
        )


def check_swap(option: str, instead: str, class_names: tuple[str, ...], plane: Plane, kind: DataKind = VOLUMES) -> None:
    """Refuse to take an image's mirror image for one of the other side.

    A flip turns the image of a left knee into that of a right one wherever the image's columns
    run along the body's left-right axis: in axial and coronal slices. In a sagittal slice the columns
    run from front to back, and no flip inside the image turns one side into the other. A scan whose slices are one
    example is flipped in every plane: a sagittal one by the order of its slices.

    Args:
        option: The option that exchanges the sides, for the message.
        instead: The value to set it to, for the message.
        class_names: The names of the classes.
        plane: The anatomical plane of the images.
        kind: The kind of data.

    Raises:
        UserError: the labels are not left and right, or the slices are sagittal.
    """
    if not are_sides(class_names):
        found = ", ".join(class_names)
        raise UserError(
            f"{option} exchanges the labels left and right, but the labels here are {found}. Use {instead}."
        )
    if plane == "sagittal" and not kind.has_places:
        raise UserError(
            f"{option} needs images whose columns run from left to right, but sagittal ones run from front to back. "
            f"Use {instead}, or set preprocess.plane to axial or coronal."
        )


def sample_transforms(
    config: AugmentConfig,
    shape: tuple[int, int, int, int],
    generator: torch.Generator,
    device: torch.device,
    spec: InputSpec | None = None,
) -> ImageTransforms:
    """Draw the changes of one batch; all slices of a scan that is one example are changed alike.

    Args:
        config: The options that say how strong the changes may be.
        shape: The shape of the images: batch, channels, height, width; of scans their slices instead of channels.
        generator: The random number generator of all draws, on ``device``.
        device: The device of the images.
        spec: The examples, where they may be scans; None for images.

    Returns:
        Transforms that :func:`apply_transforms` and :func:`flip_labels` apply.

    Raises:
        UserError: ``crop_padding`` is as large as an image.

    Source:
        Müller and Hutter, "TrivialAugment: tuning-free yet state-of-the-art data augmentation", arXiv 2103.10158, for
        one change of uniform strength an image; there the changes are a fixed list, here those that are switched on.
    """
    batch, _, height, width = shape
    check_crop_padding(config, (height, width))

    def uniform(limit: float, name: str = "") -> torch.Tensor:
        return keep((torch.rand(batch, generator=generator, device=device) * 2 - 1) * limit, name)

    def keep(values: torch.Tensor, name: str) -> torch.Tensor:
        """Replace by 0 the values of images that get another transform."""
        if chosen is None or name == "":
            return values
        is_kept = chosen == enabled.index(name)
        return values * is_kept.view(-1, *[1] * (values.ndim - 1))

    flipped = geometry = exponent = factor = noise = displacement = erased = bias_field = chosen = None
    enabled = [name for name in CHANGES if getattr(config, name) > 0]
    if config.transforms_per_image == "one" and enabled:
        chosen = torch.randint(len(enabled), (batch,), generator=generator, device=device)
    if config.horizontal_flip != "none":
        flipped = torch.rand(batch, generator=generator, device=device) < 0.5
    if config.rotation_degrees > 0 or config.zoom_fraction > 0 or config.shift_fraction > 0:
        geometry = compute_geometry(
            degrees=uniform(config.rotation_degrees, "rotation_degrees"),
            zoom=1 + uniform(config.zoom_fraction, "zoom_fraction"),
            shift_right=uniform(config.shift_fraction, "shift_fraction"),
            shift_down=uniform(config.shift_fraction, "shift_fraction"),
            height=height,
            width=width,
        )
    if config.gamma > 0:
        exponent = torch.exp(uniform(math.log1p(config.gamma), "gamma"))
    if config.brightness_fraction > 0:
        factor = 1 + uniform(config.brightness_fraction, "brightness_fraction")
    if config.noise_std > 0:
        noise = keep(torch.randn(shape, generator=generator, device=device) * config.noise_std, "noise_std")
    if config.crop_padding > 0:
        limits = (-config.crop_padding, config.crop_padding + 1)
        displacement = torch.randint(*limits, (batch, 2), generator=generator, device=device)
        displacement = keep(displacement, "crop_padding")
    if config.random_erasing_probability > 0:
        erased = draw_erased_boxes(config, batch, height, width, generator, device)
    if config.bias_field > 0:
        draws = torch.rand((batch, len(list_powers())), generator=generator, device=device) * 2 - 1
        bias_field = compute_bias_fields(keep(draws * config.bias_field, "bias_field"), height, width)
    transforms = ImageTransforms(flipped, geometry, exponent, factor, noise, displacement, erased, bias_field)
    if spec is None or not spec.kind.has_places:
        return transforms
    if spec.is_sagittal:
        transforms = replace(transforms, flipped=None, reversed=flipped)
    if config.slice_dropping_fraction > 0:
        fraction = torch.rand((batch, 1), generator=generator, device=device) * config.slice_dropping_fraction
        dropped = torch.rand(shape[:2], generator=generator, device=device) < fraction
        transforms = replace(transforms, dropped=dropped)
    return transforms


def move_slices(places: torch.Tensor, transforms: ImageTransforms) -> torch.Tensor:
    """Apply drawn changes to the places of the slices of scans.

    Args:
        places: The places (batch, slices, 3) in mm, NaN for padding.
        transforms: The changes of the same scans.

    Returns:
        Places of the same shape; of slices that are left out NaN. A scan keeps all of them where all would be left out.
    """
    if transforms.reversed is not None:
        places = torch.where(transforms.reversed[:, None, None], reverse_slices(places), places)
    if transforms.dropped is not None:
        dropped = transforms.dropped[:, : places.shape[1]]
        remains = (~dropped & ~places[..., 0].isnan()).any(dim=1)
        places = places.masked_fill((dropped & remains[:, None])[..., None], torch.nan)
    return places


def compute_geometry(
    degrees: torch.Tensor,
    zoom: torch.Tensor,
    shift_right: torch.Tensor,
    shift_down: torch.Tensor,
    height: int,
    width: int,
) -> torch.Tensor:
    """Compute the matrices that turn, zoom and then displace images about their centre.

    ``affine_grid`` takes the way back, from a place in the result to its origin: displaced back,
    shrunk and turned back. It measures both sides of an image as 2, so that a rotation needs the
    ratio of the sides.

    Args:
        degrees: The angles, counter-clockwise as one looks at the image, (batch,).
        zoom: The factors of the size, (batch,); above 1 enlarges.
        shift_right: The displacements to the right as fractions of the width, (batch,).
        shift_down: The displacements downwards as fractions of the height, (batch,).
        height: The height of the images in pixels.
        width: The width of the images in pixels.

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
    """Apply drawn changes to images.

    Args:
        images: The images (batch, channels, height, width), with 0 black and 1 white.
        transforms: The changes that :func:`sample_transforms` drew for as many images.

    Returns:
        Images of the same shape; what comes in from outside is black. Values may leave [0, 1] by noise
        and brightness alone.
    """

    def per_image(values: torch.Tensor) -> torch.Tensor:
        return values[:, None, None, None]

    if transforms.flipped is not None:
        images = torch.where(per_image(transforms.flipped), images.flip(-1), images)
    if transforms.geometry is not None:
        grid = functional.affine_grid(transforms.geometry, list(images.shape), align_corners=False)
        images = functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    if transforms.displacement is not None:
        images = displace_images(images, transforms.displacement)
    if transforms.bias_field is not None:
        images = images * transforms.bias_field
    if transforms.exponent is not None:
        # Resampling can leave -1e-8 next to black, and a negative number has no fractional power.
        images = images.clamp(min=0) ** per_image(transforms.exponent)
    if transforms.factor is not None:
        images = images * per_image(transforms.factor)
    if transforms.noise is not None:
        images = images + transforms.noise[:, : images.shape[1]]  # of scans for the slices of the largest one
    return images


def displace_images(images: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """Move images by whole pixels, without resampling: the same as a crop of an image padded with black.

    Args:
        images: The images (batch, channels, height, width).
        displacement: The displacements in pixels downwards and to the right, (batch, 2) int64.

    Returns:
        Images of the same shape; what comes in from outside is black.
    """
    batch, _, height, width = images.shape
    rows = torch.arange(height, device=images.device) - displacement[:, :1]
    columns = torch.arange(width, device=images.device) - displacement[:, 1:]
    is_row, is_column = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    image_index = torch.arange(batch, device=images.device)[:, None, None]
    pixels = rearrange(images, "batch channels height width -> batch height width channels")
    moved = pixels[image_index, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]]
    inside = is_row[:, None, :, None] & is_column[:, None, None, :]
    return rearrange(moved, "batch height width channels -> batch channels height width").masked_fill(~inside, 0.0)


def flip_labels(labels: torch.Tensor, transforms: ImageTransforms, config: AugmentConfig) -> torch.Tensor:
    """Exchange left and right where an image was flipped under ``augment.horizontal_flip: swap_label``.

    Args:
        labels: The class indices (batch,), 0 and 1 under ``swap_label``.
        transforms: The changes of the same images.
        config: The options that say whether a flip swaps the label.

    Returns:
        (batch,) class indices.
    """
    flipped = transforms.flipped if transforms.reversed is None else transforms.reversed
    if config.horizontal_flip != "swap_label" or flipped is None:
        return labels
    return torch.where(flipped, 1 - labels, labels)


def shows_laterality(kind: DataKind, class_names: Sequence[str], plane: Plane) -> bool:
    """Return whether a mirror image is one of the other label: left and right, but for slices seen from the side.

    Args:
        kind: The kind of data.
        class_names: The names of the classes.
        plane: The anatomical plane of the slices.
    """
    is_mirrored = plane != "sagittal" or kind.has_places
    return kind.has_patients and kind.is_image and are_sides(class_names) and is_mirrored
