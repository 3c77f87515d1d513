"""External validation: the scores of a finished run on data of another site, with nothing refitted.

Weights, classes and preprocessing come from the checkpoint; temperature, thresholds, cut points and operating points
from the validation rows of the run, as for its test rows.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas

from pipeline.config.outputs import EvaluateConfig
from pipeline.core.array_types import Floats
from pipeline.core.data_kinds import DATA_KINDS
from pipeline.core.provenance import compute_fingerprint
from pipeline.core.text import plural
from pipeline.data.certified_data import CertifiedData
from pipeline.data.external_data import ExternalData
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.class_scores import compute_class_table
from pipeline.evaluation.decisions.decision_support import compute_decision
from pipeline.evaluation.evaluation import Evaluation, list_covariates
from pipeline.evaluation.metrics import compute_levels
from pipeline.evaluation.ordinal.grade_scores import compute_grades
from pipeline.evaluation.predictions import aggregate, build_predictions
from pipeline.evaluation.schema import External, Metrics, NotEvaluated, Participants
from pipeline.evaluation.validity.grey_levels import compute_drift, measure_scans
from pipeline.evaluation.validity.limitations import Evaluated, list_not_evaluated, name_other_source
from pipeline.evaluation.validity.subgroups import Fact, compute_subgroups, read_facts

FORMAT = 1
# Options that change no number of an external validation.
WITHOUT_EFFECT = ("batch_size", "external", "checkpoint", "logistic_regression", "logistic_regression_examples")


def fingerprint_validation(checkpoint: Path, options: EvaluateConfig) -> str:
    """Return what changes where an external validation has to be made again: weights, and options of its numbers.

    Args:
        checkpoint: The file of the weights.
        options: The options of the evaluation.
    """
    shaping = {name: value for name, value in dataclasses.asdict(options).items() if name not in WITHOUT_EFFECT}
    return compute_fingerprint(FORMAT, hash_file(checkpoint), shaping)


def hash_file(path: Path) -> str:
    """Return the checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_external_facts(external: ExternalData, options: EvaluateConfig) -> tuple[list[Fact], list[NotEvaluated]]:
    """Read the facts of the subgroups that the other site has; of the others say that it lacks them.

    Args:
        external: The data of the other site.
        options: The options of the evaluation, of which ``subgroups`` is read.

    Raises:
        UserError: a fact's values are not as the option says.
    """
    scans, wanted, missing = external.scans, [], []
    for text in options.subgroups:
        name = text.partition(":")[0]
        if name in scans.columns and (scans[name].fillna("").astype(str).str.strip() != "").any():
            wanted.append(text)
        else:
            missing.append(NotEvaluated(question=f"Subgroups by {name}", reason=f"the table has no {name}"))
    return read_facts(scans, wanted), missing


def tabulate_predictions(external: ExternalData, probabilities: Floats) -> pandas.DataFrame:
    """Join the probabilities of the external examples to their ids, sides and covariates."""
    store, scans = external.store, external.scans
    predictions = build_predictions(store.index, probabilities.astype(np.float64), store.class_names, "external")
    for name in ("side", *list_covariates(scans)):
        predictions[name] = predictions["source_id"].map(scans[name]).fillna("")
    return predictions


def compute_external(
    data: CertifiedData,
    external: ExternalData,
    predictions: pandas.DataFrame,
    options: EvaluateConfig,
    made_from: str,
    not_compared: list[NotEvaluated],
) -> External:
    """Compute what metrics.json holds of an external validation.

    Args:
        data: The examples and splits of the run.
        external: The data of the other site.
        predictions: The predictions of the run's validation rows and of the external ones.
        options: The options of the evaluation.
        made_from: What :func:`fingerprint_validation` returns.
        not_compared: Whom the model learned from and who could not be looked for in the table.
    """
    store, bootstrap = external.store, Bootstrap(options.num_bootstrap_resamples, options.seed)
    kind, names = store.kind, store.class_names
    rows = predictions[predictions["split"] == "external"].reset_index(drop=True)
    # Whatever is applied to test rows is applied to the external ones in their place.
    applied = pandas.concat([predictions[predictions["split"] == "val"], rows.assign(split="test")], ignore_index=True)
    levels = compute_levels(rows, names, bootstrap, kind)
    decision = compute_decision(applied, levels, names, options)
    classes = {level: compute_class_table(aggregate(rows, level), names, bootstrap) for level in levels}
    facts, missing = read_external_facts(external, options)
    evaluated = Evaluated(kind, rows, external.scans, frozenset(), levels, classes, decision, "external")
    training = measure_scans(data.store, data.rows["train"])
    content: External = {
        "table": external.table.name,
        "sha256": hash_file(external.table.given.path),
        "made_from": made_from,
        "participants": {
            **{split: _count(data.store.index.iloc[data.rows[split]], names) for split in ("train", "test")},
            "external": _count(store.index, names),
        },
        "left_out": dict(_count_left_out(external)),
        "search": external.search,
        "levels": levels,
        "classes": classes,
        "decision": decision,
        "drift": compute_drift(
            training,
            measure_scans(data.store, data.rows["test"]),
            measure_scans(store, np.arange(len(store.index)), training.build_reference()),
        ),
        "missing": [*not_compared, *list_not_evaluated(evaluated), *missing],
    }
    if store.is_ordinal:
        content["grades"] = compute_grades(applied, list(levels), {}, names, bootstrap)
    if facts:
        content["subgroups"] = compute_subgroups(rows, facts, names, store.is_ordinal, bootstrap)
    return content


def add_external(evaluation: Evaluation, external: External, rows: pandas.DataFrame | None = None) -> Evaluation:
    """Return an evaluation with an external validation, made now or earlier.

    Args:
        evaluation: The evaluation of the test rows.
        external: The content for metrics.json.
        rows: The predictions of the external rows, where they were scored now.
    """
    answered = {name_other_source(kind) for kind in DATA_KINDS.values()}
    still_open = [item for item in evaluation.metrics["not_evaluated"] if item["question"] not in answered]
    metrics: Metrics = {**evaluation.metrics, "external": external, "not_evaluated": still_open}
    return dataclasses.replace(evaluation, metrics=metrics, external=rows)


def _count(index: pandas.DataFrame, class_names: tuple[str, ...]) -> Participants:
    by_label = index.groupby("label")["source_id"].nunique()
    return {
        "groups": int(index["group_id"].nunique()),
        "sources": int(index["source_id"].nunique()),
        "examples": len(index),
        "by_label": {name: int(by_label.get(name, 0)) for name in class_names},
    }


def _count_left_out(external: ExternalData) -> Iterator[tuple[str, int]]:
    """Yield the reasons for which rows of the table were not scored, with their numbers."""
    merged = external.table.num_rows - len(external.table.given.table)
    if merged:
        yield "label left out by data.merge", merged
    refused = external.manifest[external.manifest["status"] != "accepted"]
    if len(refused):
        yield f"{plural(external.store.kind.file)} that could not be read", len(refused)
