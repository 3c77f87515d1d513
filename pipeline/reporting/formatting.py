"""Text of scores and cells: titles, rounding, intervals."""

import json
from collections.abc import Mapping
from typing import Any

from pipeline.core.text import count_labels
from pipeline.evaluation.schema import Estimate

DASH = "\u2013"
LOWER_IS_BETTER = ("nll", "brier", "ece")
# Fractions of rows are written in per cent everywhere; areas, correlations and losses are numbers.
IN_PERCENT = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "f1")
BASELINE_TITLES = {
    "majority": "Most frequent class",
    "logistic_regression": "Logistic regression on pixels",
    "ordinal_logistic": "Cumulative logit model on pixels",
}
LEVEL_TITLES = {
    "slice": "Slices",
    "volume": "Volumes",
    "knee": "Knees",
    "patient": "Patients",
    "image": "Images",
    "object": "Objects",
}


def show_percent(metric: Estimate | Mapping[str, float | None]) -> str:
    """Write a fraction as "97.1 % (95 % interval 95.0 to 98.6 %)", with no line break before a %."""
    return _show_with_interval(metric, "(95\u00a0% interval {low} to {high}\u00a0%)")


def show_percent_briefly(metric: Estimate | Mapping[str, float | None]) -> str:
    """Write a fraction as "97.1 % (95.0 to 98.6)"; without an interval there are no brackets."""
    return _show_with_interval(metric, "({low} to {high})")


def _show_with_interval(metric: Estimate | Mapping[str, float | None], form: str) -> str:
    value, low, high = metric["value"], metric["low"], metric["high"]
    if value is None:
        return "not defined"
    text = show_fraction(value)
    if low is None or high is None:
        return text
    return f"{text} {form.format(low=_round_percent(low), high=_round_percent(high))}"


def show_fraction(fraction: float) -> str:
    """Write a fraction as "97.1 %"."""
    return f"{_round_percent(fraction)}\u00a0%"


def show_goal(fraction: float) -> str:
    """Write a fraction that somebody chose as "90 %", without the decimals of what was measured."""
    return f"{100 * fraction:.0f}\u00a0%"


def _round_percent(fraction: float) -> str:
    return round_below_one(100 * fraction, 1, 100)


def show_number(value: float | None) -> str:
    """Write a score with three decimals; None is a dash."""
    return DASH if value is None else round_below_one(value, 3, 1)


def round_below_one(value: float, num_decimals: int, perfect: int) -> str:
    """Round a score; one that is not perfect gets as many decimals as are needed so that it does not look perfect.

    A difference after the ninth decimal is a rounding error of floats, and is written as perfect.

    Args:
        value: The score.
        num_decimals: The least number of decimals.
        perfect: The perfect score, such as 1 or 100.
    """
    for decimals in range(num_decimals, 10):
        text = f"{value:.{decimals}f}"
        if value >= perfect or float(text) != perfect:
            return text
    return f"{perfect:.{num_decimals}f}"


def show_interval(metric: Estimate | Mapping[str, float | None]) -> str:
    """Write an interval as "0.950 to 0.986"; a missing one is a dash."""
    if metric["low"] is None:
        return DASH
    return f"{show_number(metric['low'])} to {show_number(metric['high'])}"


def show_number_with_interval(metric: Estimate) -> str:
    """Write a score as "0.971 (95 % interval 0.950 to 0.986)", or "0.971 (no interval)"."""
    found = "no interval" if metric["low"] is None else f"95\u00a0% interval {show_interval(metric)}"
    return f"{show_number(metric['value'])} ({found})"


def show_number_briefly(metric: Estimate) -> str:
    """Write a score as "0.971 (0.950 to 0.986)"; without an interval there are no brackets."""
    return show_number(metric["value"]) + ("" if metric["low"] is None else f" ({show_interval(metric)})")


def show_score(name: str, metric: Estimate) -> str:
    """Write a score and its interval for one cell: "97.1 % (95.0 to 98.6)", or "0.971 (0.950 to 0.986)"; or a dash.

    Args:
        name: The name of the score in metrics.json.
        metric: The score.
    """
    if metric["value"] is None:
        return DASH
    return show_percent_briefly(metric) if name in IN_PERCENT else show_number_briefly(metric)


def show_labels(counts: Mapping[str, int]) -> str:
    """Write how many rows each class has; where classes are numbers, "by class:" says which of the numbers they are."""
    named = count_labels(counts)
    return f"by class: {named}" if any(label[:1].isdigit() for label in counts) else named


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten nested mappings into (name, value) rows; names are joined by a dot."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows.extend(flatten(value, f"{prefix}{name}."))
        else:
            rows.append((f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value, default=str)))
    return rows


def show(value: Any) -> str:
    """Write a cell: text as it is, whole numbers with commas, anything nested as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, (Mapping, list, tuple)):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def humanise(name: object) -> str:
    """Write a column's name as a heading: ``num_slices`` becomes "Num slices"."""
    text = str(name).replace("_", " ").strip()
    return text[:1].upper() + text[1:]
