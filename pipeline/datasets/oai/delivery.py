"""The series of a delivery: what its lists say of each, and where it lies.

Two forms are read. The NIMH Data Archive gives ``image03.txt`` and one ``tar.gz`` a series; the older drives have a
folder a series below ``RELEASE/PATIENT/DATE/BARCODE``, and a ``contents*.csv`` a release. Both name a series by the
same end of a path, ``9000099/20050712/10424405``.
"""

import os
import re
from pathlib import Path

import pandas as pd

from pipeline.core.errors import UserError
from pipeline.data.sources import refuse_closed
from pipeline.datasets.oai.text_tables import open_table, read_columns
from pipeline.formats.archives import SUFFIXES
from pipeline.formats.dicom_sides import SIDE_WORD

# The place of a series: RELEASE/PATIENT/DATE/BARCODE; the release may be missing.
PLACE = re.compile(
    r"(?:(?P<release>[0-9]{1,2}\.[A-Z]\.[0-9]{1,2})/)?(?P<patient>[0-9]{7})/(?P<date>[0-9]{8})/(?P<barcode>[0-9]+)"
    r"(?:\.tar\.gz|\.tgz|\.tar|\.zip)?/?"
)
RELEASE = re.compile(r"(?<![0-9.])([0-9]{1,2})\.[A-Z]\.[0-9]{1,2}(?![0-9])")
# The visit of a release by its first number; C and E after it are the two halves of the cohort.
RELEASE_VISITS = {
    "0": "V00", "1": "V01", "2": "V02", "3": "V03", "4": "V04", "5": "V05", "6": "V06", "8": "V08", "10": "V10",
}  # fmt: skip
DESCRIBED = re.compile(rf"(?P<series>.*?)[ _]+{SIDE_WORD.pattern}[ _]*", re.IGNORECASE)
COLUMNS = ("release", "visit", "series", "side", "patient", "date", "barcode", "path", "reason")


def find_lists(raw: Path) -> tuple[list[Path], list[Path]]:
    """Return the files ``image03*.txt`` and ``contents*.csv`` of a folder, sorted; hidden folders are passed over."""
    packages, contents = [], []
    for folder, subfolders, names in os.walk(raw, onerror=refuse_closed):
        place = Path(folder)
        subfolders[:] = [name for name in subfolders if not name.startswith(".") and not _is_series(place / name, raw)]
        packages += [place / name for name in names if re.fullmatch(r"image03[^/]*\.txt", name, re.IGNORECASE)]
        contents += [place / name for name in names if re.fullmatch(r"contents[^/]*\.csv", name, re.IGNORECASE)]
    return sorted(packages), sorted(contents)


def read_delivery(raw: Path, packages: list[Path], contents: list[Path]) -> pd.DataFrame:
    """List every series that the lists name or the folder holds.

    Args:
        raw: The folder.
        packages: The files ``image03.txt``.
        contents: The files ``contents*.csv``.

    Returns:
        A row for each series: release, visit, series (the description without the side), side, patient, date, barcode,
        path (relative to ``raw``; empty where it is not there), and the reason why it cannot be used, else empty.

    Raises:
        UserError: a list that is not readable or lacks a column.
    """
    listed = [*map(_read_package, packages), *map(_read_contents, contents)]
    rows = pd.concat(listed, ignore_index=True)
    key = ["patient", "date", "barcode"]
    rows = rows.drop_duplicates([*key, "description"], ignore_index=True)  # two lists may name one series
    described = {text: split_description(text) for text in rows["description"].unique()}
    rows["series"] = rows["description"].map({text: found[0] for text, found in described.items()})
    rows["side"] = rows["description"].map({text: found[1] for text, found in described.items()})
    rows["visit"] = rows["visit"].where(rows["visit"] != "", rows["release"].map(find_visit))
    paths, copies = _find_series(raw)
    rows["path"] = [paths.get(place, "") for place in rows[key].itertuples(index=False, name=None)]
    again = rows.duplicated(key, keep=False) & (rows["reason"] == "")
    rows.loc[again, "reason"] = "the lists describe it in two ways"
    known = set(rows[key].itertuples(index=False, name=None))
    others = [
        {**dict(zip(key, place, strict=True)), "path": path, "release": _find_release(path), "reason": "in no list"}
        for place, path in paths.items()
        if place not in known
    ]
    others += [{"path": path, "release": _find_release(path), "reason": "a second copy of a series"} for path in copies]
    unlisted = pd.DataFrame(others, columns=list(COLUMNS), dtype=object).fillna("")
    unlisted["visit"] = unlisted["release"].map(find_visit)
    return pd.concat([rows[list(COLUMNS)], unlisted], ignore_index=True).astype(object)


def split_description(text: str) -> tuple[str, str]:
    """Return series and side of a description: ``SAG_3D_DESS_LEFT`` is ``SAG_3D_DESS`` of the ``left`` knee.

    Args:
        text: The description, in any case; also ``R_I_G_H_T``. Without a side the second part is empty.
    """
    match = DESCRIBED.fullmatch(text)
    if match is None:
        return text.strip().upper(), ""
    side = text[len(match["series"]) :].strip(" _")
    return match["series"].strip(" _").upper(), "right" if side.upper().startswith("R") else "left"


def find_visit(release: str) -> str:
    """Return the visit of a release such as ``0.C.2``; nothing where there is none."""
    return RELEASE_VISITS.get(release.partition(".")[0], "")


def _read_package(path: Path) -> pd.DataFrame:
    """Read a file ``image03.txt``: names in the first row, their definitions in the second."""
    rows = _read_list(path, ("src_subject_id", "image_description", "image_file"))
    is_definition = rows.index == 0
    is_definition &= ~rows["src_subject_id"].str.fullmatch("[0-9]+") & ~rows["image_file"].str.contains("[0-9]{7}")
    rows = rows[~is_definition]
    found = _split_places(rows["image_file"])
    found["description"] = rows["image_description"]
    is_other = (found["reason"] == "") & (rows["src_subject_id"] != found["patient"])
    found.loc[is_other, "reason"] = "path and src_subject_id name two patients"
    return found.reset_index(drop=True)


def _read_contents(path: Path) -> pd.DataFrame:
    """Read a file ``contents*.csv``; its release is in its folders or, where these lack it, in its own path."""
    rows = _read_list(path, ("folder", "participantid", "seriesdescription"))
    found = _split_places(rows["folder"])
    found.loc[found["release"] == "", "release"] = _find_release(path.as_posix())
    found["description"] = rows["seriesdescription"]
    is_other = (found["reason"] == "") & (rows["participantid"] != found["patient"])
    found.loc[is_other, "reason"] = "Folder and ParticipantID name two patients"
    return found


def _read_list(path: Path, needed: tuple[str, ...]) -> pd.DataFrame:
    table = open_table(path)
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise UserError(f"{path}: columns {', '.join(missing)} are missing. Bring the list as it was delivered.")
    return read_columns(table, needed)


def _split_places(places: "pd.Series[str]") -> pd.DataFrame:
    """Take the places of series apart; a place of another form has a reason."""
    names = ["release", "patient", "date", "barcode"]
    pattern = rf"(?:^|/){PLACE.pattern}$"
    found = places.str.replace("\\", "/").str.extract(pattern)[names].fillna("")
    found["visit"] = ""
    found["reason"] = ""
    found.loc[found["patient"] == "", "reason"] = "its path has another form than PATIENT/DATE/BARCODE"
    return found


def _find_release(path: str) -> str:
    found = list(RELEASE.finditer(path))
    return found[-1][0] if found else ""


def _is_series(folder: Path, raw: Path) -> bool:
    """Return whether a folder is that of a series, by its path below the raw folder."""
    parts = folder.relative_to(raw.parent).parts[-3:]
    return len(parts) == 3 and PLACE.fullmatch("/".join(parts)) is not None


def _find_series(raw: Path) -> tuple[dict[tuple[str, str, str], str], list[str]]:
    """Find the archives and folders of series.

    Returns:
        The path of each by patient, date and barcode, and the paths of second copies.
    """
    found: dict[tuple[str, str, str], str] = {}
    copies = []
    for folder, subfolders, names in os.walk(raw, onerror=refuse_closed):
        place = Path(folder)
        series = [name for name in subfolders if _is_series(place / name, raw)]
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name not in series)
        archives = [name for name in names if name.lower().endswith(SUFFIXES)]
        for name in sorted([*series, *archives]):
            path = place / name
            match = PLACE.fullmatch("/".join(path.relative_to(raw.parent).parts[-3:]))
            if match is None:
                continue
            key = (match["patient"], match["date"], match["barcode"])
            relative = path.relative_to(raw).as_posix()
            if found.setdefault(key, relative) != relative:
                copies.append(relative)
    return found, copies
