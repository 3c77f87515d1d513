"""Decision support in words: a part of the report."""

from collections.abc import Sequence

import pandas

from pipeline.core.data_kinds import DataKind
from pipeline.core.text import count_words, plural
from pipeline.evaluation.decision_support import CALIBRATION_METRICS
from pipeline.evaluation.schema import Decision, Metrics
from pipeline.evaluation.scores import compute_calibration_bins
from pipeline.evaluation.selective_prediction import LISTED_COVERAGES
from pipeline.evaluation.temperature_scaling import BOUNDS, SMALLEST_PROBABILITY, scale_predictions
from pipeline.reporting.elements import Figure, Section, Table
from pipeline.reporting.evaluation.scores import distinct_levels
from pipeline.reporting.figures.decision import calibration_before_and_after, coverage_curves
from pipeline.reporting.formatting import METRIC_TITLES, show_interval, show_number, show_percent


def build_decision_section(
    metrics: Metrics, test: pandas.DataFrame, class_names: Sequence[str], kind: DataKind
) -> Section:
    """Turn abstention and calibration into a part of the report.

    Args:
        metrics: the content of metrics.json, with ``decision``.
        test: predictions of the test rows, as the model gave them.
        class_names: all classes.
        kind: The kind of data, which names rows and groups.
    """
    decision = metrics["decision"]
    levels = [level for level in distinct_levels(metrics["levels"]) if level in decision["coverage"]]
    scaled = scale_predictions(test, class_names, decision["temperature"])
    title = f"{plural(levels[0]).capitalize()}, test"
    pictures = (
        Figure(
            "coverage",
            "Accuracy where the model may decline",
            "Answered are the rows of the highest confidence; on the right end all are. The bands are intervals over "
            f"{plural(kind.group)}. {_read_out_coverage(decision, levels)}",
            coverage_curves({level: decision["coverage"][level]["curve"] for level in levels}, "Surest rows, test"),
        ),
        Figure(
            "calibration_scaled",
            "Calibration before and after temperature scaling",
            "On the dashed line the model is right as often as it claims; a small point stands for few rows, one "
            "without a line for less than 20. Below, "
            "the share of rows of each confidence. "
            f"{_read_out_calibration(decision, levels[0])}",
            calibration_before_and_after(
                compute_calibration_bins(test, class_names), compute_calibration_bins(scaled, class_names), title
            ),
        ),
    )
    tables = [_tabulate_calibration(decision, levels)]
    for level in levels:
        tables += [_tabulate_coverage(decision, level), _tabulate_thresholds(decision, level, kind)]
    sentences = (*_describe_coverage(decision, levels), *_describe_temperature(decision, kind))
    return Section("Decision support", sentences, tuple(tables), pictures)


def _describe_coverage(decision: Decision, levels: Sequence[str]) -> list[str]:
    sentences = []
    for level in levels:
        curve = {point["coverage"]: point["accuracy"] for point in decision["coverage"][level]["curve"]}
        sentences.append(
            f"Answering for all {plural(level)}, the model is right for {show_percent(curve[1.0])}; answering for the "
            f"surest 90\u00a0% alone, for {show_percent(curve[0.9])}."
        )
    return sentences


def _read_out_coverage(decision: Decision, levels: Sequence[str]) -> str:
    """Say the numbers of the curve."""
    told = []
    for level in levels:
        curve = {point["coverage"]: point["accuracy"]["value"] for point in decision["coverage"][level]["curve"]}
        shares = ", ".join(f"{curve[coverage]:.1%} at {coverage:.0%}" for coverage in LISTED_COVERAGES)
        told.append(f"{plural(level).capitalize()}: {shares}.")
    return " ".join(told)


def _read_out_calibration(decision: Decision, level: str) -> str:
    """Say the numbers of the curves."""
    before, after = (decision["calibration"][level][when]["ece"]["value"] for when in ("before", "after"))
    return f"Expected calibration error {show_number(before)} before, {show_number(after)} after."


def _describe_temperature(decision: Decision, kind: DataKind) -> list[str]:
    temperature = decision["temperature"]
    finding = "too sure of itself" if temperature > 1 else "too doubtful"
    sentences = [
        f"The temperature that fits {count_words(decision['num_fitted'], f'validation {kind.example}')} best is "
        f"{temperature:.3g}: the model was {finding}. Probabilities in predictions.csv and all other scores are as the "
        "model gave them; scaled ones are p^(1/T), made to add up to 1."
        if temperature != 1
        else "No temperature fits the validation rows better than 1: the probabilities stay as they are."
    ]
    if decision["temperature_is_at_bound"]:
        why = "no error was made there" if temperature < 1 else "its answers there were worse than guessing"
        sentences.append(
            f"The validation rows want a more extreme temperature, because {why}; it was held at {temperature:g} "
            f"(allowed are {BOUNDS[0]:g} to {BOUNDS[1]:g}). Do not trust the scaled probabilities beyond what the "
            "table shows."
        )
    if decision["num_zero_probabilities"]:
        sentences.append(
            f"{count_words(decision['num_zero_probabilities'], kind.example)} had a probability of exactly 0, which "
            f"no temperature changes; it counts as {SMALLEST_PROBABILITY:.1e}, as in the negative log-likelihood."
        )
    return sentences


def _tabulate_calibration(decision: Decision, levels: Sequence[str]) -> Table:
    rows = []
    for level in levels:
        scores = decision["calibration"][level]
        for name in CALIBRATION_METRICS:
            cells = [
                cell
                for when in ("before", "after")
                for cell in (show_number(scores[when][name]["value"]), show_interval(scores[when][name]))
            ]
            rows.append((f"{METRIC_TITLES[name]}, {plural(level)}", *cells))
    return Table(
        "Calibration on the test before and after temperature scaling",
        ("Score ↓", "Before", "95 % interval before", "After", "95 % interval after"),
        tuple(rows),
        f"↓ lower is better. The temperature, {decision['temperature']:.3g}, comes from validation alone.",
    )


def _tabulate_coverage(decision: Decision, level: str) -> Table:
    points = {point["coverage"]: point for point in decision["coverage"][level]["curve"]}
    area = decision["coverage"][level]["area_under_risk"]
    return Table(
        f"Accuracy of the surest test {plural(level)}",
        ("Answered", "Confidence at least", "Accuracy", "95 % interval"),
        tuple(
            (
                f"{coverage:.0%}",
                show_number(points[coverage]["confidence"]),
                show_number(points[coverage]["accuracy"]["value"]),
                show_interval(points[coverage]["accuracy"]),
            )
            for coverage in LISTED_COVERAGES
        ),
        f"Mean share of wrong answers over all coverages (area under the risk-coverage curve): "
        f"{_show_small(area['value'])} ({_show_small(area['low'])} to {_show_small(area['high'])}).",
    )


def _tabulate_thresholds(decision: Decision, level: str, kind: DataKind) -> Table:
    return Table(
        f"Thresholds chosen on validation {plural(level)}, and what they do on the test",
        ("Answered on validation", "Threshold of confidence", "Answered on test", "Accuracy", "95 % interval"),
        tuple(
            (
                f"{row['wanted']:.0%}",
                show_number(row["threshold"]),
                "\u2013" if row["coverage"]["value"] is None else f"{row['coverage']['value']:.1%}",
                show_number(row["accuracy"]["value"]),
                show_interval(row["accuracy"]),
            )
            for row in decision["coverage"][level]["thresholds"]
        ),
        f"A new {kind.source} can be judged by these thresholds: they were chosen without a look at the test.",
    )


def _show_small(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:.2g}"
