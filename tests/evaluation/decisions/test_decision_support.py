import numpy as np
import pandas as pd
import pytest

from pipeline.config.outputs import EvaluateConfig
from pipeline.core.data_kinds import IMAGES, VOLUMES
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.decisions.decision_support import compute_decision
from pipeline.evaluation.decisions.temperature_scaling import (
    fit_on_predictions,
    scale_predictions,
    scale_probabilities,
)
from pipeline.evaluation.metrics import compute_levels
from pipeline.evaluation.predictions import aggregate, read_probabilities
from pipeline.reporting.evaluation.decision_section import build_decision_section
from tests.builders.predictions import CLASSES, build_table

BOOTSTRAP = Bootstrap(num_resamples=100, seed=0)
OPTIONS = EvaluateConfig(num_bootstrap_resamples=100)
NAMES = CLASSES[2]


def build_predictions(num_patients=20, slices=10, sharpening=3.0, seed=0) -> pd.DataFrame:
    """Validation and test patients of an overconfident model, both knees each."""
    generator = np.random.default_rng(seed)
    parts = []
    for split in ("val", "test"):
        num_rows = 2 * num_patients * slices
        sides = np.tile(np.repeat([0, 1], slices), num_patients)
        groups = np.repeat(np.arange(num_patients), 2 * slices)
        scores = 1.2 * generator.normal(size=num_rows) + 1.2 * (2 * sides - 1)
        honest = np.stack([1 / (1 + np.exp(2 * scores)), 1 / (1 + np.exp(-2 * scores))], axis=1)
        ids = [f"{split}{group}" for group in groups]
        sources = [f"{group}_{side}" for group, side in zip(ids, sides, strict=True)]
        table = build_table(scale_probabilities(honest, 1 / sharpening), np.array(NAMES)[sides], NAMES, ids, sources)
        parts.append(table.assign(split=split))
    return pd.concat(parts, ignore_index=True)


def decide(predictions, kind=VOLUMES):
    test = predictions[predictions["split"] == "test"].reset_index(drop=True)
    metrics = {"levels": compute_levels(test, NAMES, BOOTSTRAP, kind)}
    metrics["decision"] = compute_decision(predictions, metrics["levels"], NAMES, OPTIONS)
    return metrics, test


def read_temperatures(metrics):
    return {level: found["temperature"] for level, found in metrics["decision"]["calibration"].items()}


def test_an_overconfident_model_is_better_calibrated_after_scaling():
    metrics, _ = decide(build_predictions())
    scores = metrics["decision"]["calibration"]["slice"]
    assert 2 < scores["temperature"] < 6
    for name in ("nll", "ece"):
        assert scores["after"]["scores"][name]["value"] < scores["before"]["scores"][name]["value"], name
        assert scores["before"]["scores"][name] == metrics["levels"]["slice"]["metrics"][name]


def test_the_temperature_does_not_depend_on_test_labels():
    predictions = build_predictions()
    first = read_temperatures(decide(predictions)[0])
    is_test = predictions["split"] == "test"
    predictions.loc[is_test, "label"] = predictions.loc[is_test, "label"].map({"left": "right", "right": "left"})
    assert read_temperatures(decide(predictions)[0]) == first


def test_each_level_is_scaled_by_a_temperature_fitted_at_that_level():
    predictions = build_predictions().assign(side=lambda table: table["label"])
    metrics, test = decide(predictions)
    found = metrics["decision"]["calibration"]
    assert set(found) == {"slice", "volume", "knee"}, "a patient has two labels"
    counts = {level: scores["fitted_on"] for level, scores in found.items()}
    assert counts["slice"] == {"num_rows": 400, "num_groups": 20}
    assert counts["volume"] == counts["knee"] == {"num_rows": 40, "num_groups": 20}
    val = predictions[predictions["split"] == "val"]
    for level in ("slice", "volume"):
        temperature = fit_on_predictions(aggregate(val, level), NAMES).value
        assert found[level]["temperature"] == temperature
        table = scale_predictions(aggregate(test, level), NAMES, temperature)
        probabilities = read_probabilities(table, NAMES)
        right = probabilities[np.arange(len(table)), (table["label"] == "right").astype(int)]
        assert found[level]["after"]["scores"]["nll"]["value"] == pytest.approx(-np.log(right).mean())
    assert found["volume"]["temperature"] < found["slice"]["temperature"] - 0.5, "means of slices are less extreme"


def test_a_level_that_validation_does_not_have_is_absent():
    predictions = build_predictions()
    is_kept = (predictions["split"] == "val") | (predictions["label"] == "left")
    metrics, _ = decide(predictions[is_kept].reset_index(drop=True))
    assert "patient" in metrics["levels"]
    assert set(metrics["decision"]["calibration"]) == {"slice", "volume"}


def test_single_rows_have_one_level_and_patients_none():
    predictions = build_predictions(slices=1)
    single = decide(predictions.assign(group_id=predictions["source_id"]), IMAGES)[0]["decision"]
    assert set(single["coverage"]) == set(single["calibration"]) == {"image"}
    one_label = predictions[predictions["label"] == "left"].reset_index(drop=True)
    assert set(decide(one_label)[0]["decision"]["coverage"]) == {"slice", "volume", "patient"}


def test_the_predictions_are_left_as_they_are():
    predictions = build_predictions()
    kept = predictions.copy()
    decide(predictions)
    assert predictions.equals(kept)


def test_the_section_shows_both_levels_and_explains_the_temperature():
    metrics, _ = decide(build_predictions())
    section = build_decision_section(metrics, NAMES, VOLUMES)
    assert len(section.tables) == 7, "one table an idea, not one a level"
    assert "overconfident" in " ".join(section.sentences)
    assert section.tables[0].rows[1][2:] == ("40", "20")
    assert "and 40 validation volumes of 20 patients" in section.tables[5].note
    assert [row[0] for row in section.tables[3].rows][:2] == [
        "Slices: sensitivity of at least 95\u00a0%",
        "Slices: specificity of at least 95\u00a0%",
    ]
    rows = section.tables[4].rows
    for table in section.tables[4:6]:
        assert [row[0] for row in table.rows] == ["Slices"] * 5 + ["Volumes"] * 5
        assert [row[1] for row in table.rows] == [f"{goal}\u00a0%" for goal in (100, 95, 90, 80, 50)] * 2
    accuracy = metrics["levels"]["slice"]["metrics"]["accuracy"]["value"]
    assert rows[0][2].startswith(f"{100 * accuracy:.1f}\u00a0% (")
    texts = {figure.name: figure.text for figure in section.figures}
    assert f"Slices: {100 * accuracy:.1f}\u00a0% at 100\u00a0%" in texts["coverage"]
    after = metrics["decision"]["calibration"]["slice"]["after"]["debiased_error"]["value"]
    assert f"{after:.3f} after." in texts["calibration_scaled"]


def test_the_section_warns_of_a_temperature_at_its_bound_and_of_zeros():
    predictions = build_predictions()
    is_right = (predictions["label"] == "right").to_numpy()
    predictions["probability_right"] = np.where(is_right, 0.9, 0.1)
    predictions["probability_left"] = 1 - predictions["probability_right"]
    predictions["predicted"] = predictions["label"]
    predictions.loc[3, ["probability_left", "probability_right"]] = [1.0, 0.0]
    metrics, _ = decide(predictions)
    assert metrics["decision"]["calibration"]["volume"]["temperature_is_at_bound"]
    assert metrics["decision"]["num_zero_probabilities"] == 1
    text = " ".join(build_decision_section(metrics, NAMES, VOLUMES).sentences)
    assert "were right far more often than their probabilities say" in text
    assert "(allowed are 0.1 to 10)" in text
    assert "1 slice had a probability of exactly 0" in text
