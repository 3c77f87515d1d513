"""Drawings of point clouds."""

import numpy as np
from einops import repeat
from PIL import Image, ImageDraw

from pipeline.core.array_types import Array

SIDE = 264
OVERSAMPLING = 2
# The view from the front right and a little from above, common in catalogues of furniture.
AZIMUTH_DEGREES = 30.0
ELEVATION_DEGREES = 20.0
NEAREST, FARTHEST = 1.0, 0.28


def project_points(points: Array) -> Array:
    """Rotate a cloud into the view from the front right and above, without perspective; z is up.

    Args:
        points: The cloud, ``(points, 3)``.

    Returns:
        Coordinates ``(points, 3)``: to the right, upwards and towards the viewer, in the cloud's own unit.
    """
    azimuth, elevation = np.radians(AZIMUTH_DEGREES), np.radians(ELEVATION_DEGREES)
    right = np.array([np.cos(azimuth), np.sin(azimuth), 0])
    towards = np.array([np.sin(azimuth), -np.cos(azimuth), 0]) * np.cos(elevation) + [0, 0, np.sin(elevation)]
    seen: Array = points @ np.stack([right, np.cross(towards, right), towards], axis=1)
    return seen


def draw_cloud(points: Array, colours: Array | None = None, sizes: Array | None = None, side: int = SIDE) -> Array:
    """Draw a cloud's points as dots, near ones over far ones.

    Args:
        points: The cloud, ``(points, 3)``, finite.
        colours: Red, green and blue of each point from 0 to 1, ``(points, 3)``; None draws grey dots, the nearer the
            brighter.
        sizes: The size of each point from 0 to 1, ``(points,)``; the largest dot has 2.6 times the width of the
            smallest. None draws all of them small.
        side: The side of the image in pixels.

    Returns:
        The image, ``(side, side, 3)`` uint8; the cloud's longest side in the view fills nine tenths of it.
    """
    assert points.ndim == 2, points.shape
    assert points.shape[1] == 3, points.shape
    seen = project_points(points.astype(np.float64))
    low, high = seen.min(axis=0), seen.max(axis=0)
    fine = side * OVERSAMPLING
    scale = 0.9 * fine / max((high - low)[:2].max(), 1e-12)
    across, upwards, near = (seen - (low + high) / 2).T
    if colours is None:
        depth = (seen[:, 2] - low[2]) / max(high[2] - low[2], 1e-12)
        colours = repeat(FARTHEST + (NEAREST - FARTHEST) * depth, "points -> points colours", colours=3)
    radii = OVERSAMPLING * (1.0 + 1.6 * (np.zeros(len(points)) if sizes is None else sizes))
    canvas = Image.new("RGB", (fine, fine))
    draw = ImageDraw.Draw(canvas)
    for index in np.argsort(near, kind="stable"):
        x, y, radius = fine / 2 + scale * across[index], fine / 2 - scale * upwards[index], radii[index]
        colour = tuple(round(255 * value) for value in colours[index])
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    image: Array = np.asarray(canvas.resize((side, side), Image.Resampling.BOX))
    return image
