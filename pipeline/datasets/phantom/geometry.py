"""Places of a scan's voxels in a knee, and their distances from the surface of a tube.

Arrays are ordered (superior, anterior, lateral), so that what lies between two heights is one
block of memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import NamedTuple

import numpy as np

from pipeline.config.phantom import PhantomConfig
from pipeline.core.array_types import Array
from pipeline.datasets.phantom.anatomy import Tube

# An adult's knee is a little larger than the round figures of the anatomy.
MEAN_SIZE = 1.08
LARGEST_DRAW = 2.2
ROUNDED_END_MM = 7.0
# Where a tube may be is decided for squares of so many voxels along each side.
SQUARE = 4
# Far more than float32 rounds places of up to 100 mm.
ROUNDING_MM = 0.01
# A block of voxels, and their distances from the surface of a tube in mm, negative inside.
Surface = tuple[tuple[slice, slice, slice], Array]


@dataclass(frozen=True)
class Coordinates:
    """The place of each voxel in the right knee's own frame.

    Args:
        superior_mm: ``(superior,)``, the height of each axial slice.
        lateral_mm: ``(superior, anterior, lateral)``.
        anterior_mm: ``(superior, anterior, lateral)``.
    """

    superior_mm: Array
    lateral_mm: Array
    anterior_mm: Array

    @cached_property
    def square_bounds_mm(self) -> tuple[Array, Array, Array, Array]:
        """The smallest and the largest lateral and anterior place of each square of an axial slice.

        Arrays ``(superior, squares along anterior, squares along lateral)``.
        """
        places = (self.lateral_mm, self.anterior_mm)
        lowest, highest = ([_reduce_squares(place, pick) for place in places] for pick in (np.minimum, np.maximum))
        return lowest[0], highest[0], lowest[1], highest[1]


def _reduce_squares(values: Array, pick: np.ufunc) -> Array:
    """Reduce each square of axial slices to one number by the minimum or the maximum."""
    for axis in (1, 2):
        starts = np.arange(0, values.shape[axis], SQUARE)
        members = (values.take(np.minimum(starts + step, values.shape[axis] - 1), axis) for step in range(SQUARE))
        values = reduce(pick, members)  # four times as fast as reduceat
    return values


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
    rows = np.array(tube.sections, dtype=np.float64)
    draws = np.clip(generator.standard_normal(6), -LARGEST_DRAW, LARGEST_DRAW) * variation
    rows[:, :3] += draws[:3] * (2.0, 1.2, 1.2)
    rows[:, 3:5] *= np.exp(0.07 * draws[3:5])
    rows[:, 5] += 4.0 * draws[5]
    return rows


def cut(
    coordinates: Coordinates, rows: Array, grow_mm: Iterable[float] = (0.0, 0.0), reach_mm: float = np.inf
) -> Surface | None:
    """Compute how far voxels are from the surface of a tube, about (exact for a circle).

    Args:
        coordinates: The coordinates of the voxels.
        rows: The tube's sections, as ``vary_shape`` gives them.
        grow_mm: The lengths that are added to half width and half depth.
        reach_mm: The distance from the surface beyond which voxels may be left out.

    Returns:
        A block that holds all voxels within reach, as slices of the three axes, and its distances
        ``(superior, anterior, lateral)`` in millimetres, negative inside; None where the tube reaches no axial slice.
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
    radius_mm = (np.sqrt(half_width * half_depth) + np.minimum(half_width, half_depth)) / 2
    # The box around the ellipse at the distance ``reach_mm``; voxels outside of it are not computed.
    scale = 1 + reach_mm / radius_mm
    box = Box(
        lateral,
        scale * np.hypot(half_width * cosine, half_depth * sine),
        anterior,
        scale * np.hypot(half_width * sine, half_depth * cosine),
    )
    block = _find_block(coordinates, slices, box)
    if block is None:
        return None
    inside = slice(block[0].start - slices.start, block[0].stop - slices.start)

    def per_slice(values: Array) -> Array:
        return values[inside, None, None].astype(np.float32)

    across = coordinates.lateral_mm[block] - per_slice(lateral)
    along = coordinates.anterior_mm[block] - per_slice(anterior)
    # In place throughout: each array is larger than a processor's nearest cache.
    distance = across * per_slice(cosine / half_width)
    distance += along * per_slice(sine / half_width)
    distance *= distance
    along *= per_slice(cosine / half_depth)
    across *= per_slice(sine / half_depth)
    along -= across
    along *= along
    distance += along
    np.sqrt(distance, out=distance)
    distance -= 1
    distance *= per_slice(radius_mm)
    return block, distance


class Box(NamedTuple):
    """A rectangle in each axial slice that a tube reaches, ``(superior,)`` each.

    Args:
        lateral: The centre, lateral.
        half_width: How far it reaches to both sides.
        anterior: The centre, anterior.
        half_depth: How far it reaches to the front and the back.
    """

    lateral: Array
    half_width: Array
    anterior: Array
    half_depth: Array


def _find_block(coordinates: Coordinates, slices: slice, box: Box) -> tuple[slice, slice, slice] | None:
    """Find the smallest block of squares that holds all voxels inside of the boxes; None where there are none."""
    lateral, half_width, anterior, half_depth = (values[:, None, None] for values in box)
    leftmost, rightmost, rearmost, foremost = (bounds[slices] for bounds in coordinates.square_bounds_mm)
    is_inside = (rightmost >= lateral - half_width - ROUNDING_MM) & (leftmost <= lateral + half_width + ROUNDING_MM)
    is_inside &= (foremost >= anterior - half_depth - ROUNDING_MM) & (rearmost <= anterior + half_depth + ROUNDING_MM)
    found = [np.flatnonzero(is_inside.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    if len(found[0]) == 0:
        return None
    height, depth, width = ((int(places[0]), int(places[-1]) + 1) for places in found)
    return (
        slice(slices.start + height[0], slices.start + height[1]),
        slice(SQUARE * depth[0], SQUARE * depth[1]),
        slice(SQUARE * width[0], SQUARE * width[1]),
    )


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
        risen = np.diff(field, axis=axis).take(below, axis)
        risen *= weight
        risen += field.take(below, axis)
        field = risen
    return field


def bounded_normal(generator: np.random.Generator) -> float:
    """Draw a normal number without its far tails, so that no knee is a monster."""
    return float(np.clip(generator.standard_normal(), -LARGEST_DRAW, LARGEST_DRAW))
