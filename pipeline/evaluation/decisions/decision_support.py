"""Decision support: selective prediction by confidence, and calibration before and after temperature scaling.

All are numbers of metrics.json, under ``decision``; the probabilities of predictions.csv stay as the model gave them.
Whatever is fitted or chosen is fitted at the level at which it is used: a volume's probabilities are means over its
slices, and so closer to one half; a temperature of the slices would not fit them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas

from pipeline.core.data_kinds import DataKind
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.decisions.selective_prediction import compute_coverage
from pipeline.evaluation.decisions.temperature_scaling import fit_on_predictions, scale_predictions
from pipeline.evaluation.metrics import compute_level
from pipeline.evaluation.predictions import LEVEL_KEYS, aggregate, has_level, read_probabilities
from pipeline.evaluation.schema import Calibration, Coverage, Decision, Fit, Level

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
    """Yield the tables of each level that validation and test rows have.

    Args:
        predictions: The predictions of validation and test rows.
        levels: The names of the levels of the test rows.
    """
    val, test = (predictions[predictions["split"] == split] for split in ("val", "test"))
    for name in levels:
        if name in LEVEL_KEYS and not has_level(val, name):
            continue  # a validation patient has two labels, where each test patient has one
        yield LevelTables(name, aggregate(val, name), aggregate(test, name))


def compute_decision(
    predictions: pandas.DataFrame,
    levels: Mapping[str, Level],
    class_names: Sequence[str],
    kind: DataKind,
    bootstrap: Bootstrap,
) -> Decision:
    """Compute calibration and selective prediction of each level.

    Args:
        predictions: The predictions of validation and test rows.
        levels: The levels of metrics.json, with the scores before scaling.
        class_names: All classes.
        kind: The kind of data, which names rows and groups.
        bootstrap: The resamples of patients.

    Returns:
        ``num_zero_probabilities``, rows of both splits that have a probability of exactly 0; ``calibration``: for each
        level the temperature, the validation rows and patients that it was fitted on, and the scores ``before`` and
        ``after`` scaling; ``coverage``: for each level what ``compute_coverage`` returns. A level that the validation
        rows do not have is absent.
    """
    calibration: dict[str, Calibration] = {}
    coverage: dict[str, Coverage] = {}
    for tables in list_tables(predictions, list(levels)):
        temperature = fit_on_predictions(tables.val, class_names)
        scaled = compute_level(
            scale_predictions(tables.test, class_names, temperature.value), class_names, bootstrap, kind
        )
        calibration[tables.name] = {
            "temperature": temperature.value,
            "temperature_is_at_bound": temperature.is_bounded,
            "fitted_on": tables.fit,
            "before": {metric: levels[tables.name]["metrics"][metric] for metric in CALIBRATION_METRICS},
            "after": {metric: scaled["metrics"][metric] for metric in CALIBRATION_METRICS},
        }
        coverage[tables.name] = compute_coverage(tables.val, tables.test, class_names, bootstrap)
    return {
        "num_zero_probabilities": int((read_probabilities(predictions, class_names) == 0).any(axis=1).sum()),
        "calibration": calibration,
        "coverage": coverage,
    }
