"""The coverage of a delivery: what of it became data, by release, visit, series and label, and why the rest did not."""

import re
from pathlib import Path

import pandas as pd

from pipeline.core.tables import write_table
from pipeline.core.text import count_words
from pipeline.reporting.elements import Section, Table
from pipeline.reporting.html import write_page

KEYS = ("release", "visit", "series", "label", "outcome")
COLUMNS = (*KEYS, "num_series", "num_knees", "num_patients")
USED = "used"
# Of a description only what looks like the name of a series is shown: it is a field that somebody typed.
SERIES_NAME = re.compile(r"[A-Z0-9][A-Z0-9_ .-]{0,39}")
MAX_ROWS = 400


def tabulate_coverage(coverage: pd.DataFrame, manifest: pd.DataFrame) -> pd.DataFrame:
    """Count series, knees and patients of a delivery.

    Args:
        coverage: A row for each series, as :class:`pipeline.data.sources.Listing` has it.
        manifest: The manifest, which says of the scans that were read whether they were accepted.

    Returns:
        The columns of ``COLUMNS``: a row for each release, visit, series, label and outcome; the outcome is ``used`` or
        the reason why not.
    """
    read = manifest[manifest["status"] != "ignored"].drop_duplicates("path").set_index("path")
    status = coverage["path"].map(read["status"])
    outcome = coverage["reason"].where(coverage["reason"] != "", USED)
    outcome = outcome.where((outcome != USED) | (status == "accepted"), "refused when it was read; see manifest.csv")
    series = coverage["series"].map(lambda text: text if SERIES_NAME.fullmatch(text) else "other" if text else "")
    rows = coverage.assign(outcome=outcome, series=series)
    rows["knee"] = rows["patient"].where(rows["side"] != "", "") + " " + rows["side"]
    rows["knee"] = rows["knee"].where(rows["side"] != "", None)
    rows["patient"] = rows["patient"].where(rows["patient"] != "", None)
    counted = rows.groupby(list(KEYS), sort=True).agg(
        num_series=("outcome", "size"), num_knees=("knee", "nunique"), num_patients=("patient", "nunique")
    )
    return counted.reset_index()


def write_coverage(folder: Path, coverage: pd.DataFrame, manifest: pd.DataFrame, synthetic_note: str) -> None:
    """Write ``delivery.csv`` and ``delivery.html``.

    Args:
        folder: The folder of the store.
        coverage: A row for each series of the delivery.
        manifest: The manifest.
        synthetic_note: The sentence that pages of a made-up set carry; empty for real ones.
    """
    counted = tabulate_coverage(coverage, manifest)
    write_table(folder / "delivery.csv", counted, COLUMNS)
    is_used = counted["outcome"] == USED
    used, others = counted[is_used], counted[~is_used]
    reasons = others.groupby("outcome", sort=False)["num_series"].sum().sort_values(ascending=False, kind="stable")
    sections = [
        Section("Used", tables=(_build_table("Scans that were used", used, ("release", "visit", "series", "label")),)),
        Section(
            "Left out",
            tables=(
                Table("Reasons", ("Reason", "Series"), tuple((text, f"{n:,}") for text, n in reasons.items())),
                _build_table("Series that were left out", others, ("release", "visit", "series", "label", "outcome")),
            ),
        ),
    ]
    write_page(
        folder / "delivery.html",
        "study.html",
        title="Coverage of the delivery",
        synthetic_note=synthetic_note or None,
        sentences=[
            f"The delivery holds {len(coverage):,} series; {count_words(int(used['num_series'].sum()), 'scan')} "
            f"of them are used. A knee is counted once in each row."
        ],
        sections=sections,
    )


def _build_table(caption: str, counted: pd.DataFrame, keys: tuple[str, ...]) -> Table:
    headings = (*(key.capitalize() for key in keys), "Series", "Knees", "Patients")
    numbers = ["num_series", "num_knees", "num_patients"]
    shown = counted.head(MAX_ROWS)
    rows = tuple(
        (*(row[key] or "\u2013" for key in keys), *(f"{row[name]:,}" for name in numbers))
        for row in shown.to_dict("records")
    )
    rest = len(counted) - len(shown)
    return Table(caption, headings, rows, note=f"{rest:,} more rows are in delivery.csv." if rest else "")
