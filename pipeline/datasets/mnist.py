"""MNIST: 70,000 handwritten digits of 28 x 28 pixels, in the IDX format.

Source:
    LeCun, Cortes and Burges, "The MNIST database of handwritten digits": two bytes of zero, one for the
    type (8 is uint8), one for the number of axes, their sizes as big-endian 32-bit numbers, then the values.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np
from einops import rearrange

from pipeline.config.sources import DataConfig
from pipeline.core.array_types import Array
from pipeline.core.errors import UserError
from pipeline.datasets.base import Part, PublishedSet, RemoteFile, find_raw_file, join_parts

PUBLISHED = {"train": 60_000, "test": 10_000}
SIDE = 28
NUM_CLASSES = 10
PREFIXES = {"train": "train", "test": "t10k"}
TYPE_UINT8 = 8
ADVICE = "Take another copy of the published file."

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist")
# MD5 of the files that these mirrors give and the MNIST readers of other projects expect.
CHECKSUMS = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
REMOTE_FILES = tuple(
    RemoteFile(f"{name}.gz", tuple(f"{mirror}/{name}.gz" for mirror in MIRRORS), f"md5:{digest}", gives=(name,))
    for name, digest in CHECKSUMS.items()
)


def read_mnist(raw: Path, config: DataConfig) -> PublishedSet:
    """Read the four files, plain or ``.gz``.

    Args:
        raw: The folder that holds them, or one above it.
        config: Whether a part of the set is good enough.

    Raises:
        UserError: a file is absent, of another format, truncated, too long, or holds what is no digit; images and
            labels differ in number; or the set is not whole and the config does not allow it.
    """
    parts = []
    for split, prefix in PREFIXES.items():
        images_path = _find(raw, f"{prefix}-images", "idx3")
        images = read_idx(images_path, (PUBLISHED[split], SIDE, SIDE))
        labels_path = _find(raw, f"{prefix}-labels", "idx1")
        digits = read_idx(labels_path, (PUBLISHED[split],))
        if len(images) != len(digits):
            raise UserError(f"{labels_path}: {len(digits)} labels, but {images_path.name} has {len(images)} images.")
        wrong = np.flatnonzero(digits >= NUM_CLASSES)
        if len(wrong):
            raise UserError(f"{labels_path}: label {wrong[0]} is {digits[wrong[0]]}; allowed are 0 to 9. {ADVICE}")
        parts.append(Part(images_path, split, images, digits.astype(str)))
    return join_parts(raw, parts, PUBLISHED, "image", config.allow_partial)


def read_idx(path: Path, largest: tuple[int, ...]) -> Array:
    """Read a file of uint8 values in the IDX format.

    Args:
        path: The file, plain, or gzip where the name ends with ``.gz``.
        largest: The size of each axis; the first may be smaller in the file.

    Returns:
        An array with as many axes as ``largest``.

    Raises:
        UserError: another format or type, other sizes, or more or fewer values than the header announces.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            magic = file.read(4)
            if magic != bytes((0, 0, TYPE_UINT8, len(largest))):
                raise UserError(
                    f"{path}: begins with {magic.hex(' ') or 'nothing'}; an IDX file of uint8 with {len(largest)} "
                    f"axes begins with 00 00 08 0{len(largest)}. {ADVICE}"
                )
            header = file.read(4 * len(largest))
            if len(header) < 4 * len(largest):
                raise UserError(f"{path}: truncated within its header of {4 + 4 * len(largest)} bytes. {ADVICE}")
            shape = tuple(int(size) for size in np.frombuffer(header, ">u4"))
            if shape[1:] != largest[1:] or shape[0] > largest[0]:
                allowed = " x ".join(["at most " + str(largest[0]), *(str(size) for size in largest[1:])])
                raise UserError(f"{path}: holds {' x '.join(map(str, shape))} values; allowed are {allowed}. {ADVICE}")
            num_values = int(np.prod(shape))
            content = file.read(num_values + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file ({error}). {ADVICE}") from error
    if len(content) != num_values:
        found = f"truncated: {len(content):,}" if len(content) < num_values else f"too long: more than {num_values:,}"
        raise UserError(f"{path}: {found} bytes after the header, which announces {num_values:,}. {ADVICE}")
    values = np.frombuffer(content, np.uint8)
    if len(shape) == 1:
        return values
    return rearrange(values, "(image row column) -> image row column", row=shape[1], column=shape[2])


def _find(raw: Path, stem: str, axes: str) -> Path:
    # Some copies have a dot where the published names have a hyphen.
    names = [f"{stem}-{axes}-ubyte", f"{stem}-{axes}-ubyte.gz", f"{stem}.{axes}-ubyte", f"{stem}.{axes}-ubyte.gz"]
    path = find_raw_file(raw, names)
    if path is None:
        raise UserError(
            f"{raw}: no {names[0]} or {names[1]}. Run the fetch stage with an empty folder, or name the folder that "
            "holds the published files with --data.raw_folder (make: DATA=folder)."
        )
    return path
