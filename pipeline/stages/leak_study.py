"""The audit stage: what leaks do, shown on these pictures with this model."""

import dataclasses
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.core.errors import UserError
from pipeline.core.files import read_json, write_json
from pipeline.core.provenance import compute_fingerprint
from pipeline.core.serialization import flatten
from pipeline.core.tables import prediction_columns, write_table
from pipeline.core.workspace import Workspace
from pipeline.data.store import Store, check_store, read_store
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.predictions import read_predictions
from pipeline.reporting.leak_study_page import describe_outcomes, write_audit
from pipeline.studies.leak_training import NO_CHANGES, build_recipe, summarise_outcomes, train_one
from pipeline.studies.leaky_splits import (
    DIVISIONS,
    LABELLINGS,
    choose_slices,
    divide,
    equalise_training,
    shuffle_labels,
)
from pipeline.tracking.mlflow_run import open_run
from pipeline.tracking.tracker import Tracker, finishing
from pipeline.training.run_state import EXECUTION, read_preprocess


def audit(experiment: Experiment, console: Console) -> None:
    """Show what leaks do: four ways to divide the same pictures, with true and with shuffled labels.

    Nothing is written where training looks: no splits, no certificate, no checkpoint. A model that was judged
    before an interruption is not trained again.

    Raises:
        UserError: no volumes, too few patients, or a loss that stops being a number.
    """
    # Folds and tables are the main job's; the experiment's own name for the run stays.
    plain = dataclasses.replace(experiment.split, num_folds=0, test_fold=0, table=None, val_count=None)
    experiment = dataclasses.replace(experiment, split=plain)
    store = read_store(experiment.paths.prepared, verify=True)
    if not store.kind.has_patients:
        raise UserError(
            f"audit: {experiment.data.dataset} has one example a group, so no patient can be in two splits. It is for "
            "volumes; choose a config of scans."
        )
    read_preprocess(experiment, store)
    rows = choose_slices(store.index, experiment.audit.slices)
    folder = experiment.paths.report_folder / "audit"
    parent = _open_parent(experiment, folder)
    with finishing(parent):
        outcomes = _demonstrate(experiment, store, rows, folder, parent, console)
        for outcome in outcomes:
            numbers = {
                f"{outcome['division']}_{outcome['labels']}_accuracy_{end}".removesuffix("_value"): number
                for end, number in outcome["accuracy"].items()
                if number is not None
            }
            parent.log_metrics(numbers)
        for file in sorted(folder.glob("audit.*")):
            parent.log_file(file)
    for sentence in describe_outcomes(outcomes, store.class_names):
        console.print(f"  {sentence}", highlight=False)
    console.print(f"-> {folder / 'audit.html'}")


def _demonstrate(
    experiment: Experiment,
    store: Store,
    rows: np.ndarray[Any, Any],
    folder: Path,
    parent: Tracker,
    console: Console,
) -> list[dict[str, Any]]:
    """Train and judge what was not yet, and write the page; return the outcomes."""
    index = store.index.iloc[rows].reset_index(drop=True)
    predictions: dict[tuple[str, str], list[pd.DataFrame]] = {}
    records = []
    for seed in experiment.audit.seeds:
        divided = {division: divide(index, division, experiment.split, seed) for division in DIVISIONS}
        divided = equalise_training(divided, seed)
        settings = describe_recipe(experiment, store, int((divided["patient"] == "train").sum()))
        labels = {
            "true": index["label"].to_numpy(dtype=str),
            "shuffled": shuffle_labels(index, store.class_names, seed),
        }
        for division, labelling in itertools.product(DIVISIONS, LABELLINGS):
            path = folder / "runs" / f"{division}-{labelling}-seed-{seed}.json"
            if not _is_there(path, settings):
                job = (store, rows, labels[labelling], divided[division], seed)
                _train(experiment, job, path, settings, parent, console)
            record = read_json(path)
            table = read_predictions(path.with_suffix(".csv"), store.class_names)
            predictions.setdefault((division, labelling), []).append(table)
            records.append({"division": division, "labels": labelling, "seed": seed} | record["facts"])
    options = experiment.evaluate
    bootstrap = Bootstrap(options.num_resamples, options.seed)
    outcomes = summarise_outcomes(predictions, store.class_names, bootstrap)
    check_store(experiment.paths.prepared, store.fingerprint)
    write_audit(folder, experiment, store, settings, outcomes, records)
    return outcomes


def describe_recipe(experiment: Experiment, store: Store, num_train: int) -> dict[str, Any]:
    """List all that shapes the models of the demonstration but their seeds.

    Args:
        experiment: all options.
        store: the pictures.
        num_train: training pictures of each model.

    Returns:
        ``section.field`` -> value.
    """
    model, train = build_recipe(experiment, num_train)
    settings = flatten(model, "model") | flatten(NO_CHANGES, "augment")
    left_out = (*EXECUTION, "train.seed", "train.select_by", "train.early_stopping_epochs")
    settings |= {name: value for name, value in flatten(train, "train").items() if name not in left_out}
    split = experiment.split
    settings |= {f"split.{name}": getattr(split, name) for name in ("val_fraction", "test_fraction", "stratify")}
    return settings | {
        "audit.slices": experiment.audit.slices,
        "training slices": num_train,
        "store fingerprint": store.fingerprint,
    }


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


def _is_there(path: Path, settings: dict[str, Any]) -> bool:
    """Tell whether a model was trained with these settings and judged; the record is written last."""
    return path.is_file() and path.with_suffix(".csv").is_file() and read_json(path)["settings"] == settings


def _train(
    experiment: Experiment,
    job: tuple[Store, np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any], int],
    path: Path,
    settings: dict[str, Any],
    parent: Tracker,
    console: Console,
) -> None:
    """Train and judge one model; write its predictions, then its record, and keep an MLflow run of it."""
    store, *_, seed = job
    tracking = dataclasses.replace(experiment.tracking, tensorboard=False, parent_run=parent.run_id)
    paths = experiment.paths
    tracker = open_run(tracking, Workspace(paths.root, paths.name, f"audit-{path.stem}"))
    tracker.log_settings(settings | {"train.seed": seed})
    digest = compute_fingerprint(store.fingerprint, job[3].tolist())
    tracker.log_dataset(f"{paths.name} {path.stem}", digest, str(paths.prepared), "audit")
    started, started_cpu = time.perf_counter(), time.process_time()
    with finishing(tracker):
        with console.status(path.stem) as status:
            outcome = train_one(
                experiment,
                *job,
                lambda result: status.update(f"{path.stem}: {result.epoch} of {settings['train.epochs']} epochs"),
            )
        table = outcome.predictions
        accuracy = float((table["label"] == table["predicted"]).mean())
        facts = {
            "accuracy": accuracy,
            "n": len(table),
            "groups": int(table["group_id"].nunique()),
            "train_accuracy": outcome.history[-1].train_accuracy,
            "num_train": outcome.num_train,
            "num_steps": outcome.num_steps,
            "seconds": round(time.perf_counter() - started, 1),
            "processor_seconds": round(time.process_time() - started_cpu, 1),
            "tracking_run": tracker.run_id,
        }
        write_table(path.with_suffix(".csv"), table, prediction_columns(store.class_names))
        write_json(path, {"settings": settings, "facts": facts})
        tracker.log_history(outcome.history)
        tracker.log_metrics({"test_slice_accuracy": accuracy})
        tracker.log_file(path.with_suffix(".csv"))
    console.print(
        f"  {path.stem}: accuracy {100 * accuracy:.1f} % on {len(table)} slices of {facts['groups']} patients, "
        f"{facts['seconds']:.0f} s",
        highlight=False,
    )
