"""Subgroups in a section of the report: a table for each fact, and a sentence on its gap."""

from pipeline.core.data_kinds import DataKind
from pipeline.core.text import count_words, plural
from pipeline.evaluation.schema import Metrics, SubgroupTable
from pipeline.evaluation.validity.subgroups import MIN_PATIENTS
from pipeline.reporting.elements import Section, Table
from pipeline.reporting.formatting import humanise, show_number, show_percent_briefly


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
    columns = (plural(kind.example).capitalize(), plural(kind.group).capitalize(), "Accuracy (95\u00a0% interval)")
    return [
        Section(
            "Subgroups",
            sentences,
            tuple(
                Table(
                    f"Accuracy by {table['fact']}",
                    (humanise(table["fact"]), *columns),
                    tuple(
                        (part["value"], f"{part['n']:,}", f"{part['groups']:,}", show_percent_briefly(part["accuracy"]))
                        for part in table["parts"]
                    ),
                    _describe_unknown(table, kind),
                )
                for table in tables
            ),
        )
    ]


def _describe(table: SubgroupTable, kind: DataKind) -> str:
    """Write gap and p-value of a fact, or why there is no verdict."""
    name = humanise(table["fact"])
    if table["gap"] is None:
        return f"{name}: no verdict ({table['reason']})."
    gap = (
        f"{name}: the best and the worst part with at least {count_words(MIN_PATIENTS, kind.group)} differ by "
        f"{100 * table['gap']:.1f} points"
    )
    if table["p_value"] is None or table["p_corrected"] is None:
        return f"{gap}; no verdict ({table['reason']})."
    how = "within patients" if table["is_within_patients"] else f"between {plural(kind.group)}"
    return (
        f"{gap} (permutation {how}: p = {show_number(table['p_value'])}, corrected for the number of facts "
        f"{show_number(table['p_corrected'])}). A large p does not show that the parts are alike."
    )


def _describe_unknown(table: SubgroupTable, kind: DataKind) -> str:
    number = table["num_unknown"]
    return f"{count_words(number, kind.example)} without a value." if number else ""
