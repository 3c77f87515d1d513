"""Point clouds in HDF5 files, read without following anything that leads out of the file."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.array_types import Array
from pipeline.core.errors import UserError
from pipeline.core.files import describe_absence

if TYPE_CHECKING:
    import h5py

ADVICE = "Take another copy of the published file."
# The whole published set has 12,308 objects. A header that claims more than this is refused before it is read: values
# that the file does not even hold are read as zeros.
MAX_OBJECTS = 20_000


def read_hdf5_points(path: Path, num_points: int) -> tuple[Array, Array]:
    """Read the datasets ``data`` and ``label`` of a file; others in it are not read.

    Args:
        path: The file.
        num_points: The number of points of each object.

    Returns:
        Points ``(objects, num_points, 3)`` float32 as stored, and labels ``(objects,)`` int64.

    Raises:
        UserError: no HDF5 file, a truncated one, a dataset that is missing, linked from elsewhere, of another shape
            or type or absurdly large, or a coordinate that is not finite.
    """
    import h5py  # slow to import, and only these files need it

    if not path.is_file():
        raise UserError(f"{path}: {describe_absence(path)}. {ADVICE}")
    try:
        with h5py.File(path, "r") as file:
            data = _open_dataset(file, "data", path)
            label = _open_dataset(file, "label", path)
            if data.dtype != np.float32 or data.ndim != 3 or data.shape[1:] != (num_points, 3):
                raise UserError(
                    f"{path}: data is {_describe(data)}, allowed is (objects, {num_points}, 3) of float32. {ADVICE}"
                )
            num_objects = data.shape[0]
            if label.dtype != np.uint8 or label.shape not in ((num_objects, 1), (num_objects,)):
                raise UserError(
                    f"{path}: label is {_describe(label)}, allowed is ({num_objects}, 1) of uint8. {ADVICE}"
                )
            if not 1 <= num_objects <= MAX_OBJECTS:
                raise UserError(f"{path}: data has {num_objects} objects, allowed are 1 to {MAX_OBJECTS}. {ADVICE}")
            points, labels = data[:], label[:]
    except UserError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:  # h5py has no error of its own
        raise UserError(f"{path}: not a whole HDF5 file ({error}). {ADVICE}") from error
    wrong = np.flatnonzero(~np.isfinite(points).all(axis=(1, 2)))
    if len(wrong):
        raise UserError(f"{path}: row {wrong[0]} of data has a coordinate that is not finite. {ADVICE}")
    return points, labels.reshape(-1).astype(np.int64)


def _open_dataset(file: "h5py.File", name: str, path: Path) -> "h5py.Dataset":
    """Open a dataset that lies in the file itself: a link, an external or a virtual one could name any other file."""
    import h5py

    link = file.get(name, getlink=True)
    if link is None:
        raise UserError(f"{path}: there is no dataset {name!r}. {ADVICE}")
    if not isinstance(link, h5py.HardLink):
        raise UserError(f"{path}: {name!r} is a link ({type(link).__name__}) and not a dataset. {ADVICE}")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise UserError(f"{path}: {name!r} is a {type(dataset).__name__.lower()} and not a dataset. {ADVICE}")
    if dataset.is_virtual or dataset.external:
        raise UserError(f"{path}: the values of {name!r} lie in another file. {ADVICE}")
    return dataset


def _describe(dataset: "h5py.Dataset") -> str:
    return f"{dataset.shape} of {dataset.dtype}"
