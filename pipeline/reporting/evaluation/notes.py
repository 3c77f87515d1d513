"""Counts, notes, warnings and origins that an evaluation reports with its scores."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline.core.data_kinds import DataKind
from pipeline.core.provenance import read_commit, read_hardware, read_versions
from pipeline.core.text import count_words, plural
from pipeline.data.certified_data import CertifiedData
from pipeline.data.leak_certificate import describe_findings
from pipeline.data.store import Store
from pipeline.evaluation.schema import Estimate, Metrics, first_level
from pipeline.reporting.evaluation.scores import describe_few_groups, distinct_levels
from pipeline.reporting.evaluation.shortcut_section import list_probe_warnings
from pipeline.reporting.formatting import show_number_with_interval, show_percent
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.devices.arithmetic import name_accelerator
from pipeline.training.seen_patients import START_PATIENTS, TEACHER_PATIENTS, UNKNOWN


def describe_baselines(num_fitted: int, metrics: Metrics, num_train: int, kind: DataKind) -> list[str]:
    """Note that a baseline was fitted on a part of the training rows; nothing where it was fitted on all.

    Args:
        num_fitted: The largest number of rows that it is fitted on.
        metrics: The content of metrics.json.
        num_train: The number of training rows.
        kind: The kind of data, which names rows and groups.
    """
    if "logistic_regression" not in metrics["baselines"] or num_fitted >= num_train:
        return []
    return [
        f"The logistic regression was fitted on {num_fitted:,} of {num_train:,} training {plural(kind.example)}, "
        "drawn at random."
    ]


def tabulate_splits(store: Store, split_of: np.ndarray[Any, Any]) -> pd.DataFrame:
    """Count patients, scans and slices, or what the data are made of instead, in each split."""
    kind = store.kind
    rows = []
    for split in ("train", "val", "test"):
        index = store.index[split_of == split]
        if not kind.has_patients:
            rows.append({"split": split, plural(kind.example): len(index), "classes": index["label"].nunique()})
            continue
        counts, sources = index.groupby("label")["source_id"].nunique(), plural(kind.source)
        row = {"split": split, "patients": index["group_id"].nunique(), sources: index["source_id"].nunique()}
        row |= {f"{sources}: {name}": int(counts.get(name, 0)) for name in store.class_names}
        rows.append(row | ({plural(kind.example): len(index)} if kind.has_slices else {}))
    return pd.DataFrame(rows)


def describe_provenance(checkpoint: Checkpoint, device: torch.device) -> dict[str, Any]:
    """List the versions, fingerprints and hardware that the numbers come from.

    Args:
        checkpoint: The weights that were evaluated.
        device: The device that the evaluation ran on.
    """
    tracked = {"run in MLflow": checkpoint.tracking_run} if checkpoint.tracking_run else {}
    return {
        "commit of the training": checkpoint.commit or "unknown",
        "commit of the evaluation": read_commit(),
        "hardware of the evaluation": read_hardware(name_accelerator(device)),
        "fingerprint of the store": checkpoint.store_fingerprint,
        "fingerprint of the splits": checkpoint.split_fingerprint,
        "epoch of the weights": checkpoint.epoch,
        **tracked,
        **{f"version of {name}": version for name, version in read_versions().items()},
    }


def describe_making(checkpoint: Checkpoint, num_parameters: int, device: torch.device) -> list[str]:
    """Describe how the model and its report were made, in sentences: when, on what, how long, by which recipe.

    Args:
        checkpoint: The weights that were evaluated.
        num_parameters: The number of weights.
        device: The device that the evaluation ran on.
    """
    settings = checkpoint.settings
    epochs = len(checkpoint.history)
    minutes = sum(result.seconds for result in checkpoint.history) / 60
    took = f"{minutes:.0f} minutes" if minutes >= 1.5 else count_words(round(60 * minutes), "second")
    names = {"batch_size": "batches of", "optimizer": "optimizer", "learning_rate": "learning rate", "seed": "seed"}
    recipe = ", ".join(
        f"{words} {settings[f'train.{key}']}" for key, words in names.items() if f"train.{key}" in settings
    )
    return [
        f"Evaluated on {datetime.now(UTC):%Y-%m-%d} on {read_hardware(name_accelerator(device))}.",
        f"The {checkpoint.model.architecture} has {num_parameters:,} parameters; its weights are those of epoch "
        f"{checkpoint.epoch}, and training up to it took {took}"
        + (f" ({count_words(epochs, 'epoch')}; {recipe})." if recipe else f" ({count_words(epochs, 'epoch')})."),
        f"Commit {checkpoint.commit or 'unknown'}. All options are at the end of the page.",
    ]


def list_warnings(metrics: Metrics, data: CertifiedData) -> list[str]:
    """List warnings for a reader of the numbers.

    Args:
        metrics: The content of metrics.json.
        data: The examples with their splits and certificate.
    """
    warnings, kind = data.warnings, data.store.kind
    _, level = first_level(metrics["levels"])
    warnings += describe_few_groups(level, kind)
    baseline = metrics["baselines"].get("logistic_regression")
    if baseline is not None:
        warnings += compare_with_baseline(level["metrics"]["accuracy"], baseline["accuracy"]["value"])
    warnings += list_probe_warnings(metrics["probes"], metrics, kind)
    return warnings + [
        f"{finding} They are listed with the certificate." for finding in describe_findings(data.certificate)
    ]


def describe_unknown_patients(settings: Mapping[str, Any], member: str = "") -> list[str]:
    """Warn where a model learned from a checkpoint whose training patients are not known.

    Args:
        settings: The settings of the training, as the checkpoint has them.
        member: The name of the model in an ensemble; empty for a single model.
    """
    model = f"Member {member} of the ensemble" if member else "The model"
    return [
        f"{model} {words} whose training patients are not known: it may have seen those who are tested here, and the "
        "scores would then be too good."
        for name, words in (
            (TEACHER_PATIENTS, "learned from a teacher"),
            (START_PATIENTS, "started from the weights of another one"),
        )
        if settings.get(name) == UNKNOWN
    ]


def compare_with_baseline(accuracy: Estimate, reached: float | None) -> list[str]:
    """Warn where the model is not shown to be better than the logistic regression.

    Args:
        accuracy: The model's accuracy.
        reached: The logistic regression's.
    """
    low, high = accuracy["low"], accuracy["high"]
    if reached is None or low is None or high is None or reached < low:
        return []
    if reached > high:
        return ["The logistic regression is right more often than the whole interval of the model's accuracy."]
    return ["The interval of the model's accuracy includes the logistic regression's: no gain is shown."]


def list_console_warnings(metrics: Metrics, data: CertifiedData) -> list[str]:
    """List the warnings that are printed after the scores: those of the data, and alarming probes."""
    return data.warnings + list_probe_warnings(metrics["probes"], metrics, data.store.kind)


def summarise_scores(metrics: Metrics, kind: DataKind) -> list[str]:
    """Write the accuracy of each level and of each baseline, a line each, and of grades how far they are off."""
    lines = []
    for name, level in distinct_levels(metrics["levels"]).items():
        errors = f"{level['groups_with_errors']} with errors"
        groups = f" of {level['groups']} {plural(kind.group)}, {errors}" if kind.has_patients else ""
        lines.append(f"{name:8s} {level['n']:6d}{groups}: accuracy {show_percent(level['metrics']['accuracy'])}")
    if "grades" in metrics:
        name, grades = first_level(metrics["grades"]["levels"])
        kappa, error = grades["scores"]["quadratic_kappa"], grades["scores"]["mae"]
        lines.append(
            f"{name:8s} as grades: quadratic weighted kappa {show_number_with_interval(kappa)}, mean absolute error "
            f"{show_number_with_interval(error)}"
        )
    if "external" in metrics:
        external = metrics["external"]
        lines.append(f"external validation on {external['table']}, nothing refitted:")
        for name, level in distinct_levels(external["levels"]).items():
            errors = f"{level['groups_with_errors']} with errors"
            groups = f" of {level['groups']} {plural(kind.group)}, {errors}"
            lines.append(f"{name:8s} {level['n']:6d}{groups}: accuracy {show_percent(level['metrics']['accuracy'])}")
    for name, scores in metrics["baselines"].items():
        lines.append(f"{name.replace('_', ' ')}: accuracy {show_percent(scores['accuracy'])}")
    return lines
