"""What a user needs to act on an answer: how sure the model must be, and whether it is as sure as it says.

All are numbers of metrics.json, under ``decision``; the probabilities of predictions.csv stay as the model gave them.
"""

from collections.abc import Sequence
from typing import Any

import pandas

from pipeline.core.data_kinds import DataKind
from pipeline.evaluation.bootstrap import Draws
from pipeline.evaluation.metrics import compute_level
from pipeline.evaluation.predictions import aggregate, read_probabilities
from pipeline.evaluation.selective_prediction import choose_thresholds, compute_coverage_curve
from pipeline.evaluation.temperature_scaling import fit_on_predictions, scale_predictions

CALIBRATION_METRICS = ("nll", "ece", "brier")


def compute_decision(
    predictions: pandas.DataFrame,
    levels: dict[str, Any],
    class_names: Sequence[str],
    kind: DataKind,
    draws: Draws,
) -> dict[str, Any]:
    """Compute abstention and calibration at each level but the patient's.

    Args:
        predictions: of validation and test rows.
        levels: of metrics.json, with the scores before scaling.
        class_names: all classes.
        kind: The kind of data, which names rows and groups.
        draws: of the intervals.

    Returns:
        ``temperature``, ``temperature_is_at_bound``, ``num_fitted`` validation rows and ``num_zero_probabilities``,
        rows of both splits that have a probability of exactly 0; ``calibration``: for each level the scores
        ``before`` and ``after`` scaling; ``coverage``: for each level what ``compute_coverage_curve`` returns, and
        ``thresholds``, what ``choose_thresholds`` returns.
    """
    val, test = (predictions[predictions["split"] == split] for split in ("val", "test"))
    temperature = fit_on_predictions(val, class_names)
    scaled = scale_predictions(test, class_names, temperature.value)
    calibration, coverage = {}, {}
    for name, level in levels.items():
        if name == "patient":
            continue  # the same patients in other words; abstaining is by slice or by scan
        at_level = name if kind.has_patients else "slice"
        scores = compute_level(aggregate(scaled, at_level), class_names, draws.num_resamples, draws.seed, kind)
        calibration[name] = {
            "before": {metric: level["metrics"][metric] for metric in CALIBRATION_METRICS},
            "after": {metric: scores["metrics"][metric] for metric in CALIBRATION_METRICS},
        }
        val_table, test_table = aggregate(val, at_level), aggregate(test, at_level)
        coverage[name] = compute_coverage_curve(test_table, class_names, draws.num_resamples, draws.seed)
        coverage[name]["thresholds"] = choose_thresholds(
            val_table, test_table, class_names, draws.num_resamples, draws.seed
        )
    return {
        "temperature": temperature.value,
        "temperature_is_at_bound": temperature.is_bounded,
        "num_fitted": len(val),
        "num_zero_probabilities": int((read_probabilities(predictions, class_names) == 0).any(axis=1).sum()),
        "calibration": calibration,
        "coverage": coverage,
    }
