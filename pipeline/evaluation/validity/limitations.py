"""Limitations of an evaluation: the questions that its rows cannot answer, found from the rows themselves."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas

from pipeline.core.data_kinds import DataKind
from pipeline.core.text import count_words, plural
from pipeline.evaluation.schema import ClassTable, Decision, Estimate, Level, NotEvaluated, first_level
from pipeline.evaluation.scores import METRIC_TITLES

# Of a class that fewer patients have, an interval says little; with fewer there is no verdict between runs either.
FEW_GROUPS = 10
COVARIATES = ("sex", "age", "scanner")


@dataclass(frozen=True)
class Evaluated:
    """The rows that were tested, and their numbers.

    Args:
        kind: The kind of data, which names rows and groups.
        test: The predictions of the test rows.
        scans: The manifest's rows of all splits by their ``source_id``: ``visit``, ``side``, ``site`` and covariates.
        train_groups: The patients that the model was trained on.
        levels: The levels of metrics.json.
        classes: The scores of each class by level, of metrics.json.
        decision: The decision support of metrics.json.
        part: The name of the rows: "test", or "external" for those of another site.
    """

    kind: DataKind
    test: pandas.DataFrame
    scans: pandas.DataFrame
    train_groups: frozenset[str]
    levels: Mapping[str, Level]
    classes: Mapping[str, ClassTable]
    decision: Decision
    part: str = "test"

    @property
    def test_scans(self) -> pandas.DataFrame:
        """The manifest's rows of the scans that were tested."""
        return self.scans[self.scans.index.isin(set(self.test["source_id"]))]


def name_other_source(kind: DataKind) -> str:
    """Return the question that only data of another source answer."""
    return f"{plural(kind.source).capitalize()} from another source"


def list_not_evaluated(evaluated: Evaluated) -> list[NotEvaluated]:
    """List the questions that the test rows cannot answer, each with the reason."""
    found = [*_list_origins(evaluated), *_list_levels(evaluated), *_list_classes(evaluated), *_list_numbers(evaluated)]
    return [{"question": question, "reason": reason} for question, reason in found]


def _list_origins(evaluated: Evaluated) -> Iterator[tuple[str, str]]:
    """Yield what is not known of origin and persons, or the same for all."""
    kind, part = evaluated.kind, evaluated.part
    if part == "test":
        yield name_other_source(kind), "training and test rows are of one data set"
    if not kind.has_patients:
        return
    scans, test = evaluated.scans, evaluated.test_scans
    sites = set(test["site"]) - {""}
    trained = set(scans[scans["group_id"].isin(evaluated.train_groups)]["site"])
    if not sites:
        yield "Differences between sites", "no site is known"
    elif len(set(scans["site"])) == 1:
        yield "Differences between sites", f"all scans are from the site {next(iter(sites))}"
    elif sites <= trained:
        yield "Sites that were not trained on", f"all sites of {part} scans ({len(sites)}) have training scans"
    columns = {name.casefold(): name for name in scans.columns}
    for name in COVARIATES:
        values = set(test[columns[name]].astype(str)) - {"", "nan"} if name in columns else set()
        if not values:
            yield f"Differences by {name}", f"no {name} is known"
        elif len(values) == 1:
            yield f"Differences by {name}", f"all {part} scans have the same, {values.pop()}"
    visits = test[test["visit"] != ""].groupby("group_id")["visit"].nunique()
    if visits.empty:
        yield "Changes between visits", "no visit is known"
    elif visits.max() == 1:
        yield "Changes between visits", f"no {part} {kind.group} has scans of two visits"
    sides = test[test["side"].isin(("left", "right"))].groupby("group_id")["side"].nunique()
    if sides.empty:
        yield "Differences between left and right", "no side is known"
    elif sides.max() == 1:
        yield "Both sides of one person", f"no {part} {kind.group} has scans of both"


def _list_levels(evaluated: Evaluated) -> Iterator[tuple[str, str]]:
    """Yield the levels that the rows do not have."""
    kind, test = evaluated.kind, evaluated.test
    if kind.has_patients and "patient" not in evaluated.levels:
        patient = "a test patient" if evaluated.part == "test" else "an external patient"
        yield "Scores of whole patients", f"{patient} has rows of several classes"
    if kind.has_patients and "knee" not in evaluated.levels:
        unknown = test[test["side"] == ""]["source_id"].nunique()
        why = (
            f"the side of {count_words(unknown, kind.source)} is unknown"
            if unknown
            else "one has rows of several classes"
        )
        yield "Scores of whole knees", why
    for level in evaluated.levels:
        if level not in evaluated.decision["calibration"]:
            has_any = len(evaluated.decision["calibration"]) > 0
            why = "a validation patient has rows of several classes" if has_any else "no validation rows were scored"
            yield f"Temperature and thresholds of {plural(level)}", why


def _list_classes(evaluated: Evaluated) -> Iterator[tuple[str, str]]:
    """Yield the classes that no test row, or few patients, have."""
    _, first = first_level(evaluated.levels)
    groups = evaluated.test.groupby("label")["group_id"].nunique()
    few = []
    for name, count in first["support"].items():
        if count == 0:
            yield f"Class “{name}”", f"no {evaluated.part} row has it"
        elif groups[name] < FEW_GROUPS:
            few.append(f"“{name}” {groups[name]}")
    if few:
        group = plural(evaluated.kind.group)
        yield "Rates of rare classes, to more than a rough extent", f"fewer than {FEW_GROUPS} {group}: {', '.join(few)}"


def _list_numbers(evaluated: Evaluated) -> Iterator[tuple[str, str]]:
    """Yield intervals and numbers that are missing, and the variation that one training cannot show."""
    name, first = first_level(evaluated.levels)
    titled = {METRIC_TITLES[metric]: found for metric, found in first["metrics"].items()}
    for reason, names in _list_withheld(titled, evaluated.kind):
        yield f"Intervals of {', '.join(names)}", reason
    precisions = {key: found["average_precision"] for key, found in evaluated.classes[name]["classes"].items()}
    for reason, names in _list_withheld(precisions, evaluated.kind):
        which = "" if len(names) == len(precisions) else f" of {', '.join(f'“{key}”' for key in names)}"
        yield f"Intervals of the average precision{which}", reason
    levels_of: dict[tuple[str, str], list[str]] = {}
    for level, curve in evaluated.decision["net_benefit"].items():
        benefits = {f"{point['threshold']:.2f}": point["model"] for point in curve["curve"]}
        for reason, names in _list_withheld(benefits, evaluated.kind):
            where = "" if len(names) == len(benefits) else f" at {plural('threshold', len(names))} {', '.join(names)}"
            levels_of.setdefault((where, reason), []).append(plural(level))
    for (where, reason), levels in levels_of.items():
        yield f"Intervals of the net benefit of {', '.join(levels)}{where}", reason
    if len(first["support"]) > 2:
        yield "Operating points and net benefit", f"there are {len(first['support'])} classes, and both need two"
    for level, points in evaluated.decision["operating_points"].items():
        for point in points:
            if point["test"] is None:
                yield f"A threshold for a {point['rate']} of {plural(level)}", "validation has no row of that class"
    if evaluated.part == "test":
        yield "Variation between trainings", "one training was evaluated; cross-validate trains several"


def _list_withheld(estimates: Mapping[str, Estimate], kind: DataKind) -> Iterator[tuple[str, list[str]]]:
    """Yield each reason why values have no interval, with the names of these."""
    names_of: dict[str, list[str]] = {}
    for name, found in estimates.items():
        if found["value"] is not None and found["low"] is None:
            names_of.setdefault(found["reason"].replace("group", kind.group), []).append(name)
    yield from names_of.items()


def describe_not_evaluated(found: Sequence[NotEvaluated]) -> str:
    """Write the questions with their reasons as one sentence."""
    questions = (f"{item['question'][0].lower()}{item['question'][1:]} ({item['reason']})" for item in found)
    return f"Not evaluated: {'; '.join(questions)}."
