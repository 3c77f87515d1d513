"""ModelNet40: 12,311 CAD objects of 40 classes, as point clouds in HDF5 files or as OFF meshes.

The HDF5 set was made from the meshes by PointNet's authors: 2,048 points of each object. It holds 9,840 training
objects, three fewer than the meshes, and all 2,468 test objects. Its y axis points up (PointNet's own code turns
objects about y and calls that the up direction), the meshes' z axis does. All are given here with z up, so that a
model trained on one form reads the other. Whether both forms also face the same way was not verified.

Source:
    Wu 2015, "3D ShapeNets", https://modelnet.cs.princeton.edu; Qi 2017, "PointNet", arXiv 1612.00593. Counts of
    the HDF5 set: https://github.com/AutodeskAILab/RobustPointSet/issues/6 and
    https://github.com/ma-xu/pointMLP-pytorch/issues/37. Checksums of both archives: file
    tensorflow_graphics/datasets/modelnet40/checksums/model_net40.txt of https://github.com/tensorflow/graphics.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed

from pipeline.config.sources import DataConfig
from pipeline.core.array_types import Array
from pipeline.core.errors import UserError
from pipeline.core.provenance import count_cores
from pipeline.core.tables import clean_text, refuse_alike
from pipeline.datasets.base import (
    Part,
    PublishedSet,
    RemoteFile,
    describe_missing,
    find_raw_file,
    join_parts,
)
from pipeline.formats.hdf5 import read_hdf5_points
from pipeline.formats.point_clouds import read_off_points

PUBLISHED_CLOUDS = {"train": 9_840, "test": 2_468}
PUBLISHED_MESHES = {"train": 9_843, "test": 2_468}
NUM_POINTS = 2048
# A process takes a second to start; one reads so much in three.
BYTES_WORTH_A_PROCESS = 2**26
NAMES_FILE = "shape_names.txt"
CLOUD_FILES = (
    NAMES_FILE,
    "train_files.txt",
    "test_files.txt",
    *(f"ply_data_train{number}.h5" for number in range(5)),
    *(f"ply_data_test{number}.h5" for number in range(2)),
)
# 435,212,151 and 2,039,180,837 bytes.
REMOTE_CLOUDS = RemoteFile(
    "modelnet40_ply_hdf5_2048.zip",
    (
        "https://shapenet.cs.stanford.edu/media/modelnet40_ply_hdf5_2048.zip",
        "https://huggingface.co/datasets/Msun/modelnet40/resolve/main/modelnet40_ply_hdf5_2048.zip",
    ),
    "sha256:07670e237db72ece0f723b9abb571534c9ad655a6456b389646587dc72bb8bae",
    gives=CLOUD_FILES,
)
REMOTE_MESHES = RemoteFile(
    "ModelNet40.zip",
    ("https://modelnet.cs.princeton.edu/ModelNet40.zip", "http://modelnet.cs.princeton.edu/ModelNet40.zip"),
    "sha256:42dc3e656932e387f554e25a4eb2cc0e1a1bd3ab54606e2a9eae444c60e536ac",
)


def read_modelnet40(raw: Path, config: DataConfig) -> PublishedSet:
    """Read the HDF5 files where they are, else the OFF meshes.

    Args:
        raw: The folder that holds either, or one above it.
        config: Whether a part of the set is good enough.

    Raises:
        UserError: neither is there; a file is damaged, or names what is not there; or the set is not whole and the
            config does not allow it.
    """
    names_path = find_raw_file(raw, [NAMES_FILE])
    if names_path is not None:
        return _read_clouds(raw, names_path, config.allow_partial)
    return read_modelnet40_meshes(raw, config)


def read_modelnet40_meshes(raw: Path, config: DataConfig) -> PublishedSet:
    """Read the OFF meshes; arguments and errors as for :func:`read_modelnet40`."""
    return read_mesh_tree(raw, PUBLISHED_MESHES, config.allow_partial)


def turn_z_up(points: Array) -> Array:
    """Turn objects whose y axis points up so that their z axis does: y becomes z, z becomes -y.

    Args:
        points: ``(objects, points, 3)``.
    """
    x, y, z = np.moveaxis(points, -1, 0)
    return np.stack([x, -z, y], axis=-1)


def _read_clouds(raw: Path, names_path: Path, allow_partial: bool) -> PublishedSet:
    folder = names_path.parent
    class_names = np.array(_read_lines(names_path))
    parts, absent = [], []
    for split in PUBLISHED_CLOUDS:
        # The lists name files as they lay on the authors' machine: data/modelnet40_ply_hdf5_2048/ply_data_train0.h5.
        listed = [line.replace("\\", "/").rsplit("/", 1)[-1] for line in _read_lines(folder / f"{split}_files.txt")]
        if len(set(listed)) < len(listed):
            raise UserError(f"{folder / f'{split}_files.txt'}: names a file twice. Bring it as it was published.")
        for name in listed:
            path = folder / name
            if not path.is_file():
                absent.append(name)
                continue
            points, label_indices = read_hdf5_points(path, NUM_POINTS)
            wrong = np.flatnonzero(label_indices >= len(class_names))
            if len(wrong):
                raise UserError(
                    f"{path}: row {wrong[0]} has label {label_indices[wrong[0]]}, but {NAMES_FILE} has "
                    f"{len(class_names)} names, counted from 0. Bring the files as they were published."
                )
            parts.append(Part(path, split, turn_z_up(points), class_names[label_indices]))
    return join_parts(raw, parts, PUBLISHED_CLOUDS, "object", allow_partial, absent)


def read_mesh_tree(raw: Path, published: Mapping[str, int], allow_partial: bool) -> PublishedSet:
    """Read ``<class>/<train or test>/<name>.off`` and sample each surface, on all cores.

    Args:
        raw: The folder that holds the classes' folders, or one above it.
        published: From an official split to the number of objects in the whole set.
        allow_partial: Whether a part of the set is good enough.

    Raises:
        UserError: there is no mesh, one lies elsewhere, cannot be read or has no surface; or the set is not whole
            and that is not allowed.
    """
    places = [path.relative_to(raw) for path in sorted(raw.rglob("*")) if path.suffix.lower() == ".off"]
    # Archives made on a Mac have a second tree of files that hold no meshes.
    places = [place for place in places if not any(part.startswith((".", "__MACOSX")) for part in place.parts)]
    if not places:
        raise UserError(
            f"{raw}: neither {NAMES_FILE} of modelnet40_ply_hdf5_2048 nor any OFF file. Run the fetch stage, or name "
            "the folder that holds the files with --data.raw_folder (make: DATA=folder)."
        )
    for place in places:
        if len(place.parts) < 3 or place.parts[-2] not in published:
            raise UserError(
                f"{raw / place}: a mesh belongs into <class>/train or <class>/test. Move or remove it, or name the "
                "folder that holds the classes with --data.raw_folder."
            )
    splits = np.array([place.parts[-2] for place in places])
    # Missing files are reported at once and not after minutes of reading.
    found = {split: int((splits == split).sum()) for split in published}
    lacking = next((split for split, number in found.items() if number == 0), "")
    if lacking:
        raise UserError(
            f"{raw}: no object for {lacking}. Meshes of your own are read too where data.allow_partial is true; put "
            f"some of each class into <class>/{lacking}."
        )
    missing = describe_missing(raw, found, published, "object", allow_partial)
    tasks = (delayed(read_off_points)(raw / place, NUM_POINTS) for place in places)
    num_bytes = sum((raw / place).stat().st_size for place in places)
    num_workers = min(count_cores(), 1 + num_bytes // BYTES_WORTH_A_PROCESS)
    examples = np.stack(list(Parallel(n_jobs=num_workers, batch_size=8)(tasks)))
    labels = np.array([clean_text(place.parts[-3]) for place in places])
    refuse_alike(str(raw), "classes", {clean_text(place.parts[-3]): str(place.parent.parent) for place in places})
    return PublishedSet(examples, labels, splits, [place.as_posix() for place in places], missing)


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a list without the blank ones."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Bring the set as it was published.") from error
    lines = [line.strip() for line in lines if line.strip()]
    if not lines:
        raise UserError(f"{path}: is empty. Bring it as it was published.")
    return lines
