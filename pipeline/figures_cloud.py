"""Point clouds drawn from the side, coloured by the attention that each point gets."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.clouds import project_points
from pipeline.errors import UserError
from pipeline.figures_attention import TINY, colour_weights, find_top

CLOUD_PIXELS = 264
OVERSAMPLING = 2
BACKGROUND, PLAIN, UNREAD = "#16181D", 0.75, 0.33

Floats = NDArray[np.floating[Any]]


def draw_cloud(points: Floats, weights: Floats | None = None) -> NDArray[np.uint8]:
    """Draw a point cloud as ``pipeline.clouds`` looks at it, near points over far ones.

    Args:
        points: (points, 3).
        weights: (points,), the attention that each gets: brighter and larger for more. Without them all are grey.

    Returns:
        (height, width, 3).

    Raises:
        UserError: points or weights of another shape.
    """
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise UserError(f"point cloud: found an array of shape {points.shape}, allowed is (points, 3).")
    if weights is not None and weights.shape != points.shape[:1]:
        raise UserError(f"point cloud: found weights of shape {weights.shape} for {len(points)} points.")
    seen = project_points(points.astype(np.float64))
    low, high = seen.min(axis=0), seen.max(axis=0)
    side = CLOUD_PIXELS * OVERSAMPLING
    scale = 0.92 * side / max(float((high - low)[:2].max()), TINY)
    across, upwards, near = (seen - (low + high) / 2).T
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
