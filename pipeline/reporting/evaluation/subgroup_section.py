"""Subgroups in a section of the report: a table for each fact, and a sentence on its gap."""

from pipeline.core.data_kinds import DataKind
from pipeline.core.text import count_words, plural
from pipeline.evaluation.schema import Estimate, Metrics, SubgroupPart, SubgroupTable
from pipeline.evaluation.validity.subgroups import MIN_PATIENTS
from pipeline.reporting.elements import Section, Table
from pipeline.reporting.evaluation.scores import name_groups
from pipeline.reporting.formatting import humanise, show_number, show_number_briefly, show_percent_briefly


def build_subgroup_section(metrics: Metrics, kind: DataKind) -> list[Section]:
    """Put the subgroups into a section; none where ``evaluate.subgroups`` names none.

    Args:
        metrics: The content of metrics.json.
        kind: The kind of data, which names rows and groups.
    """
    tables = metrics.get("subgroups", [])
    if not tables:
        return []
    sentences = tuple(_describe(table, kind) for table in tables)
    return [Section("Subgroups", sentences, tuple(_tabulate(table, kind) for table in tables), part="whom")]


def _tabulate(table: SubgroupTable, kind: DataKind) -> Table:
    parts = table["parts"]
    scores = [_list_scores(part) for part in parts]
    titles = list(scores[0]) if scores else []
    reasons = sorted(
        {
            name_groups(estimate["reason"], kind)
            for part, found in zip(parts, scores, strict=True)
            for estimate in (part["accuracy"], *found.values())
            if estimate["reason"]
        }
    )
    notes = [f"Without an interval or a value: {'; '.join(reasons)}."] if reasons else []
    unknown = [f"{count_words(table['num_unknown'], kind.example)} without a value."] if table["num_unknown"] else []
    return Table(
        f"Scores by {table['fact']}",
        (
            *(humanise(table["fact"]), plural(kind.example).capitalize(), plural(kind.group).capitalize()),
            *("Accuracy", *titles),
        ),
        tuple(
            (
                *(part["value"], f"{part['n']:,}", f"{part['groups']:,}", show_percent_briefly(part["accuracy"])),
                *(show_number_briefly(estimate) for estimate in found.values()),
            )
            for part, found in zip(parts, scores, strict=True)
        ),
        " ".join(["With 95\u00a0% intervals.", *notes, *unknown]),
    )


def _list_scores(part: SubgroupPart) -> dict[str, Estimate]:
    """Return the scores other than accuracy by their titles: those that the classes have."""
    scores = {"AUROC": part.get("auroc"), "Quadratic weighted kappa": part.get("quadratic_kappa")}
    scores["Mean absolute error ↓"] = part.get("mae")
    return {title: estimate for title, estimate in scores.items() if estimate is not None}


def _describe(table: SubgroupTable, kind: DataKind) -> str:
    """Write gap and p-value of a fact, or why there is no verdict."""
    name = humanise(table["fact"])
    if table["gap"] is None:
        return f"{name}: no verdict ({table['reason']})."
    gap = (
        f"{name}: the accuracies of the best and the worst part with at least "
        f"{count_words(MIN_PATIENTS, kind.group)} differ by {100 * table['gap']:.1f} points"
    )
    if table["p_value"] is None or table["p_corrected"] is None:
        return f"{gap}; no verdict ({table['reason']})."
    groups = plural(kind.group)
    how = f"between {groups}"
    if table["is_within_patients"]:
        how = f"within {groups} of several values and between the others"
        if not table.get("is_between_patients", False):  # files of earlier versions do not have it
            how = f"within {groups}"
    corrected = f", corrected for the number of facts {show_number(table['p_corrected'])}"
    return (
        f"{gap} (permutation {how}: p = {show_number(table['p_value'])}"
        f"{corrected if table['p_corrected'] != table['p_value'] else ''}). A large p does not show that the parts are "
        "alike."
    )
