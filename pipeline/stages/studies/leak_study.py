"""The leak-study stage: the effect of leaks on the scores of this model on these slices."""

import dataclasses
from pathlib import Path

from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.core.errors import UserError
from pipeline.core.provenance import compute_fingerprint
from pipeline.core.serialization import flatten
from pipeline.core.text import plural
from pipeline.core.workspace import Workspace, join_names
from pipeline.data.store import Store, check_store, read_store
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.reporting.leak_study_page import describe_outcomes, write_leak_study
from pipeline.stages.base import exclusive
from pipeline.studies.leak_study import (
    is_complete,
    list_settings,
    read_leak_study,
    run_model,
    use_single_split,
    write_run,
)
from pipeline.studies.leaky_splits import LeakyRun, plan_leaky_runs
from pipeline.tracking.mlflow_run import TrackedRun, open_run
from pipeline.tracking.records import DatasetUse, RunFacts, flatten_estimate, name_files
from pipeline.training.history import write_history
from pipeline.training.run_state import read_preprocess


def choose_folder(experiment: Experiment) -> Path:
    """Return the folder of the study."""
    return use_single_split(experiment).paths.report_folder / "leak_study"


@exclusive(choose_folder)
def leak_study(experiment: Experiment, console: Console) -> None:
    """Show what leaks do: several ways to split the same slices or images, with true and with shuffled labels.

    Nothing is written to folders that training reads: no splits, no certificate, no checkpoint. A model that was
    scored before an interruption is not trained again.

    Raises:
        UserError: No patients, or too few patients, or a loss that becomes NaN or infinite.
    """
    experiment = use_single_split(experiment)
    paths, options = experiment.paths, experiment.evaluate
    store = read_store(paths.prepared, verify=True)
    if not store.kind.has_patients:
        raise UserError(
            f"leak-study: {experiment.data.dataset} is made of {plural(store.kind.example)} without patients, and the "
            "study compares with a split by patient. Choose a config of scans, or of images of patients."
        )
    read_preprocess(experiment, store)
    folder = choose_folder(experiment)
    runs = plan_leaky_runs(store, experiment.leak_study, experiment.split)
    tracked_name = Workspace(paths.root, paths.name, join_names(paths.run, "leak_study"))
    with open_run(experiment.tracking, tracked_name, folder / "mlflow.json") as parent:
        parent.keep(RunFacts(settings=flatten(experiment.leak_study, "leak_study")))
        parent.sync()
        for run in runs:
            path = folder / "runs" / f"{run.name}.json"
            if not is_complete(path, list_settings(experiment, store, run.num_train)):
                _train(experiment, store, run, path, parent, console)
            elif parent.is_reached:
                _track(experiment, path, parent).send_rest()
        bootstrap = Bootstrap(options.num_bootstrap_resamples, options.seed)
        study = read_leak_study(folder / "runs", runs, store.class_names, bootstrap)
        check_store(paths.prepared, store.fingerprint)
        write_leak_study(folder, experiment, store, study)
        metrics: dict[str, float] = {}
        for outcome in study.outcomes:
            metrics |= flatten_estimate(f"{outcome.unit}_{outcome.labels}_accuracy", outcome.accuracy)
        parent.keep(RunFacts(metrics=metrics, files=name_files(paths, folder.glob("leak_study.*"))))
    for sentence in describe_outcomes(study.outcomes, store.class_names):
        console.print(f"  {sentence}", highlight=False)
    console.print(f"-> {folder / 'leak_study.html'}")


def _track(experiment: Experiment, path: Path, parent: TrackedRun) -> TrackedRun:
    """Open the MLflow run of one training, below that of the study."""
    tracking = dataclasses.replace(experiment.tracking, parent_run=parent.run_id)
    name = Workspace(experiment.workspace, experiment.name, f"leak_study-{path.stem}")
    return open_run(tracking, name, path.parent / "mlflow" / path.name)


def _train(
    experiment: Experiment, store: Store, run: LeakyRun, path: Path, parent: TrackedRun, console: Console
) -> None:
    """Train and score one model; write its predictions, then its record, and keep an MLflow run of it."""
    paths, settings = experiment.paths, list_settings(experiment, store, run.num_train)
    digest = compute_fingerprint(store.fingerprint, run.splits.tolist())
    use = DatasetUse(f"{paths.name} {run.name}", digest, str(paths.prepared), "leak_study")
    epochs, history = settings["train.epochs"], path.with_name(f"{run.name}-history.csv")
    # An existing record belongs to an interrupted training, or to other settings.
    (path.parent / "mlflow" / path.name).unlink(missing_ok=True)
    with _track(experiment, path, parent) as tracked:
        tracked.keep(RunFacts(settings=settings | {"train.seed": run.seed}, datasets=(use,)))
        tracked.sync()
        with console.status(run.name) as status:
            outcome, facts = run_model(
                experiment, store, run, lambda result: status.update(f"{run.name}: {result.epoch} of {epochs} epochs")
            )
        write_history(history, outcome.history)
        record = {"settings": settings, "facts": facts | {"tracking_run": tracked.run_id}}
        write_run(path, outcome.predictions, store.class_names, record)
        tracked.keep(
            RunFacts(
                metrics={f"test_{store.kind.example}_accuracy": facts["accuracy"]},
                files=name_files(paths, [path.with_suffix(".csv")]),
                history=paths.name_file(history),
            )
        )
    console.print(
        f"  {run.name}: accuracy {100 * facts['accuracy']:.1f} % on {facts['n']} "
        f"{plural(store.kind.example)} of {facts['groups']} patients, "
        f"{facts['seconds']:.0f} s",
        highlight=False,
    )
