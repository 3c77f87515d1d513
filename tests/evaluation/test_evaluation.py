"""The content of metrics.json follows the kind of the labels: grades have scores of their own, other classes none."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.config.outputs import EvaluateConfig
from pipeline.config.sources import DataConfig
from pipeline.core.data_kinds import PATIENT_IMAGES
from pipeline.data.certified_data import Answers, CertifiedData, order_classes
from pipeline.evaluation.evaluation import compute_evaluation
from pipeline.tracking.records import flatten_metrics
from tests.builders.stores import ROWS, build_store

GRADES = ("2", "9", "10")
NUM_ROWS = 400


def evaluate(label_type):
    """Images whose brightness is the grade, and a model that answers one grade too low in a third of the rows."""
    generator = np.random.default_rng(0)
    grades = generator.integers(0, 3, NUM_ROWS)
    images = generator.integers(0, 60, (NUM_ROWS, 8, 8)) + 40 * grades[:, None, None]
    store = build_store(images.astype(np.uint8), np.array(GRADES)[grades], np.zeros(NUM_ROWS, dtype=int))
    store = dataclasses.replace(store, kind=PATIENT_IMAGES, class_names=tuple(sorted(GRADES)))
    store = order_classes(store, DataConfig(label_type=label_type))
    split_of = np.repeat(["train", "val", "test"], [len(ROWS[split]) for split in ("train", "val", "test")])
    data = CertifiedData(store, dict(zip(store.index["group_id"], split_of, strict=True)), {}, Path())
    answered = np.array(GRADES)[np.maximum(grades - (generator.random(NUM_ROWS) < 1 / 3), 0)]
    probabilities = np.where(answered[:, None] == np.array(store.class_names), 0.8, 0.1)
    answers = Answers(
        {split: probabilities[ROWS[split]] for split in ("val", "test")}, np.zeros((len(ROWS["test"]), 2)), None
    )
    facts = {"side": "", "visit": "", "site": "", "sex": np.where(np.arange(NUM_ROWS) % 2 == 0, "F", "M")}
    scans = pd.DataFrame({"group_id": store.index["group_id"], **facts}).set_index(store.index["source_id"])
    options = EvaluateConfig(num_bootstrap_resamples=100, logistic_regression_examples=200, subgroups=("sex",))
    return compute_evaluation(data, answers, scans, options, "").metrics


@pytest.fixture(scope="module")
def ordinal():
    return evaluate("ordinal")


def test_grades_are_scored_in_their_order_with_an_ordinal_baseline(ordinal):
    assert ordinal["class_names"] == list(GRADES)
    confusion = np.array(ordinal["levels"]["image"]["confusion"])
    distance = np.abs(np.subtract.outer(range(3), range(3)))
    scores = ordinal["grades"]["levels"]["image"]["scores"]
    assert scores["mae"]["value"] == pytest.approx((confusion * distance).sum() / confusion.sum())
    assert scores["within_one"]["value"] == 1
    assert set(ordinal["baselines"]) == set(ordinal["grades"]["baselines"])
    assert ordinal["baselines"]["ordinal_logistic"]["accuracy"]["value"] > 0.9
    (table,) = ordinal["subgroups"]
    assert [(part["value"], part["n"]) for part in table["parts"]] == [("F", 70), ("M", 70)]
    assert np.mean([part["mae"]["value"] for part in table["parts"]]) == pytest.approx(scores["mae"]["value"])


def test_mlflow_gets_the_scores_of_grades(ordinal):
    flat = flatten_metrics(ordinal, PATIENT_IMAGES)
    scores = ordinal["grades"]["levels"]["image"]["scores"]
    assert flat["test_image_quadratic_kappa"] == scores["quadratic_kappa"]["value"]
    assert flat["test_image_mae_low"] == scores["mae"]["low"]


def test_classes_without_an_order_have_no_scores_of_grades():
    nominal = evaluate("nominal")
    assert nominal["class_names"] == ["10", "2", "9"]
    assert "grades" not in nominal
    assert set(nominal["baselines"]) == {"majority", "logistic_regression"}
