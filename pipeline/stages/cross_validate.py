"""The cross-validate stage: every fold and every seed trained and evaluated, and their predictions pooled."""

import dataclasses

from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.core.workspace import Workspace
from pipeline.data.store import read_store
from pipeline.datasets import DATASETS
from pipeline.reporting.cross_validation_page import describe_pooled, write_cross_validation
from pipeline.stages.base import exclusive
from pipeline.stages.evaluate import evaluate
from pipeline.stages.split import split
from pipeline.stages.train import train
from pipeline.studies.cross_validation import is_evaluated, plan_runs, read_cross_validation
from pipeline.tracking.mlflow_run import TrackedRun, open_study_run
from pipeline.tracking.records import RunFacts, name_files


def choose_paths(experiment: Experiment) -> Workspace:
    """Return the paths of the study, which is named like a run."""
    word = "seeds" if experiment.cross_validate.vary == "seeds" else "cross_validation"
    name = "-".join(part for part in (experiment.run, word) if part)
    return Workspace(experiment.workspace, experiment.name, name)


@exclusive(lambda experiment: choose_paths(experiment).report_folder)
def cross_validate(experiment: Experiment, console: Console) -> None:
    """Train and evaluate every fold, with every seed, and report all patients together.

    Runs that are trained and evaluated already are read, not computed again.

    Raises:
        UserError: Folds of a published set, several devices, or an error of the train or evaluate stage.
    """
    store = read_store(experiment.paths.prepared, verify=True)
    paths = choose_paths(experiment)
    jobs = plan_runs(experiment, store)
    with open_study_run(experiment.tracking, paths, paths.report_folder / "mlflow.json") as parent:
        parent.sync()
        for job in jobs:
            _run(job, parent, console)
        study = read_cross_validation(experiment, jobs, store)
        note = DATASETS[experiment.data.dataset].synthetic_note
        write_cross_validation(paths, study, store.kind, note, store.fingerprint)
        numbers: dict[str, float | None] = {}
        for level, scores in study.pooled.items():
            accuracy = scores["metrics"]["accuracy"]
            numbers |= {f"pooled_{level}_accuracy": accuracy["value"]}
            numbers |= {
                f"pooled_{level}_accuracy_low": accuracy["low"],
                f"pooled_{level}_accuracy_high": accuracy["high"],
            }
            numbers |= {f"{level}_accuracy_{key}": value for key, value in study.spread[level]["runs"].items()}
        metrics = {key: value for key, value in numbers.items() if value is not None}
        parent.keep(RunFacts(metrics=metrics, files=name_files(paths, paths.report_folder.glob("cross_validation.*"))))
    for sentence in describe_pooled(study, store.kind):
        console.print(f"  {sentence}", highlight=False)
    console.print(f"-> {paths.report_folder / 'cross_validation.html'}")


def _run(job: Experiment, parent: TrackedRun, console: Console) -> None:
    """Split, train and evaluate one run; steps that are done already are skipped."""
    job = dataclasses.replace(job, tracking=dataclasses.replace(job.tracking, parent_run=parent.run_id))
    console.print(job.run_name or job.name, style="bold")
    split(job, console)
    train(job, console)
    if is_evaluated(job.paths):
        console.print(f"{job.paths.report_folder}: already evaluated; nothing to do.")
    else:
        evaluate(job, console)
