"""The page of the compare stage: runs side by side, in one HTML file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.outputs import CompareConfig
from pipeline.core.errors import UserError
from pipeline.core.text import count_words
from pipeline.evaluation.bootstrap import MIN_GROUPS, Bootstrap
from pipeline.evaluation.paired_comparison import (
    MAX_EXACT_PATIENTS,
    Difference,
    Permutations,
    compare_pair,
    correct_for_many,
    explain_mismatch,
)
from pipeline.evaluation.schema import Level, first_level
from pipeline.evaluation.scores import METRIC_TITLES
from pipeline.reporting.comparison.figures import draw_comparison
from pipeline.reporting.comparison.runs import RunRecord
from pipeline.reporting.elements import Table
from pipeline.reporting.formatting import DASH, LOWER_IS_BETTER, humanise, show_fraction, show_number, show_score
from pipeline.reporting.html import write_page

SIGNIFICANCE = 0.05
# With fewer groups no verdict is given: they say too little about others.
MIN_GROUPS_OF_A_VERDICT = 10


def write_comparison(path: Path, runs: Sequence[RunRecord], options: CompareConfig) -> None:
    """Write the page atomically.

    Args:
        path: The HTML file to write.
        runs: The runs; the first is the one that the others are compared with.
        options: The options of the compare stage, such as the number of bootstrap resamples.
    """
    # All runs of an experiment are a list to choose from, on validation; differences are for those that were named.
    differences, problems = compare_with_first(runs, options) if options.runs else ([], [])
    primary = choose_primary(runs, options)
    write_page(
        path,
        "comparison.html",
        title=f"{runs[0].paths.name}: {len(runs)} {'run' if len(runs) == 1 else 'runs'} side by side",
        synthetic_notes=sorted({note for run in runs if (note := run.metrics["synthetic_note"])}),
        warnings=[*list_warnings(runs, differences, primary, options.num_permutations), *problems],
        runs=tabulate_runs(runs),
        reference=runs[0].name,
        num_resamples=f"{options.num_bootstrap_resamples:,}",
        primary=f"{METRIC_TITLES[primary[1]]} of each {primary[0]}",
        differences=tabulate_differences(differences, primary),
        settings=tabulate_settings(runs),
        figures=draw_comparison(runs, options),
    )


def tabulate_runs(runs: Sequence[RunRecord]) -> Table:
    """Return a table with a row for each run; a dash stands for a file that is missing."""
    levels = list(dict.fromkeys(level for run in runs for level in run.metrics["levels"]))
    columns = (
        "Run",
        "Validation accuracy",
        *(f"Test accuracy, {level}s (95\u00a0% interval)" for level in levels),
        "Independent groups",
        "Negative log-likelihood",
        "Parameters",
        "Epoch kept",
        "Minutes",
        "Device",
        "Commit",
    )
    note = (
        "Minutes of training and validation. Groups are patients, or images and objects where each is independent. "
        "The negative log-likelihood is that of the first level."
    )
    return Table("Runs", columns, tuple(_list_cells(run, levels) for run in runs), note, is_first_marked=True)


def _list_cells(run: RunRecord, levels: Sequence[str]) -> tuple[str, ...]:
    training, first = run.training, first_level(run.metrics["levels"])[1]
    seconds = training.get("seconds")
    return (
        run.name,
        DASH if run.val_accuracy is None else show_fraction(run.val_accuracy),
        *(_show_accuracy(level, run.metrics["levels"].get(level)) for level in levels),
        f"{first['groups']:,}",
        show_number(first["metrics"]["nll"]["value"]),
        f"{training['num_parameters']:,}" if training else DASH,
        f"{training['best']['epoch']} of {training['epochs']}" if training else DASH,
        f"{seconds / 60:.1f}" if seconds is not None else DASH,
        f"{training['world_size']} × {training['device']}, {training['precision']}" if training else DASH,
        training.get("commit", DASH)[:12],
    )


def _show_accuracy(level: str, content: Level | None) -> str:
    if content is None:
        return DASH
    accuracy = content["metrics"]["accuracy"]
    return f"{show_score('accuracy', accuracy)}, {count_words(content['n'], level)}"


def tabulate_settings(runs: Sequence[RunRecord]) -> Table:
    """Return a table of the options that differ between runs, with the value in each run."""
    names = sorted({name for run in runs for name in run.settings})
    rows = [(name, *(str(run.settings[name]) if name in run.settings else DASH for run in runs)) for name in names]
    differing = tuple(row for row in rows if len(set(row[1:])) > 1)
    return Table("Options that differ", ("Option", *(run.name for run in runs)), differing)


@dataclass(frozen=True)
class Compared:
    """One score of one run, compared with that of the first run.

    Args:
        run: The name of the run.
        level: The level of the rows.
        metric: The name of the score.
        difference: The run's score minus that of the first run.
        num_rows: The number of rows of this level.
        num_groups: The number of groups (such as patients) that the bootstrap draws from.
    """

    run: str
    level: str
    metric: str
    difference: Difference
    num_rows: int
    num_groups: int


def compare_with_first(runs: Sequence[RunRecord], options: CompareConfig) -> tuple[list[Compared], list[str]]:
    """Compare each run with the first one, at every level that both have.

    Args:
        runs: The runs; the first is the one that the others are compared with.
        options: The options of the compare stage.

    Returns:
        A record for each run, level and score, and a sentence for each run that could not be compared.
    """
    first, compared, problems = runs[0], [], []
    bootstrap = Bootstrap(options.num_bootstrap_resamples, options.seed)
    permutations = Permutations(options.num_permutations, options.seed)
    for run in runs[1:]:
        reason = explain_mismatch(first.test, run.test)
        if run.class_names != first.class_names:
            reason = "they have other classes"
        if reason is not None:
            problems.append(f"{run.name} is not compared with {first.name}: {reason}.")
            continue
        for level in (name for name in first.metrics["levels"] if name in run.metrics["levels"]):
            found = compare_pair((first.test, run.test), first.class_names, level, bootstrap, permutations)
            content = first.metrics["levels"][level]
            compared += [
                Compared(run.name, level, metric, difference, content["n"], content["groups"])
                for metric, difference in found.items()
            ]
    return compared, problems


def choose_primary(runs: Sequence[RunRecord], options: CompareConfig) -> tuple[str, str]:
    """Return level and score of the comparison that is tested by itself.

    Raises:
        UserError: The first run has no such level.
    """
    levels = runs[0].metrics["levels"]
    if options.primary_level not in ("", *levels):
        raise UserError(
            f"compare.primary_level: found {options.primary_level!r}; allowed are {', '.join(levels)}, the levels of "
            f"{runs[0].name}."
        )
    return options.primary_level or next(iter(levels)), options.primary_metric


def tabulate_differences(compared: Sequence[Compared], primary: tuple[str, str]) -> Table:
    """Return a table with a row for each run, level and score.

    The p-values of the primary level and score are corrected over the runs alone, all others over all of them.
    """
    corrected: dict[int, float | None] = {}
    for is_primary in (True, False):
        places = [place for place, item in enumerate(compared) if ((item.level, item.metric) == primary) == is_primary]
        values = correct_for_many([compared[place].difference.p_value for place in places])
        corrected |= dict(zip(places, values, strict=True))
    columns = (
        "Run",
        "Level",
        "Score",
        "Rows (groups)",
        "Difference",
        "95\u00a0% interval",
        "p (two-sided)",
        "p, corrected",
        "Verdict",
    )
    rows = tuple(
        _list_difference(item, corrected[place], (item.level, item.metric) == primary)
        for place, item in enumerate(compared)
    )
    return Table("Differences", columns, rows)


def _list_difference(item: Compared, corrected: float | None, is_primary: bool) -> tuple[str, ...]:
    difference = item.difference
    is_lower_better = item.metric in LOWER_IS_BETTER
    marks = (" ↓" if is_lower_better else "") + (" (primary)" if is_primary else "")
    return (
        item.run,
        humanise(item.level),
        METRIC_TITLES[item.metric] + marks,
        f"{item.num_rows:,} ({item.num_groups:,})",
        f"{difference.value:+.4f}",
        DASH if difference.low is None else f"{difference.low:+.4f} to {difference.high:+.4f}",
        *(DASH if value is None else f"{value:.4f}" for value in (difference.p_value, corrected)),
        _give_verdict(item, corrected),
    )


def _give_verdict(item: Compared, corrected: float | None) -> str:
    difference = item.difference
    if item.num_groups < MIN_GROUPS_OF_A_VERDICT or corrected is None or difference.p_value is None:
        return "too few for a verdict"
    if corrected <= SIGNIFICANCE:
        return "better" if (difference.value > 0) != (item.metric in LOWER_IS_BETTER) else "worse"
    return "not shown after correction" if difference.p_value <= SIGNIFICANCE else "no difference shown"


def list_warnings(
    runs: Sequence[RunRecord], compared: Sequence[Compared], primary: tuple[str, str], num_permutations: int
) -> list[str]:
    """List the warnings that stand above the differences.

    Args:
        runs: The runs; the first is the one that the others are compared with.
        compared: The scores that were compared.
        primary: Level and score of the comparison that is tested by itself.
        num_permutations: The number of exchanges that are drawn for a p-value.
    """
    warnings = []
    fewest = min(runs, key=lambda run: first_level(run.metrics["levels"])[1]["groups"])
    level, content = first_level(fewest.metrics["levels"])
    if content["groups"] < MIN_GROUPS:
        words = count_words(content["groups"], "patient" if level == "slice" else level)
        where = "" if len(runs) == 1 else f" in {fewest.name}"
        warnings.append(f"Only {words} tested{where}: intervals of differences over so few are too narrow.")
    num_compared, num_others = (
        sum(((item.level, item.metric) == primary) == is_primary for item in compared) for is_primary in (True, False)
    )
    if num_compared > 1:
        warnings.append(
            f"{num_compared} runs are compared with {runs[0].name}. The corrected p-values account for that; the "
            "intervals do not."
        )
    has_drawn = any(item.num_groups > MAX_EXACT_PATIENTS for item in compared)
    if has_drawn and max(num_compared, num_others) / (num_permutations + 1) > SIGNIFICANCE:
        warnings.append(
            f"With {num_permutations:,} exchanges no difference among {max(num_compared, num_others)} comparisons can "
            "be shown after correction: raise compare.num_permutations."
        )
    if len(runs) > 1:
        warnings.append(
            "To take the run with the best scores here would be a selection on test rows: select on validation instead."
        )
    return warnings
