"""Decision support in words: a section of the report."""

from collections.abc import Sequence

import pandas

from pipeline.core.data_kinds import DataKind
from pipeline.core.text import count_words, plural
from pipeline.evaluation.decisions.decision_support import CALIBRATION_METRICS
from pipeline.evaluation.decisions.selective_prediction import LISTED_COVERAGES
from pipeline.evaluation.decisions.temperature_scaling import BOUNDS, SMALLEST_PROBABILITY, scale_predictions
from pipeline.evaluation.schema import Decision, Estimate, Fit, Metrics
from pipeline.evaluation.scores import compute_calibration_bins
from pipeline.reporting.elements import Figure, Section, Table
from pipeline.reporting.evaluation.scores import distinct_levels
from pipeline.reporting.figures.decision import calibration_before_and_after, coverage_curves
from pipeline.reporting.formatting import (
    LEVEL_TITLES,
    METRIC_TITLES,
    humanise,
    show_estimate,
    show_number,
    show_percent,
)


def build_decision_section(
    metrics: Metrics, test: pandas.DataFrame, class_names: Sequence[str], kind: DataKind
) -> Section:
    """Turn selective prediction and calibration into a section of the report.

    Args:
        metrics: The content of metrics.json, with ``decision``.
        test: The predictions of the test rows, as the model gave them.
        class_names: All classes.
        kind: The kind of data, which names rows and groups.
    """
    decision = metrics["decision"]
    levels = [level for level in distinct_levels(metrics["levels"]) if level in decision["coverage"]]
    scaled = scale_predictions(test, class_names, decision["calibration"][levels[0]]["temperature"])
    title = f"{plural(levels[0]).capitalize()}, test"
    figures = (
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
            "Calibration before and after temperature scaling",
            "On the dashed line accuracy equals confidence; a small point marks a bin of few rows, one without a line "
            "a bin of less than 20. Below, the fraction of rows of each confidence. "
            f"{_read_out_calibration(decision, levels[0])}",
            calibration_before_and_after(
                compute_calibration_bins(test, class_names), compute_calibration_bins(scaled, class_names), title
            ),
        ),
    )
    tables = [_tabulate_temperatures(decision, levels, kind), _tabulate_calibration(decision, levels)]
    for level in levels:
        tables += [_tabulate_coverage(decision, level), _tabulate_thresholds(decision, level, kind)]
    sentences = (
        *_describe_coverage(decision, levels),
        *_describe_temperatures(decision, levels, kind),
        *_describe_zeros(decision, kind),
    )
    return Section("Decision support", sentences, tuple(tables), figures)


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
        curve = {point["coverage"]: point["accuracy"]["value"] for point in decision["coverage"][level]["curve"]}
        accuracies = ", ".join(f"{curve[coverage]:.1%} at {coverage:.0%}" for coverage in LISTED_COVERAGES)
        sentences.append(f"{plural(level).capitalize()}: {accuracies}.")
    return " ".join(sentences)


def _read_out_calibration(decision: Decision, level: str) -> str:
    """List the numbers of the curves."""
    before, after = (decision["calibration"][level][when]["ece"]["value"] for when in ("before", "after"))
    return f"Expected calibration error {show_number(before)} before, {show_number(after)} after."


def _describe_temperatures(decision: Decision, levels: Sequence[str], kind: DataKind) -> list[str]:
    sentences = []
    for level in levels:
        found = decision["calibration"][level]
        temperature, fitted_on = found["temperature"], describe_fit(found["fitted_on"], level, kind)
        if temperature == 1:
            sentences.append(f"No temperature fits {fitted_on} better than 1: the probabilities stay as they are.")
            continue
        finding = "overconfident" if temperature > 1 else "underconfident"
        sentences.append(
            f"The temperature that fits {fitted_on} best is {temperature:.3g}: the model was {finding} there."
        )
        if found["temperature_is_at_bound"]:
            why = "no error was made there" if temperature < 1 else "the predictions there were worse than guessing"
            sentences.append(
                f"A more extreme temperature would fit the validation {plural(level)} better, because {why}; it was "
                f"limited to {temperature:g} (allowed are {BOUNDS[0]:g} to {BOUNDS[1]:g}). Do not trust the scaled "
                "probabilities beyond what the table shows."
            )
    return sentences


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
                LEVEL_TITLES.get(level, humanise(level)),
                f"{scores['temperature']:.3g}",
                f"{scores['fitted_on']['num_rows']:,}",
                *[f"{scores['fitted_on']['num_groups']:,}"] * len(counted),
            )
            for level, scores in found.items()
        ),
        "Each level has a temperature of its own, because means over more slices are less extreme. "
        "Probabilities in predictions.csv and all other scores are as the model gave them; scaled ones are p^(1/T), "
        "normalised to sum to 1.",
    )


def _tabulate_calibration(decision: Decision, levels: Sequence[str]) -> Table:
    rows = []
    for level in levels:
        scores = decision["calibration"][level]
        for name in CALIBRATION_METRICS:
            before, after = (show_estimate(scores[when][name]) for when in ("before", "after"))
            rows.append((f"{METRIC_TITLES[name]}, {plural(level)}", *before, *after))
    return Table(
        "Calibration on the test split before and after temperature scaling",
        ("Score ↓", "Before", "95 % interval before", "After", "95 % interval after"),
        tuple(rows),
        "↓ lower is better. The temperatures come from validation alone.",
    )


def _tabulate_coverage(decision: Decision, level: str) -> Table:
    points = {point["coverage"]: point for point in decision["coverage"][level]["curve"]}
    area = decision["coverage"][level]["area_under_risk"]
    return Table(
        f"Accuracy of the most confident test {plural(level)}",
        ("Answered", "Confidence at least", "Accuracy", "95 % interval"),
        tuple(
            (
                f"{coverage:.0%}",
                show_number(points[coverage]["confidence"]),
                *show_estimate(points[coverage]["accuracy"]),
            )
            for coverage in LISTED_COVERAGES
        ),
        f"Mean fraction of wrong predictions over all coverages (area under the risk-coverage curve): "
        f"{_show_small(area['value'])} ({_show_ends(area)}).",
    )


def _tabulate_thresholds(decision: Decision, level: str, kind: DataKind) -> Table:
    return Table(
        f"Thresholds chosen on validation {plural(level)}, and their results on the test split",
        ("Answered on validation", "Threshold of confidence", "Answered on test", "Accuracy", "95 % interval"),
        tuple(
            (
                f"{row['wanted']:.0%}",
                show_number(row["threshold"]),
                "\u2013" if row["coverage"]["value"] is None else f"{row['coverage']['value']:.1%}",
                *show_estimate(row["accuracy"]),
            )
            for row in decision["coverage"][level]["thresholds"]
        ),
        f"These thresholds can be used for a new {level if kind.has_patients else kind.source}: they were chosen on "
        f"{describe_fit(decision['calibration'][level]['fitted_on'], level, kind)}.",
    )


def _show_ends(area: Estimate) -> str:
    return "no interval" if area["low"] is None else f"{_show_small(area['low'])} to {_show_small(area['high'])}"


def _show_small(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:.2g}"
