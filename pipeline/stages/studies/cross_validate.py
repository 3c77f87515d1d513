"""The cross-validate stage: every fold and every seed trained and evaluated, and their predictions pooled."""

import dataclasses

from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.core.console import working
from pipeline.core.text import count_words
from pipeline.core.workspace import Workspace, join_names
from pipeline.data.certified_data import order_classes
from pipeline.data.store import read_store
from pipeline.datasets import DATASETS
from pipeline.reporting.studies.cross_validation_page import describe_pooled, write_cross_validation
from pipeline.stages.base import exclusive
from pipeline.stages.evaluate import evaluate
from pipeline.stages.split import read_published_splits, split
from pipeline.stages.train import train
from pipeline.studies.cross_validation import is_evaluated, plan_runs, read_cross_validation
from pipeline.studies.label_doubts import find_label_doubts
from pipeline.tracking.mlflow_run import TrackedRun, open_run
from pipeline.tracking.records import RunFacts, flatten_estimate, name_files


def choose_paths(experiment: Experiment) -> Workspace:
    """Return the paths of the study, which is named like a run."""
    word = "seeds" if experiment.cross_validate.vary == "seeds" else "cross_validation"
    return Workspace(experiment.workspace, experiment.name, join_names(experiment.run, word))


@exclusive(lambda experiment: choose_paths(experiment).report_folder)
def cross_validate(experiment: Experiment, console: Console) -> None:
    """Train and evaluate every fold, with every seed, and report all patients together.

    Runs that are trained and evaluated already are read, not computed again.

    Raises:
        UserError: Folds of a published set or of a published split, several devices, or an error of the train or
            evaluate stage.
    """
    store = order_classes(read_store(experiment.paths.prepared, verify=True), experiment.data)
    paths = choose_paths(experiment)
    jobs = plan_runs(experiment, store, bool(read_published_splits(experiment.paths.manifest)))
    with open_run(experiment.tracking, paths, paths.report_folder / "mlflow.json") as parent:
        with working("opening the records", console):
            parent.sync()
        for job in jobs:
            _run(job, parent, console)
        study = read_cross_validation(experiment, jobs, store)
        note = DATASETS[experiment.data.dataset].synthetic_note
        doubts = find_label_doubts([run.test for run in study.runs], store.class_names)
        write_cross_validation(paths, study, store, doubts, note)
        metrics: dict[str, float] = {}
        for level, scores in study.pooled.items():
            metrics |= flatten_estimate(f"pooled_{level}_accuracy", scores["metrics"]["accuracy"])
            spread = study.spread[level]["runs"]
            metrics |= {f"{level}_accuracy_{key}": value for key, value in spread.items() if value is not None}
        files = [*paths.report_folder.glob("cross_validation.*"), paths.report_folder / "label_doubts.csv"]
        parent.keep(RunFacts(metrics=metrics, files=name_files(paths, files)))
    for sentence in describe_pooled(study, store.kind):
        console.print(f"  {sentence}", highlight=False)
    if len(doubts.table) > 0:
        number = count_words(len(doubts.table), "label")
        console.print(f"  {number} to look at -> {paths.report_folder / 'label_doubts.csv'}", highlight=False)
    console.print(f"-> {paths.report_folder / 'cross_validation.html'}")


def _run(job: Experiment, parent: TrackedRun, console: Console) -> None:
    """Split, train and evaluate one run; steps that are done already are skipped."""
    job = dataclasses.replace(job, tracking=dataclasses.replace(job.tracking, parent_run=parent.run_id))
    console.print(job.run_name or job.name, style="bold")
    split(job, console)
    train(job, console)
    if is_evaluated(job.paths) and job.evaluate.external is None:
        console.print(f"{job.paths.report_folder}: already evaluated; nothing to do.")
    else:
        evaluate(job, console)
