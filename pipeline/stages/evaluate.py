"""The evaluate stage: what the model is worth on data it never saw, with everything behind the figure."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console

from pipeline.baselines import build_predictions, logistic_regression, majority, score_baseline
from pipeline.checkpoint import Checkpoint, build_from_checkpoint, read_checkpoint
from pipeline.datasets import DATASETS
from pipeline.devices import choose_accelerator
from pipeline.dump import dump_experiment
from pipeline.evaluation_figures import draw_attention, draw_curves, draw_figures
from pipeline.experiment import Experiment
from pipeline.files import write_bytes, write_json
from pipeline.flow import build_flow
from pipeline.kinds import WORDS, Words, count_words, plural
from pipeline.leakage import check_certificate, describe_findings
from pipeline.metrics import compute_metrics
from pipeline.models import Classifier
from pipeline.provenance import read_commit, read_hardware, read_versions
from pipeline.report import write_report
from pipeline.report_certificate import summarise_certificate
from pipeline.runs import check_trained_on
from pipeline.scoring import compute_probabilities
from pipeline.splits import read_splits, resolve_roles
from pipeline.store import Store, read_store
from pipeline.study import build_study, write_documents
from pipeline.tables import MANIFEST_COLUMNS, prediction_columns, read_table, write_table
from pipeline.tracking import open_run
from pipeline.wording import show_percent


def evaluate(experiment: Experiment, console: Console) -> None:
    """Score the validation and test rows; write predictions, metrics, pictures and the report.

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

    device = torch.device(choose_accelerator(experiment.train.accelerator))
    classifier = build_from_checkpoint(checkpoint, device)
    predictions = _predict_splits(classifier, device, store, split_of, experiment.evaluate.batch_size)
    test = predictions[predictions["split"] == "test"].reset_index(drop=True)
    words, options = WORDS[store.kind], experiment.evaluate
    metrics = {
        "split": "test",
        "synthetic_note": DATASETS[experiment.data.dataset].synthetic_note,
        "class_names": list(store.class_names),
        "levels": compute_metrics(test, store.class_names, options.num_resamples, options.seed, words),
        "baselines": _score_baselines(experiment, store, split_of, console),
    }
    baseline_notes = _describe_baselines(experiment, metrics, int((split_of == "train").sum()), words)
    warnings = _list_warnings(metrics, certificate, store.missing, words)
    figures = draw_figures(store, test, metrics)
    figures |= draw_attention(classifier, store, roles, experiment.attention.num_examples, checkpoint.epoch)
    history = None if options.checkpoint is not None else pd.read_csv(paths.history)
    figures["training_curves"] = draw_curves(checkpoint, history)

    write_table(paths.predictions, predictions, prediction_columns(store.class_names))
    write_json(paths.metrics, metrics)
    for name, picture in figures.items():
        write_bytes(paths.report_folder / f"{name}.png", picture)
    manifest = read_table(paths.manifest, MANIFEST_COLUMNS)
    study = build_study(
        experiment,
        checkpoint,
        num_parameters=sum(weights.numel() for weights in classifier.model.parameters()),
        manifest=manifest,
        flow=build_flow(manifest, store.index, split_of, store.kind, store.missing),
        metrics=metrics,
        certificate=certificate,
        missing=store.missing,
        has_attention=any(name.startswith("attention") for name in figures),
    )
    write_documents(paths.report_folder, study)
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
        warnings=warnings,
        words=words,
        baseline_notes=baseline_notes,
        study=study,
    )
    tracker = open_run(experiment.tracking, paths, checkpoint.tracking_run)
    tracker.log_metrics(_flatten_metrics(metrics, words))
    tracker.log_file(paths.report_folder, "evaluation")
    tracker.finish()
    _print_summary(metrics, words, console)
    for note in baseline_notes:
        console.print(f"  {note}", highlight=False)
    if store.missing:
        console.print(f"[yellow]warning:[/] {store.missing}", highlight=False)
    console.print(f"-> {paths.report_folder / 'report.html'}")


def _predict_splits(
    classifier: Classifier, device: torch.device, store: Store, split_of: np.ndarray[Any, Any], batch_size: int
) -> pd.DataFrame:
    """Score the validation and the test rows."""
    tables = []
    for split in ("val", "test"):
        rows = np.flatnonzero(split_of == split)
        index = store.index.iloc[rows]
        images = store.examples[rows]
        positions = index["slice_position"].to_numpy()
        scores = compute_probabilities(classifier, images, positions, device, batch_size)
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
    if options.logistic_regression and store.kind != "points":
        with console.status("fitting the logistic regression"):
            probabilities["logistic_regression"] = logistic_regression(
                store.examples[rows["train"]],
                labels[rows["train"]],
                store.examples[rows["val"]],
                labels[rows["val"]],
                store.examples[rows["test"]],
                store.class_names,
                options.seed,
                options.logistic_regression_examples,
            )
    words = WORDS[store.kind]
    return {
        name: score_baseline(test_index, scores, store.class_names, options.num_resamples, options.seed, words)
        for name, scores in probabilities.items()
    }


def _describe_baselines(experiment: Experiment, metrics: dict[str, Any], num_train: int, words: Words) -> list[str]:
    """Say on how much less than the training rows a baseline was fitted."""
    num_fitted = experiment.evaluate.logistic_regression_examples
    if "logistic_regression" not in metrics["baselines"] or num_fitted >= num_train:
        return []
    return [
        f"The logistic regression was fitted on {num_fitted:,} of {num_train:,} training {plural(words.example)}, "
        "drawn at random."
    ]


def _tabulate_splits(store: Store, split_of: np.ndarray[Any, Any]) -> pd.DataFrame:
    words = WORDS[store.kind]
    rows = []
    for split in ("train", "val", "test"):
        index = store.index[split_of == split]
        if words.is_single:
            rows.append({"split": split, plural(words.example): len(index), "classes": index["label"].nunique()})
            continue
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


def _list_warnings(metrics: dict[str, Any], certificate: dict[str, Any], missing: str, words: Words) -> list[str]:
    warnings = [missing] if missing else []
    level = next(iter(metrics["levels"].values()))
    num_groups = level["groups"]
    if num_groups < 20:
        warnings.append(
            f"Only {count_words(num_groups, words.group)} were tested. A bootstrap over so few makes intervals that "
            "are too narrow."
        )
    accuracy = level["metrics"]["accuracy"]
    baseline = metrics["baselines"].get("logistic_regression")
    if baseline is not None and accuracy["low"] is not None and accuracy["low"] <= baseline["accuracy"]["value"]:
        warnings.append("The interval of the model's accuracy holds the logistic regression's: no gain is shown.")
    return warnings + [f"{finding} They are listed with the certificate." for finding in describe_findings(certificate)]


def _flatten_metrics(metrics: dict[str, Any], words: Words) -> dict[str, float]:
    """Return what MLflow shows in its table: ``test_slice_accuracy`` and so on, with the ends of the intervals."""
    flat: dict[str, Any] = {}
    for level, content in metrics["levels"].items():
        flat |= {f"test_{level}_n": content["n"]}
        if not words.is_single:
            flat |= {f"test_{level}_{plural(words.group)}": content["groups"]}
        for name, metric in content["metrics"].items():
            flat |= {
                f"test_{level}_{name}{end}": metric[key]
                for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))
            }
    for baseline, content in metrics["baselines"].items():
        flat[f"test_{next(iter(metrics['levels']))}_accuracy_{baseline}"] = content["accuracy"]["value"]
    return {name: float(value) for name, value in flat.items() if value is not None}


def _print_summary(metrics: dict[str, Any], words: Words, console: Console) -> None:
    for level, content in metrics["levels"].items():
        accuracy = show_percent(content["metrics"]["accuracy"])
        groups = "" if words.is_single else f" of {content['groups']} {plural(words.group)}"
        console.print(f"  {level:8s} {content['n']:6d}{groups}: accuracy {accuracy}", highlight=False)
    for name, content in metrics["baselines"].items():
        console.print(f"  {name.replace('_', ' ')}: accuracy {show_percent(content['accuracy'])}", highlight=False)
