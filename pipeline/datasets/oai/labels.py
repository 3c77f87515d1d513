"""Labels of scans: the side, a variable of the clinical tables, or accelerated osteoarthritis."""

import pandas as pd

from pipeline.config.sources import VISIT_MONTHS
from pipeline.datasets.oai.clinical_tables import ClinicalTables, look_up

GRADE = "XRKL"
ACCELERATED, NOT_ACCELERATED = "accelerated", "not accelerated"
# Kellgren-Lawrence grades at baseline and within so many months of it (Driban 2016, PMC5037496).
EARLY_GRADES, LATE_GRADES = ("0", "1"), ("3", "4")
ACCELERATED_MONTHS = 48


def label_scans(
    clinical: ClinicalTables | None, label: str, scans: pd.DataFrame
) -> tuple["pd.Series[str]", "pd.Series[str]"]:
    """Label scans.

    Args:
        clinical: The clinical tables; None where there are none, which is enough for the side.
        label: ``side``, ``akoa`` or a variable.
        scans: Columns ``patient``, ``visit`` and ``side``.

    Returns:
        The labels, empty where there is none, and the reasons why; both with the index of ``scans``.

    Raises:
        UserError: no table has the variable.
    """
    if label == "side":
        return scans["side"].rename("label"), scans["side"].map(lambda side: "" if side else "no side")
    assert clinical is not None, "list_scans looks for them"
    if label == "akoa":
        return label_accelerated(clinical, scans)
    return look_up(clinical, label, scans)


def label_accelerated(clinical: ClinicalTables, scans: pd.DataFrame) -> tuple["pd.Series[str]", "pd.Series[str]"]:
    """Label knees whose grade rises from 0 or 1 at baseline to 3 or 4 within 48 months, and those that do not.

    Grades do not fall again, so one of at most 2 at 48 months or later shows that a knee is not accelerated. The grades
    of five knees and their labels::

        V00  V01  V03  V06  V08
        0    1    3    .    .     accelerated
        1    1    1    2    .     not accelerated
        2    3    3    4    4     left out: 2 at baseline
        0    0    .    .    3     left out: it may have risen before or after 48 months
        0    .    1    .    1     not accelerated

    Args:
        clinical: The clinical tables.
        scans: Columns ``patient``, ``visit`` and ``side``; a label is that of the knee, whatever the visit.

    Returns:
        The labels, empty where there is none, and the reasons why.

    Raises:
        UserError: no table has a grade.
    """
    knees = scans[["patient", "side"]].drop_duplicates()
    grades = pd.DataFrame(index=knees.index)
    readings = [
        look_up(clinical, GRADE, knees.assign(visit=visit))[0].rename(visit)
        for visit in VISIT_MONTHS
        if visit == "V00" or clinical.has(f"{visit}{GRADE}".casefold())
    ]
    grades = pd.concat(readings, axis=1)
    later = [visit for visit in grades if visit != "V00"]
    rose = grades[[visit for visit in later if VISIT_MONTHS[visit] <= ACCELERATED_MONTHS]].isin(LATE_GRADES).any(axis=1)
    afterwards = [visit for visit in later if VISIT_MONTHS[visit] >= ACCELERATED_MONTHS]
    stayed = grades[afterwards].isin(("0", "1", "2")).any(axis=1)
    is_early = grades["V00"].isin(EARLY_GRADES)
    labels = pd.Series("", index=knees.index, dtype=object, name="label")
    labels[is_early & stayed & ~rose] = NOT_ACCELERATED
    labels[is_early & rose] = ACCELERATED
    reasons = pd.Series("", index=knees.index, dtype=object)
    reasons[labels == ""] = f"no grade at {ACCELERATED_MONTHS} months or later that decides"
    reasons[~is_early] = grades["V00"].map(lambda grade: f"grade {grade} at baseline" if grade else "no V00XRKL")
    keys = scans[["patient", "side"]].merge(knees.assign(label=labels, reason=reasons), how="left")
    keys.index = scans.index
    return keys["label"], keys["reason"]
