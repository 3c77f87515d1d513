"""The evaluate stage: the scores of a trained model on rows that it was not trained on, and the report."""

from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.core.console import warn
from pipeline.data.store import check_store
from pipeline.datasets import DATASETS
from pipeline.evaluation.evaluation import compute_evaluation
from pipeline.evaluation.validity.subgroups import read_facts
from pipeline.inference.splits import score_splits
from pipeline.reporting.evaluation.notes import describe_unknown_patients, list_console_warnings, summarise_scores
from pipeline.reporting.evaluation.page import build_report, write_evaluation
from pipeline.stages.base import exclusive
from pipeline.tracking.mlflow_run import open_run
from pipeline.tracking.records import RunFacts, describe_split, flatten_metrics, list_own_files, name_files
from pipeline.training.run_state import load_trained_run


@exclusive(lambda experiment: experiment.paths.report_folder)
def evaluate(experiment: Experiment, console: Console) -> None:
    """Score the validation and test rows; write predictions, metrics, figures and the report.

    Raises:
        UserError: No trained model, or one that was trained on another store or other splits.
    """
    paths, options = experiment.paths, experiment.evaluate
    run = load_trained_run(experiment, options.checkpoint)
    manifest = run.data.manifest
    scans = manifest[manifest["status"] == "accepted"].set_index("source_id")
    read_facts(scans, options.subgroups)  # what is wrong with the option is said before the rows are scored
    answers = score_splits(run, options.batch_size)
    with console.status("scoring, and fitting the baselines"):
        note = DATASETS[experiment.data.dataset].synthetic_note
        evaluation = compute_evaluation(run.data, answers, scans, options, note)
    report = build_report(experiment, run, evaluation, manifest)
    check_store(paths.prepared, run.data.store.fingerprint)  # since it was opened, its files did not change
    write_evaluation(paths, evaluation, report)
    with open_run(experiment.tracking, paths) as tracked:
        tracked.keep(
            RunFacts(
                datasets=(describe_split(experiment, run.data, "test"),),
                metrics=flatten_metrics(evaluation.metrics, run.data.store.kind),
                files=name_files(paths, list_own_files(paths.report_folder), "evaluation"),
            )
        )
    for line in (*summarise_scores(evaluation.metrics, run.data.store.kind), *report.baseline_notes):
        console.print(f"  {line}", highlight=False)
    unknown = describe_unknown_patients(run.checkpoint.settings)
    for warning in (*list_console_warnings(evaluation.metrics, run.data), *unknown):
        warn(console, warning)
    console.print(f"-> {paths.report_folder / 'report.html'}")
