"""Ten kinds of simple solids as OFF meshes, laid out as ModelNet40 is: point clouds to try without any data.

Each solid has its own proportions and is stretched, tilted and turned at random. Units, distance from the origin and
the spelling of the header differ as they do in ModelNet40, so that code that reads these solids reads ModelNet40 too.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from pipeline.config.sources import DataConfig
from pipeline.core.array_types import Array
from pipeline.core.console import progress
from pipeline.core.errors import UserError
from pipeline.core.files import read_json, write_bytes, write_json
from pipeline.datasets.base import PublishedSet
from pipeline.datasets.modelnet40 import read_mesh_tree

Generator = np.random.Generator

SYNTHETIC_NOTE = "These objects are synthetic: simple solids that were made from geometry."
NUM_OBJECTS = {"train": 300, "test": 50}  # of each class
COMPLETE_NAME = "primitives.json"
VERSION = 1
MAX_TILT_DEGREES = 30.0
# Relative to the solid's size: enough to dent it, too little to hide what it is.
NOISE = 0.01

# From trimesh.creation, which is slow to import, and a generator to a mesh.
SOLIDS: dict[str, Callable[[Any, Generator], Any]] = {
    "annulus": lambda creation, draw: creation.annulus(
        draw.uniform(0.5, 0.8), 1.0, draw.uniform(0.6, 1.6), sections=24
    ),
    "box": lambda creation, draw: creation.box(draw.uniform(0.6, 1.6, 3)),
    "capsule": lambda creation, draw: creation.capsule(draw.uniform(1.0, 2.5), draw.uniform(0.5, 0.8), count=(12, 12)),
    "cone": lambda creation, draw: creation.cone(1.0, draw.uniform(1.2, 2.4), sections=24),
    "cylinder": lambda creation, draw: creation.cylinder(1.0, draw.uniform(1.0, 3.0), sections=24),
    "ellipsoid": lambda creation, draw: creation.icosphere(subdivisions=2).apply_scale(draw.uniform(0.8, 1.2, 3)),
    "prism": lambda creation, draw: creation.cylinder(1.0, draw.uniform(1.0, 3.0), sections=3),
    "pyramid": lambda creation, draw: creation.cone(1.0, draw.uniform(1.0, 2.0), sections=4),
    "tetrahedron": lambda creation, draw: creation.cone(1.0, draw.uniform(1.2, 1.8), sections=3),
    "torus": lambda creation, draw: creation.torus(1.0, draw.uniform(0.25, 0.45), major_sections=24, minor_sections=12),
}


def make_primitives(folder: Path, console: Console, num_objects: dict[str, int] = NUM_OBJECTS) -> None:
    """Fill a folder with solids; the same bytes each time.

    ``primitives.json`` is written last: where it is, the set is complete and nothing is done.

    Args:
        folder: A folder that holds nothing else; it is made where absent.
        console: The console that shows progress.
        num_objects: From an official split to the number of solids of each class.

    Raises:
        UserError: the folder holds something else.
    """
    record = {"note": SYNTHETIC_NOTE, "version": VERSION, "classes": list(SOLIDS), "objects_of_each_class": num_objects}
    complete = folder / COMPLETE_NAME
    if complete.is_file() and read_json(complete) == record:
        return
    if folder.is_dir():
        known = {COMPLETE_NAME, *SOLIDS}
        foreign = [path.name for path in folder.iterdir() if path.name not in known and not path.name.startswith(".")]
        if foreign:
            raise UserError(f"{folder}: holds {foreign[0]}, which is no synthetic solid. Name an empty folder.")
    complete.unlink(missing_ok=True)
    plan = [(name, split, row) for name in SOLIDS for split, number in num_objects.items() for row in range(number)]
    wanted = {folder / name / split / f"{name}_{row:04d}.off": (name, split, row) for name, split, row in plan}
    for leftover in set(folder.rglob("*.off")) - set(wanted):
        leftover.unlink()
    for path, (name, split, row) in progress(wanted.items(), "making solids", len(wanted), console):
        write_bytes(path, write_off(*build_solid(name, split, row), glued=row % 3 == 0).encode())
    write_json(complete, record)


def read_primitives(raw: Path, config: DataConfig) -> PublishedSet:
    """Read the solids of a folder that :func:`make_primitives` filled; arguments as for ``read_modelnet40``."""
    complete = raw / COMPLETE_NAME
    if not complete.is_file():
        raise UserError(f"{raw}: no complete set of solids. Run the fetch stage.")
    numbers = read_json(complete)["objects_of_each_class"]
    published = {split: number * len(SOLIDS) for split, number in numbers.items()}
    return read_mesh_tree(raw, published, config.allow_partial)


def build_solid(name: str, split: str, row: int) -> tuple[Array, Array]:
    """Build one solid.

    Args:
        name: A key of ``SOLIDS``.
        split: ``train`` or ``test``.
        row: The number of the solid within class and split.

    Returns:
        Corners ``(corners, 3)``, z up, and triangles ``(triangles, 3)``.
    """
    from trimesh import creation

    draw = np.random.default_rng([VERSION, list(SOLIDS).index(name), ("train", "test").index(split), row])
    solid = SOLIDS[name](creation, draw)
    corners = np.array(solid.vertices) - solid.bounds.mean(axis=0)
    corners *= draw.uniform(0.8, 1.25, 3)
    tilt = np.radians(draw.uniform(0, MAX_TILT_DEGREES))
    corners = corners @ rotate_about_z(draw.uniform(0, 2 * np.pi)).T @ rotate_about_x(tilt).T
    corners = corners @ rotate_about_z(draw.uniform(0, 2 * np.pi)).T
    corners += draw.normal(0, NOISE * np.ptp(corners, axis=0).max(), corners.shape)
    unit = 10 ** draw.uniform(-1, 2)
    return unit * (corners + draw.uniform(-20, 20, 3)), np.array(solid.faces)


def rotate_about_z(angle: float) -> Array:
    """Return the matrix that turns columns of coordinates about z, from x towards y, by ``angle`` in radians."""
    return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])


def rotate_about_x(angle: float) -> Array:
    """Return the matrix that turns columns of coordinates about x, from y towards z, by ``angle`` in radians."""
    return np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])


def write_off(corners: Array, triangles: Array, *, glued: bool) -> str:
    """Write a mesh as OFF text.

    Args:
        corners: ``(corners, 3)``.
        triangles: ``(triangles, 3)``.
        glued: Whether the counts follow the first word without a space, as in many files of ModelNet40.
    """
    lines = [f"OFF{'' if glued else chr(10)}{len(corners)} {len(triangles)} 0"]
    lines += [f"{x:.6f} {y:.6f} {z:.6f}" for x, y, z in corners.tolist()]
    lines += [f"3 {a} {b} {c}" for a, b, c in triangles.tolist()]
    return "\n".join(lines) + "\n"
