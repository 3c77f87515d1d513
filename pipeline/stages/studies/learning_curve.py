"""The learning-curve stage: the accuracy by the number of training patients, of several models on the same patients."""

from functools import partial
from pathlib import Path

from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.core.console import working
from pipeline.core.provenance import compute_fingerprint
from pipeline.core.serialization import flatten
from pipeline.core.workspace import Workspace, join_names
from pipeline.data.certified_data import CertifiedData, load_certified_data
from pipeline.data.store import check_store
from pipeline.reporting.studies.learning_curve_page import describe_curve, write_learning_curve
from pipeline.stages.base import exclusive
from pipeline.stages.studies.tracked_models import OpenStudy, StudyModel
from pipeline.studies.learning_curve import CurveRun, LearningCurve, list_settings, plan_curve, read_curve, train_one
from pipeline.tracking.mlflow_run import open_run
from pipeline.tracking.records import DatasetUse, RunFacts, flatten_estimate, name_files
from pipeline.training.run_state import read_preprocess


def choose_folder(experiment: Experiment) -> Path:
    """Return the folder of the study."""
    return experiment.paths.report_folder / "learning_curve"


@exclusive(choose_folder)
def learning_curve(experiment: Experiment, console: Console) -> None:
    """Train each model on 2, 4, 8 and more patients, several draws each, and draw the accuracy by their number.

    Validation and test are those of the experiment for all. A model that was scored before an interruption is not
    trained again; no checkpoint is kept.

    Raises:
        UserError: Numbers that do not fit the training patients, or a loss that becomes NaN or infinite.
    """
    paths, data, folder = experiment.paths, load_certified_data(experiment), choose_folder(experiment)
    read_preprocess(experiment, data.store)
    runs = plan_curve(data, experiment)
    tracked_name = Workspace(paths.root, paths.name, join_names(paths.run, "learning_curve"))
    with open_run(experiment.tracking, tracked_name, folder / "mlflow.json") as parent:
        parent.keep(RunFacts(settings=flatten(experiment.learning_curve, "learning_curve")))
        with working("opening the records", console):
            parent.sync()
        study = OpenStudy(experiment, data.store, parent, console)
        for run in runs:
            study.complete(_describe(experiment, data, run, folder), partial(train_one, experiment, data, run))
        check_store(paths.prepared, data.store.fingerprint)
        curve = read_curve(folder / "runs", runs, data, experiment)
        write_learning_curve(folder, experiment, data.store, curve)
        parent.keep(RunFacts(metrics=_list_metrics(curve), files=name_files(paths, folder.glob("learning_curve*.*"))))
    for sentence in describe_curve(curve, data.store.kind):
        console.print(f"  {sentence}", highlight=False)
    console.print(f"-> {folder / 'learning_curve.html'}")


def _describe(experiment: Experiment, data: CertifiedData, run: CurveRun, folder: Path) -> StudyModel:
    """Describe one model of the study: its files, its settings and its data."""
    paths = experiment.paths
    digest = compute_fingerprint(data.store.fingerprint, sorted(run.patients))
    use = DatasetUse(f"{paths.name} {run.size}-draw-{run.draw}", digest, str(paths.prepared), "train")
    path = folder / "runs" / f"{run.name}.json"
    epochs = 0 if run.model == "logistic_regression" else experiment.train.epochs
    return StudyModel("learning_curve", path, list_settings(experiment, data, run), run.seed, epochs, use)


def _list_metrics(curve: LearningCurve) -> dict[str, float]:
    """Return the numbers for MLflow: the mean accuracies, and the differences of the networks, with their intervals."""
    metrics: dict[str, float] = {}
    for point in curve.points:
        metrics |= flatten_estimate(f"{point.model}_{point.size}_accuracy", point.over_draws)
    for comparison in curve.comparisons:
        metrics |= flatten_estimate(f"perceiver_minus_cnn_{comparison.size}", comparison.over_draws)
    return metrics
