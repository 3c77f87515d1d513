"""The inputs of predict (files, folders, tables of paths) as a list of scans to read."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.core.data_kinds import DATA_KINDS, IMAGE_SUFFIXES, DataKind
from pipeline.core.errors import UserError
from pipeline.core.text import plural
from pipeline.data.given_tables import read_given_table
from pipeline.data.sources import Source, describe_missing, find_written_file, join_files, refuse_closed
from pipeline.datasets.akoa import parse_name
from pipeline.formats.dicom import is_dicom
from pipeline.formats.nifti import SUFFIXES as NIFTI_SUFFIXES
from pipeline.formats.nifti import list_files

TABLE_SUFFIXES = (".csv", ".tsv", ".xlsx")


@dataclass(frozen=True)
class Scan:
    """One thing to score.

    Args:
        name: The name in the table: the file, the folder of a series, or ``…_RIGHT.nii.gz_*.png``.
        paths: The file, the files of a DICOM series, or slices that were already cut in their order.
        refusal: The reason that it cannot be read; empty where there is none.
        kept: The cells of its row in the table that names it, by the columns that were asked for.
    """

    name: str
    paths: tuple[Path, ...]
    refusal: str = ""
    kept: Mapping[str, str] = field(default_factory=dict)


def find_scans(
    inputs: Iterable[Path], kind: DataKind, path_column: str = "path", keep_columns: Sequence[str] = ()
) -> tuple[list[Scan], tuple[str, ...]]:
    """List the scans to score, in the order given; a folder's files are sorted.

    Args:
        inputs: The files, folders, or tables (CSV in any dialect, XLSX) with a column of paths, relative to the table.
        kind: The kind of data that the model takes. Volumes: NIfTI, slices named as AKOA's, folders and archives of a
            DICOM series. Images: image files and DICOM radiographs.
        path_column: The column of the paths; one that is called ``path`` is taken as well.
        keep_columns: Further columns of the tables, whose cells the scans keep.

    Returns:
        The scans, and a sentence about each thing that was guessed about a table. A file that was named and is not
        there is among the scans, and refused when it is read.

    Raises:
        UserError: no input, a folder without anything to read, a table without paths or without a column to keep, or
            columns to keep and no table.
    """
    more = ", folders of a DICOM series" if kind.reads_scans else ", DICOM" if kind.is_image else ""
    allowed = f"{', '.join(kind.file_suffixes)}{more}"
    opened = [_open_table(given, path_column, keep_columns) for given in inputs]
    named = [row for rows, _ in opened for row in rows]
    if not named:
        raise UserError(
            f"predict: no input. Name files ({allowed}), folders of them, or a table ({', '.join(TABLE_SUFFIXES)}) "
            f"with a column {path_column}: perceiver predict FILE ... --config ..."
        )
    if keep_columns and not any(kept for _, kept in named):
        raise UserError(
            f"predict.keep_columns: found {', '.join(keep_columns)}, and no input is a table. Name a table "
            f"({', '.join(TABLE_SUFFIXES)}) with a column {path_column}, or leave predict.keep_columns out."
        )
    scans: list[Scan] = []
    slices: dict[Path, Mapping[str, str]] = {}
    for path, kept in named:
        if os.path.isdir(path):  # noqa: PTH112 (pathlib's fails for a name that is too long for any file)
            found, found_slices = _search(path, kind)
            if not found and not found_slices:
                raise UserError(f"{path}: no file that the model reads ({allowed}) in this folder.")
            scans += [replace(scan, kept=kept) for scan in found]
            slices = dict.fromkeys(found_slices, kept) | slices
        elif kind.reads_scans and path.name.lower().endswith(IMAGE_SUFFIXES):
            slices.setdefault(path, kept)
        elif kind.reads_scans and not path.name.lower().endswith(kind.file_suffixes) and is_dicom(path):
            refusal = f"{path}: one file of a DICOM series. Name the folder of the series."
            scans.append(Scan(str(path), (path,), refusal, kept))
        else:
            missing = "" if os.path.lexists(path) else f"{path}: {describe_missing(path)}."
            scans.append(Scan(str(path), (path,), missing or _describe_other_kind(path, kind), kept))
    return [*scans, *_group(slices)], tuple(note for _, notes in opened for note in notes)


def list_passed_over(inputs: Iterable[Path], scans: Iterable[Scan]) -> list[Path]:
    """List the files in the folders among the inputs that belong to none of the scans; hidden ones do not count.

    Args:
        inputs: The files, folders and tables that were given.
        scans: What ``find_scans`` found in them.
    """
    taken = {file for scan in scans for path in scan.paths for file in list_files(path)}
    folders = [place for place in inputs if os.path.isdir(place)]  # noqa: PTH112 (as above)
    return [path for folder in folders for path in _walk(folder) if path not in taken]


def _walk(folder: Path) -> Iterator[Path]:
    for place, subfolders, names in os.walk(folder, onerror=refuse_closed):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (Path(place) / name for name in sorted(names) if not name.startswith("."))


def _describe_other_kind(path: Path, kind: DataKind) -> str:
    """Refuse a file that is plainly of another kind than what the model was trained on; return nothing otherwise."""
    name = path.name.lower()
    others = [other for other in DATA_KINDS.values() if other is not kind and name.endswith(other.file_suffixes)]
    if not others or name.endswith(kind.file_suffixes) or (kind.is_image and is_dicom(path)):
        return ""
    return f"{path}: one {others[0].file}; the model was trained on {plural(kind.file)}. Name {plural(kind.file)}."


def _open_table(
    path: Path, path_column: str, keep_columns: Sequence[str]
) -> tuple[list[tuple[Path, Mapping[str, str]]], tuple[str, ...]]:
    """Return the paths that a table names with the cells to keep, and what was guessed about it.

    Of what is no table the path itself is returned, without cells.
    """
    if path.suffix.lower() not in TABLE_SUFFIXES or path.is_dir():
        return [(path, {})], ()
    given = read_given_table(path, {"path": (path_column, "path")} | {name: (name,) for name in keep_columns})
    cells = given.table["path"]
    for number, cell in cells.items():
        if not cell.strip():
            raise UserError(f"{path}, line {number}: path is empty. Fill it in, or delete the row.")
    if cells.empty:
        raise UserError(f"{path}: no rows. Each scan needs one, with its path in the column {path_column}.")
    paths = [path.parent / find_written_file(path.parent, cell) for cell in cells]
    kept = given.table[list(keep_columns)].to_dict("records")
    return list(zip(paths, kept, strict=True)), given.notes


def _search(folder: Path, kind: DataKind) -> tuple[list[Scan], list[Path]]:
    """Return the scans below a folder, and of volumes the images that are named as slices."""
    scans: list[Scan] = []
    slices: list[Path] = []
    for place, subfolders, names in os.walk(folder, onerror=refuse_closed):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        series = []
        for name in sorted(name for name in names if not name.startswith(".")):
            path = Path(place) / name
            if name.lower().endswith(kind.file_suffixes):
                scans.append(Scan(str(path), (path,)))
            elif kind.is_image and name.lower().endswith(NIFTI_SUFFIXES):
                scans.append(Scan(str(path), (path,), _describe_other_kind(path, kind)))
            elif kind.reads_scans and name.lower().endswith(IMAGE_SUFFIXES):
                slices += [path] if _parse(path) is not None else []
            elif kind.reads_scans and is_dicom(path):
                series.append(path)
            elif kind.is_image and is_dicom(path):
                scans.append(Scan(str(path), (path,)))
        if series:
            scans.append(Scan(place, tuple(series)))
    return sorted(scans, key=lambda scan: scan.paths), slices


def _group(slices: Mapping[Path, Mapping[str, str]]) -> list[Scan]:
    """Put slices of one volume together, as preprocess does; those of two folders are two volumes."""
    found: dict[tuple[Path, str], list[tuple[int, Source]]] = defaultdict(list)
    scans = []
    for path in slices:
        parsed = _parse(path)
        if parsed is None:
            refusal = f"{path}: an image whose name does not hold its volume and slice (….nii.gz_0.png). Rename it."
            scans.append(Scan(str(path), (path,), refusal, slices[path]))
        else:
            source, slice_index = parsed
            found[path.parent, source.source_id].append((slice_index, source))
    for files in found.values():
        source = join_files(files)
        name = f"{str(source.paths[0]).rpartition('_')[0]}_*.png"
        refusal = f"{name}: {source.refusal}" if source.refusal else ""
        scans.append(Scan(name, source.paths, refusal, slices[source.paths[0]]))
    return scans


def _parse(path: Path) -> tuple[Source, int] | None:
    """Read volume and slice from an image's name; None where it does not hold them."""
    try:
        source, slice_index = parse_name(path)
    except ValueError:
        return None
    return (source, slice_index) if slice_index >= 0 else None
