"""One source's way into the store: read, check, cut, keep as a part.

A part is written once under a name made of everything that shaped it, so work
that was interrupted is resumed. Processes run this module: it imports
nothing that is slow to load.
"""

import hashlib
import io
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config.data import SHAPING, PreprocessConfig
from pipeline.core.array_types import Array
from pipeline.core.errors import UserError, VolumeError
from pipeline.core.files import write_bytes
from pipeline.core.provenance import compute_fingerprint
from pipeline.core.serialization import flatten
from pipeline.data.sources import Source
from pipeline.formats.nifti import list_files
from pipeline.preprocessing.slicing import Stack, read_stack

DIGEST_BYTES = hashlib.sha256().digest_size
# Changes when the same options make other images; it makes old parts invalid.
VERSION = 1
# Nearer to the scanner's middle plane than this, a volume's place does not show its side.
MIN_SIDE_OFFSET_MM = 20.0


@dataclass(frozen=True)
class PartSummary:
    """The facts about a part, without its images; manifest and index are made from it.

    Args:
        name: The part's file name.
        positions: ``(slices,)`` float32 in [-1, 1]; empty where the source was refused.
        facts: The manifest's columns that come from reading the file.
        is_kept: Whether the part was written. Where it was not, another run may find the file otherwise.
    """

    name: str
    positions: Array
    facts: dict[str, Any]
    is_kept: bool = True

    @property
    def is_accepted(self) -> bool:
        return bool(self.facts["status"] == "accepted")


def describe_options(options: PreprocessConfig) -> dict[str, Any]:
    """Return the options that shape an image, as JSON holds them."""
    plain = flatten(options)
    return {"version": VERSION} | {name: plain[name] for name in SHAPING}


def compute_part_key(raw: Path, source: Source, options: PreprocessConfig) -> str:
    """Return a name that changes with the source, its files (name, size, time) or the options.

    Args:
        raw: The folder that the source's paths are relative to.
        source: The scan.
        options: The options of slicing.
    """
    files = []
    for path in itertools.chain.from_iterable(list_files(raw / path) for path in source.paths):
        name = str(path.relative_to(raw))
        try:
            status = path.stat()
            files.append([name, status.st_size, status.st_mtime_ns])
        except OSError:
            files.append([name, -1, -1])
    identity = [source.source_id, source.group_id, source.label, source.side, source.refusal]
    return compute_fingerprint(identity, files, describe_options(options))


def prepare_part(raw: Path, source: Source, options: PreprocessConfig, part_path: Path, raw_name: str) -> PartSummary:
    """Read one source and write its part.

    Args:
        raw: The folder that the source's paths are relative to.
        source: The scan.
        options: The options of slicing.
        part_path: The file of the part; its name is the source's key from before it was read.
        raw_name: The name of ``raw`` in the reason of a refusal, the same on every machine.

    Returns:
        What the part holds, or why none was written.
    """
    name = Path(raw_name) / source.paths[0]
    try:
        images, summary = _cut_source(raw, source, options, part_path.name, raw_name)
    except OSError as error:
        reason = f"{name}: {error.strerror or type(error).__name__}. Fix its permissions, or copy it."
        return refuse(part_path.name, reason, is_kept=False)
    if compute_part_key(raw, source, options) != part_path.stem:
        reason = f"{name}: changed or went away while it was read. Run preprocess again."
        return refuse(part_path.name, reason, is_kept=False)
    buffer = io.BytesIO()
    np.savez(buffer, images=images, positions=summary.positions, facts=np.array(json.dumps(summary.facts)))
    content = buffer.getvalue()
    write_bytes(part_path, content + hashlib.sha256(content).digest())
    return summary


def refuse(part_name: str, reason: str, is_kept: bool = True) -> PartSummary:
    """Return the summary of a source that cannot be used.

    Args:
        part_name: The part's file name.
        reason: The reason that the manifest shows.
        is_kept: Whether the refusal is written, so that another run does not read the source again.
    """
    return PartSummary(part_name, np.zeros(0, np.float32), {"status": "refused", "reason": reason}, is_kept)


def check_written(part_paths: list[Path]) -> None:
    """Check that parts which other processes wrote are seen here.

    Raises:
        UserError: one is not, as on a network folder that keeps old listings.
    """
    # A listing asks the server of a network folder again, a look for one name does not.
    seen = {path.name for folder in {path.parent for path in part_paths} for path in folder.glob("*.npz")}
    unseen = [path for path in part_paths if path.name not in seen]
    if unseen:
        raise UserError(
            f"{unseen[0]}: written by a worker, but not seen here. Wait until the folder shows it, and run the stage "
            "again."
        )


def read_summary(part_path: Path) -> PartSummary | None:
    """Read a part that an earlier run wrote, but for its images.

    Returns:
        None where the part is not there, or is not what was written.
    """
    body = _strip_digest(part_path.read_bytes()) if part_path.is_file() else None
    if body is None:
        return None
    with np.load(io.BytesIO(body), allow_pickle=False) as content:
        return PartSummary(part_path.name, content["positions"], json.loads(str(content["facts"])))


def read_images(part_path: Path) -> Array:
    """Read the images of a part, ``(slices, height, width)`` uint8.

    Raises:
        UserError: it is not what was written.
    """
    body = _strip_digest(part_path.read_bytes())
    if body is None:
        raise UserError(
            f"{part_path}: damaged, it does not fit its checksum. Run preprocess again, which makes it from scratch."
        )
    with np.load(io.BytesIO(body), allow_pickle=False) as content:
        images: Array = content["images"]
        return images


def export_images(part_path: Path, source: Source, folder: Path) -> None:
    """Write a part's images under AKOA's own form of name, ``<volume's file name>_<slice>.png``.

    Args:
        part_path: The file of the part.
        source: The scan that it was cut from.
        folder: The folder to write into.
    """
    name = source.paths[0].name if source.is_volume else source.paths[0].name.rsplit("_", 1)[0]
    for slice_index, image in enumerate(read_images(part_path)):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        write_bytes(folder / source.paths[0].parent / f"{name}_{slice_index}.png", buffer.getvalue())


def _strip_digest(content: bytes) -> bytes | None:
    """Return a part's content without the checksum after it, or None where they do not fit each other."""
    body, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    return body if hashlib.sha256(body).digest() == digest else None


def _cut_source(
    raw: Path, source: Source, options: PreprocessConfig, part_name: str, raw_name: str
) -> tuple[Array, PartSummary]:
    try:
        stack, facts = _read_source(raw, source, options)
        facts |= {"status": "accepted", "reason": "", "intensity_low": stack.low, "intensity_high": stack.high}
        return stack.images, PartSummary(part_name, stack.positions, facts)
    except (VolumeError, MemoryError) as error:
        reason = str(error).replace(str(raw), raw_name) or "the scan does not fit into memory"
        return np.zeros((0, *options.image_size), np.uint8), refuse(part_name, reason)


def _read_source(raw: Path, source: Source, options: PreprocessConfig) -> tuple[Stack, dict[str, Any]]:
    if source.refusal:
        raise VolumeError(f"{raw / source.paths[0]}: {source.refusal}")
    paths = tuple(raw / path for path in source.paths)
    stack, volume = read_stack(paths, options)
    if volume is None:
        return stack, {"sha256": hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()}
    facts = {
        "sha256": volume.sha256,
        "shape": "x".join(str(size) for size in volume.stored_shape),
        "spacing_mm": "x".join(f"{size:.4g}" for size in volume.spacing_mm),
        "stored_axes": volume.stored_axes,
        "obliquity_degrees": round(volume.obliquity_degrees, 2),
        "centre_right_mm": round(volume.centre_mm[0], 2),
    }
    # A volume one voxel thick does not show where the knee lies.
    if min(volume.voxels.shape) > 1 and abs(volume.centre_mm[0]) >= MIN_SIDE_OFFSET_MM:
        facts["side_by_position"] = "right" if volume.centre_mm[0] > 0 else "left"
    return stack, facts
