"""The page and the tables of the learning curve, and the sentences that interpret its numbers."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config.experiment import Experiment
from pipeline.core.data_kinds import DataKind
from pipeline.core.files import write_bytes, write_json
from pipeline.core.provenance import read_commit, read_versions
from pipeline.core.tables import write_table
from pipeline.core.text import count_words, plural
from pipeline.data.store import Store
from pipeline.datasets import DATASETS
from pipeline.reporting.elements import Figure, Section, Table, tabulate_facts
from pipeline.reporting.figures.learning_curves import Curve, draw_learning_curves
from pipeline.reporting.formatting import DASH, show_percent_briefly
from pipeline.reporting.html import write_page
from pipeline.studies.learning_curve import CurvePoint, LearningCurve
from pipeline.studies.power_law import MAX_FACTOR, MIN_SIZES, Comparison, Forecast

MODELS = {
    "perceiver": "Perceiver",
    "distilled": "Perceiver taught by the CNN",
    "cnn": "CNN",
    "logistic_regression": "Logistic regression",
}


def describe_method(experiment: Experiment, kind: DataKind) -> tuple[str, ...]:
    """Describe how the numbers were made.

    Args:
        experiment: All options.
        kind: The kind of data, which names rows and groups.
    """
    options, groups = experiment.learning_curve, plural(kind.group)
    return (
        f"Training {groups} are drawn {options.draws} times. A draw is an order of all of them, of which each size "
        f"takes the first, so that within a draw the {groups} of a smaller size are among those of a larger one "
        "(nested), while draws are independent. All classes are there from the start, and the mixture of labels stays "
        f"as close to that of all training {groups} as whole {groups} allow.",
        f"In each draw all models are trained on the same {groups} and tested on the same rows; validation and test "
        "are those of the experiment at every size, so that validation is larger than training at the small ones.",
        "Both networks have the same recipe, that of the experiment, and the same number of steps at every size: "
        f"{count_words(experiment.train.epochs, 'epoch')} of as many steps as with all training {groups}. The examples "
        f"of few {groups} come several times in an epoch. The epoch that is best on validation is tested. The logistic "
        "regression is fitted until it converges; validation chooses its penalty.",
        f"The number of {groups} for a wanted accuracy comes from the power law error = floor + scale x "
        "size^-exponent, fitted by least squares to the mean errors. Its interval is that of 95\u00a0% of resamples, "
        f"in which draws and test {groups} are drawn again with replacement. It needs {MIN_SIZES} sizes, and nothing "
        f"is claimed beyond {MAX_FACTOR} times the largest.",
    )


def describe_curve(curve: LearningCurve, kind: DataKind) -> list[str]:
    """Describe the results: the largest and smallest size, who wins where, and the size that is needed.

    Args:
        curve: The results.
        kind: The kind of data, which names rows and groups.
    """
    sentences = []
    sizes = list(dict.fromkeys(point.size for point in curve.points))
    for size in dict.fromkeys((sizes[0], sizes[-1])):
        found = [point for point in curve.points if point.size == size]
        scores = ", ".join(f"{MODELS[point.model]} {show_percent_briefly(point.over_draws)}" for point in found)
        draws = count_words(len(found[0].accuracies), "draw")
        sentences.append(
            f"With {count_words(size, kind.group)} to train on, means of {draws} with their 95\u00a0% intervals over "
            f"draws: {scores}."
        )
    sentences += describe_comparisons(curve.comparisons, kind)
    fitted = list_fitted(curve.forecasts)
    if not fitted:
        wanted = f"{100 * curve.forecasts[0].wanted:g}\u00a0%"
        sentences.append(
            f"No estimate of the {plural(kind.group)} for an accuracy of {wanted}: a power law has three numbers and "
            f"needs {MIN_SIZES} sizes or more."
        )
    return sentences + [describe_forecast(forecast, kind) for forecast in fitted]


def list_fitted(forecasts: Sequence[Forecast]) -> list[Forecast]:
    """List the estimates of models with enough sizes for a fit; all models have the same sizes, so all or none."""
    return [forecast for forecast in forecasts if forecast.reach != "too few sizes"]


def describe_comparisons(comparisons: Sequence[Comparison], kind: DataKind) -> list[str]:
    """List the sizes at which the Perceiver wins against the CNN, draws and loses.

    Args:
        comparisons: The Perceiver minus the CNN at each size.
        kind: The kind of data, which names the groups.
    """
    if not comparisons:
        return []
    words = {
        "wins": "is better than the CNN",
        "draws": "is neither shown to be better nor worse",
        "loses": "is worse",
        "not tested": "is not tested, for want of draws that differ",
    }
    parts = []
    for verdict, text in words.items():
        sizes = [f"{comparison.size:,}" for comparison in comparisons if comparison.verdict == verdict]
        if sizes:
            listed = sizes[0] if len(sizes) == 1 else f"{', '.join(sizes[:-1])} and {sizes[-1]}"
            parts.append(f"{text} with {listed}")
    return [f"By training {plural(kind.group)}, the Perceiver {'; it '.join(parts)}."]


def describe_forecast(forecast: Forecast, kind: DataKind) -> str:
    """Write how many training patients a model needs, or why that is not known.

    Args:
        forecast: The estimate, by a fit.
        kind: The kind of data, which names the groups.
    """
    groups, limit = plural(kind.group), f"{forecast.limit:,}"
    start = f"{MODELS[forecast.model]}, for an accuracy of {100 * forecast.wanted:g}\u00a0%:"
    ceiling = "" if forecast.ceiling is None else f"{100 * forecast.ceiling:.1f}\u00a0%"
    if forecast.reach == "flat":
        return f"{start} no estimate; its error does not fall with more {groups}."
    if forecast.reach == "never":
        return f"{start} not reached by the fit, which levels off at {ceiling}{_describe_low(forecast, groups)}."
    if forecast.reach == "too far":
        return (
            f"{start} more than {limit} {groups} by the fit, which is beyond {MAX_FACTOR} times the largest size: not "
            f"extrapolated{_describe_low(forecast, groups)}."
        )
    assert forecast.size is not None
    word = "within the sizes" if forecast.reach == "reached" else "extrapolated"
    return f"{start} about {_show_size(forecast.size)} {groups} ({word}; {_show_ends(forecast)})."


def _describe_low(forecast: Forecast, groups: str) -> str:
    if forecast.low is None:
        return ""
    return f"; the lower end of its 95\u00a0% interval is {_show_size(forecast.low)} {groups}"


def _show_ends(forecast: Forecast) -> str:
    if forecast.low is None and forecast.high is None:
        return "no interval, for want of draws" if forecast.size is not None else DASH
    low = "" if forecast.low is None else _show_size(forecast.low)
    if forecast.high is None:
        return f"95\u00a0% interval from {low} to more than {forecast.limit:,}"
    return f"95\u00a0% interval {low} to {_show_size(forecast.high)}"


def _show_size(size: float) -> str:
    """Write a number of patients; a fraction of one is rounded up."""
    return f"{max(1, int(-(-size // 1))):,}"


def tabulate_points(points: Sequence[CurvePoint], kind: DataKind) -> Table:
    """Return the table of the accuracies: a row for each model and size.

    Args:
        points: The accuracies.
        kind: The kind of data, which names rows and groups.
    """
    rows = [
        (
            MODELS[point.model],
            f"{point.size:,}",
            str(len(point.accuracies)),
            show_percent_briefly(point.over_draws),
            show_percent_briefly(point.over_patients),
            f"{100 * min(point.accuracies):.1f} to {100 * max(point.accuracies):.1f}",
        )
        for point in points
    ]
    columns = (
        *("Model", f"Training {plural(kind.group)}", "Draws", "Mean, interval over draws"),
        *(f"Mean, interval over test {plural(kind.group)}", "Lowest to highest draw, %"),
    )
    first = points[0]
    note = f"On {count_words(first.n, kind.example)}"
    note += f" of {count_words(first.groups, kind.group)}" if kind.has_patients else ""
    return Table("Accuracy on the test rows", columns, tuple(rows), f"{note}. In brackets: 95\u00a0% intervals.")


def tabulate_comparisons(comparisons: Sequence[Comparison], kind: DataKind) -> Table:
    """Return the table of the differences: a row for each size.

    Args:
        comparisons: The Perceiver minus the CNN at each size.
        kind: The kind of data, which names the groups.
    """
    rows = []
    for comparison in comparisons:
        difference, patients = comparison.over_draws, comparison.over_patients
        over_patients = DASH if patients is None else _show_points(*patients)
        low, high, value = difference["low"], difference["high"], difference["value"]
        assert value is not None
        over_draws = DASH if low is None or high is None else _show_points(low, high)
        rows.append((f"{comparison.size:,}", f"{100 * value:+.1f}", over_draws, over_patients, comparison.verdict))
    return Table(
        "Perceiver minus CNN, in percentage points",
        (
            f"Training {plural(kind.group)}",
            "Mean difference",
            "95\u00a0% interval over draws",
            f"95\u00a0% interval over test {plural(kind.group)}",
            "The Perceiver",
        ),
        tuple(rows),
        f"Both on the same {plural(kind.group)} with the same seed in each draw. It wins where the interval over "
        "draws lies above 0, and loses where it lies below; that interval is of these test rows, and the number of "
        "sizes is not corrected for.",
    )


def _show_points(low: float, high: float) -> str:
    return f"{100 * low:+.1f} to {100 * high:+.1f}"


def tabulate_forecasts(forecasts: Sequence[Forecast], kind: DataKind) -> Table:
    """Return the table of the numbers of patients that are needed, with the fits.

    Args:
        forecasts: The estimates.
        kind: The kind of data, which names the groups.
    """
    rows = [
        (
            MODELS[forecast.model],
            DASH if forecast.size is None else _show_size(forecast.size),
            _show_ends(forecast),
            forecast.reach,
            DASH if forecast.ceiling is None else f"{100 * forecast.ceiling:.1f}\u00a0%",
            DASH if forecast.exponent is None else f"{forecast.exponent:.2f}",
        )
        for forecast in forecasts
    ]
    columns = (f"Training {plural(kind.group)}", "Interval", "Result", "Fit levels off at", "Exponent")
    caption = f"Training {plural(kind.group)} for an accuracy of {100 * forecasts[0].wanted:g}\u00a0%"
    return Table(caption, ("Model", *columns), tuple(rows))


def write_learning_curve(folder: Path, experiment: Experiment, store: Store, curve: LearningCurve) -> None:
    """Write ``learning_curve.json``, two tables, the figure as SVG, and the page last.

    Args:
        folder: The folder to write to.
        experiment: All options.
        store: The examples.
        curve: The results.
    """
    kind, wanted = store.kind, experiment.learning_curve.wanted
    sentences = describe_curve(curve, kind)
    svg = draw_learning_curves(_list_curves(curve), wanted, plural(kind.group))
    note = DATASETS[experiment.data.dataset].synthetic_note
    content: dict[str, Any] = {"synthetic_note": note, "class_names": list(store.class_names), "sentences": sentences}
    content |= {"options": dataclasses.asdict(experiment.learning_curve)}
    content |= {name: [vars(item) for item in getattr(curve, name)] for name in ("points", "comparisons", "forecasts")}
    content |= {"runs": list(curve.records), "commit": read_commit(), "versions": read_versions()}
    write_json(folder / "learning_curve.json", content)
    summary = pd.DataFrame([_flatten_point(point) for point in curve.points])
    write_table(folder / "learning_curve.csv", summary, tuple(summary))
    draws = pd.DataFrame([{name: record.get(name) for name in DRAW_COLUMNS} for record in curve.records])
    write_table(folder / "learning_curve_draws.csv", draws, DRAW_COLUMNS)
    write_bytes(folder / "learning_curve.svg", svg)
    text = (
        "Means over the draws, which are dots. Broad lines: 95\u00a0% intervals over draws. Thin lines: over test "
        f"{plural(kind.group)}."
    )
    figure = Figure("learning_curve", f"Accuracy by the number of training {plural(kind.group)}", text, svg)
    tables = [tabulate_points(curve.points, kind)]
    if curve.comparisons:
        tables.append(tabulate_comparisons(curve.comparisons, kind))
    if fitted := list_fitted(curve.forecasts):
        tables.append(tabulate_forecasts(fitted, kind))
    facts = tabulate_facts("How to get these numbers again", _list_facts(experiment, store, curve))
    write_page(
        folder / "learning_curve.html",
        "study.html",
        title=f"{experiment.paths.title}: learning curve",
        synthetic_note=note,
        sentences=sentences,
        sections=[
            Section("Results", tables=tuple(tables), figures=(figure,)),
            Section("Method", describe_method(experiment, kind), (facts,)),
        ],
    )


DRAW_COLUMNS = ("model", "size", "draw", "seed", "accuracy", "n", "groups", "num_train", "num_steps", "seconds")


def _flatten_point(point: CurvePoint) -> dict[str, Any]:
    row: dict[str, Any] = {"model": point.model, "size": point.size, "draws": len(point.accuracies)}
    row |= {"accuracy": point.over_draws["value"]}
    for name, estimate in (("draws", point.over_draws), ("patients", point.over_patients)):
        row |= {f"low_over_{name}": estimate["low"], f"high_over_{name}": estimate["high"]}
    return row | {"n": point.n, "groups": point.groups}


def _list_curves(curve: LearningCurve) -> list[Curve]:
    curves = []
    for model in dict.fromkeys(point.model for point in curve.points):
        points = [point for point in curve.points if point.model == model]
        curves.append(
            Curve(
                model,
                MODELS[model],
                tuple(point.size for point in points),
                tuple(point.over_draws for point in points),
                tuple(point.over_patients for point in points),
                tuple(point.accuracies for point in points),
            )
        )
    return curves


def _list_facts(experiment: Experiment, store: Store, curve: LearningCurve) -> dict[str, str]:
    seconds = sum(record["seconds"] for record in curve.records)
    hardware = "; ".join(dict.fromkeys(record["hardware"] for record in curve.records))
    seeds = sorted({record["seed"] for record in curve.records if record["model"] != "logistic_regression"})
    steps = {record["num_steps"] for record in curve.records if record["num_steps"] > 0}
    return {
        "models": f"{len(curve.records):,}",
        "steps of each network": ", ".join(f"{number:,}" for number in sorted(steps)) or DASH,
        "seeds of training": ", ".join(map(str, seeds)) or DASH,
        "seed of the draws": str(experiment.learning_curve.seed),
        "time of training and evaluation": f"{seconds / 60:.1f} minutes, {hardware}",
        "fingerprint of the store": store.fingerprint,
        "commit": read_commit(),
    }
