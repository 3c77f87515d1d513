"""Values of knees and patients in the clinical tables: the right visit, side and reading, codes as numbers.

A table has a row for each patient, or for each knee (column ``SIDE``, 1 is right), or several for a knee: one for each
project in which readers graded it (``READPRJ``). Names of columns carry the visit, as V00XRKL and V03XRKL.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline.core.errors import UserError
from pipeline.data.sources import check_folder
from pipeline.datasets.oai.text_tables import TextTable, open_table, read_columns

SIDES = {"1": "right", "2": "left", "right": "right", "left": "left", "r": "right", "l": "left"}
# The projects of Kellgren-Lawrence grades in the order in which they count: 15 read all of them, the others some again.
PROJECTS = {"15": 0, "37": 1, "42": 2}
CODE = re.compile(r"(?P<code>-?[0-9]+(?:\.[0-9]+)?)\s*:.*", re.DOTALL)
MAX_LISTED = 8


@dataclass(frozen=True)
class ClinicalTables:
    """The clinical tables of a folder.

    Args:
        folder: The folder, for messages.
        tables: The tables whose header has an ``ID``.
        unread: The names of tables in a form that is not read.
    """

    folder: Path
    tables: tuple[TextTable, ...]
    unread: tuple[str, ...]

    def has(self, column: str) -> bool:
        """Return whether a table has a column; names are in small letters."""
        return any(column in table.columns for table in self.tables)


def find_clinical_tables(folder: Path) -> ClinicalTables:
    """Find the clinical tables below a folder: every ``.txt`` or ``.csv`` with a column ``ID``.

    Raises:
        UserError: no such folder.
    """
    check_folder(folder, "Name the one of the clinical tables with data.oai.clinical_tables.")
    found, unread = [], []
    for place, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and not name.isdigit())
        for name in sorted(names):
            if name.lower().endswith(".sas7bdat"):
                unread.append(name)
            if name.lower().endswith((".txt", ".csv")) and not name.startswith("."):
                table = open_table(Path(place) / name)
                found += [table] if "id" in table.columns else []
    return ClinicalTables(folder, tuple(found), tuple(unread))


def look_up(clinical: ClinicalTables, name: str, scans: pd.DataFrame) -> tuple["pd.Series[str]", "pd.Series[str]"]:
    """Look up a variable for scans.

    For XRKL of a scan at V03 the column V03XRKL is read, and of the rows of its knee the one of project 15; where that
    is missing (``.A: Not Expected``) the one of 37, then 42.

    Args:
        clinical: The tables.
        name: The column, with or without the visit in front; ``{side}`` stands for R or L.
        scans: Columns ``patient``, ``visit`` and ``side``.

    Returns:
        The values, empty where there is none, and the reasons why; both with the index of ``scans``.

    Raises:
        UserError: no table has the column.
    """
    values = pd.Series("", index=scans.index, dtype=object, name="label")
    reasons = pd.Series("", index=scans.index, dtype=object)
    is_found = False
    for (visit, side), group in scans.groupby(["visit", "side"], sort=False):
        filled = name.replace("{side}", {"right": "R", "left": "L"}.get(side, "?")).casefold()
        column = next((column for column in (filled, f"{visit.casefold()}{filled}") if clinical.has(column)), None)
        if column is None:
            reasons[group.index] = f"no table has {name} at {visit or 'an unknown visit'}"
            continue
        is_found = True
        known, contradicted = _read_variable(clinical, column, side)
        values[group.index] = [known.get(patient, "") for patient in group["patient"]]
        lacking = group.index[values[group.index] == ""]
        is_twice = group.loc[lacking, "patient"].isin(contradicted)
        reasons[lacking] = is_twice.map({True: f"two values of {column.upper()}", False: f"no {column.upper()}"})
    if not is_found and len(scans):
        raise UserError(_describe_absence(clinical, name))
    return values, reasons


def clean_code(text: str) -> str:
    """Return the value of a cell: nothing for ``.: Missing Form``, ``2`` for ``2: Left`` or ``2.0``."""
    text = text.strip()
    if text.startswith(".") and not re.fullmatch(r"\.[0-9]+", text):
        return ""
    match = CODE.fullmatch(text)
    text = match["code"] if match else text
    return re.sub(r"^(-?[0-9]+)\.0+$", r"\1", text)


def _read_variable(clinical: ClinicalTables, column: str, side: str) -> tuple[dict[str, str], set[str]]:
    """Return the value of each patient, and the patients of whom two values are equally good."""
    parts = []
    for table in clinical.tables:
        if column not in table.columns:
            continue
        cells = read_columns(table, {"id", "side", "readprj", column})
        rows = pd.DataFrame({"patient": cells["id"].map(clean_code), "value": cells[column].map(clean_code)})
        rows["rank"] = 0 if "readprj" not in cells else cells["readprj"].map(clean_code).map(PROJECTS)
        if "side" in cells:
            sides = cells["side"].map({text: read_side(text) for text in cells["side"].unique()})
            rows = rows[sides == side]
        parts.append(rows.dropna())
    rows = pd.concat(parts)
    rows = rows[rows["value"] != ""].drop_duplicates()
    rows = rows[rows["rank"] == rows.groupby("patient")["rank"].transform("min")]
    is_twice = rows["patient"].duplicated(keep=False)
    once = rows[~is_twice]
    return dict(zip(once["patient"], once["value"], strict=True)), set(rows.loc[is_twice, "patient"])


def read_side(text: str) -> str:
    """Return the side of a cell ``1``, ``1: Right`` or ``Right``; nothing where it is neither."""
    text = text.strip()
    match = re.fullmatch(r"([0-9])(?:\.0+)?\s*(?::\s*([A-Za-z]+))?", text)
    if match is None:
        return SIDES.get(text.casefold(), "")
    by_number, by_word = SIDES.get(match[1], ""), SIDES.get((match[2] or "").casefold(), "")
    return by_number if match[2] is None or by_word == by_number else ""


def _describe_absence(clinical: ClinicalTables, name: str) -> str:
    bare = name.replace("{side}", "").casefold()
    alike = sorted({column for table in clinical.tables for column in table.columns if bare in column})
    listed = ", ".join(column.upper() for column in alike[:MAX_LISTED])
    unread = f" Save {clinical.unread[0]} as text first; .sas7bdat is not read." if clinical.unread else ""
    return (
        f"{clinical.folder}: none of {len(clinical.tables)} clinical tables has {name} for these visits"
        f"{f'; found {listed}' if listed else ''}. Name another column, or the folder of the tables "
        f"(data.oai.clinical_tables).{unread}"
    )
