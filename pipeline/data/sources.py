"""Scans of a folder: the files that belong to each, its patient and its label."""

import functools
import itertools
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.core.data_kinds import IMAGE_SUFFIXES, VOLUMES
from pipeline.core.errors import UserError
from pipeline.core.files import describe_absence
from pipeline.core.tables import clean_text, describe_difference, list_folds
from pipeline.formats.archives import SUFFIXES as ARCHIVE_SUFFIXES
from pipeline.formats.dicom import SUFFIXES as DICOM_SUFFIXES
from pipeline.formats.dicom import is_dicom

if TYPE_CHECKING:
    import pandas as pd

# The voxels of a .hdr file; they are read through it.
DATA_SUFFIXES = (".img", ".img.gz")


class Source(NamedTuple):
    """One scan: a volume, or the images that a volume was sliced into; or one image of a patient, such as a radiograph.

    Args:
        source_id: The scan.
        group_id: The patient.
        label: The class.
        paths: One volume (a file, or the folder or archive of a DICOM series), images in the order of their slices, or
            one image; relative to the raw folder.
        visit: The visit as the name has it, empty where unknown.
        side: ``left``, ``right`` or empty.
        site: The place where it was taken, empty where unknown.
        spelling: The form of name that matched, for the coverage report.
        refusal: The reason why the scan cannot be used; empty where it can.
        ignored: True for files that are no scans at all.
        published_split: train, val or test, as a table has it; else empty.
        weight: The weight that multiplies its loss in training, as a number in text; empty for 1.
        covariates: Name and value of what else a table has on it and was asked for.
        min_extent_mm: The smallest extent of its volume with which it can be used; 0 for any.
        is_image: True for an image that is not a slice of a volume.
    """

    source_id: str
    group_id: str
    label: str
    paths: tuple[Path, ...]
    visit: str = ""
    side: str = ""
    site: str = ""
    spelling: str = ""
    refusal: str = ""
    ignored: bool = False
    published_split: str = ""
    weight: str = ""
    covariates: tuple[tuple[str, str], ...] = ()
    is_image: bool = False
    min_extent_mm: float = 0.0

    @property
    def is_volume(self) -> bool:
        return not (self.is_image or self.paths[0].name.lower().endswith(IMAGE_SUFFIXES))


@dataclass(frozen=True)
class Listing:
    """The scans of a data set.

    Args:
        sources: The scans; refused and ignored files are among them, with the reason.
        notes: Warnings about a table or list.
        coverage: For a delivery of many series: a row for each of them, also of those that the options do not take,
            with the columns ``release, visit, series, side, label, patient, path, reason``.
    """

    sources: tuple[Source, ...]
    notes: tuple[str, ...] = ()
    coverage: "pd.DataFrame | None" = None


NameParser = Callable[[Path], tuple[Source, int]]


def check_folder(folder: Path, advice: str) -> None:
    """Refuse a folder that is not there, or is a file.

    Args:
        folder: The folder.
        advice: The sentence that says what to do.

    Raises:
        UserError: it is so.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: {describe_absence(folder, 'folder')}. {advice}")


def refuse_closed(error: OSError) -> None:
    """Refuse a folder that a walk cannot list: its files would be left out without a word.

    Args:
        error: The error of the walk. A folder that file systems make for themselves is passed over.

    Raises:
        UserError: it is another folder.
    """
    folder = Path(str(error.filename))
    if folder.name != "lost+found":
        raise UserError(f"{folder}: not readable ({error.strerror}). Fix its permissions, or move it away.") from error


def find_files(raw: Path, pattern: str) -> list[Path]:
    """Return the files below a folder whose names match, relative to it and sorted; hidden ones are passed over.

    Raises:
        UserError: no such folder, one below it that is not readable, or no file in it matches.
    """
    check_folder(raw, "Put the scans there, or name their folder with --data.raw_folder.")
    found = []
    for folder, subfolders, names in os.walk(raw, onerror=refuse_closed):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        relative = Path(folder).relative_to(raw)
        found += [relative / name for name in names if not name.startswith(".") and fnmatchcase(name, pattern)]
    if not found:
        raise UserError(f"{raw}: no file matches {pattern!r}. Put the scans there, or change --data.pattern.")
    return sorted(found)


def list_named_sources(
    raw: Path, pattern: str, parse_name: NameParser, is_image: Callable[[Path], bool] | None = None
) -> list[Source]:
    """List the scans of a folder by their names.

    Args:
        raw: The folder, searched with its subfolders.
        pattern: A pattern that names must match, such as ``*.nii.gz``.
        parse_name: Turns a path into a source and its slice index (-1 for a volume), or raises ValueError.
        is_image: Whether a DICOM file of this path is an image by itself; without it, or where it is none, the folder
            of the file is one scan.

    Returns:
        Scans sorted by id; refused and ignored files are among them, with the reason.
    """
    by_id: dict[str, list[tuple[int, Source]]] = defaultdict(list)
    series: set[Path] = set()
    others = [
        Source(str(path), "", "", (path,), refusal="a linked folder; these are not searched", ignored=True)
        for path in _find_linked_folders(raw)
    ]
    for path in find_files(raw, pattern):
        name, is_radiograph = path.name.lower(), False
        if name.endswith(DATA_SUFFIXES) and _has_header(raw / path):
            continue
        if not name.endswith((*VOLUMES.file_suffixes, *IMAGE_SUFFIXES)):
            if not is_dicom(raw / path):
                others.append(_ignore(path))
                continue
            if path.parent == Path():
                others.append(_ignore(path))
                continue
            is_radiograph = is_image is not None and is_image(path)
            if not is_radiograph:
                path = path.parent  # a folder of DICOM files is one scan
                if path in series:
                    continue
                series.add(path)
        refusal = _describe_bad_name(path) or describe_link(raw, path)
        if refusal:
            others.append(Source(str(path), "", "", (path,), refusal=refusal))
            continue
        try:
            is_series = path in series or name.endswith(ARCHIVE_SUFFIXES)
            source, slice_index = parse_name(_name_as_volume(path) if is_series else path)
            source = source._replace(paths=(path,), is_image=source.is_image or is_radiograph)
        except ValueError as error:
            others.append(Source(str(path), "", "", (path,), refusal=str(error)))
            continue
        by_id[source.source_id].append((slice_index, source))
    return [*(join_files(by_id[source_id]) for source_id in sorted(by_id)), *others]


def is_image_file(folder: Path, path: Path) -> bool:
    """Return whether a file is an image by itself: by its name, or a DICOM file, whose series would be a folder.

    Args:
        folder: The folder that the path is relative to.
        path: The path of a file or a folder, whether it is there or not.
    """
    name = path.name.lower()
    if name.endswith(VOLUMES.file_suffixes):
        return False
    return name.endswith(IMAGE_SUFFIXES) or is_dicom(folder / path)


def find_written_file(folder: Path, text: str) -> Path:
    """Find the file that a cell of a table names, also where names on disk have the other Unicode form.

    A Mac may write ``ä`` into a file's name as two characters where a table has one; both look the same. A folder that
    came from one may hold files that did not. Windows writes a backslash between folders.

    Args:
        folder: The folder that the path is relative to.
        text: The cell, with or without blanks at its ends.

    Returns:
        The path, relative to the folder, of the first spelling that is there; the cell's own where none is.
    """
    if text == text.strip() and os.path.lexists(folder / text):  # most are, and there may be 100,000
        return Path(os.path.normpath(text))
    bare = text.strip()
    paths = [Path(os.path.normpath(spelling)) for spelling in (text, bare, bare.replace("\\", "/"))]
    found = (_find_spelling(folder, path) for path in dict.fromkeys(paths))
    return next((path for path in found if path is not None), paths[1])


def _find_spelling(folder: Path, path: Path) -> Path | None:
    """Return a path whose parts are there as they are, or in another Unicode form; None where one is not."""
    spelled = Path()
    for part in path.parts:
        forms = (part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part))
        places = (spelled / form for form in forms)
        found = next((place for place in places if os.path.lexists(folder / place)), None)
        if found is None:
            return None
        spelled = found
    return spelled


def describe_missing(path: Path) -> str:
    """Say in a few words why a file is not there, and which one is whose name looks the same.

    Args:
        path: The path, where a look found no file.
    """
    absence = describe_absence(path)
    missing = next((place for place in (path, *path.parents) if os.path.lexists(place.parent)), path)
    if os.path.lexists(missing):
        return absence
    name = clean_text(missing.name)
    try:
        folded = _fold_names(missing.parent, missing.parent.stat().st_mtime_ns)
    except OSError:  # a folder that may not be listed
        return absence
    other = next((folded[key] for key in list_folds(name) if key in folded), None)
    if other is None:
        return absence
    return f"{absence}; {other!r} is there, which differs only in {describe_difference(name, clean_text(other))}"


@functools.lru_cache(maxsize=4)
def _fold_names(folder: Path, changed_ns: int) -> dict[str, str]:  # noqa: ARG001 (after a change it is listed again)
    """Return the names in a folder by what their spellings have in common; of 100,000 rows each may lack its file."""
    names = sorted(path.name for path in folder.iterdir())
    return {key: name for name in names for key in list_folds(clean_text(name))}


def join_files(found: list[tuple[int, Source]]) -> Source:
    """Make one source of the files that bear its id: one volume, or images with different slice indices.

    Args:
        found: Slice index (-1 for a volume) and source of each file; all with the same id.

    Returns:
        The source with all paths in the order of the slices; refused where two files claim one place, or where slices
        are missing between them.
    """
    found = sorted(found, key=lambda item: (item[0], item[1].paths))
    paths = tuple(path for _, source in found for path in source.paths)
    source = found[0][1]._replace(paths=paths)
    slice_indices = [slice_index for slice_index, _ in found]
    if len(set(slice_indices)) == len(found) and (len(found) == 1 or slice_indices[0] >= 0):
        first = min(1, slice_indices[0])  # some programs count from 1
        missing = sorted(set(range(first, slice_indices[-1])) - set(slice_indices)) if len(found) > 1 else []
        if missing:
            some = ", ".join(map(str, missing[:3])) + (", …" if len(missing) > 3 else "")
            are = f"slice {some} of this scan is" if len(missing) == 1 else f"slices {some} of this scan are"
            gap = f"{are} missing, and the places of the others would be wrong."
            return source._replace(refusal=f"{gap} Add them, or number the slices that are there from 0.")
        return source
    twice = next((a, b) for a, b in itertools.pairwise(found) if a[0] == b[0] or a[0] < 0)
    names = " and ".join(str(source.paths[0]) for _, source in twice)
    return source._replace(refusal=f"two files for one scan: {names}. Keep one, or select it with --data.pattern.")


def describe_link(raw: Path, path: Path) -> str:
    """Describe a link that leads out of the raw folder; return nothing where the file lies inside.

    A folder that came from somebody else may hold links to any file of this machine.

    Args:
        raw: The folder; it may be a link itself.
        path: A file, relative to it.
    """
    from pipeline.formats.nifti import list_pair  # nibabel takes time to import, and training lists no files

    root = os.path.realpath(raw)
    if all(Path(os.path.realpath(place)).is_relative_to(root) for place in list_pair(raw / path)):
        return ""
    return (
        "a symbolic link that leads out of the raw folder. Put the file itself there, or name its folder "
        "(data.raw_folder)."
    )


def _describe_bad_name(path: Path) -> str:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "the name is no Unicode text, which tables cannot hold. Rename it."
    return ""


def _find_linked_folders(raw: Path) -> list[Path]:
    linked = []
    for folder, subfolders, _ in os.walk(raw):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        linked += [(Path(folder) / name).relative_to(raw) for name in subfolders if (Path(folder) / name).is_symlink()]
    return sorted(linked)


def _has_header(data_path: Path) -> bool:
    stem = re.sub(r"\.img(\.gz)?$", "", data_path.name, flags=re.IGNORECASE)
    return any(data_path.with_name(stem + suffix).is_file() for suffix in (".hdr", ".hdr.gz", ".HDR", ".HDR.GZ"))


def _name_as_volume(path: Path) -> Path:
    """Name a folder or archive as the NIfTI file of the same scan would be, for parsers of names."""
    suffix = next((suffix for suffix in ARCHIVE_SUFFIXES if path.name.lower().endswith(suffix)), "")
    return path.with_name(f"{path.name[: len(path.name) - len(suffix)]}.nii.gz")


def _ignore(path: Path) -> Source:
    name = path.name.lower()
    if name.endswith(DATA_SUFFIXES):
        reason = "no .hdr file next to it"
    elif name.endswith(DICOM_SUFFIXES):
        reason = "DICOM that lies in no folder of its own; a series is a folder, or a row of a table"
    else:
        reason = f"not named as an image ({', '.join((*VOLUMES.file_suffixes, *IMAGE_SUFFIXES))}), and no DICOM"
    return Source(str(path), "", "", (path,), refusal=reason, ignored=True)
