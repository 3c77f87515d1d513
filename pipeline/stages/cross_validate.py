"""The folds stage: every fold and every seed trained and evaluated, and all of them put together."""

import dataclasses

from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.core.files import read_json, write_json
from pipeline.core.workspace import Workspace
from pipeline.data.store import read_store
from pipeline.datasets import DATASETS
from pipeline.reporting.cross_validation_page import describe_pooled, write_cross_validation
from pipeline.stages.evaluate import evaluate
from pipeline.stages.split import split
from pipeline.stages.train import train
from pipeline.studies.cross_validation import is_evaluated, plan_runs, read_cross_validation
from pipeline.tracking.mlflow_run import open_run
from pipeline.tracking.tracker import Tracker, finishing


def folds(experiment: Experiment, console: Console) -> None:
    """Train and evaluate every fold, with every seed, and report all patients together.

    Runs that are trained and evaluated already are read, not computed again.

    Raises:
        UserError: folds of a published set, several devices, or what the train and evaluate stages refuse.
    """
    store = read_store(experiment.paths.prepared, verify=True)
    name = "-".join(part for part in (experiment.run, "seeds" if experiment.folds.keep_split else "folds") if part)
    paths = Workspace(experiment.workspace, experiment.name, name)
    jobs = plan_runs(experiment, store)
    parent = _open_parent(experiment, paths)
    with finishing(parent):
        for job in jobs:
            _run(job, parent, console)
        study = read_cross_validation(experiment, jobs, store)
        note = DATASETS[experiment.data.dataset].synthetic_note
        write_cross_validation(paths, study, store.kind, note, store.fingerprint)
        for level, scores in study.pooled.items():
            accuracy = scores["metrics"]["accuracy"]
            numbers = {f"pooled_{level}_accuracy": accuracy["value"]}
            numbers |= {
                f"pooled_{level}_accuracy_low": accuracy["low"],
                f"pooled_{level}_accuracy_high": accuracy["high"],
            }
            numbers |= {f"{level}_accuracy_{key}": value for key, value in study.spread[level]["runs"].items()}
            parent.log_metrics({key: value for key, value in numbers.items() if value is not None})
        for file in sorted(paths.report_folder.glob("folds.*")):
            parent.log_file(file)
    for sentence in describe_pooled(study, store.kind):
        console.print(f"  {sentence}", highlight=False)
    console.print(f"-> {paths.report_folder / 'folds.html'}")


def _open_parent(experiment: Experiment, paths: Workspace) -> Tracker:
    """Start the MLflow run that the others are shown below, or go on with that of an earlier start."""
    path = paths.report_folder / "started.json"
    known = read_json(path)["tracking_run"] if path.is_file() else ""
    tracker = open_run(dataclasses.replace(experiment.tracking, tensorboard=False), paths, known)
    write_json(path, {"tracking_run": tracker.run_id})
    return tracker


def _run(job: Experiment, parent: Tracker, console: Console) -> None:
    """Split, train and evaluate one run, as far as that was not done."""
    job = dataclasses.replace(job, tracking=dataclasses.replace(job.tracking, parent_run=parent.run_id))
    console.print(job.run_name or job.name, style="bold")
    split(job, console)
    train(job, console)
    if is_evaluated(job.paths):
        console.print(f"{job.paths.report_folder}: already evaluated; nothing to do.")
    else:
        evaluate(job, console)
