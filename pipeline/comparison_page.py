"""One self-contained page that puts runs side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.comparison import Difference, compare_pair, explain_mismatch
from pipeline.config import ReportConfig
from pipeline.figures_runs import confusion_matrices, run_curves
from pipeline.kinds import count_words
from pipeline.pages import build_figure, write_page
from pipeline.run_pictures import draw_run_epochs, draw_test_inputs
from pipeline.run_records import RunRecord
from pipeline.wording import METRIC_TITLES, humanise, show_interval, show_number

MIN_PATIENTS = 20
MIN_WIDE_PIXELS = 560  # of a sheet that would be too small beside another
LOWER_IS_BETTER = ("nll",)
DASH = "\u2013"


def write_comparison(path: Path, runs: Sequence[RunRecord], options: ReportConfig) -> None:
    """Write the page, whole or not at all.

    Args:
        path: the file to write.
        runs: the first is the one that the others are compared with.
        options: how many examples and resamples.
    """
    differences, problems = compare_with_first(runs, options)
    write_page(
        path,
        "comparison.html",
        title=f"{runs[0].paths.name}: {len(runs)} {'run' if len(runs) == 1 else 'runs'} side by side",
        synthetic_notes=sorted({note for run in runs if (note := run.metrics.get("synthetic_note"))}),
        warnings=[*list_warnings(runs), *problems],
        runs=[tabulate_run(run) for run in runs],
        level_names=list(runs[0].metrics["levels"]),
        reference=runs[0].name,
        differences=differences,
        settings=list_differing_settings(runs),
        figures=draw_figures(runs, options),
    )


def tabulate_run(run: RunRecord) -> dict[str, Any]:
    """Return the cells of a run's row; a dash where a file was not there."""
    training = run.training
    levels = list(run.metrics["levels"].items())
    first = levels[0][1]
    seconds = training.get("seconds")
    return {
        "name": run.name,
        "accuracies": [
            {"level": level, "value": show_number(content["metrics"]["accuracy"]["value"])}
            | {"interval": show_interval(content["metrics"]["accuracy"]), "n": f"{content['n']:,}"}
            for level, content in levels
        ],
        "nll": show_number(first["metrics"]["nll"]["value"]),
        "groups": f"{first['groups']:,}",
        "parameters": f"{training['num_parameters']:,}" if training else DASH,
        "epochs": f"{training['best']['epoch']} of {training['epochs']}" if training else DASH,
        "minutes": f"{seconds / 60:.1f}" if seconds is not None else DASH,
        "device": f"{training['world_size']} × {training['device']}, {training['precision']}" if training else DASH,
        "commit": training.get("commit", DASH)[:12],
    }


def list_differing_settings(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Return the options that are not the same in all runs: name, and the value in each run."""
    names = sorted({name for run in runs for name in run.settings})
    rows = [(name, [str(run.settings[name]) if name in run.settings else DASH for run in runs]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def compare_with_first(runs: Sequence[RunRecord], options: ReportConfig) -> tuple[list[dict[str, Any]], list[str]]:
    """Compare each run with the first one, at every level that both have.

    Returns:
        A row for each run, level and score, and a sentence for each run that could not be compared.
    """
    first, rows, problems = runs[0], [], []
    for run in runs[1:]:
        reason = explain_mismatch(first.test, run.test)
        if run.class_names != first.class_names:
            reason = "they have other classes"
        if reason is not None:
            problems.append(f"{run.name} is not compared with {first.name}: {reason}.")
            continue
        for level in (name for name in first.metrics["levels"] if name in run.metrics["levels"]):
            found = compare_pair(first.test, run.test, first.class_names, level, options.num_resamples, options.seed)
            rows += [_build_difference(run.name, level, name, item) for name, item in found.items()]
    return rows, problems


def _build_difference(run_name: str, level: str, metric: str, difference: Difference) -> dict[str, Any]:
    interval = DASH if difference.low is None else f"{difference.low:+.4f} to {difference.high:+.4f}"
    is_better = (difference.value > 0) != (metric in LOWER_IS_BETTER)
    verdict = "no difference shown"
    if difference.is_shown:
        verdict = "better" if is_better else "worse"
    return {
        "run": run_name,
        "level": humanise(level),
        "metric": METRIC_TITLES[metric] + (" ↓" if metric in LOWER_IS_BETTER else ""),
        "value": f"{difference.value:+.4f}",
        "interval": interval,
        "p_value": DASH if difference.p_value is None else f"{difference.p_value:.4f}",
        "verdict": verdict,
    }


def list_warnings(runs: Sequence[RunRecord]) -> list[str]:
    """Say what a reader has to know before believing the differences."""
    warnings = []
    level, content = next(iter(runs[0].metrics["levels"].items()))
    if content["groups"] < MIN_PATIENTS:
        words = count_words(content["groups"], "patient" if level == "slice" else level)
        warnings.append(f"Only {words} tested: intervals over so few are too narrow.")
    if len(runs) > 2:
        warnings.append(
            f"{len(runs) - 1} runs are compared with {runs[0].name}, and nothing is corrected for that: of twenty "
            "runs that are the same, one looks different."
        )
    if len(runs) > 1:
        warnings.append(
            "Taking the run that looks best here would be a choice on test rows: choose on validation instead."
        )
    return warnings


def draw_figures(runs: Sequence[RunRecord], options: ReportConfig) -> list[dict[str, Any]]:
    """Draw what there is: curves, confusion matrices, test inputs, attention over the epochs."""
    figures = []
    histories = {run.name: run.history for run in runs if run.history is not None}
    if histories:
        best = {run.name: run.training["best"]["epoch"] for run in runs if run.training}
        figures.append(build_figure("Curves", "Of validation, over the epochs.", run_curves(histories, best)))
    for class_names in dict.fromkeys(run.class_names for run in runs):
        same = [run for run in runs if run.class_names == class_names]
        for level in same[0].metrics["levels"]:
            counts = {
                run.name: run.metrics["levels"][level]["confusion"] for run in same if level in run.metrics["levels"]
            }
            title = f"Confusion matrices, {level}s"
            picture = confusion_matrices(counts, class_names)
            figures.append(build_figure(title, "Rows are the true class; shares of each row.", picture))
    for title, text, picture in draw_test_inputs(runs, options.num_examples, options.seed):
        figures.append(build_figure(title, text, picture, MIN_WIDE_PIXELS))
    for run in runs:
        drawn = draw_run_epochs(run)
        if drawn is not None:
            text = (
                "Validation examples after some epochs, the mean over layers, heads and latents. Attention is where "
                "the model looks, not why it answers."
            )
            figures.append(build_figure(f"Attention in training: {run.name}", text, drawn, MIN_WIDE_PIXELS))
    return figures
