"""Data of another site that a finished run is validated on: its table, checked against the run, and its examples."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.config.sources import DataConfig
from pipeline.core.data_kinds import DataKind
from pipeline.core.errors import UserError
from pipeline.core.tables import clean_text, describe_difference, find_known
from pipeline.core.text import count_words
from pipeline.data.label_tables import LabelTable, list_table_sources, read_label_table
from pipeline.data.sources import Listing
from pipeline.data.store import Store
from pipeline.formats.spreadsheets import read_cells

MAX_NAMED = 3


@dataclass(frozen=True)
class ExternalTable:
    """The table of another site, which fits the run.

    Args:
        given: Its rows.
        listing: The scans or images that they name.
        num_rows: The number of its rows, also of those that ``data.merge`` leaves out.
    """

    given: LabelTable
    listing: Listing
    num_rows: int

    @property
    def folder(self) -> Path:
        """The folder that its paths are relative to."""
        return self.given.path.parent

    @property
    def name(self) -> str:
        """The name of its file."""
        return self.given.path.name


@dataclass(frozen=True)
class ExternalData:
    """The examples of another site.

    Args:
        table: Their table.
        store: The examples, made with the options that the run's were made with.
        manifest: A row for each scan or image, refused ones too.
        search: The extent of the search for scans of the run among them, in a sentence.
    """

    table: ExternalTable
    store: Store
    manifest: pd.DataFrame
    search: str = ""

    @property
    def scans(self) -> pd.DataFrame:
        """The rows of the manifest that are scored, by their ``source_id``."""
        return self.manifest[self.manifest["status"] == "accepted"].set_index("source_id")


def read_external_table(path: Path, options: DataConfig, run: Store, roles: Mapping[str, str]) -> ExternalTable:
    """Read the table of another site, and refuse one that does not fit the run.

    Columns, covariates, bins and joined labels are those of training. A covariate, side, visit or site that the table
    lacks is unknown; a published split and weights are not read.

    Args:
        path: The table; paths in it are relative to its folder.
        options: The options of the table that the run was trained on.
        run: The examples of the run, with its classes.
        roles: The split of each patient of the run.

    Raises:
        UserError: the run is one on a published set; the table cannot be read; a label is no class of the run; or a
            patient is one of the run.
    """
    if not run.kind.has_patients:
        raise UserError(
            f"evaluate.external: the run was trained on {options.dataset}, a published set without patients, and only "
            "runs on scans or images of patients are validated on a table. Score new files with the predict stage, or "
            "train on a table of your own (data.dataset: labelled, data.label_table)."
        )
    columns = dataclasses.replace(options.columns, split=None, weight=None)
    given = read_label_table(
        dataclasses.replace(options, label_table=path, columns=columns, split_values={}), may_lack=True
    )
    _check_labels(given, run.class_names)
    _check_patients(given, roles, run.kind)
    cells = read_cells(path, {"path", "patient", "label"})
    notes = given.notes
    if options.columns.split is not None and options.columns.split.casefold() in _fold_names(cells.header):
        notes = (*notes, f"{path}: the column {options.columns.split} is not read: every row is external.")
    sources = list_table_sources(path.parent, given, "the folder of the table")
    return ExternalTable(given, Listing(tuple(sources), notes), len(cells.lines))


def _fold_names(header: Sequence[str]) -> set[str]:
    return {clean_text(name).casefold() for name in header}


def _check_labels(given: LabelTable, class_names: Sequence[str]) -> None:
    """Refuse a label that the run does not know, and name the spelling that may be meant."""
    labels = given.table["label"]
    unknown = labels[~labels.isin(class_names)]
    if unknown.empty:
        return
    line, label = unknown.index[0], unknown.iloc[0]
    meant = find_known([label], class_names).get(label)
    spelling = f" {label!r} differs from {meant!r} in {describe_difference(label, meant)}." if meant else ""
    others = count_words(len(unknown) - 1, "further row")
    more = f" So is it with {others}." if len(unknown) > 1 else ""
    raise UserError(
        f"{given.path}, line {line}: the label {label!r} is no class of the run; allowed are "
        f"{', '.join(class_names)}.{spelling}{more} Write labels as the run has them, or delete the rows."
    )


def _check_patients(given: LabelTable, roles: Mapping[str, str], kind: DataKind) -> None:
    """Refuse patients of the run, also in another spelling of their name."""
    first_lines = given.table["patient"].drop_duplicates()
    found = find_known(first_lines, roles)
    if not found:
        return
    lines = {patient: line for line, patient in first_lines.items()}
    named = []
    for patient, known in list(found.items())[:MAX_NAMED]:
        spelled = (
            "" if patient == known else f" as {known}, which differs only in {describe_difference(patient, known)}"
        )
        named.append(f"{patient} (line {lines[patient]}) is in {roles[known]}{spelled}")
    more = f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else ""
    raise UserError(
        f"{given.path}: {count_words(len(found), kind.group)} of the run: {'; '.join(named)}{more}. External data are "
        "of other people: delete the rows. If they are other people with the same names, put the site in front "
        "(site2-7)."
    )


def match_classes(store: Store, run: Store, table: Path) -> Store:
    """Give examples of another site the classes and channels of the run.

    Args:
        store: The examples of the other site; they may lack a class.
        run: The examples of the run.
        table: The table of the other site, for messages.

    Raises:
        UserError: they are of another kind, or in colour where the run knows grey alone.
    """
    if store.kind is not run.kind:
        raise UserError(
            f"{table}: its rows are {store.kind.file}s, and the run was trained on {run.kind.file}s. Name files of "
            "that kind."
        )
    examples = store.examples
    if examples.ndim != run.examples.ndim:
        if run.examples.ndim == 3:
            raise UserError(f"{table}: some images are in colour, the run was trained on grey ones. Turn them grey.")
        shape = (len(examples), run.examples.shape[1], *examples.shape[1:])
        examples = np.broadcast_to(examples[:, None], shape)
    return dataclasses.replace(store, examples=examples, class_names=run.class_names, is_ordinal=run.is_ordinal)
