"""The evaluate stage: what the model is worth on data it never saw, with everything behind the figure."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console

from pipeline.config.experiment import Experiment, dump_experiment
from pipeline.core.console import warn
from pipeline.core.data_kinds import DataKind
from pipeline.core.files import write_bytes, write_json
from pipeline.core.tables import MANIFEST_COLUMNS, prediction_columns, read_table, write_table
from pipeline.core.text import plural
from pipeline.data.leak_certificate import check_certificate
from pipeline.data.splits import read_splits, resolve_roles
from pipeline.data.store import Store, check_store, read_store
from pipeline.datasets import DATASETS
from pipeline.evaluation.baselines import logistic_regression, majority, score_baseline
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.decision_support import compute_decision
from pipeline.evaluation.metrics import compute_levels
from pipeline.evaluation.predictions import build_predictions
from pipeline.evaluation.shortcut_probes import Mirrored, check_mirrored, compute_probes
from pipeline.inference.probabilities import MirrorScores, compute_probabilities, score_with_mirrored
from pipeline.models.classifier import Classifier
from pipeline.models.networks import count_parameters
from pipeline.reporting.documents.data_facts import DataEvidence
from pipeline.reporting.documents.facts import Evidence, fill_documents, write_documents
from pipeline.reporting.evaluation.decision_section import build_decision_section
from pipeline.reporting.evaluation.figures import draw_attention, draw_curves, draw_figures
from pipeline.reporting.evaluation.flow_diagram import build_flow
from pipeline.reporting.evaluation.notes import describe_baselines, describe_provenance, list_warnings, tabulate_splits
from pipeline.reporting.evaluation.page import summarise_certificate, write_report
from pipeline.reporting.evaluation.shortcut_section import build_probe_sections, list_probe_warnings
from pipeline.reporting.formatting import show_percent
from pipeline.stages.base import alone_in
from pipeline.tracking.mlflow_run import open_run
from pipeline.tracking.records import RunFacts, describe_split, flatten_metrics, list_own_files, name_files
from pipeline.training.augmentation import shows_laterality
from pipeline.training.checkpoint import build_from_checkpoint, read_checkpoint
from pipeline.training.devices import choose_accelerator
from pipeline.training.run_state import check_trained_on


@alone_in(lambda experiment: experiment.paths.report_folder)
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
    rows = {split: np.flatnonzero(split_of == split) for split in ("train", "val", "test")}

    device = torch.device(choose_accelerator(experiment.train.accelerator))
    classifier = build_from_checkpoint(checkpoint, device)
    kind, options, plane = store.kind, experiment.evaluate, checkpoint.preprocess.plane
    is_mirrored = shows_laterality(kind, store.class_names, plane)
    predictions, mirror = _predict_splits(classifier, device, store, rows, options.batch_size, is_mirrored)
    test = predictions[predictions["split"] == "test"].reset_index(drop=True)
    manifest = read_table(paths.manifest, MANIFEST_COLUMNS)
    bootstrap = Bootstrap(options.num_resamples, options.seed)
    metrics: dict[str, Any] = {
        "split": "test",
        "synthetic_note": DATASETS[experiment.data.dataset].synthetic_note,
        "class_names": list(store.class_names),
        "levels": compute_levels(test, store.class_names, bootstrap, kind),
        "baselines": _score_baselines(experiment, store, rows, console),
        "probes": compute_probes(
            store,
            rows,
            test,
            visits=manifest[manifest["status"] == "accepted"].set_index("source_id")["visit"],
            max_fitted=options.logistic_regression_examples,
            bootstrap=bootstrap,
        ),
    }
    if mirror is not None:
        mirrored = Mirrored(mirror.straight, mirror.mirrored, classifier.mirror_average)
        metrics["probes"]["mirror"] = check_mirrored(mirrored, test, store.class_names, bootstrap)
    metrics["decision"] = compute_decision(predictions, metrics["levels"], store.class_names, kind, bootstrap)
    baseline_notes = describe_baselines(options.logistic_regression_examples, metrics, len(rows["train"]), kind)
    warnings = list_warnings(metrics, certificate, store.missing, kind)
    figures = draw_figures(store, test, metrics)
    figures |= draw_attention(classifier, store, roles, experiment.attention.num_examples, checkpoint.epoch)
    history = None if options.checkpoint is not None else pd.read_csv(paths.history)
    figures["training_curves"] = draw_curves(checkpoint, history)
    sections = build_probe_sections(metrics["probes"], metrics, kind, plane)
    sections += [build_decision_section(metrics, test, store.class_names, kind)]
    section_pictures = {figure.name: figure.png for section in sections for figure in section.figures}

    check_store(paths.prepared, store.fingerprint)  # all that was read of it since it was opened was as written
    write_table(paths.predictions, predictions, prediction_columns(store.class_names))
    write_json(paths.metrics, metrics)
    drawn = {paths.report_folder / f"{name}.png": picture for name, picture in (figures | section_pictures).items()}
    for path, picture in drawn.items():
        write_bytes(path, picture)
    for leftover in set(paths.report_folder.glob("*.png")) - drawn.keys():
        leftover.unlink()  # an earlier evaluation had mistakes, or epochs, that this one has not
    flow = build_flow(manifest, store.index, split_of, kind, store.missing)
    data = DataEvidence(manifest, flow, certificate, store.missing)
    documents = fill_documents(
        Evidence(experiment, checkpoint, count_parameters(classifier.model), data, metrics),
        has_attention=any(name.startswith("attention") for name in figures),
        section_titles=[section.title for section in sections],
    )
    write_documents(paths.report_folder, documents)
    dataset = DATASETS[experiment.data.dataset]
    write_report(
        paths.report_folder / "report.html",
        title=paths.title,
        synthetic_note=dataset.synthetic_note or None,
        metrics=metrics,
        class_names=store.class_names,
        figures=figures,
        split_counts=tabulate_splits(store, split_of),
        certificate=summarise_certificate(certificate),
        provenance=describe_provenance(checkpoint),
        config_text=dump_experiment(experiment),
        warnings=warnings,
        kind=kind,
        baseline_notes=baseline_notes,
        sections=sections,
        flow=flow,
        documents=documents,
    )
    with open_run(experiment.tracking, paths) as tracked:
        tracked.keep(
            RunFacts(
                datasets=(describe_split(experiment, store, roles, "test"),),
                metrics=flatten_metrics(metrics, kind),
                files=name_files(paths, list_own_files(paths.report_folder), "evaluation"),
            )
        )
    _print_summary(metrics, kind, console)
    for note in baseline_notes:
        console.print(f"  {note}", highlight=False)
    for warning in (store.missing, *list_probe_warnings(metrics["probes"], metrics, kind)):
        if warning:
            warn(console, warning)
    console.print(f"-> {paths.report_folder / 'report.html'}")


def _predict_splits(
    classifier: Classifier,
    device: torch.device,
    store: Store,
    rows: dict[str, np.ndarray[Any, Any]],
    batch_size: int,
    is_mirrored: bool,
) -> tuple[pd.DataFrame, MirrorScores | None]:
    """Score the validation and the test rows, and where it is wanted the mirror images of the test rows."""
    tables, mirror = [], None
    positions = store.index["slice_position"].to_numpy()
    for split in ("val", "test"):
        if is_mirrored and split == "test":
            mirror = score_with_mirrored(classifier, store.examples, positions, device, batch_size, rows[split])
            scores = mirror.answers
        else:
            scores = compute_probabilities(classifier, store.examples, positions, device, batch_size, rows[split])
        index = store.index.iloc[rows[split]]
        tables.append(build_predictions(index, scores.astype(np.float64), store.class_names, split))
    return pd.concat(tables, ignore_index=True), mirror


def _score_baselines(
    experiment: Experiment, store: Store, rows: dict[str, np.ndarray[Any, Any]], console: Console
) -> dict[str, Any]:
    """Score what knows no image, and what knows pixels but no shape, on the same test rows."""
    options = experiment.evaluate
    labels = store.index["label"].to_numpy(dtype=str)
    test_index = store.index.iloc[rows["test"]]
    probabilities = {"majority": majority(labels[rows["train"]], len(test_index), store.class_names)}
    if options.logistic_regression and store.kind.is_image:
        with console.status("fitting the logistic regression"):
            probabilities["logistic_regression"] = logistic_regression(
                store, rows, options.seed, options.logistic_regression_examples
            )
    bootstrap = Bootstrap(options.num_resamples, options.seed)
    return {
        name: score_baseline(test_index, scores, store.class_names, bootstrap, store.kind)
        for name, scores in probabilities.items()
    }


def _print_summary(metrics: dict[str, Any], kind: DataKind, console: Console) -> None:
    for level, content in metrics["levels"].items():
        accuracy = show_percent(content["metrics"]["accuracy"])
        groups = f" of {content['groups']} {plural(kind.group)}" if kind.has_patients else ""
        console.print(f"  {level:8s} {content['n']:6d}{groups}: accuracy {accuracy}", highlight=False)
    for name, content in metrics["baselines"].items():
        console.print(f"  {name.replace('_', ' ')}: accuracy {show_percent(content['accuracy'])}", highlight=False)
