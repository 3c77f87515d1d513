"""The folds stage: every fold and every seed trained and judged, and all of them put together."""

import dataclasses
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.core.files import read_json, write_json
from pipeline.core.provenance import read_commit
from pipeline.core.workspace import Workspace
from pipeline.data.store import Store, read_store
from pipeline.datasets import DATASETS
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.predictions import read_predictions
from pipeline.reporting.cross_validation_page import describe_pooled, write_folds
from pipeline.stages.evaluate import evaluate
from pipeline.stages.split import split
from pipeline.stages.train import train
from pipeline.studies.cross_validation import JudgedRun, plan_runs, pool_runs, spread_over_runs
from pipeline.tracking.mlflow_run import open_run
from pipeline.tracking.tracker import Tracker, finishing


def folds(experiment: Experiment, console: Console) -> None:
    """Train and judge every fold, with every seed, and report all patients together.

    Runs that are trained and judged already are read, not computed again.

    Raises:
        UserError: folds of a published set, several devices, or what the train and evaluate stages refuse.
    """
    store = read_store(experiment.paths.prepared, verify=True)
    jobs = plan_runs(experiment, store)
    name = "-".join(part for part in (experiment.run, "seeds" if experiment.folds.keep_split else "folds") if part)
    folder = Workspace(experiment.workspace, experiment.name, name).report_folder
    parent = _open_parent(experiment, name, folder)
    with finishing(parent):
        content = _gather(experiment, [_run(job, parent, console) for job in jobs], store)
        note = DATASETS[experiment.data.dataset].synthetic_note
        facts = {
            "pictures": store.fingerprint,
            "commit": read_commit(),
            "bootstrap draws": str(content["num_resamples"]),
        }
        write_folds(folder, content, store.kind, f"{experiment.name} / {name}", note, facts)
        for level, found in content["pooled"].items():
            accuracy = found["metrics"]["accuracy"]
            numbers = {f"pooled_{level}_accuracy": accuracy["value"]}
            numbers |= {f"pooled_{level}_accuracy_{end}": accuracy[end] for end in ("low", "high")}
            numbers |= {f"{level}_accuracy_{key}": value for key, value in content["spread"][level]["runs"].items()}
            parent.log_metrics({key: value for key, value in numbers.items() if value is not None})
        for file in sorted(folder.glob("folds.*")):
            parent.log_file(file)
    for sentence in describe_pooled(content, store.kind):
        console.print(f"  {sentence}", highlight=False)
    console.print(f"-> {folder / 'folds.html'}")


def is_judged(paths: Workspace) -> bool:
    """Tell whether a run was evaluated to the end since it was trained to the end."""
    page = paths.report_folder / "report.html"
    there = (paths.training_record, paths.metrics, paths.predictions, page)
    return all(path.is_file() for path in there) and page.stat().st_mtime_ns >= paths.training_record.stat().st_mtime_ns


def _open_parent(experiment: Experiment, name: str, folder: Path) -> Tracker:
    """Start the MLflow run that the others are shown below, or go on with that of an earlier start."""
    path = folder / "started.json"
    known = read_json(path)["tracking_run"] if path.is_file() else ""
    tracking = dataclasses.replace(experiment.tracking, tensorboard=False)
    tracker = open_run(tracking, Workspace(experiment.workspace, experiment.name, name), known)
    write_json(path, {"tracking_run": tracker.run_id})
    return tracker


def _run(job: Experiment, parent: Tracker, console: Console) -> Experiment:
    """Divide, train and judge one run, as far as that was not done."""
    job = dataclasses.replace(job, tracking=dataclasses.replace(job.tracking, parent_run=parent.run_id))
    console.print(job.run_name or job.name, style="bold")
    split(job, console)
    train(job, console)
    if is_judged(job.paths):
        console.print(f"{job.paths.report_folder}: already evaluated; nothing to do.")
    else:
        evaluate(job, console)
    return job


def _gather(experiment: Experiment, jobs: list[Experiment], store: Store) -> dict[str, Any]:
    """Read what the runs left and put it together."""
    runs, rows = [], []
    for job in jobs:
        metrics = read_json(job.paths.metrics)
        table = read_predictions(job.paths.predictions, store.class_names)
        test = table[table["split"] == "test"].reset_index(drop=True)
        fold = job.split.test_fold if job.split.num_folds else None
        runs.append(JudgedRun(job.run_name, job.train.seed, fold, test))
        levels = {
            level: {"n": found["n"], "groups": found["groups"], "accuracy": found["metrics"]["accuracy"]}
            for level, found in metrics["levels"].items()
        }
        rows.append({"run": job.run_name, "seed": job.train.seed, "fold": fold, "levels": levels})
    options = experiment.evaluate
    bootstrap = Bootstrap(options.num_resamples, options.seed)
    pooled = pool_runs(runs, store.class_names, bootstrap, store.kind)
    return {
        "class_names": list(store.class_names),
        "synthetic_note": DATASETS[experiment.data.dataset].synthetic_note,
        "num_resamples": options.num_resamples,
        "runs": rows,
        "spread": {level: spread_over_runs(rows, level) for level in pooled},
        "pooled": pooled,
    }
