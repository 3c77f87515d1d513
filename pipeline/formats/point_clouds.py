"""Point clouds: points drawn from the surface of a mesh, or read from a file."""

import hashlib
from pathlib import Path
from tokenize import TokenError

import numpy as np

from pipeline.core.array_types import Array
from pipeline.core.errors import UserError
from pipeline.formats.off import Mesh, parse_off

# Errors that NumPy was seen to raise on damaged headers; one may also announce gigabytes.
READ_ERRORS = (
    OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError, RecursionError, TokenError, MemoryError,
)  # fmt: skip


def read_off_points(path: Path, num_points: int) -> Array:
    """Read an OFF file and sample its surface.

    The draw depends on the file's bytes alone, so an object has the same points whoever reads it, however often
    and in whatever order.

    Args:
        path: The file.
        num_points: The number of points.

    Returns:
        Points as returned by :func:`sample_surface`.

    Raises:
        UserError: the file is not there, no OFF file, or has no surface.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Name an OFF file.") from error
    seed = int.from_bytes(hashlib.sha256(content).digest()[:8], "big")
    return sample_surface(parse_off(content, str(path)), num_points, seed, str(path))


def sample_surface(mesh: Mesh, num_points: int, seed: int, name: str) -> Array:
    """Draw points from a surface, as many from a square unit here as there.

    Meshes come in millimetres, inches and feet, and far from the origin. The points are centred and scaled before
    they are rounded to float32, which would swallow the shape of a small object far away.

    Args:
        mesh: The surface; it may have degenerate triangles, which have no area, so nothing is drawn from them.
        num_points: The number of points.
        seed: The seed of the random number generator.
        name: The name of the mesh, for messages.

    Returns:
        ``(num_points, 3)`` float32 in [-1, 1]: the box around the points is centred on the origin, its longest side
        is 2.

    Raises:
        UserError: all triangles are degenerate.
    """
    import trimesh  # slow to import, and only meshes need it

    # A small object far away and an object in light years alike have areas that float64 can hold once this is done.
    corners = mesh.vertices[mesh.triangles].reshape(-1, 3)
    vertices = mesh.vertices - corners.sum(axis=0) / max(1, len(corners))
    extent = np.abs(vertices).max()
    surface = trimesh.Trimesh(vertices / extent if extent > 0 else vertices, mesh.triangles, process=False)
    if not surface.area > 0:
        raise UserError(f"{name}: no triangle has an area, so there is no surface. Fix or remove the file.")
    points, _ = trimesh.sample.sample_surface(surface, num_points, seed=seed)
    return fit_into_cube(np.asarray(points))


def fit_into_cube(points: Array) -> Array:
    """Centre the box around points on the origin and make its longest side 2.

    Args:
        points: ``(points, 3)``, finite.

    Returns:
        ``(points, 3)`` float32 in [-1, 1]; all 0 where the points are a single place.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    longest = (high - low).max()
    centred: Array = points - (low + high) / 2
    return (centred / (longest / 2 if longest > 0 else 1.0)).astype(np.float32)


def read_cloud(path: Path, num_points: int, num_stored: int) -> Array:
    """Read a new object: the surface of a mesh, or points as NumPy saves them.

    Args:
        path: ``.off``, or ``.npy`` of an array ``(points, 3)``; z up in both.
        num_points: The number of points that the model reads, the first ones of the file.
        num_stored: The number of points that are drawn from a mesh, as many as for training.

    Returns:
        ``(num_points, 3)`` float32, of about unit size.

    Raises:
        UserError: another kind of file, a damaged one, too few points, or one that is not finite.
    """
    if path.suffix.lower() == ".off":
        return read_off_points(path, num_stored)[:num_points]
    try:
        # A map: the header may claim more numbers than memory can hold, and the file has. No archive and no pickle.
        stored = np.lib.format.open_memmap(path, mode="r")
    except READ_ERRORS as error:
        raise UserError(f"{path}: neither an OFF file nor a .npy array of numbers ({error}).") from error
    is_cloud = stored.ndim == 2 and stored.shape[1] == 3 and stored.dtype.kind in "fiu"
    if not is_cloud or len(stored) < num_points:
        raise UserError(
            f"{path}: found {stored.shape} of {stored.dtype}, allowed is (points, 3) of numbers with {num_points} "
            "points or more."
        )
    points = np.array(stored[:num_points], dtype=np.float64)
    if not (np.abs(points) < 1e100).all():
        raise UserError(f"{path}: a coordinate is not finite or beyond 1e100. Fix the file.")
    return fit_into_cube(points)
