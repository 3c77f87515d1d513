"""The way of a few sources into the store: read, check, cut, keep as a part. A volume is a part, or a hundred images.

A part is written once under a name made of everything that shaped it, so work
that was interrupted is resumed. Processes run this module: it imports
nothing that is slow to load.
"""

import hashlib
import io
import itertools
import json
import os
from collections.abc import Sequence
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
from pipeline.formats.dicom_sides import read_side_tags
from pipeline.formats.nifti import list_files
from pipeline.preprocessing.images import fit_image
from pipeline.preprocessing.sides import describe_contradiction, list_evidence
from pipeline.preprocessing.slicing import read_stack

DIGEST_BYTES = hashlib.sha256().digest_size
# Changes when the same options make other images; it makes old parts invalid.
VERSION = 2
# Nearer to the scanner's middle plane than this, a volume's place does not show its side.
MIN_SIDE_OFFSET_MM = 20.0


@dataclass(frozen=True)
class SourceSummary:
    """The facts about one source of a part; its rows of manifest and index are made from them.

    Args:
        positions: ``(slices,)`` float32 in [-1, 1], one of an image; of scans whose slices are one example
            ``(slices, 3)``, as ``Stack.places_mm`` has them; empty where the source was refused.
        facts: The manifest's columns that come from reading the file.
    """

    positions: Array
    facts: dict[str, Any]

    @property
    def is_accepted(self) -> bool:
        return bool(self.facts["status"] == "accepted")


@dataclass(frozen=True)
class PartSummary:
    """The facts about a part, without its images.

    Args:
        name: The part's file name.
        sources: Those of its sources, in their order.
        num_channels: The channels of its images; 0 where no source was accepted.
        is_kept: Whether the part is good for another run. Where it is not, a file could not be read or changed, and
            another run may find it otherwise; the part then serves this run alone.
    """

    name: str
    sources: tuple[SourceSummary, ...]
    num_channels: int
    is_kept: bool = True


def describe_options(options: PreprocessConfig) -> dict[str, Any]:
    """Return the options that shape an image, as JSON holds them."""
    plain = flatten(options)
    return {"version": VERSION} | {name: plain[name] for name in SHAPING}


def compute_part_key(raw: Path, sources: Sequence[Source], options: PreprocessConfig) -> str:
    """Return a name that changes with the sources, their files (name, size, time) or the options.

    Args:
        raw: The folder that the sources' paths are relative to.
        sources: The sources of the part.
        options: The options of slicing.
    """
    return _name_part(sources, [_list_states(raw, source) for source in sources], options)


def _list_states(raw: Path, source: Source) -> list[list[Any]]:
    """Return name, size and time of each file of a source."""
    if source.is_image:  # one file, and there may be 100,000
        names = [str(path) for path in source.paths]
    else:
        files = itertools.chain.from_iterable(list_files(raw / path) for path in source.paths)
        names = [str(path.relative_to(raw)) for path in files]
    states, folder = [], str(raw)
    for name in names:
        try:
            status = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118 (a Path costs more than the look)
            states.append([name, status.st_size, status.st_mtime_ns])
        except OSError:
            states.append([name, -1, -1])
    return states


def _name_part(sources: Sequence[Source], states: list[list[list[Any]]], options: PreprocessConfig) -> str:
    identity = [
        [source.source_id, source.group_id, source.label, source.side, source.refusal, source.is_image]
        + ([source.min_extent_mm] if source.min_extent_mm else [])
        for source in sources
    ]
    return compute_fingerprint(identity, states, describe_options(options))


def prepare_part(
    raw: Path, sources: Sequence[Source], options: PreprocessConfig, part_path: Path, raw_name: str
) -> PartSummary:
    """Read the sources of a part and write it.

    Args:
        raw: The folder that the sources' paths are relative to.
        sources: One volume, or images.
        options: The options of slicing.
        part_path: The file of the part; its name is the sources' key from before they were read.
        raw_name: The name of ``raw`` in the reason of a refusal, the same on every machine.

    Returns:
        What the part holds, and why its other sources were refused.
    """
    states = [_list_states(raw, source) for source in sources]
    is_as_listed = is_kept = _name_part(sources, states, options) == part_path.stem
    stacks, summaries = [], []
    for source, before in zip(sources, states, strict=True):
        name = Path(raw_name) / source.paths[0]
        try:
            images, summary = _cut_source(raw, source, options, raw_name)
            is_same = is_as_listed and _list_states(raw, source) == before
        except OSError as error:
            images, is_kept, is_same = np.zeros((0, 1, *options.image_size), np.uint8), False, True
            summary = refuse(f"{name}: {error.strerror or type(error).__name__}. Fix its permissions, or copy it.")
        if not is_same:
            summary = refuse(f"{name}: changed or went away while it was read. Run preprocess again.")
            is_kept = False
        summaries.append(summary)
        stacks += [images] if summary.is_accepted else []
    num_channels = max((stack.shape[1] for stack in stacks), default=0)
    part = PartSummary(part_path.name, tuple(summaries), num_channels, is_kept)
    if stacks or is_kept:
        _write_part(part_path, part, stacks)
    return part


def _write_part(part_path: Path, part: PartSummary, stacks: list[Array]) -> None:
    images = np.concatenate([match_channels(stack, part.num_channels) for stack in stacks]) if stacks else np.zeros(0)
    facts = {
        "num_channels": part.num_channels,
        "is_kept": part.is_kept,
        "sources": [summary.facts for summary in part.sources],
    }
    positions = np.concatenate([summary.positions for summary in part.sources])
    lengths = np.array([len(summary.positions) for summary in part.sources])
    buffer = io.BytesIO()
    np.savez(buffer, images=images, positions=positions, lengths=lengths, facts=np.array(json.dumps(facts)))
    content = buffer.getvalue()
    write_bytes(part_path, content + hashlib.sha256(content).digest())


def refuse(reason: str) -> SourceSummary:
    """Return the summary of a source that cannot be used.

    Args:
        reason: The reason that the manifest shows.
    """
    return SourceSummary(np.zeros(0, np.float32), {"status": "refused", "reason": reason})


def match_channels(images: Array, num_channels: int) -> Array:
    """Return ``(images, channels, height, width)`` with as many channels, of which those of grey images are equal."""
    shape = (len(images), num_channels, *images.shape[2:])
    return images if images.shape[1] == num_channels else np.broadcast_to(images, shape)


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
        facts = json.loads(str(content["facts"]))
        positions = np.split(content["positions"], np.cumsum(content["lengths"])[:-1])
    sources = (SourceSummary(*pair) for pair in zip(positions, facts["sources"], strict=True))
    return PartSummary(part_path.name, tuple(sources), facts["num_channels"], facts["is_kept"])


def read_images(part_path: Path) -> Array:
    """Read the images of a part, ``(images, channels, height, width)`` uint8.

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


def export_images(part_path: Path, sources: Sequence[Source], folder: Path) -> None:
    """Write a part's images: slices under AKOA's own form of name, ``<volume's file name>_<slice>.png``.

    Args:
        part_path: The file of the part.
        sources: The sources that it was cut from.
        folder: The folder to write into.
    """
    images, summary = read_images(part_path), read_summary(part_path)
    assert summary is not None, "it was read with its checksum a line before"
    place = 0
    for source, facts in zip(sources, summary.sources, strict=True):
        path = source.paths[0]
        name = path.name if source.is_volume else path.stem if source.is_image else path.name.rsplit("_", 1)[0]
        for slice_index in range(len(facts.positions)):
            buffer = io.BytesIO()
            pixels = np.moveaxis(images[place], 0, -1)
            Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0]).save(buffer, "PNG")
            number = "" if source.is_image else f"_{slice_index}"
            write_bytes(folder / path.parent / f"{name}{number}.png", buffer.getvalue())
            place += 1


def _strip_digest(content: bytes) -> bytes | None:
    """Return a part's content without the checksum after it, or None where they do not fit each other."""
    body, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    return body if hashlib.sha256(body).digest() == digest else None


def _cut_source(raw: Path, source: Source, options: PreprocessConfig, raw_name: str) -> tuple[Array, SourceSummary]:
    """Return a source's images ``(images, channels, height, width)``, none where it was refused, and its facts."""
    read = _read_image if source.is_image else _read_volume
    try:
        if source.refusal:
            raise VolumeError(f"{raw / source.paths[0]}: {source.refusal}")
        images, positions, facts = read(tuple(raw / path for path in source.paths), options)
        if facts.get("extent_mm", source.min_extent_mm) < source.min_extent_mm:
            raise VolumeError(
                f"{raw / source.paths[0]}: {facts['extent_mm']:.0f} mm long along its shortest side, at least "
                f"{source.min_extent_mm:g} are needed to show a knee. Leave it out, or lower data.oai.min_extent_mm."
            )
        if source.is_volume:
            facts |= _compare_sides(raw / source.paths[0], source.side, facts.get("side_by_position", ""), options)
        return images, SourceSummary(positions, {"reason": ""} | facts | {"status": "accepted"})
    except (UserError, MemoryError) as error:
        reason = str(error).replace(str(raw), raw_name) or "the scan does not fit into memory"
        return np.zeros((0, 1, *options.image_size), np.uint8), refuse(reason)


def _compare_sides(path: Path, named: str, by_position: str, options: PreprocessConfig) -> dict[str, Any]:
    """Return the side of a volume without a named one, and all that names its side where they contradict each other.

    Raises:
        VolumeError: two sides are written, in name, table or header.
    """
    evidence = list_evidence(named, read_side_tags(path, options.max_volume_bytes), by_position)
    contradiction = describe_contradiction(evidence)
    written = {each.side for each in evidence if each.is_written}
    if len(written) > 1:
        raise VolumeError(f"{path}: two sides: {contradiction}. Correct the wrong one, or leave the scan out.")
    facts = {"side_evidence": contradiction} if contradiction else {}
    return facts if named or not written else facts | {"side": written.pop()}


def _read_image(paths: tuple[Path, ...], options: PreprocessConfig) -> tuple[Array, Array, dict[str, Any]]:
    image = fit_image(paths[0], options)
    facts: dict[str, Any] = {"sha256": image.sha256, "shape": "x".join(str(size) for size in image.stored_shape)}
    facts |= {"intensity_low": image.low, "intensity_high": image.high}
    if image.pixel_mm is not None:
        facts["spacing_mm"] = "x".join(f"{size:.4g}" for size in image.pixel_mm)
    return image.values[None], np.zeros(1, np.float32), facts


def _read_volume(paths: tuple[Path, ...], options: PreprocessConfig) -> tuple[Array, Array, dict[str, Any]]:
    stack, volume = read_stack(paths, options)
    if volume is None and options.unit == "volume":
        raise VolumeError(
            f"{paths[0]}: slices that came as images have no positions in millimetres, which preprocess.unit: volume "
            "needs. Give the scans as NIfTI or DICOM, or set it to slice."
        )
    positions = stack.places_mm if options.unit == "volume" else stack.positions
    window = {"intensity_low": stack.low, "intensity_high": stack.high}
    if volume is None:
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
        return stack.images[:, None], positions, {"sha256": digest} | window
    facts = {
        "reason": volume.doubt,
        "sha256": volume.sha256,
        "shape": "x".join(str(size) for size in volume.stored_shape),
        "spacing_mm": "x".join(f"{size:.4g}" for size in volume.spacing_mm),
        "extent_mm": min(size * mm for size, mm in zip(volume.voxels.shape, volume.spacing_mm, strict=True)),
        "stored_axes": volume.stored_axes,
        "obliquity_degrees": round(volume.obliquity_degrees, 2),
        "centre_right_mm": round(volume.centre_mm[0], 2),
    }
    # A volume one voxel thick does not show where the knee lies.
    if min(volume.voxels.shape) > 1 and abs(volume.centre_mm[0]) >= MIN_SIDE_OFFSET_MM:
        facts["side_by_position"] = "right" if volume.centre_mm[0] > 0 else "left"
    return stack.images[:, None], positions, facts | window
