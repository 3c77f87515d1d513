"""Places of a scan's voxels in a knee, and their distances from the surface of a tube.

Arrays are ordered (superior, anterior, lateral), so that what lies between two heights is one
block of memory.
"""

from collections.abc import Iterable
from dataclasses import astuple
from typing import NamedTuple

import numpy as np
from einops import rearrange

from pipeline.config.phantom import PhantomConfig
from pipeline.core.array_types import Array
from pipeline.datasets.phantom.anatomy import Tube

# An adult's knee is a little larger than the round figures of the anatomy.
MEAN_SIZE = 1.08
LARGEST_DRAW = 2.2
ROUNDED_END_MM = 7.0


class Coordinates(NamedTuple):
    """The place of each voxel in the right knee's own frame.

    Args:
        superior_mm: ``(superior,)``, the height of each axial slice.
        lateral_mm: ``(superior, anterior, lateral)``.
        anterior_mm: ``(superior, anterior, lateral)``.
    """

    superior_mm: Array
    lateral_mm: Array
    anterior_mm: Array


def place_knee(
    config: PhantomConfig, patient_generator: np.random.Generator, scan_generator: np.random.Generator
) -> Coordinates:
    """Draw how a right knee lies in the scanner.

    Args:
        config: The size of the volume and the variation of knees.
        patient_generator: The random number generator of the size.
        scan_generator: The random number generator of rotation, shift, lean and distortion.

    Returns:
        The knee's coordinates of each voxel.
    """
    size = MEAN_SIZE * np.exp(config.zoom * bounded_normal(patient_generator))
    angle = np.deg2rad(config.rotation_degrees * bounded_normal(scan_generator))
    shift = config.shift_mm * scan_generator.uniform(-1, 1, 2)
    lean = [config.lean * bounded_normal(scan_generator) for _ in range(2)]
    right, anterior, superior = (
        (np.arange(count) - (count - 1) / 2) * spacing
        for count, spacing in zip(config.shape, config.spacing_mm, strict=True)
    )
    superior = superior - config.height_shift_mm * scan_generator.uniform(-1, 1)
    shape = (len(superior), len(anterior), len(right))
    warps = [np.float32(config.warp_mm) * smooth_field(scan_generator, shape, (4, 5, 5)) for _ in range(2)]
    column, row = (
        (axis[None, :] - offset - slope * superior[:, None]).astype(np.float32)
        for axis, offset, slope in zip((right, anterior), shift, lean, strict=True)
    )
    across = warps[0] + column[:, None, :]
    along = warps[1] + row[:, :, None]
    cosine, sine = np.float32(np.cos(angle) / size), np.float32(np.sin(angle) / size)
    return Coordinates(superior / size, cosine * across + sine * along, cosine * along - sine * across)


def vary_shape(tube: Tube, variation: float, generator: np.random.Generator) -> Array:
    """Move, scale and turn a tube at random.

    Args:
        tube: The part of the knee.
        variation: The size of the change; 0 leaves the tube as it is.
        generator: The random number generator; six numbers are drawn, whatever the variation.

    Returns:
        ``(sections, 6)``, columns in the order of ``Section``'s fields.
    """
    rows = np.array([astuple(section) for section in tube.sections], dtype=np.float64)
    draws = np.clip(generator.standard_normal(6), -LARGEST_DRAW, LARGEST_DRAW) * variation
    rows[:, :3] += draws[:3] * (2.0, 1.2, 1.2)
    rows[:, 3:5] *= np.exp(0.07 * draws[3:5])
    rows[:, 5] += 4.0 * draws[5]
    return rows


def cut(coordinates: Coordinates, rows: Array, grow_mm: Iterable[float] = (0.0, 0.0)) -> tuple[slice, Array] | None:
    """Compute how far voxels are from the surface of a tube, about (exact for a circle).

    Args:
        coordinates: The coordinates of the voxels.
        rows: The tube's sections, as ``vary_shape`` gives them.
        grow_mm: The lengths that are added to half width and half depth.

    Returns:
        The axial slices that the tube reaches, and ``(superior, anterior, lateral)`` millimetres for those
        slices, negative inside; None where it reaches none.
    """
    lowest, highest = rows[0, 0], rows[-1, 0]
    reached = np.flatnonzero((coordinates.superior_mm > lowest) & (coordinates.superior_mm < highest))
    if len(reached) == 0:
        return None
    slices = slice(int(reached[0]), int(reached[-1]) + 1)
    height = coordinates.superior_mm[slices]
    lateral, anterior, half_width, half_depth, turn = (
        np.interp(height, rows[:, 0], rows[:, field]) for field in range(1, 6)
    )
    to_end = np.clip(np.minimum(height - lowest, highest - height) / ROUNDED_END_MM, 0, 1)
    rounding = np.sqrt(to_end * (2 - to_end))
    half_width, half_depth = (
        np.maximum(half * rounding + more, 0.3) for half, more in zip((half_width, half_depth), grow_mm, strict=True)
    )
    cosine, sine = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    across = coordinates.lateral_mm[slices] - _per_slice(lateral)
    along = coordinates.anterior_mm[slices] - _per_slice(anterior)
    first = across * _per_slice(cosine / half_width) + along * _per_slice(sine / half_width)
    second = along * _per_slice(cosine / half_depth) - across * _per_slice(sine / half_depth)
    radius_mm = (np.sqrt(half_width * half_depth) + np.minimum(half_width, half_depth)) / 2
    return slices, (np.sqrt(first * first + second * second) - 1) * _per_slice(radius_mm)


def smooth_field(generator: np.random.Generator, shape: tuple[int, ...], coarse_shape: tuple[int, ...]) -> Array:
    """Draw normal numbers on a coarse grid and interpolate between them.

    Elementwise throughout: a matrix product's last digit may depend on the number of threads.

    Args:
        generator: The random number generator.
        shape: The shape of the result.
        coarse_shape: The shape of the coarse grid, at least 2 along each axis.

    Returns:
        float32 of mean about 0 and standard deviation below 1.
    """
    field = generator.standard_normal(coarse_shape, dtype=np.float32)
    for axis, (count, coarse_count) in enumerate(zip(shape, coarse_shape, strict=True)):
        place = np.linspace(0, coarse_count - 1, count)
        below = np.minimum(place.astype(int), coarse_count - 2)
        fraction = place - below
        weight = (fraction * fraction * (3 - 2 * fraction)).astype(np.float32)
        weight = np.expand_dims(weight, tuple(other for other in range(len(shape)) if other != axis))
        lower, upper = field.take(below, axis), field.take(below + 1, axis)
        field = lower + weight * (upper - lower)
    return field


def _per_slice(values: Array) -> Array:
    return rearrange(values.astype(np.float32), "superior -> superior 1 1")


def bounded_normal(generator: np.random.Generator) -> float:
    """Draw a normal number without its far tails, so that no knee is a monster."""
    return float(np.clip(generator.standard_normal(), -LARGEST_DRAW, LARGEST_DRAW))
