"""Point clouds as pictures."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

SIDE = 224
# Seen from the front right and a little from above, as furniture is drawn in catalogues.
AZIMUTH_DEGREES = 30.0
ELEVATION_DEGREES = 20.0
NEAREST, FARTHEST = 255, 70


def project_points(points: Array) -> Array:
    """Look at a cloud from the front right and from above, without perspective; z is up.

    Args:
        points: ``(points, 3)``.

    Returns:
        ``(points, 3)``: to the right, upwards and towards the viewer, in the cloud's own unit.
    """
    azimuth, elevation = np.radians(AZIMUTH_DEGREES), np.radians(ELEVATION_DEGREES)
    right = np.array([np.cos(azimuth), np.sin(azimuth), 0])
    towards = np.array([np.sin(azimuth), -np.cos(azimuth), 0]) * np.cos(elevation) + [0, 0, np.sin(elevation)]
    seen: Array = points @ np.stack([right, np.cross(towards, right), towards], axis=1)
    return seen


def draw_cloud(points: Array, side: int = SIDE) -> Array:
    """Draw a cloud's points as dots of two by two pixels on black, near ones brighter and in front.

    Args:
        points: ``(points, 3)``, finite.
        side: of the picture in pixels.

    Returns:
        ``(side, side)`` uint8; the cloud's longest side in the view fills nine tenths of the picture.
    """
    seen = project_points(points.astype(np.float64))
    low, high = seen.min(axis=0), seen.max(axis=0)
    longest = max((high - low)[:2].max(), 1e-12)
    place = (seen - (low + high) / 2) * (0.9 * (side - 2) / longest)
    columns = np.round((side - 2) / 2 + place[:, 0]).astype(int)
    rows = np.round((side - 2) / 2 - place[:, 1]).astype(int)
    depth = (seen[:, 2] - low[2]) / max(high[2] - low[2], 1e-12)
    grey = np.round(FARTHEST + (NEAREST - FARTHEST) * depth).astype(np.uint8)
    picture = np.zeros((side, side), np.uint8)
    for down in (0, 1):
        for across in (0, 1):
            np.maximum.at(picture, (rows + down, columns + across), grey)
    return picture
