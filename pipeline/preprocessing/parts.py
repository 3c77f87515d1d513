"""One source's way into the store: read, check, cut, keep as a part.

A part is written once under a name made of everything that shaped it, so work
that was interrupted goes on where it was. Processes run this module: it imports
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

from pipeline.config.data import PreprocessConfig
from pipeline.core.errors import UserError, VolumeError
from pipeline.core.files import write_bytes
from pipeline.core.provenance import compute_fingerprint
from pipeline.data.sources import Source
from pipeline.formats.nifti import list_files, read_volume
from pipeline.preprocessing.slicing import Stack, cut_stack, read_picture_stack

DIGEST_BYTES = hashlib.sha256().digest_size
# Changes when the same options make other pictures; it makes old parts invalid.
VERSION = 1
# Nearer to the scanner's middle plane than this, a volume's place does not tell its side.
MIN_SIDE_OFFSET_MM = 20.0


@dataclass(frozen=True)
class Part:
    """What one source contributes.

    Args:
        images: ``(slices, height, width)`` uint8; empty where the source was refused.
        positions: ``(slices,)`` float32 in [-1, 1].
        facts: the manifest's columns that come from reading the file.
    """

    images: np.ndarray[Any, Any]
    positions: np.ndarray[Any, Any]
    facts: dict[str, Any]


def describe_options(options: PreprocessConfig) -> dict[str, Any]:
    """Return the options that shape a picture, as JSON holds them."""
    return {
        "version": VERSION,
        "plane": options.plane,
        "num_slices": options.num_slices,
        "span": list(options.span),
        "spacing_mm": options.spacing_mm,
        "size": list(options.size),
        "percentiles": list(options.percentiles),
        "max_volume_gib": options.max_volume_gib,
    }


def compute_part_key(raw: Path, source: Source, options: PreprocessConfig) -> str:
    """Return a name that changes with the source, its files (name, size, time) or the options."""
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


def prepare_part(
    raw: Path, source: Source, options: PreprocessConfig, part_path: Path, raw_name: str
) -> tuple[str, str] | None:
    """Read one source and write its part, or why it is refused.

    Args:
        raw: the folder that the source's paths are relative to.
        source: the scan.
        options: how to cut it.
        part_path: where the part goes; its name is the source's key from before it was read.
        raw_name: what the reason of a refusal calls ``raw``, the same on every machine.

    Returns:
        The part's name and why nothing was written, which another run may find otherwise; None where a part was.
    """
    name = Path(raw_name) / source.paths[0]
    try:
        part = _make_part(raw, source, options, raw_name)
    except OSError as error:
        return part_path.name, f"{name}: {error.strerror or type(error).__name__}. Mend its permissions, or copy it."
    if compute_part_key(raw, source, options) != part_path.stem:
        return part_path.name, f"{name}: changed or went away while it was read. Run preprocess again."
    buffer = io.BytesIO()
    np.savez(buffer, images=part.images, positions=part.positions, facts=np.array(json.dumps(part.facts)))
    content = buffer.getvalue()
    write_bytes(part_path, content + hashlib.sha256(content).digest())
    return None


def is_whole(part_path: Path) -> bool:
    """Say whether a part is there and as it was written."""
    return part_path.is_file() and _strip_digest(part_path.read_bytes()) is not None


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


def read_part(part_path: Path) -> Part:
    """Read a part back.

    Raises:
        UserError: it is not what was written.
    """
    body = _strip_digest(part_path.read_bytes())
    if body is None:
        raise UserError(
            f"{part_path}: damaged, it does not fit its checksum. Run preprocess again, which makes it anew."
        )
    with np.load(io.BytesIO(body), allow_pickle=False) as content:
        return Part(content["images"], content["positions"], json.loads(str(content["facts"])))


def export_pictures(part_path: Path, source: Source, folder: Path) -> None:
    """Write a part's pictures under AKOA's own form of name, ``<volume's file name>_<slice>.png``."""
    name = source.paths[0].name if source.is_volume else source.paths[0].name.rsplit("_", 1)[0]
    for slice_index, image in enumerate(read_part(part_path).images):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        write_bytes(folder / source.paths[0].parent / f"{name}_{slice_index}.png", buffer.getvalue())


def _strip_digest(content: bytes) -> bytes | None:
    """Return a part's content without the checksum behind it, or None where they do not fit each other."""
    body, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    return body if hashlib.sha256(body).digest() == digest else None


def _make_part(raw: Path, source: Source, options: PreprocessConfig, raw_name: str) -> Part:
    try:
        stack, facts = _read_source(raw, source, options)
        facts |= {"status": "accepted", "reason": "", "intensity_low": stack.low, "intensity_high": stack.high}
        return Part(stack.images, stack.positions, facts)
    except (VolumeError, MemoryError) as error:
        reason = str(error).replace(str(raw), raw_name) or "the scan does not fit into memory"
        empty = np.zeros((0, *options.size), np.uint8)
        return Part(empty, np.zeros(0, np.float32), {"status": "refused", "reason": reason})


def _read_source(raw: Path, source: Source, options: PreprocessConfig) -> tuple[Stack, dict[str, Any]]:
    if source.refusal:
        raise VolumeError(f"{raw / source.paths[0]}: {source.refusal}")
    if not source.is_volume:
        stack = read_picture_stack(tuple(raw / path for path in source.paths), options)
        digest = hashlib.sha256(b"".join((raw / path).read_bytes() for path in source.paths))
        return stack, {"sha256": digest.hexdigest()}
    path = raw / source.paths[0]
    volume = read_volume(path, max_bytes=int(options.max_volume_gib * 2**30))
    stack = cut_stack(volume, options, str(path))
    facts = {
        "sha256": volume.sha256,
        "shape": "x".join(str(size) for size in volume.stored_shape),
        "spacing_mm": "x".join(f"{size:.4g}" for size in volume.spacing_mm),
        "stored_axes": volume.stored_axes,
        "obliquity_degrees": round(volume.obliquity_degrees, 2),
        "centre_right_mm": round(volume.centre_mm[0], 2),
    }
    # A picture one voxel thick says nothing of where the knee lies.
    if min(volume.voxels.shape) > 1 and abs(volume.centre_mm[0]) >= MIN_SIDE_OFFSET_MM:
        facts["side_by_position"] = "right" if volume.centre_mm[0] > 0 else "left"
    return stack, facts
