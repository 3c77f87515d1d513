"""Decision support: calibration before and after temperature scaling, selective prediction, and thresholds.

All are numbers of metrics.json, under ``decision``; the probabilities of predictions.csv stay as the model gave them.
Whatever is fitted or chosen is fitted at the level at which it is used: a volume's probabilities are means over its
slices, and so closer to one half; a temperature of the slices would not fit them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas

from pipeline.config.outputs import EvaluateConfig
from pipeline.evaluation.bootstrap import Bootstrap, Support
from pipeline.evaluation.decisions.calibration import (
    compute_bins,
    compute_debiased_error,
    read_events,
    recalibrate_classes,
)
from pipeline.evaluation.decisions.selective_prediction import compute_coverage
from pipeline.evaluation.decisions.temperature_scaling import fit_on_predictions, scale_predictions
from pipeline.evaluation.decisions.thresholds import choose_operating_point, compute_decision_curve, read_positives
from pipeline.evaluation.metrics import count_correct_rows, count_support, estimate_scores, sum_table
from pipeline.evaluation.predictions import aggregate, has_level, read_probabilities
from pipeline.evaluation.schema import (
    Calibration,
    CalibrationScores,
    Coverage,
    Decision,
    DecisionCurve,
    Fit,
    Level,
    OperatingPoint,
    Scores,
)

CALIBRATION_METRICS = ("nll", "ece", "brier")


@dataclass(frozen=True)
class LevelTables:
    """The predictions of one level.

    Args:
        name: The name of the level.
        val: A row for each validation slice, volume, knee or patient: what is fitted, is fitted on these.
        test: A row for each of the test rows.
    """

    name: str
    val: pandas.DataFrame
    test: pandas.DataFrame

    @property
    def fit(self) -> Fit:
        """The size of what a fit rests on."""
        return {"num_rows": len(self.val), "num_groups": int(self.val["group_id"].nunique())}


def list_tables(predictions: pandas.DataFrame, levels: Sequence[str]) -> Iterator[LevelTables]:
    """Yield the tables of each level that validation and test rows have; none without validation rows.

    Args:
        predictions: The predictions of validation and test rows.
        levels: The names of the levels of the test rows.
    """
    val, test = (predictions[predictions["split"] == split] for split in ("val", "test"))
    for name in levels if len(val) > 0 else ():
        if not has_level(val, name):
            continue  # a validation patient has two labels, where each test patient has one
        yield LevelTables(name, aggregate(val, name), aggregate(test, name))


def compute_calibration(
    table: pandas.DataFrame, scores: Scores, support: Support, class_names: Sequence[str]
) -> CalibrationScores:
    """Compute the fit of one level's probabilities to what happened.

    Args:
        table: The predictions of the level.
        scores: The scores of the same predictions.
        support: The patients, and those with an error.
        class_names: All classes.
    """
    events = read_events(table, class_names)
    return {
        "scores": {metric: scores[metric] for metric in CALIBRATION_METRICS},
        "debiased_error": compute_debiased_error(events),
        "recalibration": recalibrate_classes(table, class_names, support),
        "bins": compute_bins(events),
    }


def compute_decision(
    predictions: pandas.DataFrame,
    levels: Mapping[str, Level],
    class_names: Sequence[str],
    options: EvaluateConfig,
) -> Decision:
    """Compute what decisions rest on: calibration, selective prediction and thresholds of each level.

    Args:
        predictions: The predictions of validation and test rows.
        levels: The levels of metrics.json, with the scores before scaling.
        class_names: All classes.
        options: The options of the evaluation.

    Returns:
        ``num_zero_probabilities``, rows of both splits that have a probability of exactly 0; ``calibration``: for each
        level the temperature, the validation rows and patients that it was fitted on, and the scores ``before`` and
        ``after`` scaling; ``coverage``: for each level what ``compute_coverage`` returns; ``operating_points`` and
        ``net_benefit``: for each level of two classes, else empty. A level that the validation rows do not have is
        absent.
    """
    bootstrap = Bootstrap(options.num_bootstrap_resamples, options.seed)
    operating_points: dict[str, list[OperatingPoint]] = {}
    net_benefit: dict[str, DecisionCurve] = {}
    calibration: dict[str, Calibration] = {}
    coverage: dict[str, Coverage] = {}
    for tables in list_tables(predictions, list(levels)):
        temperature = fit_on_predictions(tables.val, class_names)
        level, scaled = levels[tables.name], scale_predictions(tables.test, class_names, temperature.value)
        support = Support(level["groups"], level["groups_with_errors"])
        totals, repeats = sum_table(scaled, class_names)
        scaled_scores = estimate_scores(totals, repeats, bootstrap)
        scaled_support = count_support(count_correct_rows(totals, repeats))
        calibration[tables.name] = {
            "temperature": temperature.value,
            "temperature_is_at_bound": temperature.is_bounded,
            "fitted_on": tables.fit,
            "before": compute_calibration(tables.test, level["metrics"], support, class_names),
            "after": compute_calibration(scaled, scaled_scores, scaled_support, class_names),
        }
        coverage[tables.name] = compute_coverage(tables.val, tables.test, class_names, bootstrap)
        if len(class_names) == 2:
            val, test, scaled_test = (
                read_positives(part, class_names[1]) for part in (tables.val, tables.test, scaled)
            )
            operating_points[tables.name] = [
                choose_operating_point(val, test, "sensitivity", options.wanted_sensitivity),
                choose_operating_point(val, test, "specificity", options.wanted_specificity),
            ]
            net_benefit[tables.name] = compute_decision_curve(scaled_test, options.prevalence, bootstrap, support)
    return {
        "num_zero_probabilities": int((read_probabilities(predictions, class_names) == 0).any(axis=1).sum()),
        "calibration": calibration,
        "coverage": coverage,
        "operating_points": operating_points,
        "net_benefit": net_benefit,
    }
