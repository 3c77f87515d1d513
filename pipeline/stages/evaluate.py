"""The evaluate stage: what the model is worth on patients it never saw, with everything behind the figure."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console

from pipeline.attention import KEPT, choose_examples, compute_maps
from pipeline.attention_pictures import draw_maps
from pipeline.baselines import build_predictions, logistic_regression, majority, score_baseline
from pipeline.checkpoint import Checkpoint, build_from_checkpoint, read_checkpoint
from pipeline.curves import compute_calibration_bins, compute_roc_curves
from pipeline.datasets import DATASETS
from pipeline.devices import choose_accelerator
from pipeline.dump import dump_experiment
from pipeline.experiment import Experiment
from pipeline.figures import calibration_curve, confusion_matrix, contact_sheet, roc_curve, training_curves
from pipeline.files import write_bytes, write_json
from pipeline.history import find_best
from pipeline.leakage import check_certificate
from pipeline.metrics import compute_metrics
from pipeline.provenance import read_commit, read_hardware, read_versions
from pipeline.report import show_percent, summarise_certificate, write_report
from pipeline.runs import check_trained_on
from pipeline.scoring import compute_probabilities
from pipeline.splits import read_splits, resolve_roles
from pipeline.store import Store, read_store
from pipeline.tables import prediction_columns, write_table
from pipeline.tracking import open_run

NUM_MISTAKES = 24


def evaluate(experiment: Experiment, console: Console) -> None:
    """Score the validation and test patients; write predictions, metrics, pictures and the report.

    Raises:
        UserError: no trained model, or one that was trained on other pictures or splits than these.
    """
    paths = experiment.paths
    store = read_store(paths.prepared, verify=True)
    splits = read_splits(paths.splits, experiment.split)
    certificate = check_certificate(paths.certificate, store, splits)
    checkpoint_path = experiment.evaluate.checkpoint or paths.best_checkpoint
    checkpoint = read_checkpoint(checkpoint_path)
    check_trained_on(checkpoint_path, checkpoint, store.fingerprint, certificate["splits_fingerprint"])
    roles = resolve_roles(splits, experiment.split)
    split_of = store.index["group_id"].map(roles).to_numpy(dtype=str)

    attention = _draw_attention(experiment, store, checkpoint, roles)
    predictions = _predict_splits(experiment, store, checkpoint, split_of)
    test = predictions[predictions["split"] == "test"].reset_index(drop=True)
    metrics = {
        "split": "test",
        "synthetic_note": DATASETS[experiment.data.dataset].synthetic_note,
        "class_names": list(store.class_names),
        "levels": compute_metrics(test, store.class_names, experiment.evaluate.num_resamples, experiment.evaluate.seed),
        "baselines": _score_baselines(experiment, store, split_of, console),
    }
    figures = _draw_figures(store, test, metrics) | attention
    figures["training_curves"] = _draw_curves(experiment, checkpoint)

    write_table(paths.predictions, predictions, prediction_columns(store.class_names))
    write_json(paths.metrics, metrics)
    for name, picture in figures.items():
        write_bytes(paths.report_folder / f"{name}.png", picture)
    dataset = DATASETS[experiment.data.dataset]
    write_report(
        paths.report_folder / "report.html",
        title=" / ".join(part for part in (experiment.name, experiment.run_name) if part),
        synthetic_note=dataset.synthetic_note or None,
        metrics=metrics,
        class_names=store.class_names,
        figures=figures,
        split_counts=_tabulate_splits(store, split_of),
        certificate=summarise_certificate(certificate),
        provenance=_describe_provenance(checkpoint),
        config_text=dump_experiment(experiment),
        warnings=_list_warnings(metrics, certificate),
    )
    tracker = open_run(experiment.tracking, paths, checkpoint.tracking_run)
    tracker.log_metrics(_flatten_metrics(metrics))
    tracker.log_file(paths.report_folder, "evaluation")
    tracker.finish()
    _print_summary(metrics, console)
    console.print(f"-> {paths.report_folder / 'report.html'}")


def _predict_splits(
    experiment: Experiment, store: Store, checkpoint: Checkpoint, split_of: np.ndarray[Any, Any]
) -> pd.DataFrame:
    """Score the validation and the test rows."""
    device = torch.device(choose_accelerator(experiment.train.accelerator))
    classifier = build_from_checkpoint(checkpoint, device)
    tables = []
    for split in ("val", "test"):
        rows = np.flatnonzero(split_of == split)
        index = store.index.iloc[rows]
        images = store.examples[rows]
        positions = index["slice_position"].to_numpy()
        scores = compute_probabilities(classifier, images, positions, device, experiment.evaluate.batch_size)
        tables.append(build_predictions(index, scores.astype(np.float64), store.class_names, split))
    return pd.concat(tables, ignore_index=True)


def _score_baselines(
    experiment: Experiment, store: Store, split_of: np.ndarray[Any, Any], console: Console
) -> dict[str, Any]:
    """Score what knows no image, and what knows pixels but no shape, on the same test rows."""
    options = experiment.evaluate
    labels = store.index["label"].to_numpy(dtype=str)
    rows = {split: np.flatnonzero(split_of == split) for split in ("train", "val", "test")}
    test_index = store.index.iloc[rows["test"]]
    probabilities = {"majority": majority(labels[rows["train"]], len(test_index), store.class_names)}
    if options.logistic_regression:
        with console.status("fitting the logistic regression"):
            probabilities["logistic_regression"] = logistic_regression(
                store.examples[rows["train"]],
                labels[rows["train"]],
                store.examples[rows["val"]],
                labels[rows["val"]],
                store.examples[rows["test"]],
                store.class_names,
                options.seed,
            )
    return {
        name: score_baseline(test_index, scores, store.class_names, options.num_resamples, options.seed)
        for name, scores in probabilities.items()
    }


def _draw_figures(store: Store, test: pd.DataFrame, metrics: dict[str, Any]) -> dict[str, bytes]:
    names = store.class_names
    figures = {
        f"confusion_{level}": confusion_matrix(content["confusion"], names, f"{level.capitalize()}s, test")
        for level, content in metrics["levels"].items()
    }
    auroc = metrics["levels"]["slice"]["metrics"]["auroc"]
    auroc_text = show_percent(auroc) if auroc["value"] is not None else ""
    figures["roc"] = roc_curve(compute_roc_curves(test, names), "Slices, test", auroc_text)
    figures["calibration"] = calibration_curve(compute_calibration_bins(test, names), "Slices, test")
    mistakes = _draw_mistakes(store, test)
    if mistakes is not None:
        figures["worst_mistakes"] = mistakes
    return figures


def _draw_attention(
    experiment: Experiment, store: Store, checkpoint: Checkpoint, roles: dict[str, str]
) -> dict[str, bytes]:
    """Draw where a Perceiver looks in a few validation pictures; a network without attention has no such picture."""
    if checkpoint.model.kind == "cnn":
        return {}
    options = dataclasses.replace(KEPT, num_examples=experiment.attention.num_examples)
    classifier = build_from_checkpoint(checkpoint, torch.device(choose_accelerator(experiment.train.accelerator)))
    maps = compute_maps(classifier, store, choose_examples(store, roles, options), options, checkpoint.epoch)
    return {"attention": draw_maps(maps, "validation")}


def _draw_curves(experiment: Experiment, checkpoint: Checkpoint) -> bytes:
    """Draw all epochs of the run; of a checkpoint from elsewhere those up to its own."""
    history = pd.DataFrame([vars(result) for result in checkpoint.history])
    if experiment.evaluate.checkpoint is None:
        history = pd.read_csv(experiment.paths.history)
    best = find_best(checkpoint.history, checkpoint.settings["train.select_by"]).epoch
    return training_curves(history, best)


def _draw_mistakes(store: Store, test: pd.DataFrame) -> bytes | None:
    """Draw the wrong answers that the model was surest of; None where there are none."""
    wrong = test[test["label"] != test["predicted"]].copy()
    if wrong.empty:
        return None
    columns = [f"probability_{name}" for name in store.class_names]
    wrong["confidence"] = wrong[columns].max(axis=1)
    worst = wrong.sort_values(["confidence", "example_id"], ascending=[False, True]).head(NUM_MISTAKES)
    place_of = pd.Series(np.arange(len(store.index)), index=store.index["example_id"])
    images = store.examples[place_of[worst["example_id"]].to_numpy()]
    captions = [f"{row.group_id} is {row.label}, {row.predicted} {row.confidence:.2f}" for row in worst.itertuples()]
    return contact_sheet(images, captions)


def _tabulate_splits(store: Store, split_of: np.ndarray[Any, Any]) -> pd.DataFrame:
    rows = []
    for split in ("train", "val", "test"):
        index = store.index[split_of == split]
        scans = index.groupby("label")["source_id"].nunique()
        row = {"split": split, "patients": index["group_id"].nunique(), "scans": index["source_id"].nunique()}
        rows.append(
            row | {f"scans: {name}": int(scans.get(name, 0)) for name in store.class_names} | {"slices": len(index)}
        )
    return pd.DataFrame(rows)


def _describe_provenance(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "commit": checkpoint.commit,
        "commit at evaluation": read_commit(),
        "hardware at evaluation": read_hardware(),
        "pictures": checkpoint.store_fingerprint,
        "splits": checkpoint.split_fingerprint,
        "epoch of the weights": checkpoint.epoch,
        "MLflow run": checkpoint.tracking_run,
        "versions": read_versions(),
    }


def _list_warnings(metrics: dict[str, Any], certificate: dict[str, Any]) -> list[str]:
    warnings = []
    num_patients = metrics["levels"]["slice"]["groups"]
    if num_patients < 20:
        warnings.append(
            f"Only {num_patients} patients were tested. A bootstrap over so few makes intervals that are too narrow."
        )
    accuracy = metrics["levels"]["slice"]["metrics"]["accuracy"]
    baseline = metrics["baselines"].get("logistic_regression")
    if baseline is not None and accuracy["low"] is not None and accuracy["low"] <= baseline["accuracy"]["value"]:
        warnings.append("The interval of the model's accuracy holds the logistic regression's: no gain is shown.")
    near = certificate["near_identical_images"]["count"]
    if near:
        warnings.append(
            f"{near} pairs of pictures in different splits look alike; they are listed with the certificate."
        )
    return warnings


def _flatten_metrics(metrics: dict[str, Any]) -> dict[str, float]:
    """Return what MLflow shows in its table: ``test_slice_accuracy`` and so on, with the ends of the intervals."""
    flat: dict[str, Any] = {}
    for level, content in metrics["levels"].items():
        flat |= {f"test_{level}_n": content["n"], f"test_{level}_patients": content["groups"]}
        for name, metric in content["metrics"].items():
            flat |= {
                f"test_{level}_{name}{end}": metric[key]
                for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))
            }
    for baseline, content in metrics["baselines"].items():
        flat[f"test_slice_accuracy_{baseline}"] = content["accuracy"]["value"]
    return {name: float(value) for name, value in flat.items() if value is not None}


def _print_summary(metrics: dict[str, Any], console: Console) -> None:
    for level, content in metrics["levels"].items():
        accuracy = show_percent(content["metrics"]["accuracy"])
        console.print(
            f"  {level:8s} {content['n']:6d} of {content['groups']} patients: accuracy {accuracy}", highlight=False
        )
    for name, content in metrics["baselines"].items():
        console.print(f"  {name.replace('_', ' ')}: accuracy {show_percent(content['accuracy'])}", highlight=False)
