"""What an evaluation says beside its scores: counts, notes, warnings, origins, and the flat numbers of MLflow."""

from typing import Any

import numpy as np
import pandas as pd

from pipeline.core.data_kinds import DataKind
from pipeline.core.provenance import read_commit, read_hardware, read_versions
from pipeline.core.text import count_words, plural
from pipeline.data.leak_certificate import describe_findings
from pipeline.data.store import Store
from pipeline.reporting.evaluation.shortcut_section import list_probe_warnings
from pipeline.training.checkpoint import Checkpoint


def describe_baselines(num_fitted: int, metrics: dict[str, Any], num_train: int, kind: DataKind) -> list[str]:
    """Say on how much less than the training rows a baseline was fitted."""
    if "logistic_regression" not in metrics["baselines"] or num_fitted >= num_train:
        return []
    return [
        f"The logistic regression was fitted on {num_fitted:,} of {num_train:,} training {plural(kind.example)}, "
        "drawn at random."
    ]


def tabulate_splits(store: Store, split_of: np.ndarray[Any, Any]) -> pd.DataFrame:
    """Count patients, scans and slices, or whatever there is, in each split."""
    kind = store.kind
    rows = []
    for split in ("train", "val", "test"):
        index = store.index[split_of == split]
        if not kind.has_patients:
            rows.append({"split": split, plural(kind.example): len(index), "classes": index["label"].nunique()})
            continue
        scans = index.groupby("label")["source_id"].nunique()
        row = {"split": split, "patients": index["group_id"].nunique(), "scans": index["source_id"].nunique()}
        rows.append(
            row | {f"scans: {name}": int(scans.get(name, 0)) for name in store.class_names} | {"slices": len(index)}
        )
    return pd.DataFrame(rows)


def describe_provenance(checkpoint: Checkpoint) -> dict[str, Any]:
    """Tell what the numbers were made from."""
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


def list_warnings(metrics: dict[str, Any], certificate: dict[str, Any], missing: str, kind: DataKind) -> list[str]:
    """Say what a reader has to know before believing the numbers."""
    warnings = [missing] if missing else []
    level = next(iter(metrics["levels"].values()))
    num_groups = level["groups"]
    if num_groups < 20:
        warnings.append(
            f"Only {count_words(num_groups, kind.group)} were tested. A bootstrap over so few makes intervals that "
            "are too narrow."
        )
    accuracy = level["metrics"]["accuracy"]
    baseline = metrics["baselines"].get("logistic_regression")
    if baseline is not None and accuracy["low"] is not None and accuracy["low"] <= baseline["accuracy"]["value"]:
        warnings.append("The interval of the model's accuracy holds the logistic regression's: no gain is shown.")
    warnings += list_probe_warnings(metrics["probes"], metrics, kind)
    return warnings + [f"{finding} They are listed with the certificate." for finding in describe_findings(certificate)]
