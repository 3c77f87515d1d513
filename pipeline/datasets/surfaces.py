"""From the surface of a mesh to points on it."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.off_files import Mesh, parse_off
from pipeline.errors import UserError


def read_off_points(path: Path, num_points: int) -> np.ndarray[Any, Any]:
    """Read an OFF file and sample its surface.

    The draw depends on the file's bytes alone, so an object has the same points whoever reads it, however often
    and in whatever order.

    Args:
        path: the file.
        num_points: how many.

    Returns:
        Points as of :func:`sample_surface`.

    Raises:
        UserError: the file is not there, no OFF file, or has no surface.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Name an OFF file.") from error
    seed = int.from_bytes(hashlib.sha256(content).digest()[:8], "big")
    return sample_surface(parse_off(content, str(path)), num_points, seed, str(path))


def sample_surface(mesh: Mesh, num_points: int, seed: int, name: str) -> np.ndarray[Any, Any]:
    """Draw points from a surface, as many from a square unit here as there.

    Meshes come in millimetres, inches and feet, and far from the origin. The points are centred and scaled before
    they are rounded to float32, which would swallow the shape of a small object far away.

    Args:
        mesh: may have degenerate triangles; they have no area, so nothing is drawn from them.
        num_points: how many.
        seed: of the draw.
        name: what messages call the mesh.

    Returns:
        ``(num_points, 3)`` float32 in [-1, 1]: the box around the points is centred on the origin, its longest side
        is 2.

    Raises:
        UserError: all triangles are degenerate.
    """
    import trimesh  # slow to import, and only meshes need it

    # A small object far away and an object in light years alike have areas that float64 can hold once this is done.
    vertices = mesh.vertices - mesh.vertices[mesh.triangles].reshape(-1, 3).mean(axis=0)
    extent = np.abs(vertices[mesh.triangles]).max()
    surface = trimesh.Trimesh(vertices / extent if extent > 0 else vertices, mesh.triangles, process=False)
    if not surface.area > 0:
        raise UserError(f"{name}: no triangle has an area, so there is no surface. Mend or remove the file.")
    points, _ = trimesh.sample.sample_surface(surface, num_points, seed=seed)
    low, high = points.min(axis=0), points.max(axis=0)
    longest = (high - low).max()
    centred: np.ndarray[Any, Any] = np.asarray(points) - (low + high) / 2
    return (centred / (longest / 2 if longest > 0 else 1.0)).astype(np.float32)
