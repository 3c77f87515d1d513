"""Decision support: selective prediction by confidence, and calibration before and after temperature scaling.

All are numbers of metrics.json, under ``decision``; the probabilities of predictions.csv stay as the model gave them.
"""

from collections.abc import Mapping, Sequence

import pandas

from pipeline.core.data_kinds import DataKind
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.metrics import compute_level
from pipeline.evaluation.predictions import aggregate, read_probabilities
from pipeline.evaluation.schema import Calibration, Coverage, Decision, Level
from pipeline.evaluation.selective_prediction import compute_coverage
from pipeline.evaluation.temperature_scaling import fit_on_predictions, scale_predictions

CALIBRATION_METRICS = ("nll", "ece", "brier")


def compute_decision(
    predictions: pandas.DataFrame,
    levels: Mapping[str, Level],
    class_names: Sequence[str],
    kind: DataKind,
    bootstrap: Bootstrap,
) -> Decision:
    """Compute selective prediction and calibration of slices and volumes, or of images or objects.

    Args:
        predictions: The predictions of validation and test rows.
        levels: The levels of metrics.json, with the scores before scaling.
        class_names: All classes.
        kind: The kind of data, which names rows and groups.
        bootstrap: The resamples of patients.

    Returns:
        ``temperature``, ``temperature_is_at_bound``, ``num_fitted`` validation rows and ``num_zero_probabilities``,
        rows of both splits that have a probability of exactly 0; ``calibration``: for each level the scores
        ``before`` and ``after`` scaling; ``coverage``: for each level what ``compute_coverage`` returns.
    """
    val, test = (predictions[predictions["split"] == split] for split in ("val", "test"))
    temperature = fit_on_predictions(val, class_names)
    scaled = scale_predictions(test, class_names, temperature.value)
    calibration: dict[str, Calibration] = {}
    coverage: dict[str, Coverage] = {}
    for name, level in levels.items():
        if name in ("knee", "patient"):
            continue  # a model declines a slice or a scan
        scores = compute_level(aggregate(scaled, name), class_names, bootstrap, kind)
        calibration[name] = {
            "before": {metric: level["metrics"][metric] for metric in CALIBRATION_METRICS},
            "after": {metric: scores["metrics"][metric] for metric in CALIBRATION_METRICS},
        }
        coverage[name] = compute_coverage(aggregate(val, name), aggregate(test, name), class_names, bootstrap)
    return {
        "temperature": temperature.value,
        "temperature_is_at_bound": temperature.is_bounded,
        "num_fitted": len(val),
        "num_zero_probabilities": int((read_probabilities(predictions, class_names) == 0).any(axis=1).sum()),
        "calibration": calibration,
        "coverage": coverage,
    }
