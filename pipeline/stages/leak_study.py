"""The audit stage: what leaks do, shown on these slices with this model."""

import dataclasses
from pathlib import Path

from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.core.errors import UserError
from pipeline.core.files import read_json, write_json
from pipeline.core.provenance import compute_fingerprint
from pipeline.core.serialization import flatten
from pipeline.core.workspace import Workspace
from pipeline.data.store import Store, check_store, read_store
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.reporting.leak_study_page import describe_outcomes, write_leak_study
from pipeline.studies.leak_study import (
    is_complete,
    list_settings,
    read_leak_study,
    run_model,
    use_single_split,
    write_run,
)
from pipeline.studies.leaky_splits import LeakyRun, plan_leaky_runs
from pipeline.tracking.mlflow_run import open_run
from pipeline.tracking.tracker import Tracker, finishing
from pipeline.training.run_state import read_preprocess


def audit(experiment: Experiment, console: Console) -> None:
    """Show what leaks do: four ways to divide the same slices, with true and with shuffled labels.

    Nothing is written where training looks: no splits, no certificate, no checkpoint. A model that was scored
    before an interruption is not trained again.

    Raises:
        UserError: no volumes, too few patients, or a loss that stops being a number.
    """
    experiment = use_single_split(experiment)
    paths, options = experiment.paths, experiment.evaluate
    store = read_store(paths.prepared, verify=True)
    if not store.kind.has_patients:
        raise UserError(
            f"audit: {experiment.data.dataset} has one example a group, so no patient can be in two splits. It is for "
            "volumes; choose a config of scans."
        )
    read_preprocess(experiment, store)
    folder = paths.report_folder / "audit"
    runs = plan_leaky_runs(store, experiment.audit, experiment.split)
    parent = _open_parent(experiment, folder)
    with finishing(parent):
        for run in runs:
            path = folder / "runs" / f"{run.name}.json"
            if not is_complete(path, list_settings(experiment, store, run.num_train)):
                _train(experiment, store, run, path, parent, console)
        bootstrap = Bootstrap(options.num_resamples, options.seed)
        study = read_leak_study(folder / "runs", runs, store.class_names, bootstrap)
        check_store(paths.prepared, store.fingerprint)
        write_leak_study(folder, experiment, store, study)
        for outcome in study.outcomes:
            name = f"{outcome.division}_{outcome.labels}_accuracy"
            numbers = {
                "": outcome.accuracy["value"],
                "_low": outcome.accuracy["low"],
                "_high": outcome.accuracy["high"],
            }
            parent.log_metrics({f"{name}{end}": number for end, number in numbers.items() if number is not None})
        for file in sorted(folder.glob("audit.*")):
            parent.log_file(file)
    for sentence in describe_outcomes(study.outcomes, store.class_names):
        console.print(f"  {sentence}", highlight=False)
    console.print(f"-> {folder / 'audit.html'}")


def _train(experiment: Experiment, store: Store, run: LeakyRun, path: Path, parent: Tracker, console: Console) -> None:
    """Train and score one model; write its predictions, then its record, and keep an MLflow run of it."""
    paths, settings = experiment.paths, list_settings(experiment, store, run.num_train)
    tracking = dataclasses.replace(experiment.tracking, tensorboard=False, parent_run=parent.run_id)
    tracker = open_run(tracking, Workspace(paths.root, paths.name, f"audit-{run.name}"))
    tracker.log_settings(settings | {"train.seed": run.seed})
    digest = compute_fingerprint(store.fingerprint, run.splits.tolist())
    tracker.log_dataset(f"{paths.name} {run.name}", digest, str(paths.prepared), "audit")
    epochs = settings["train.epochs"]
    with finishing(tracker):
        with console.status(run.name) as status:
            outcome, facts = run_model(
                experiment, store, run, lambda result: status.update(f"{run.name}: {result.epoch} of {epochs} epochs")
            )
        record = {"settings": settings, "facts": facts | {"tracking_run": tracker.run_id}}
        write_run(path, outcome.predictions, store.class_names, record)
        tracker.log_history(outcome.history)
        tracker.log_metrics({"test_slice_accuracy": facts["accuracy"]})
        tracker.log_file(path.with_suffix(".csv"))
    console.print(
        f"  {run.name}: accuracy {100 * facts['accuracy']:.1f} % on {facts['n']} slices of {facts['groups']} patients, "
        f"{facts['seconds']:.0f} s",
        highlight=False,
    )


def _open_parent(experiment: Experiment, folder: Path) -> Tracker:
    """Start the MLflow run that the others are shown below, or go on with that of an interrupted start."""
    paths, path = experiment.paths, folder / "started.json"
    known = read_json(path)["tracking_run"] if path.is_file() else ""
    tracker = open_run(
        dataclasses.replace(experiment.tracking, tensorboard=False),
        Workspace(paths.root, paths.name, "-".join(part for part in (paths.run, "audit") if part)),
        known,
    )
    write_json(path, {"tracking_run": tracker.run_id})
    tracker.log_settings(flatten(experiment.audit, "audit"))
    return tracker
