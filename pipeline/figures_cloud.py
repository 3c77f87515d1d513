"""Point clouds drawn from the side, coloured by the attention that each point gets."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.errors import UserError
from pipeline.figures_attention import TINY, colour_weights, find_top

CLOUD_PIXELS = 264
OVERSAMPLING = 2
BACKGROUND, PLAIN, UNREAD = "#16181D", 0.75, 0.33

Floats = NDArray[np.floating[Any]]


def draw_cloud(
    points: Floats,
    weights: Floats | None = None,
    up_axis: int = 2,
    turn_degrees: float = 35.0,
    tilt_degrees: float = 20.0,
) -> NDArray[np.uint8]:
    """Draw a point cloud from the side and a little above, near points over far ones.

    Args:
        points: (points, 3).
        weights: (points,), the attention that each gets: brighter and larger for more. Without them all are grey.
        up_axis: the axis that points upwards in the picture.
        turn_degrees: turn about that axis.
        tilt_degrees: how far the viewer stands above.

    Returns:
        (height, width, 3).

    Raises:
        UserError: points or weights of another shape.
    """
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise UserError(f"point cloud: found an array of shape {points.shape}, allowed is (points, 3).")
    if weights is not None and weights.shape != points.shape[:1]:
        raise UserError(f"point cloud: found weights of shape {weights.shape} for {len(points)} points.")
    across, upwards, near = project_points(points, up_axis, turn_degrees, tilt_degrees)
    side = CLOUD_PIXELS * OVERSAMPLING
    reach = max(float(np.abs(np.stack([across, upwards])).max()), TINY)
    scale = 0.46 * side / reach
    if weights is None:
        colours, sizes = np.full((len(points), 3), PLAIN), np.zeros(len(points))
    else:
        top = find_top(weights)
        sizes = np.clip(weights / top, 0, 1)
        colours = UNREAD * (1 - sizes[:, None]) + colour_weights(weights, top) * sizes[:, None]
    canvas = Image.new("RGB", (side, side), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for index in np.argsort(near, kind="stable"):
        x, y = side / 2 + scale * across[index], side / 2 - scale * upwards[index]
        radius = OVERSAMPLING * (1.0 + 1.6 * sizes[index])
        colour = tuple(round(255 * value) for value in colours[index])
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return np.asarray(canvas.resize((CLOUD_PIXELS, CLOUD_PIXELS), Image.Resampling.BOX))


def project_points(
    points: Floats, up_axis: int, turn_degrees: float, tilt_degrees: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Turn a cloud towards the viewer, without perspective.

    Args:
        points: (points, 3).
        up_axis: 0, 1 or 2.
        turn_degrees: turn about the up axis.
        tilt_degrees: 0 looks from the side, 90 from above.

    Returns:
        How far each point, from the middle of the cloud, lies to the right, upwards, and towards the viewer.
    """
    centred = np.asarray(points, dtype=np.float64)
    centred = centred - (centred.max(axis=0) + centred.min(axis=0)) / 2
    # The two other axes in the order that keeps a right-handed frame right-handed.
    first, second, up = (centred[:, (up_axis + step) % 3] for step in (1, 2, 0))
    turn, tilt = math.radians(turn_degrees), math.radians(tilt_degrees)
    across = first * math.cos(turn) - second * math.sin(turn)
    depth = first * math.sin(turn) + second * math.cos(turn)
    upwards = up * math.cos(tilt) + depth * math.sin(tilt)
    near = up * math.sin(tilt) - depth * math.cos(tilt)
    return across, upwards, near
