"""The scans that are taken of a delivery, each with its label, and the reason why the others are left out."""

from pathlib import Path

import pandas as pd

from pipeline.config.sources import DataConfig
from pipeline.core.errors import UserError
from pipeline.core.tables import clean_text
from pipeline.data.label_tables import TAKEN, bin_labels, refuse_quantity, rename_values
from pipeline.data.sources import Listing, Source, check_folder, describe_link, list_named_sources
from pipeline.datasets.akoa import AKOA_NAME, parse_name
from pipeline.datasets.oai.clinical_tables import ClinicalTables, find_clinical_tables, look_up
from pipeline.datasets.oai.delivery import find_lists, read_delivery, split_description
from pipeline.datasets.oai.labels import label_scans

SITE = "V00SITE"
COVERAGE_COLUMNS = ("release", "visit", "series", "side", "label", "patient", "path", "reason")
# AKOA's names have no visit but this one.
BASELINE = "V00"
KNEE = ["patient", "visit", "side"]


def list_scans(raw: Path, options: DataConfig) -> Listing:
    """List the scans of a delivery: its series, or files with AKOA's names where it holds no list of series.

    Args:
        raw: The folder of the delivery.
        options: What is taken, and how it is labelled.

    Returns:
        Every scan of the chosen series, visits and sides; those without a label, or scanned again, are ignored with the
        reason. The coverage has a row for each series of the delivery, taken or not.

    Raises:
        UserError: no delivery there, an unreadable list, or no table with the label.
    """
    check_folder(raw, "Name the one of the delivery with --data.raw_folder (make: DATA=folder).")
    packages, contents = find_lists(raw)
    named: dict[str, Source] = {}
    if packages or contents:
        series = read_delivery(raw, packages, contents)
    else:
        sources = list_named_sources(raw, options.pattern, parse_name)
        named = {source.paths[0].as_posix(): source for source in sources}
        series = _describe_named(sources)
    series = series.assign(label="")
    _leave_out(series, options)
    chosen = series.index[series["reason"] == ""]
    if len(chosen) == 0:
        raise UserError(_describe_nothing(raw, series, options))
    clinical = _find_tables(raw, options)
    labels, reasons = label_scans(clinical, options.oai.label, series.loc[chosen])
    series.loc[chosen, "label"], series.loc[chosen, "reason"] = labels, reasons
    _name_classes(series, options)
    scans = series.loc[chosen]
    facts = scans[["path", *KNEE, "release", "series", "label", "reason"]].copy()
    facts["site"] = _look_up_site(clinical, scans)
    covariates = {name: look_up(clinical, name, scans)[0] for name in _check_covariates(options)} if clinical else {}
    listed = []
    for index, row in zip(facts.index, facts.to_dict("records"), strict=True):
        kept = tuple((name, values[index]) for name, values in covariates.items())
        source = _build_source(raw, row, kept, named.get(row["path"]))
        listed.append(source._replace(min_extent_mm=options.oai.min_extent_mm))
    refused = [source for source in named.values() if source.refusal]
    notes = [f"{raw}: {name} is not read; save it as text." for name in (clinical.unread if clinical else ())]
    listed.sort(key=lambda source: (source.ignored, source.source_id))
    return Listing((*listed, *refused), tuple(notes), series[list(COVERAGE_COLUMNS)])


def _describe_named(sources: list[Source]) -> pd.DataFrame:
    """Describe files by their names as :func:`read_delivery` describes series."""
    rows = []
    for source in sources:
        if not source.refusal:
            series = split_description("SAG_3D_DESS")[0]
            visit = BASELINE if AKOA_NAME.fullmatch(source.paths[0].name) else ""
            rows.append(("", visit, series, source.side, source.group_id, source.visit, source.source_id))
    table = pd.DataFrame(
        rows, columns=["release", "visit", "series", "side", "patient", "date", "barcode"], dtype=object
    )
    table["path"] = [source.paths[0].as_posix() for source in sources if not source.refusal]
    return table.assign(reason="")


def _leave_out(series: pd.DataFrame, options: DataConfig) -> None:
    """Write the reason to each series that the options do not take, and to knees that were scanned again."""
    wanted = options.oai
    checks = (
        (series["series"] != wanted.series.strip().upper(), "another series"),
        (series["side"] == "", "no side in its description"),
        (~series["side"].isin(wanted.sides), "another side (data.oai.sides)"),
        (~series["visit"].isin(wanted.visits or series["visit"]), "another visit (data.oai.visits)"),
        (series["path"] == "", "listed, not in the folder"),
    )
    for is_out, reason in checks:
        series.loc[is_out & (series["reason"] == ""), "reason"] = reason
    # Names of AKOA tell no order of the scans of a knee; of a delivery the later archive counts.
    used = series[(series["reason"] == "") & (series["visit"] != "") & series["barcode"].str.fullmatch("[0-9]+")]
    order = used.assign(number=used["barcode"].str.zfill(20)).sort_values(["date", "number"])
    earlier = order.index[order.duplicated(KNEE, keep="last")]
    series.loc[earlier, "reason"] = "the knee was scanned again, and the later archive counts"


def _find_tables(raw: Path, options: DataConfig) -> ClinicalTables | None:
    """Find the clinical tables where the label needs them, or where they are there."""
    clinical = find_clinical_tables(options.oai.clinical_tables or raw)
    if clinical.tables or clinical.unread:
        return clinical
    if options.oai.label == "side" and not options.covariates:
        return None
    raise UserError(
        f"{clinical.folder}: no clinical table, which data.oai.label: {options.oai.label} or data.covariates need. Put "
        "them there (kxr_sq_bu00.txt, ...), or name their folder with data.oai.clinical_tables."
    )


def _name_classes(series: pd.DataFrame, options: DataConfig) -> None:
    """Make classes of the labels, as for a table of labels."""
    is_labelled = (series["reason"] == "") & (series["label"] != "")
    places, where = series.index[is_labelled], f"data.oai.label {options.oai.label}"
    knees = series.loc[places, KNEE].agg(" ".join, axis=1)
    labels = series.loc[places, "label"].set_axis(pd.Index(knees, name="knee"))
    if options.bins:
        labels = bin_labels(where, labels, options.bins)
    if options.merge:
        labels = rename_values(where, labels, options.merge, "data.merge")
    if not options.bins:
        refuse_quantity(where, labels.dropna())
    labels = labels.set_axis(places)
    series.loc[places, "label"] = labels.fillna("")
    series.loc[places[labels.isna()], "reason"] = "its label is left out (data.merge)"


def _look_up_site(clinical: ClinicalTables | None, scans: pd.DataFrame) -> "pd.Series[str]":
    if clinical is None or not clinical.has(SITE.casefold()):
        return pd.Series("", index=scans.index, dtype=object)
    return look_up(clinical, SITE, scans)[0]


def _check_covariates(options: DataConfig) -> tuple[str, ...]:
    names = tuple(map(clean_text, options.covariates))
    for name in names:
        if name in (*TAKEN, "side", "visit", "site"):
            raise UserError(f"data.covariates: {name} is a column of the manifest already. Leave it out.")
    return names


def _build_source(
    raw: Path, row: dict[str, str], covariates: tuple[tuple[str, str], ...], named: Source | None
) -> Source:
    side, visit = row["side"], row["visit"]
    paths = (Path(row["path"]),) if named is None else named.paths
    link = describe_link(raw, paths[0]) if named is None else ""
    return Source(
        f"{row['patient']}_{visit}_{side}" if named is None else named.source_id,
        row["patient"],
        row["label"],
        paths,
        visit=visit or (named.visit if named is not None else ""),
        side=side,
        site=row["site"],
        spelling=" ".join(filter(None, (row["release"], row["series"]))) if named is None else named.spelling,
        refusal=row["reason"] or link,
        ignored=bool(row["reason"]),
        covariates=covariates,
    )


def _describe_nothing(raw: Path, series: pd.DataFrame, options: DataConfig) -> str:
    reasons = series["reason"].value_counts()
    found = ", ".join(f"{number} {reason}" for reason, number in list(reasons.items())[:4])
    names = ", ".join(sorted(set(series["series"]) - {""})[:12])
    return (
        f"{raw}: no scan of {options.oai.series} is left of {len(series)} series ({found}). "
        f"data.oai.series may be one of: {names}."
    )
