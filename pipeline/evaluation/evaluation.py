"""An evaluation: from the probabilities of a trained model to the predictions table and the content of metrics.json."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas

from pipeline.config.outputs import EvaluateConfig
from pipeline.core.array_types import Floats
from pipeline.core.tables import MANIFEST_COLUMNS
from pipeline.data.certified_data import Answers, CertifiedData
from pipeline.evaluation.baselines import logistic_regression, majority, score_baseline
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.class_scores import compute_class_table
from pipeline.evaluation.decisions.decision_support import compute_decision
from pipeline.evaluation.metrics import compute_levels
from pipeline.evaluation.ordinal.baseline import ordinal_logistic
from pipeline.evaluation.ordinal.grade_scores import compute_grades
from pipeline.evaluation.predictions import aggregate, build_predictions
from pipeline.evaluation.schema import Metrics, Probes
from pipeline.evaluation.validity.limitations import Evaluated, list_not_evaluated
from pipeline.evaluation.validity.shortcut_probes import check_mirrored, compute_probes
from pipeline.evaluation.validity.subgroups import compute_subgroups, read_facts
from pipeline.evaluation.validity.within_class_probe import probe_within_classes

# The parts of an evaluation that are announced.
NUM_PARTS = 7


@dataclass(frozen=True)
class Evaluation:
    """The predictions of an evaluation, and their scores.

    Args:
        predictions: The predictions of the validation and the test rows.
        metrics: The content of metrics.json, of the test rows.
        external: The predictions of the external rows, where this evaluation scored them.
    """

    predictions: pandas.DataFrame
    metrics: Metrics
    external: pandas.DataFrame | None = None

    @property
    def test(self) -> pandas.DataFrame:
        """The predictions of the test rows."""
        return select_test(self.predictions)


def list_covariates(manifest: pandas.DataFrame) -> list[str]:
    """Return the columns of a manifest that are of this data set: the covariates, and the site where one is known."""
    site = ["site"] if (manifest["site"] != "").any() else []
    return [*site, *(name for name in manifest.columns if name not in MANIFEST_COLUMNS)]


def select_test(predictions: pandas.DataFrame) -> pandas.DataFrame:
    """Return the test rows of a predictions table."""
    return predictions[predictions["split"] == "test"].reset_index(drop=True)


def compute_evaluation(
    data: CertifiedData,
    answers: Answers,
    scans: pandas.DataFrame,
    options: EvaluateConfig,
    synthetic_note: str,
    announce: Callable[[str, float], None] | None = None,
) -> Evaluation:
    """Compute everything that metrics.json holds.

    Args:
        data: The examples and their splits.
        answers: The model's answers to the validation and the test rows.
        scans: The rows of the manifest by their ``source_id``; read for data of patients alone.
        options: The options of the evaluation.
        synthetic_note: The note for readers on data that are not of people; else empty.
        announce: Is called with the name of each part, and with how many were completed before it since the last call.
    """
    announce = announce or _say_nothing
    store, bootstrap = data.store, Bootstrap(options.num_bootstrap_resamples, options.seed)
    parts = [
        build_predictions(store.index.iloc[data.rows[split]], scores.astype(np.float64), store.class_names, split)
        for split, scores in answers.probabilities.items()
    ]
    predictions = pandas.concat(parts, ignore_index=True)
    if store.kind.has_patients:
        for name in ("side", *list_covariates(scans)):
            predictions[name] = predictions["source_id"].map(scans[name]).fillna("")
    test = select_test(predictions)
    announce("scores and their intervals, by a bootstrap", 0)
    levels = compute_levels(test, store.class_names, bootstrap, store.kind)
    announce("probes of shortcuts", 1)
    probes: Probes = compute_probes(
        store, data.rows, test, scans["visit"], options.logistic_regression_examples, bootstrap
    )
    if answers.mirrored is not None:
        probes["mirror"] = check_mirrored(answers.mirrored, test, store.class_names)
    announce("the probe within the classes", 1)
    if store.kind.has_patients:
        probes["within_class"] = probe_within_classes(test, answers.features, scans, store.class_names, bootstrap)
    announce("baselines", 1)
    baselines, test_index = predict_baselines(data, options), store.index.iloc[data.rows["test"]]
    announce("decisions", 1)
    decision = compute_decision(predictions, levels, store.class_names, options)
    announce("scores of the classes, by a bootstrap", 1)
    classes = {level: compute_class_table(aggregate(test, level), store.class_names, bootstrap) for level in levels}
    trained = frozenset(group for group, split in data.roles.items() if split == "train")
    metrics: Metrics = {
        "split": "test",
        "synthetic_note": synthetic_note,
        "class_names": list(store.class_names),
        "levels": levels,
        "classes": classes,
        "baselines": {
            name: score_baseline(test_index, scores, store.class_names, bootstrap) for name, scores in baselines.items()
        },
        "probes": probes,
        "decision": decision,
        "not_evaluated": list_not_evaluated(Evaluated(store.kind, test, scans, trained, levels, classes, decision)),
    }
    announce("grades and subgroups, by a bootstrap", 1)
    if store.is_ordinal:
        tables = {name: build_predictions(test_index, scores, store.class_names) for name, scores in baselines.items()}
        metrics["grades"] = compute_grades(predictions, list(levels), tables, store.class_names, bootstrap)
    if options.subgroups:
        facts = read_facts(scans, options.subgroups)
        metrics["subgroups"] = compute_subgroups(test, facts, store.class_names, store.is_ordinal, bootstrap)
    return Evaluation(predictions, metrics)


def _say_nothing(_part: str, _completed: float) -> None:
    pass


def predict_baselines(data: CertifiedData, options: EvaluateConfig) -> dict[str, Floats]:
    """Predict the same test rows by the most frequent class, and by linear models of the pixels."""
    store, rows = data.store, data.rows
    labels = store.index["label"].to_numpy(dtype=str)
    probabilities = {"majority": majority(labels[rows["train"]], len(rows["test"]), store.class_names)}
    if options.logistic_regression and store.kind.is_image:
        probabilities["logistic_regression"] = logistic_regression(
            store, rows, options.seed, options.logistic_regression_examples
        )
        if store.is_ordinal:
            probabilities["ordinal_logistic"] = ordinal_logistic(
                store, rows, options.seed, options.logistic_regression_examples
            )
    return probabilities
