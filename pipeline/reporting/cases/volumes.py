"""Volumes small enough for a page, and the slices' own answers along them."""

import base64
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from einops import reduce

from pipeline.core.array_types import Array


@dataclass(frozen=True)
class SmallVolume:
    """A volume of a page.

    Args:
        voxels: ``(right, anterior, superior)`` uint8; each axis grows towards its name.
        spacing_mm: The size of a voxel along the same axes.
        weights: A number from 0 to 1 for each voxel of the slicing axis: the probability that the nearest slice by
            itself gives the answer; empty where there are none.
        axis: The slicing axis.
    """

    voxels: Array
    spacing_mm: tuple[float, float, float]
    weights: tuple[float, ...] = ()
    axis: int = 0

    def encode(self) -> dict[str, Any]:
        """Return the volume as JSON holds it; voxels are base64, the last axis fastest."""
        return {
            "shape": list(self.voxels.shape),
            "spacing": list(self.spacing_mm),
            "voxels": base64.b64encode(np.ascontiguousarray(self.voxels).tobytes()).decode(),
            "weights": [round(weight, 3) for weight in self.weights],
            "axis": self.axis,
        }


def shrink_volume(
    values: Array, spacing_mm: tuple[float, float, float], limits: tuple[float, float], max_voxels: int
) -> SmallVolume:
    """Take means of blocks until no axis is longer than a limit, and scale the intensities to 8 bits.

    Args:
        values: The intensities (right, anterior, superior).
        spacing_mm: The size of a voxel along the same axes.
        limits: The percentages of the voxels that become black and white.
        max_voxels: The greatest length of an axis. Voxels that do not fill a block at the end are left out.
    """
    steps = [math.ceil(length / max_voxels) for length in values.shape]
    whole = tuple(slice(0, length // step * step) for length, step in zip(values.shape, steps, strict=True))
    names = dict(zip(("i", "j", "k"), steps, strict=True))
    small = reduce(values[whole].astype(np.float32), "(x i) (y j) (z k) -> x y z", "mean", **names)
    low, high = np.percentile(small, limits)
    low, high = (low, high) if low < high else (float(small.min()), float(small.max()))
    grey = np.clip((small - low) / max(high - low, 1e-12), 0, 1)
    size_mm = [step * length for step, length in zip(steps, spacing_mm, strict=True)]
    return SmallVolume(np.round(255 * grey).astype(np.uint8), (size_mm[0], size_mm[1], size_mm[2]))


def weigh_axis(positions: Array, weights: Array, length: int) -> tuple[float, ...]:
    """Give each place along an axis the weight of the nearest slice.

    Args:
        positions: The places of the slices, (slices,) in [-1, 1].
        weights: Their weights, (slices,).
        length: The number of voxels along the axis.
    """
    places = np.linspace(-1, 1, length) if length > 1 else np.zeros(1)
    nearest = np.abs(places[:, None] - np.asarray(positions, dtype=np.float64)[None]).argmin(axis=1)
    return tuple(float(value) for value in np.asarray(weights, dtype=np.float64)[nearest])
