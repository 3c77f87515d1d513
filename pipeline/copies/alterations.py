"""Alterations: the things that may have been done to a copy of a scan, each a function of its slices.

The distance of descriptors is fitted with these on the scans of the store itself.
"""

import io
from collections.abc import Callable

import numpy as np
from einops import rearrange
from PIL import Image

from pipeline.copies.sampling import sample
from pipeline.core.array_types import Array

# The slices of a scan, ``(slices, height, width)`` uint8, and a source of noise; as many slices come back, or fewer.
Alteration = Callable[[Array, np.random.Generator], Array]


def move(stack: Array, degrees: float = 0.0, zoom: float = 1.0, shift: tuple[float, float] = (0.0, 0.0)) -> Array:
    """Rotate, zoom and shift the slices about their centre; what comes in from outside is black.

    Args:
        stack: ``(slices, height, width)`` uint8.
        degrees: The angle, positive from the first axis to the second one.
        zoom: Above 1 the image grows.
        shift: Down and to the right, in fractions of height and width.
    """
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    size = np.array(stack.shape[1:])
    centre = (size - 1) / 2
    offset = centre - matrix @ (centre + np.array(shift) * size)
    pixels = np.indices(stack.shape[1:]).reshape(2, 1, -1)
    down, across = np.einsum("ij,jnp->inp", matrix, pixels) + offset[:, None, None]
    values, is_inside = sample(stack.astype(np.float32), down, across)
    return to_grey(rearrange(values * is_inside, "slice (y x) -> slice y x", y=stack.shape[1]))


def shift_pixels(stack: Array, down: float, right: float) -> Array:
    """Shift the slices by pixels, whole or not."""
    return move(stack, shift=(down / stack.shape[1], right / stack.shape[2]))


def crop(stack: Array, fraction: float, corner: tuple[float, float]) -> Array:
    """Remove a part at the border and stretch the rest to the old size.

    Args:
        stack: ``(slices, height, width)`` uint8.
        fraction: The part of each side that is removed.
        corner: Where the rest begins, as fractions of what is removed: (0.5, 0.5) keeps the middle.
    """
    height, width = stack.shape[1:]
    kept = round(height * (1 - fraction)), round(width * (1 - fraction))
    top, left = round((height - kept[0]) * corner[0]), round((width - kept[1]) * corner[1])
    rest = stack[:, top : top + kept[0], left : left + kept[1]]
    return np.stack(
        [np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)) for image in rest]
    )


def change_gamma(stack: Array, gamma: float) -> Array:
    """Raise grey levels, black 0 and white 1, to a power."""
    values: Array = stack.astype(np.float32) / 255
    return to_grey(255 * values**gamma)


def change_window(stack: Array, black: float, white: float) -> Array:
    """Make one grey level black and another one white; what is beyond is clipped."""
    scaled = (stack - np.float32(black)) * np.float32(255 / (white - black))
    return to_grey(scaled)


def add_noise(stack: Array, generator: np.random.Generator, standard_deviation: float = 5.0) -> Array:
    """Add Gaussian noise, in grey levels."""
    noise = generator.standard_normal(stack.shape, dtype=np.float32)
    return to_grey(stack + np.float32(standard_deviation) * noise)


def compress(stack: Array, quality: int = 50) -> Array:
    """Store each slice as JPEG and read it again."""
    return np.stack([_compress_image(image, quality) for image in stack])


def _compress_image(image: Array, quality: int) -> Array:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def cut_between(stack: Array) -> Array:
    """Return slices half-way between neighbours."""
    between = (stack[:-1].astype(np.float32) + stack[1:]) / 2
    return to_grey(np.concatenate([between, stack[-1:]]))


def cut_coarser(stack: Array) -> Array:
    """Return the slices of a scan whose planes are twice as thick: neighbours become their mean, twice."""
    pairs = stack[: len(stack) // 2 * 2].astype(np.float32)
    means = (pairs[::2] + pairs[1::2]) / 2
    return to_grey(np.repeat(means, 2, axis=0))


def drop_slices(stack: Array) -> Array:
    """Return every second slice."""
    return stack[::2]


def to_grey(values: Array) -> Array:
    """Round to grey levels, 0 to 255."""
    grey: Array = np.clip(np.floor(values + np.float32(0.5)), 0, 255).astype(np.uint8)
    return grey


ALTERATIONS: dict[str, Alteration] = {
    "one grey level brighter": lambda stack, _: to_grey(np.add(stack, 1, dtype=np.float32)),
    "narrower window": lambda stack, _: change_window(stack, 10, 235),
    "wider window": lambda stack, _: change_window(stack, -10, 290),
    "gamma 0.7": lambda stack, _: change_gamma(stack, 0.7),
    "gamma 1.4": lambda stack, _: change_gamma(stack, 1.4),
    "inverted": lambda stack, _: 255 - stack,
    "noise of 5 grey levels": add_noise,
    "JPEG of quality 50": lambda stack, _: compress(stack, 50),
    "shifted by one pixel": lambda stack, _: shift_pixels(stack, 0, 1),
    "shifted by half a pixel": lambda stack, _: shift_pixels(stack, 0.5, -0.5),
    "shifted by 5 % down, right": lambda stack, _: move(stack, shift=(0.05, 0.05)),
    "shifted by 5 % up": lambda stack, _: move(stack, shift=(-0.05, 0)),
    "rotated by 2 degrees": lambda stack, _: move(stack, 2),
    "rotated by 5 degrees": lambda stack, _: move(stack, 5),
    "rotated by -5 degrees": lambda stack, _: move(stack, -5),
    "zoomed by 1.05": lambda stack, _: move(stack, zoom=1.05),
    "zoomed by 0.95": lambda stack, _: move(stack, zoom=0.95),
    "cropped by 10 %, middle": lambda stack, _: crop(stack, 0.1, (0.5, 0.5)),
    "cropped by 10 %, corner": lambda stack, _: crop(stack, 0.1, (0, 1)),
    "mirrored": lambda stack, _: stack[:, :, ::-1].copy(),
    "turned by 90 degrees": lambda stack, _: np.rot90(stack, 1, (1, 2)).copy(),
    "turned by 180 degrees": lambda stack, _: np.rot90(stack, 2, (1, 2)).copy(),
    "turned by 270 degrees": lambda stack, _: np.rot90(stack, 3, (1, 2)).copy(),
}
# These need neighbouring slices.
VOLUME_ALTERATIONS: dict[str, Alteration] = {
    "cut between the slices": lambda stack, _: cut_between(stack),
    "planes twice as thick": lambda stack, _: cut_coarser(stack),
    "every second plane": lambda stack, _: drop_slices(stack),
}
# A descriptor ignores the others by construction.
FITTED = (
    "narrower window", "gamma 0.7", "gamma 1.4", "noise of 5 grey levels", "JPEG of quality 50",
    "shifted by 5 % down, right", "shifted by 5 % up", "rotated by 5 degrees", "rotated by -5 degrees",
    "zoomed by 1.05", "zoomed by 0.95", "cropped by 10 %, middle", "cropped by 10 %, corner",
)  # fmt: skip
