"""The compare stage: evaluated runs side by side on one page."""

from pathlib import Path

from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.core.console import working
from pipeline.core.errors import UserError
from pipeline.core.locks import lock_output
from pipeline.evaluation.schema import first_level, read_value
from pipeline.reporting.comparison.index_page import write_index
from pipeline.reporting.comparison.page import write_comparison
from pipeline.reporting.comparison.runs import find_report_folders, read_runs, sort_by_validation
from pipeline.stages.base import exclusive


def choose_output(experiment: Experiment) -> Path:
    """Return the file of the page."""
    paths = experiment.paths
    return experiment.compare.output or paths.root / "reports" / paths.name / "comparison.html"


@exclusive(choose_output, lock_output)
def compare(experiment: Experiment, console: Console) -> None:
    """Compare evaluated runs on one page: scores, curves, confusion matrices, differences, examples, attention.

    No score is computed again: the files that ``evaluate`` and ``train`` wrote are read.

    Raises:
        UserError: A run was not evaluated, or its files are damaged.
    """
    options, paths = experiment.compare, experiment.paths
    runs = read_runs(find_report_folders(options.runs, paths))
    if not options.runs:
        runs = sort_by_validation(runs)
    output = choose_output(experiment)
    with working("comparing, by a bootstrap over patients", console):
        write_comparison(output, runs, options)
    write_index(paths.root / "reports")
    for run in runs:
        level, content = first_level(run.metrics["levels"])
        accuracy = read_value(content["metrics"]["accuracy"])
        validation = "" if run.val_accuracy is None else f"validation {run.val_accuracy:.4f}, test "
        console.print(
            f"  {run.name}: {validation}accuracy {accuracy:.4f} on {content['n']} test {level}s", highlight=False
        )
    if not options.runs and runs[0].val_accuracy is not None:
        console.print(f"best on validation: {runs[0].name}; for differences name runs", highlight=False)
    if options.register:
        best = sort_by_validation(runs)[0]
        if best.val_accuracy is None:
            raise UserError(f"{best.paths.training_record}: no such file, so that no run is best on validation.")
        # torch is not needed to compare.
        from pipeline.tracking.mlflow_run import open_run

        address = open_run(experiment.tracking, best.paths).register("best")
        console.print(f"registered: {best.name} as {address}", highlight=False)
    console.print(f"-> {output}")
