"""Grades in a section of the report: how far predictions are from labels, and cut points that are fitted."""

from pipeline.core.data_kinds import DataKind
from pipeline.core.text import count_words, plural
from pipeline.evaluation.schema import GradeScores, LevelGrades, Metrics, first_level
from pipeline.reporting.elements import Section, Table
from pipeline.reporting.evaluation.scores import distinct_levels, name_groups
from pipeline.reporting.formatting import (
    BASELINE_TITLES,
    DASH,
    LEVEL_TITLES,
    humanise,
    show_number,
    show_number_briefly,
    show_percent,
    show_percent_briefly,
)

COLUMNS = ("Model", "Quadratic weighted kappa", "Linear weighted kappa", "Mean absolute error", "Within one grade")


def build_grade_section(metrics: Metrics, kind: DataKind) -> list[Section]:
    """Put the scores of grades into a section, for the model, with fitted cut points, and for the baselines.

    Args:
        metrics: The content of metrics.json.
        kind: The kind of data, which names rows and groups.

    Returns:
        One section; none where the classes have no order.
    """
    if "grades" not in metrics:
        return []
    grades, names = metrics["grades"], metrics["class_names"]
    first_name, first = first_level(grades["levels"])
    tables = []
    for level in distinct_levels(metrics["levels"]):
        found = grades["levels"][level]
        scored = {"Most probable grade": found["scores"]}
        if found["with_cut_points"] is not None:
            scored["Cut points on the expected grade"] = found["with_cut_points"]
        if level == first_name:
            scored |= {BASELINE_TITLES.get(name, humanise(name)): part for name, part in grades["baselines"].items()}
        tables.append(
            Table(
                f"Scores of grades: {LEVEL_TITLES.get(level, humanise(level)).lower()}",
                COLUMNS,
                tuple((title, *_show_scores(scores)) for title, scores in scored.items()),
                f"With 95\u00a0% intervals. {_describe_fit(found, kind)}{_list_reasons(list(scored.values()), kind)}",
                is_first_marked=True,
            )
        )
    kappa = first["scores"]["quadratic_kappa"]
    text = (
        f"The classes are grades, from {names[0]} to {names[-1]}: the quadratic weighted kappa of the "
        f"{plural(first_name)} is {show_number(kappa['value'])}, predictions are "
        f"{show_number(first['scores']['mae']['value'])} grades from the label in the mean, and "
        f"{show_percent(first['scores']['within_one'])} are at most one away."
    )
    return [Section("Grades", (text,), tuple(tables))]


def _show_scores(scores: GradeScores) -> tuple[str, ...]:
    kappas_and_error = (scores["quadratic_kappa"], scores["linear_kappa"], scores["mae"])
    numbers = [show_number_briefly(part) for part in kappas_and_error]
    return *numbers, DASH if scores["within_one"]["value"] is None else show_percent_briefly(scores["within_one"])


def _describe_fit(found: LevelGrades, kind: DataKind) -> str:
    """Write what is fitted, and on what."""
    fit = found["fitted_on"]
    if fit["num_rows"] == 0:
        return "No cut points are fitted: no validation rows were scored at this level."
    if found["cut_points"] is None:
        return "No cut points are fitted: the validation rows have one grade only."
    listed = ", ".join(show_number(point) for point in found["cut_points"])
    of_groups = f" of {count_words(fit['num_groups'], kind.group)}" if kind.has_patients else ""
    return (
        f"The cut points on the expected grade, counted from 0, are fitted: {listed} have the largest quadratic "
        f"weighted kappa on the {fit['num_rows']:,} validation rows{of_groups}; nothing else is."
    )


def _list_reasons(scores: list[GradeScores], kind: DataKind) -> str:
    """Write why scores have no interval or no value; empty where all have both."""
    estimates = [
        part
        for found in scores
        for part in (found["quadratic_kappa"], found["linear_kappa"], found["mae"], found["within_one"])
    ]
    reasons = sorted({name_groups(part["reason"], kind) for part in estimates if part["reason"]})
    return f" Without an interval or a value: {'; '.join(reasons)}." if reasons else ""
