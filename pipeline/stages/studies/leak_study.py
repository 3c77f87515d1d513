"""The leak-study stage: the effect of leaks on the scores of this model on these slices."""

from functools import partial
from pathlib import Path

from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.core.console import working
from pipeline.core.errors import UserError
from pipeline.core.provenance import compute_fingerprint
from pipeline.core.serialization import flatten
from pipeline.core.text import plural
from pipeline.core.workspace import Workspace, join_names
from pipeline.data.store import Store, check_store, read_store
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.reporting.studies.leak_study_page import describe_outcomes, write_leak_study
from pipeline.stages.base import exclusive
from pipeline.stages.studies.tracked_models import OpenStudy, StudyModel
from pipeline.studies.leak_study import list_settings, read_leak_study, train_one, use_single_split
from pipeline.studies.leaky_splits import LeakyRun, plan_leaky_runs
from pipeline.tracking.mlflow_run import open_run
from pipeline.tracking.records import DatasetUse, RunFacts, flatten_estimate, name_files
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
        with working("opening the records", console):
            parent.sync()
        study = OpenStudy(experiment, store, parent, console)
        for run in runs:
            study.complete(_describe(experiment, store, run, folder), partial(train_one, experiment, store, run))
        bootstrap = Bootstrap(options.num_bootstrap_resamples, options.seed)
        results = read_leak_study(folder / "runs", runs, store.class_names, bootstrap)
        check_store(paths.prepared, store.fingerprint)
        write_leak_study(folder, experiment, store, results)
        metrics: dict[str, float] = {}
        for outcome in results.outcomes:
            metrics |= flatten_estimate(f"{outcome.unit}_{outcome.labels}_accuracy", outcome.accuracy)
        parent.keep(RunFacts(metrics=metrics, files=name_files(paths, folder.glob("leak_study.*"))))
    for sentence in describe_outcomes(results.outcomes, store.class_names):
        console.print(f"  {sentence}", highlight=False)
    console.print(f"-> {folder / 'leak_study.html'}")


def _describe(experiment: Experiment, store: Store, run: LeakyRun, folder: Path) -> StudyModel:
    """Describe one model of the study: its files, its settings and its data."""
    settings = list_settings(experiment, store, run.num_train)
    digest = compute_fingerprint(store.fingerprint, run.splits.tolist())
    paths = experiment.paths
    use = DatasetUse(f"{paths.name} {run.name}", digest, str(paths.prepared), "leak_study")
    path = folder / "runs" / f"{run.name}.json"
    # The study sets warm-up and learning rate itself.
    rate = experiment.leak_study.learning_rate
    advice = f"Lower leak_study.learning_rate (now {rate:g}) or set train.precision to 32-true."
    return StudyModel("leak_study", path, settings, run.seed, settings["train.epochs"], use, advice)
