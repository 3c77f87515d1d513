"""Decision support in words: a section of the report."""

from collections.abc import Sequence

from pipeline.core.data_kinds import DataKind
from pipeline.core.text import count_words, plural
from pipeline.evaluation.decisions.decision_support import CALIBRATION_METRICS
from pipeline.evaluation.decisions.selective_prediction import LISTED_COVERAGES
from pipeline.evaluation.decisions.temperature_scaling import BOUNDS, SMALLEST_PROBABILITY
from pipeline.evaluation.metrics import MAX_READABLE_CLASSES
from pipeline.evaluation.schema import Decision, DecisionCurve, Estimate, Fit, Metrics, read_value
from pipeline.evaluation.scores import METRIC_TITLES
from pipeline.reporting.elements import Figure, Section, Table
from pipeline.reporting.evaluation.scores import distinct_levels, name_groups
from pipeline.reporting.figures.decision import (
    Reliability,
    coverage_curves,
    net_benefit_curve,
    reliability_diagram,
)
from pipeline.reporting.formatting import (
    DASH,
    LEVEL_TITLES,
    humanise,
    show_fraction,
    show_goal,
    show_number,
    show_number_briefly,
    show_number_with_interval,
    show_percent,
    show_percent_briefly,
    show_score,
)


def build_decision_section(metrics: Metrics, class_names: Sequence[str], kind: DataKind) -> Section:
    """Turn selective prediction and calibration into a section of the report.

    Args:
        metrics: The content of metrics.json, with ``decision``.
        class_names: All classes.
        kind: The kind of data, which names rows and groups.
    """
    decision = metrics["decision"]
    levels = [level for level in distinct_levels(metrics["levels"]) if level in decision["coverage"]]
    if not levels:
        return Section(
            "Decision support",
            ("No temperature and no threshold is fitted: no validation rows were scored.",),
            part="decisions",
        )
    found = decision["calibration"][levels[0]]
    title = f"{plural(levels[0]).capitalize()}, test"
    figures = [
        Figure(
            "coverage",
            "Accuracy where the model may decline",
            "The model answers for its most confident rows; at the right end for all. The bands are intervals over "
            f"{plural(kind.group)}. {_read_out_coverage(decision, levels)}",
            coverage_curves(
                {level: decision["coverage"][level]["curve"] for level in levels}, "Most confident rows, test"
            ),
        ),
        Figure(
            "calibration_scaled",
            "Reliability before and after temperature scaling",
            "On the dashed line probabilities are right as often as they say. A bin holds about a tenth of the rows. "
            f"{_read_out_calibration(decision, levels[0])}",
            reliability_diagram(
                [
                    Reliability("as it is", found["before"]["bins"]),
                    Reliability("with temperature", found["after"]["bins"]),
                ],
                class_names[-1] if len(class_names) == 2 else "",
                title,
            ),
        ),
    ]
    tables = [_tabulate_temperatures(decision, levels, kind), _tabulate_calibration(decision, levels)]
    tables += _tabulate_recalibration(decision, levels, class_names, kind)
    tables += _tabulate_operating_points(decision, levels, kind)
    tables += [_tabulate_coverage(decision, levels), _tabulate_thresholds(decision, levels, kind)]
    if decision["net_benefit"]:
        curve = decision["net_benefit"][levels[-1]]
        figures.append(_draw_net_benefit(curve, levels[-1]))
        tables.append(_tabulate_net_benefit(curve, levels[-1], kind))
    sentences = (
        *_describe_coverage(decision, levels),
        *_describe_temperatures(decision, levels, kind),
        *_describe_recalibration(decision, levels, class_names),
        *_describe_zeros(decision, kind),
    )
    return Section("Decision support", sentences, tuple(tables), tuple(figures), "decisions")


def _describe_coverage(decision: Decision, levels: Sequence[str]) -> list[str]:
    sentences = []
    for level in levels:
        curve = {point["coverage"]: point["accuracy"] for point in decision["coverage"][level]["curve"]}
        sentences.append(
            f"Answering for all {plural(level)}, the model is right for {show_percent(curve[1.0])}; answering for the "
            f"most confident 90\u00a0% alone, for {show_percent(curve[0.9])}."
        )
    return sentences


def _read_out_coverage(decision: Decision, levels: Sequence[str]) -> str:
    """List the numbers of the curve."""
    sentences = []
    for level in levels:
        curve = {point["coverage"]: point["accuracy"] for point in decision["coverage"][level]["curve"]}
        accuracies = ", ".join(
            f"{show_fraction(read_value(curve[coverage]))} at {show_goal(coverage)}" for coverage in LISTED_COVERAGES
        )
        sentences.append(f"{plural(level).capitalize()}: {accuracies}.")
    return " ".join(sentences)


def _read_out_calibration(decision: Decision, level: str) -> str:
    """List the numbers of the curves."""
    before, after = (decision["calibration"][level][when]["debiased_error"]["value"] for when in ("before", "after"))
    return f"Debiased calibration error {show_number(before)} before, {show_number(after)} after."


def _describe_temperatures(decision: Decision, levels: Sequence[str], kind: DataKind) -> list[str]:
    sentences = []
    for level in levels:
        found = decision["calibration"][level]
        temperature, fitted_on = found["temperature"], describe_fit(found["fitted_on"], level, kind)
        sentences.append(describe_temperature(temperature, fitted_on))
        if found["temperature_is_at_bound"]:
            often = "more often" if temperature < 1 else "less often"
            sentences.append(
                f"A more extreme temperature would fit the validation {plural(level)} better: their predictions were "
                f"right far {often} than their probabilities say. It was limited to {temperature:g} (allowed are "
                f"{BOUNDS[0]:g} to {BOUNDS[1]:g}). Do not trust the scaled probabilities beyond what the table shows."
            )
    return sentences


def describe_temperature(temperature: float, fitted_on: str) -> str:
    """Write what a temperature shows; one that is 1 to three digits shows nothing.

    Args:
        temperature: The temperature.
        fitted_on: The rows that it was fitted on, in words.
    """
    shown = f"{temperature:.3g}"
    if shown == "1":
        return f"No temperature fits {fitted_on} noticeably better than 1."
    finding = "overconfident" if temperature > 1 else "underconfident"
    return f"The temperature that fits {fitted_on} best is {shown}: the model was {finding} there."


def describe_fit(fit: Fit, level: str, kind: DataKind) -> str:
    """Write what something was fitted on as "40 validation volumes of 10 patients"."""
    rows = count_words(fit["num_rows"], f"validation {level}")
    return f"{rows} of {count_words(fit['num_groups'], kind.group)}" if kind.has_patients else rows


def _describe_zeros(decision: Decision, kind: DataKind) -> list[str]:
    if not decision["num_zero_probabilities"]:
        return []
    return [
        f"{count_words(decision['num_zero_probabilities'], kind.example)} had a probability of exactly 0, which "
        f"no temperature changes; it counts as {SMALLEST_PROBABILITY:.1e}, as in the negative log-likelihood."
    ]


def _tabulate_temperatures(decision: Decision, levels: Sequence[str], kind: DataKind) -> Table:
    counted = (f"Validation {plural(kind.group)}",) if kind.has_patients else ()
    found = {level: decision["calibration"][level] for level in levels}
    return Table(
        "Temperatures, and what they were fitted on",
        ("Level", "Temperature", "Validation rows", *counted),
        tuple(
            (
                _name_level(level),
                f"{scores['temperature']:.3g}",
                f"{scores['fitted_on']['num_rows']:,}",
                *[f"{scores['fitted_on']['num_groups']:,}"] * len(counted),
            )
            for level, scores in found.items()
        ),
        f"Each level has a temperature of its own, because means over {plural(kind.example)} are less extreme. "
        "Probabilities in predictions.csv and all other scores are as the model gave them; scaled ones are p^(1/T), "
        "normalised to sum to 1.",
    )


def _tabulate_calibration(decision: Decision, levels: Sequence[str]) -> Table:
    rows = []
    for level in levels:
        scores = decision["calibration"][level]
        for name in CALIBRATION_METRICS:
            before, after = (show_score(name, scores[when]["scores"][name]) for when in ("before", "after"))
            rows.append((f"{METRIC_TITLES[name]}, {plural(level)}", before, after))
        before, after = (show_number_briefly(scores[when]["debiased_error"]) for when in ("before", "after"))
        rows.append((f"Debiased calibration error, {plural(level)}", before, after))
    return Table(
        "Calibration on the test split before and after temperature scaling",
        ("Score ↓", "Before", "After"),
        tuple(rows),
        "With 95\u00a0% intervals; ↓ lower is better. The temperatures come from validation alone. The debiased error "
        "is the root mean square of the gaps of bins of equally many rows, without what chance adds to them; neither "
        "error has an interval, because resampling makes both larger.",
    )


def _describe_recalibration(decision: Decision, levels: Sequence[str], class_names: Sequence[str]) -> list[str]:
    """Write what slope and constant of two classes show; nothing of several, which have one of each."""
    if len(class_names) > 2:
        return []
    found = {level: decision["calibration"][level]["before"]["recalibration"][class_names[-1]] for level in levels}
    return [
        sentence
        for level, recalibration in found.items()
        for sentence in (
            describe_slope(recalibration["slope"], level),
            describe_constant(recalibration["in_the_large"], level, class_names[-1]),
        )
        if sentence
    ]


def describe_slope(slope: Estimate, level: str) -> str:
    """Write what the interval of a calibration slope shows; empty where there is none."""
    if slope["value"] is None or slope["low"] is None or slope["high"] is None:
        return ""
    start = f"The calibration slope of the {plural(level)} is {show_number_with_interval(slope)}"
    if slope["high"] < 1:
        return f"{start}: below 1, so that probabilities are too extreme."
    if slope["low"] > 1:
        return f"{start}: above 1, so that probabilities are not extreme enough."
    return f"{start}, which includes 1: no overconfidence and no underconfidence is shown."


def describe_constant(constant: Estimate, level: str, name: str) -> str:
    """Write what the interval of the calibration in the large shows; empty where there is none."""
    if constant["value"] is None or constant["low"] is None or constant["high"] is None:
        return ""
    start = f"The calibration in the large of the {plural(level)} is {show_number_with_interval(constant)}"
    if constant["high"] < 0:
        return f"{start}: below 0, so that “{name}” is rarer than the probabilities say."
    if constant["low"] > 0:
        return f"{start}: above 0, so that “{name}” is more frequent than the probabilities say."
    return f"{start}, which includes 0."


def _tabulate_recalibration(
    decision: Decision, levels: Sequence[str], class_names: Sequence[str], kind: DataKind
) -> list[Table]:
    if len(class_names) > MAX_READABLE_CLASSES:
        return []
    rows, reasons = [], set()
    shown = levels if len(class_names) == 2 else levels[:1]
    for level in shown:
        for when, title in (("before", "as they are"), ("after", "scaled")):
            scores = decision["calibration"][level]["before" if when == "before" else "after"]
            for name, found in scores["recalibration"].items():
                estimates = (found["in_the_large"], found["intercept"], found["slope"])
                of_class = "" if len(class_names) == 2 else f", “{name}”"
                cells = (show_number_briefly(part) if part["value"] is not None else DASH for part in estimates)
                rows.append((f"{plural(level).capitalize()} {title}{of_class}", *cells))
                reasons |= {name_groups(part["reason"], kind) for part in estimates if part["reason"]}
    against = f"of “{class_names[-1]}”" if len(class_names) == 2 else "of each class against the rest"
    note = (
        f"Logistic regression of what happened on the log odds {against}, with 95\u00a0% intervals. Without need of "
        "correction, the slope is 1 and the others are 0; the calibration in the large is the intercept where the "
        "slope stays 1."
    )
    missing = f" No interval, or no value: {'; '.join(sorted(reasons))}." if reasons else ""
    return [
        Table(
            "Calibration intercept and slope on the test split",
            ("Probabilities", "In the large", "Intercept", "Slope"),
            tuple(rows),
            f"{note}{missing}",
        )
    ]


def _tabulate_coverage(decision: Decision, levels: Sequence[str]) -> Table:
    rows = []
    for level in levels:
        points = {point["coverage"]: point for point in decision["coverage"][level]["curve"]}
        for coverage in LISTED_COVERAGES:
            confidence, accuracy = points[coverage]["confidence"], points[coverage]["accuracy"]
            cells = show_goal(coverage), show_score("accuracy", accuracy), show_number(confidence)
            rows.append((_name_level(level), *cells))
    areas = {level: decision["coverage"][level]["area_under_risk"] for level in levels}
    shown = "; ".join(
        f"{plural(level)} {_show_small(area['value'])} ({_show_ends(area)})" for level, area in areas.items()
    )
    return Table(
        "Accuracy of the most confident test rows",
        ("Level", "Answered", "Accuracy", "Confidence at least"),
        tuple(rows),
        "With 95\u00a0% intervals. Mean fraction of wrong predictions over all coverages (area under the risk-coverage "
        f"curve): {shown}.",
    )


def _tabulate_thresholds(decision: Decision, levels: Sequence[str], kind: DataKind) -> Table:
    rows = []
    for level in levels:
        for found in decision["coverage"][level]["thresholds"]:
            answered = found["coverage"]["value"]
            rows.append(
                (
                    _name_level(level),
                    show_goal(found["wanted"]),
                    show_score("accuracy", found["accuracy"]),
                    DASH if answered is None else show_fraction(answered),
                    show_number(found["threshold"]),
                )
            )
    new = " or ".join(levels) if kind.has_patients else kind.source
    fits = " and ".join(describe_fit(decision["calibration"][level]["fitted_on"], level, kind) for level in levels)
    return Table(
        "Thresholds chosen on validation, and their results on the test split",
        ("Level", "Answered on validation", "Accuracy", "Answered on test", "Confidence at least"),
        tuple(rows),
        f"With 95\u00a0% intervals. These thresholds can be used for a new {new}: they were chosen on {fits}.",
    )


def _name_level(level: str) -> str:
    return LEVEL_TITLES.get(level, humanise(level))


def _tabulate_operating_points(decision: Decision, levels: Sequence[str], kind: DataKind) -> list[Table]:
    if not decision["operating_points"]:
        return []
    rows = []
    for level in levels:
        for point in decision["operating_points"][level]:
            wanted = f"{plural(level).capitalize()}: {point['rate']} of at least {show_goal(point['wanted'])}"
            chosen_on = describe_fit(point["chosen_on"], level, kind)
            if point["test"] is None:
                rows.append((wanted, *[DASH] * 4, chosen_on))
                continue
            rates = (show_percent_briefly(point["test"][rate]) for rate in ("sensitivity", "specificity"))
            rows.append((wanted, show_number(point["threshold"]), show_number(point["reached"]), *rates, chosen_on))
    columns = ("Chosen for", "Threshold", "On validation", "Sensitivity on test", "Specificity on test", "Chosen on")
    return [
        Table(
            "Operating points",
            columns,
            tuple(rows),
            "A row is called positive where its probability in predictions.csv, as the model gave it, reaches the "
            "threshold. It was chosen on the validation rows of one class, counted in the last column; the fewer their "
            f"{plural(kind.group)}, the less the rate on new rows is that of validation.",
        )
    ]


def _draw_net_benefit(curve: DecisionCurve, level: str) -> Figure:
    return Figure(
        "net_benefit",
        "Decision curve",
        "Net benefit of acting on rows whose scaled probability reaches the threshold, next to acting on all and on "
        f"none; the band is drawn where there is an interval. {describe_net_benefit(curve, level)}",
        net_benefit_curve(curve, f"{plural(level).capitalize()}, test"),
    )


def describe_net_benefit(curve: DecisionCurve, level: str) -> str:
    """Write at which thresholds the model's net benefit is above that of acting on all and on none."""
    points = [point for point in curve["curve"] if point["model"]["value"] is not None]
    if not points:
        return "There is no net benefit to compute: the test rows lack a class."
    above = [
        f"{point['threshold']:.2g}"
        for point in points
        if (point["model"]["value"] or 0.0) > max(point["treat_all"], 0.0)
    ]
    origin = "that of the test rows" if curve["is_observed"] else "as stated in evaluate.prevalence"
    prevalence = show_fraction(curve["prevalence"])
    start = f"At a prevalence of {prevalence} ({origin}), the net benefit of acting on {plural(level)} is"
    other = "that of acting on all and on none"
    if not above:
        return f"{start} at no threshold above {other}."
    if len(above) == len(curve["curve"]):
        return f"{start} above {other} at all thresholds from {above[0]} to {above[-1]}."
    return f"{start} above {other} at {len(above)} of {len(curve['curve'])} thresholds: {', '.join(above)}."


def _tabulate_net_benefit(curve: DecisionCurve, level: str, kind: DataKind) -> Table:
    rows = tuple(
        (f"{point['threshold']:.2f}", show_score("net_benefit", point["model"]), f"{point['treat_all']:.3f}", "0.000")
        for point in curve["curve"][1::2]
    )
    reasons = {name_groups(point["model"]["reason"], kind) for point in curve["curve"] if point["model"]["reason"]}
    return Table(
        f"Net benefit of the test {plural(level)}",
        ("Threshold", "Model", "Act on all", "Act on none"),
        rows,
        "With 95\u00a0% intervals: true positives for each row, minus false ones weighted by the odds of the "
        "threshold. Probabilities are scaled by the temperature, and not adapted to the prevalence."
        f"{' No interval: ' * bool(reasons)}"
        f"{'; '.join(sorted(reasons))}{'.' * bool(reasons)}",
    )


def _show_ends(area: Estimate) -> str:
    return "no interval" if area["low"] is None else f"{_show_small(area['low'])} to {_show_small(area['high'])}"


def _show_small(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:.2g}"
