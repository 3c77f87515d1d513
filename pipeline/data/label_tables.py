"""The table of labels: one row a file, with patient, label, and what else is known; or a folder for each label."""

import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config.sources import PARTS, DataConfig, Word, to_texts
from pipeline.core.collector import pause_collector
from pipeline.core.data_kinds import IMAGE_SUFFIXES
from pipeline.core.errors import UserError
from pipeline.core.tables import (
    INDEX_COLUMNS,
    MANIFEST_COLUMNS,
    clean_text,
    describe_difference,
    find_alike,
    is_blank,
    read_table,
    refuse_alike,
)
from pipeline.data.given_tables import read_given_table
from pipeline.data.sources import Source, describe_link, describe_missing, find_written_file, is_image_file

NEEDED = ("path", "patient", "label")
OPTIONAL = ("side", "visit", "site", "split", "weight")
SIDES = {"left": "left", "l": "left", "right": "right", "r": "right", "": ""}
# Names that tables of this pipeline give to other things.
TAKEN = {*MANIFEST_COLUMNS, *INDEX_COLUMNS, "split", "predicted", "fold", "num_slices"} - {"side", "visit", "site"}
# A label of more numbers than these is a quantity: of whole ones, such as grades, more can be classes.
MAX_WHOLE_LABELS, MAX_DECIMAL_LABELS = 20, 10
# Weights of bodies, in kilograms, are all larger.
MAX_SMALLEST_WEIGHT = 10.0
MAX_LISTED = 12
# What pandas, R, databases and spreadsheets write for a cell that is empty or an error. NA and none may be names.
WRITTEN_FOR_EMPTY = {"nan", "nat", "<na>", "null", "#n/a", "#ref!", "#value!", "#name?", "#div/0!", "#null!", "#num!"}
# The folders of a published split, as sets name them, in upper or lower case.
PART_FOLDERS = {part: part for part in PARTS} | {
    "training": "train", "valid": "val", "validation": "val", "testing": "test",
}  # fmt: skip
# What the manifest calls the form of names without a table.
CLASS_FOLDER = "<class>/<file>"
UNKNOWN_PATIENTS = (
    "Patients are unknown, so each file counts as one. Two files of a patient may be in train and test, and intervals "
    "are too narrow; a table with a column patient (data.label_table) keeps them together."
)


@dataclass(frozen=True)
class LabelTable:
    """The table of labels, checked.

    Args:
        path: The file, for messages.
        table: The columns ``path, patient, label, side, visit, site, split, weight``, all text and empty where unknown;
            the index is the line of each row.
        covariates: The further columns that are kept, with the same index.
        notes: A sentence about each thing that was guessed or cleaned.
    """

    path: Path
    table: pd.DataFrame
    covariates: pd.DataFrame
    notes: tuple[str, ...]


def read_label_table(options: DataConfig, may_lack: bool = False) -> LabelTable:
    """Read the table of labels; whatever is wrong with it is refused with its line.

    Of the rows ``a.png, 7, 0``, ``b.png, 8, 1`` and ``c.png, 9, 9``, with ``data.merge`` {0: none, 9: null}, two stay,
    labelled ``none`` and ``1``.

    Args:
        options: The table, its columns, and what becomes of labels and published splits.
        may_lack: Whether it need not have the covariates, further columns and labels that the options name: those of
            another hospital were named for the table of training.

    Raises:
        UserError: no rows, a missing column, an empty cell where one is needed, two spellings of one patient or label,
            a patient in two published splits, or a label that is a quantity.
    """
    path = options.label_table
    assert path is not None
    columns, kept = _name_columns(options)
    optional = [role for role in OPTIONAL if may_lack or columns.get(role) == (role,)]
    optional += kept.values() if may_lack else ()
    numbers = ("label", "weight", *kept.values())
    given = read_given_table(path, columns, ("patient", "label", "site"), optional, numbers)
    table, notes = given.table, list(given.notes)
    if table.empty:
        raise UserError(f"{path}: no rows. Each file needs one: {', '.join(NEEDED)}.")
    table = table.assign(**{name: "" for name in (*OPTIONAL, *kept.values()) if name not in table.columns})
    if options.split_values:
        table = table.assign(split=rename_values(path, table["split"], options.split_values, "data.split_values"))
    if options.merge and not options.bins:
        table = table.assign(label=_merge(path, table["label"], options.merge, may_lack))
    table = table.dropna()
    for column in NEEDED:
        blank = [text for text in table[column].unique() if is_blank(text)]
        if blank:
            empty = table.index[table[column].isin(blank)]
            raise UserError(f"{path}, line {empty[0]}: {column} is empty. Fill it in, or delete the row.")
    if options.bins:
        labels = bin_labels(path, table["label"], options.bins)
        labels = _merge(path, labels, options.merge, may_lack) if options.merge else labels
        table = table.assign(label=labels).dropna()
    else:
        refuse_quantity(path, table["label"])
    _check_splits(path, table)
    if len(table) < len(given.table):
        notes.append(f"{path}: {len(given.table) - len(table)} rows are left out by data.merge or data.split_values.")
    if table.empty:
        raise UserError(f"{path}: data.merge and data.split_values leave no row.")
    table = table.assign(side=_read_sides(path, table["side"]), weight=_read_weights(path, table["weight"]))
    if (table["weight"] != "").any():
        weights = table["weight"].astype(float)
        notes.append(
            f"{path}: the column {options.columns.weight} multiplies the loss of its row in training "
            f"({weights.min():g} to {weights.max():g}). data.columns.weight: null leaves it unread."
        )
    covariates = pd.DataFrame({name: table[column] for name, column in kept.items()}, index=table.index)
    notes += _list_doubts(path, table[["patient", "label"]], pd.concat([table[["visit"]], covariates], axis=1))
    return LabelTable(path, table[[*NEEDED, *OPTIONAL]], covariates, tuple(notes))


def _list_doubts(path: Path, ids: pd.DataFrame, facts: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence about each cell that programs write for an empty one, and each fact that is spelled in two ways.

    Args:
        path: The table, for messages.
        ids: Patients and labels.
        facts: Other columns, whose values count apart in subgroups.
    """
    for name, cells in ids.items():
        empty = cells[cells.str.casefold().isin(WRITTEN_FOR_EMPTY)]
        if len(empty):
            what = "patient" if name == "patient" else "class"
            rows = "1 row has" if len(empty) == 1 else f"{len(empty):,} rows have"
            yield (
                f"{path}: {rows} the {name} {empty.iloc[0]!r} (line {empty.index[0]}), which programs write for an "
                f"empty cell; it counts as the name of a {what}. If it is none, fill it in, or delete the row."
            )
    for name, cells in facts.items():
        values = cells.drop_duplicates()
        alike = find_alike(values)
        if alike is not None:
            lines = {text: line for line, text in values.items()}
            (text, other), difference = alike, describe_difference(*alike)
            yield (
                f"{path}: the values {text!r} (line {lines[text]}) and {other!r} (line {lines[other]}) of {name} "
                f"differ only in {difference}, and count as two. Write both the same way if they are one."
            )


def _merge(path: Path, labels: "pd.Series[str]", names: Mapping[Word, Word | None], may_lack: bool) -> "pd.Series[str]":
    """Give labels their new names; those that no row has are passed over where the table may lack them."""
    found = set(labels.unique())
    used = {old: new for old, new in names.items() if not may_lack or str(old) in found}
    return rename_values(path, labels, used, "data.merge")


def _name_columns(options: DataConfig) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Return the names that each column may have in the file, and the column of each covariate.

    Raises:
        UserError: a covariate has a name that other tables give to something else.
    """
    columns: dict[str, tuple[str, ...]] = {}
    for role in (*NEEDED, *OPTIONAL):
        name = getattr(options.columns, role)
        if name is not None:
            columns[role] = (name, "group_id") if (role, name) == ("patient", "patient") else (name,)
    kept = {}
    for name in map(clean_text, options.covariates):
        if name in ("side", "visit", "site"):
            if columns.get(name) != (name,):
                raise UserError(
                    f"data.covariates: {name} is what data.columns.{name} reads, and that is another column here. "
                    "Leave it out of the covariates, or rename the column."
                )
            continue  # kept in any case
        if name in TAKEN or name.startswith("probability_"):
            raise UserError(f"data.covariates: {name} is the name of a column of the manifest. Rename it in the table.")
        kept[name] = f"covariate {name}"
        columns[kept[name]] = (name,)
    return columns, kept


def rename_values(
    where: Path | str, values: "pd.Series[str]", names: Mapping[Word, Word | None], option: str
) -> "pd.Series[str]":
    """Give cells of a column their new names, and none to those whose row is to be left out.

    Args:
        where: The table, for messages.
        values: The cells; the index is the line of each, or what its name says.
        names: The new name of each value.
        option: The option that holds the names, for messages.

    Raises:
        UserError: a value that is to be renamed is nowhere in the column, or two new values look alike.
    """
    renamed, found = to_texts(names), values.unique()
    unknown = [old for old in renamed if old not in found]
    if unknown:
        listed = ", ".join(repr(value) for value in sorted(found)[:MAX_LISTED])
        more = ", ..." if len(found) > MAX_LISTED else ""
        raise UserError(f"{where}: {option}: no row has the {values.name} {unknown[0]!r}; found {listed}{more}.")
    values = values.map({value: renamed.get(value, value) for value in found})
    lines = {text: f"{values.index.name or 'line'} {line}" for line, text in values.dropna().drop_duplicates().items()}
    refuse_alike(f"{where}, after {option}", f"{values.name}s", lines)
    return values


def bin_labels(where: Path | str, labels: "pd.Series[str]", bins: tuple[float, ...]) -> "pd.Series[str]":
    """Turn numbers into classes whose names sort in their order: ``1: below 50``, ``2: 50 to below 60``, ...

    Args:
        where: The table, for messages.
        labels: The numbers as text; the index is the line of each, or what its name says.
        bins: The growing limits.

    Raises:
        UserError: a label that is no number.
    """
    numbers = pd.to_numeric(labels, errors="coerce")
    wrong = numbers.index[numbers.isna()]
    if len(wrong):
        place = f"{labels.index.name or 'line'} {wrong[0]}"
        raise UserError(f"{where}, {place}: label {labels[wrong[0]]!r} is no number, which data.bins needs.")
    width = len(str(len(bins) + 1))
    texts = [f"below {bins[0]:g}", *(f"{low:g} to below {high:g}" for low, high in itertools.pairwise(bins))]
    names = [f"{number:0{width}d}: {text}" for number, text in enumerate([*texts, f"{bins[-1]:g} and above"], start=1)]
    cut = pd.cut(numbers, [float("-inf"), *bins, float("inf")], right=False, labels=names)
    return cut.astype(str)


def refuse_quantity(where: Path | str, labels: "pd.Series[str]") -> None:
    """Refuse a label of many numbers: each would become a class.

    Args:
        where: The table, for messages.
        labels: The labels; the index is the line of each, or what its name says.

    Raises:
        UserError: it is one.
    """
    texts = labels.drop_duplicates()
    numbers = pd.to_numeric(texts, errors="coerce")
    if numbers.isna().any():
        return
    are_whole = bool((numbers % 1 == 0).all())
    if len(texts) > (MAX_WHOLE_LABELS if are_whole else MAX_DECIMAL_LABELS):
        place = labels.index.name or "line"
        raise UserError(
            f"{where}: the labels are {len(texts)} numbers ({place} {texts.index[0]}: {texts.iloc[0]}, {place} "
            f"{texts.index[1]}: {texts.iloc[1]}, ...): regression is not built. data.bins makes classes of them; "
            "classes with numbers as names need a letter in front."
        )


def _check_splits(path: Path, table: pd.DataFrame) -> None:
    """Check a published split: all rows have one, of the known names, and each patient one.

    Raises:
        UserError: it is not so.
    """
    splits = table["split"]
    if (splits == "").all():
        return
    strange = splits.index[~splits.isin(PARTS)]
    if len(strange):
        found = splits[strange[0]]
        what = f"the published split is {found!r}" if found else "the published split is empty"
        raise UserError(
            f"{path}, line {strange[0]}: {what}; allowed are {', '.join(PARTS)}. data.split_values renames or leaves "
            f"out, as {{{found or chr(39) * 2}: test}}, and data.columns.split: null leaves the column unread."
        )
    pairs = table[["patient", "split"]].drop_duplicates()
    twice = pairs[pairs["patient"].duplicated()]
    if len(twice):
        patient, line = twice["patient"].iloc[0], twice.index[0]
        first = pairs[pairs["patient"] == patient]
        raise UserError(
            f"{path}, line {line}: patient {patient} is in {twice['split'].iloc[0]}, and in line {first.index[0]} in "
            f"{first['split'].iloc[0]}. A patient has one published split; correct the rows, or set "
            "data.columns.split: null to draw one."
        )


def _read_sides(path: Path, sides: "pd.Series[str]") -> "pd.Series[str]":
    read = sides.map({text: SIDES.get(text.replace("_", "").casefold()) for text in sides.unique()})
    wrong = read.index[read.isna()]
    if len(wrong):
        raise UserError(
            f"{path}, line {wrong[0]}: side {sides[wrong[0]]!r}; allowed are left, right, L, R or nothing. "
            "data.columns.side: null leaves the column unread."
        )
    return read


def _read_weights(path: Path, weights: "pd.Series[str]") -> "pd.Series[str]":
    """Check weights, and write each number in one way."""
    if (weights == "").all():
        return weights
    advice = "A weight multiplies the loss of its row in training; data.columns.weight: null leaves the column unread."
    numbers = pd.to_numeric(weights, errors="coerce")
    wrong = numbers.index[~((numbers >= 0) & (numbers < float("inf")))]
    if len(wrong):
        raise UserError(
            f"{path}, line {wrong[0]}: weight {weights[wrong[0]]!r}; allowed are numbers of 0 and more. {advice}"
        )
    if numbers.min() > MAX_SMALLEST_WEIGHT or numbers.max() == 0:
        raise UserError(
            f"{path}, line {numbers.index[0]}: weights from {numbers.min():g} to {numbers.max():g}; some must be from "
            f"above 0 to {MAX_SMALLEST_WEIGHT:g}, or they are weights of bodies. {advice}"
        )
    return numbers.astype(float).map(repr)


@pause_collector()
def list_table_sources(raw: Path, given: LabelTable, folder_name: str = "data.raw_folder") -> list[Source]:
    """List the files that a table of labels names, sorted by their paths.

    Args:
        raw: The raw folder; every file must lie in it.
        given: The table, as :func:`read_label_table` returns it.
        folder_name: The name of the raw folder, for messages.

    Returns:
        A source for each file; those that are not there, or are named in two rows, are refused.

    Raises:
        UserError: a path that leaves the folder.
    """
    finder = _Finder(raw, given.path, folder_name)
    found: dict[str, tuple[int, Source]] = {}
    names = tuple(given.covariates)
    for row, cells in zip(_list_rows(given.table), _list_rows(given.covariates), strict=True):
        line, text, patient, label, side, visit, site, split, weight = row
        source_id, fault, path = text, "", finder.find_plain(text)
        if path is None:
            path, fault = finder.find(text, line)
            source_id = path.as_posix()
        if source_id in found:
            first, source = found[source_id]
            refusal = f"lines {first} and {line} of {given.path.name} name this one file. Keep one row."
            found[source_id] = first, source._replace(refusal=source.refusal or refusal)
            continue
        found[source_id] = (
            line,
            Source(
                source_id,
                patient,
                label,
                (path,),
                visit=visit,
                side=side or (label.lower() if label.lower() in ("left", "right") else ""),
                site=site,
                spelling="table",
                refusal=f"{fault} ({given.path.name}, line {line})" if fault else "",
                published_split=split,
                weight=weight,
                covariates=tuple(zip(names, cells[1:], strict=True)) if names else (),
                is_image=is_image_file(raw, path),
            ),
        )
    return [found[source_id][1] for source_id in sorted(found)]


def describe_class_folders(manifest: Path) -> str:
    """Describe what unknown patients mean for splits and scores; return nothing where patients are known.

    Args:
        manifest: The manifest of a store, which may not be there.
    """
    if not manifest.is_file():
        return ""
    rows = read_table(manifest, MANIFEST_COLUMNS)
    used = rows[rows["status"] == "accepted"]
    return UNKNOWN_PATIENTS if (used["spelling"] == CLASS_FOLDER).any() else ""


def lies_in_class_folder(path: Path) -> bool:
    """Return whether a file lies in the folder of a class itself: ``class/file``, or ``train/class/file``.

    Args:
        path: The file, relative to the raw folder.
    """
    folders = path.parts[:-1]
    return len(folders) == 1 or (len(folders) == 2 and folders[0].casefold() in PART_FOLDERS)


def read_class_folder(path: Path) -> tuple[Source, int]:
    """Take the label of a file from its folder: ``class/file``, or ``train/class/file`` where a split is published.

    Nothing is known of patients: every file is one of its own.

    Args:
        path: The file, relative to the raw folder.

    Returns:
        The file as a source, and -1.

    Raises:
        ValueError: it lies in no folder of a class.
    """
    folders = path.parts[:-1]
    split = PART_FOLDERS.get(folders[0].casefold(), "") if len(folders) > 1 else ""
    if not folders:
        raise ValueError("in no folder of a class (class/file). Move it, or give a table with --data.label_table.")
    label = clean_text(folders[1] if split else folders[0])
    side = label.lower() if label.lower() in ("left", "right") else ""
    name = path.as_posix()
    source = Source(name, name, label, (path,), side=side, spelling=CLASS_FOLDER, published_split=split)
    return source._replace(is_image=name.lower().endswith(IMAGE_SUFFIXES)), -1


def _list_rows(table: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """Yield line and cells of each row; pandas takes most of the time of a long table to make texts one by one."""
    columns = [table[name].astype(object).tolist() for name in table]
    return zip(table.index.tolist(), *columns, strict=True)


class _Finder:
    """Finds the files of a table in the raw folder.

    Args:
        raw: The raw folder.
        table: The file of the table.
        folder_name: The name of the raw folder, for messages.
    """

    def __init__(self, raw: Path, table: Path, folder_name: str) -> None:
        self.raw, self.table, self.folder_name = raw, table, folder_name
        self.roots = (Path(os.path.normpath(raw.absolute())), raw.resolve())
        self.folders = (self.roots[0], table.parent.absolute())
        self.listed: dict[str, tuple[Path, set[str]]] = {}  # of a folder within, the files that are no links

    def find_plain(self, text: str) -> Path | None:
        """Return the file that a cell names in the plainest way, as most of 100,000 rows do; None for other cells."""
        folder_name, slash, name = text.rpartition("/")
        if folder_name not in self.listed:
            self.listed[folder_name] = Path(folder_name), self._list(folder_name)
        folder, names = self.listed[folder_name]
        return folder / name if name in names and (folder_name or not slash) else None

    def find(self, text: str, line: int) -> tuple[Path, str]:
        """Find the file, or the folder of a series, that a cell names.

        It is looked for in the raw folder, then next to the table; an absolute path may lead into the raw folder too.

        Returns:
            Its path, relative to the raw folder, and why it cannot be read; nothing where it can.

        Raises:
            UserError: it leads out of the raw folder.
        """
        inside = None
        for folder in self.folders:
            path = self._make_relative(folder / find_written_file(folder, text))
            if path is not None and os.path.lexists(self.roots[0] / path):
                return path, self._describe_fault(path)
            inside = inside or path
        if inside is None:
            raise UserError(
                f"{self.table}, line {line}: {text} is outside {self.roots[1]}. Paths lead into {self.folder_name}; "
                "they are relative to it or to the table."
            )
        return inside, self._describe_fault(inside)

    def _list(self, name: str) -> set[str]:
        """Return the files of a folder within that are neither links nor pairs, whose other file may be a link."""
        folder = self.roots[0] / name
        is_plain = not name.startswith(("/", ".")) and name in ("", os.path.normpath(name))
        if not is_plain or not folder.is_dir() or describe_link(self.raw, Path(name)):
            return set()
        with os.scandir(folder) as entries:
            return {
                entry.name
                for entry in entries
                if entry.is_file(follow_symlinks=False) and not entry.name.lower().endswith((".hdr", ".img"))
            }

    def _make_relative(self, path: Path) -> Path | None:
        """Return a path from the raw folder on, whichever name this folder has; None where it leads elsewhere."""
        path = Path(os.path.normpath(path))
        for root in self.roots:
            if path.is_relative_to(root):
                return path.relative_to(root)
        resolved = path.parent.resolve() / path.name
        return resolved.relative_to(self.roots[1]) if resolved.is_relative_to(self.roots[1]) else None

    def _describe_fault(self, path: Path) -> str:
        if path == Path():
            return "the raw folder itself, and no file or series in it"
        try:
            if not (self.roots[0] / path).exists():
                return describe_missing(self.roots[0] / path)
        except PermissionError as error:
            return f"not readable ({error.strerror})"
        except OSError:  # such as a name that is too long for any file
            return "no such file"
        return describe_link(self.raw, path).removesuffix(".")
