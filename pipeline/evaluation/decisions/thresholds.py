"""Thresholds on the probability of the last of two classes: operating points, and their net benefit.

An operating point is chosen on validation, for a sensitivity or a specificity that is wanted, and applied to the test
rows. A decision curve shows, for each threshold, whether acting on the model does more good than acting on all or none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas
from numpy.typing import NDArray

from pipeline.core.array_types import Floats, Indices
from pipeline.core.predictions import TIE_DECIMALS
from pipeline.evaluation.bootstrap import Bootstrap, Support, divide_or_nan, estimate_by_bootstrap
from pipeline.evaluation.predictions import number_patients
from pipeline.evaluation.proportions import compute_fractions
from pipeline.evaluation.schema import DecisionCurve, Fit, OperatingPoint

Rate = Literal["sensitivity", "specificity"]
CURVE_THRESHOLDS = tuple(percent / 100 for percent in range(5, 100, 5))
ROUNDING = 1e-9  # of a rate that is compared with the one wanted


@dataclass(frozen=True)
class PositiveRows:
    """The probability of the positive class in each row, and whether it is the label.

    Args:
        probability: ``(rows,)``, rounded so that ties stay ties.
        is_positive: ``(rows,)``.
        patients: ``(rows,)``, index of the patient, 0 to the number of patients - 1.
    """

    probability: Floats
    is_positive: NDArray[np.bool_]
    patients: Indices


def read_positives(table: pandas.DataFrame, positive: str) -> PositiveRows:
    """Read the rows of one level.

    Args:
        table: The predictions of one level.
        positive: The positive class.
    """
    probability = table[f"probability_{positive}"].to_numpy(dtype=np.float64).round(TIE_DECIMALS)
    return PositiveRows(probability, (table["label"] == positive).to_numpy(), number_patients(table["group_id"]))


def find_threshold(rows: PositiveRows, rate: Rate, wanted: float) -> float | None:
    """Find the probability from which a row is called positive, so that a rate is at least the one that is wanted.

    Of all such thresholds, that with the best other rate: the lowest for a specificity, the highest for a sensitivity.
    An example of five rows, with a specificity of at least 2/3 wanted:

        probability   0.1   0.4   0.5   0.6   0.9
        label           -     +     -     -     +
        specificity     0   1/3   1/3   2/3     1    where rows from here on are called positive

    The threshold is 0.6. Thresholds are probabilities of the rows, and one that no row reaches.

    Args:
        rows: The rows that it is chosen on.
        rate: The rate that is wanted.
        wanted: Its least value.

    Returns:
        The threshold; None where no row can show the rate.
    """
    is_shown = rows.is_positive if rate == "sensitivity" else ~rows.is_positive
    if not is_shown.any():
        return None
    shown = np.sort(rows.probability[is_shown])
    thresholds = np.unique(rows.probability)
    thresholds = np.append(thresholds, np.nextafter(thresholds[-1], 2))
    below = np.searchsorted(shown, thresholds, "left") / len(shown)
    reached = below if rate == "specificity" else 1 - below
    good = thresholds[reached >= wanted - ROUNDING]
    return float(good[0] if rate == "specificity" else good[-1])


def choose_operating_point(val: PositiveRows, test: PositiveRows, rate: Rate, wanted: float) -> OperatingPoint:
    """Choose a threshold on validation rows, and apply it to the test rows.

    Args:
        val: The validation rows of one level.
        test: The test rows of the same level.
        rate: The rate that is wanted.
        wanted: Its least value on validation.

    Returns:
        The threshold, what it reaches on validation, and sensitivity and specificity on the test rows; no threshold
        and no rates where validation lacks the class.
    """
    threshold = find_threshold(val, rate, wanted)
    is_shown = val.is_positive if rate == "sensitivity" else ~val.is_positive
    chosen_on: Fit = {"num_rows": int(is_shown.sum()), "num_groups": len(np.unique(val.patients[is_shown]))}
    if threshold is None:
        return {
            "rate": rate,
            "wanted": wanted,
            "threshold": None,
            "chosen_on": chosen_on,
            "reached": None,
            "test": None,
        }
    is_right = (val.probability >= threshold) == val.is_positive
    is_called_right = (test.probability >= threshold) == test.is_positive
    specificity, sensitivity = (
        part.fraction
        for part in compute_fractions(is_called_right, test.is_positive.astype(np.int64), test.patients, 2)
    )
    return {
        "rate": rate,
        "wanted": wanted,
        "threshold": threshold,
        "chosen_on": chosen_on,
        "reached": float(is_right[is_shown].mean()),
        "test": {"sensitivity": sensitivity, "specificity": specificity},
    }


@dataclass(frozen=True)
class Calls:
    """The rows of each patient that are called positive at each threshold of a decision curve.

    Args:
        true_positives: ``(patients, thresholds)``, those of them with the label.
        false_positives: ``(patients, thresholds)``, those without.
        positives: ``(patients, 1)``, rows with the label, called or not.
        negatives: ``(patients, 1)``, rows without.
    """

    true_positives: Floats
    false_positives: Floats
    positives: Floats
    negatives: Floats

    @property
    def num_patients(self) -> int:
        """The number of patients."""
        return len(self.true_positives)

    def count_groups(self) -> list[dict[str, int]]:
        """Count, for each threshold, the patients with each of the four outcomes."""
        outcomes = {
            "true positives": self.true_positives,
            "false negatives": self.positives - self.true_positives,
            "false positives": self.false_positives,
            "true negatives": self.negatives - self.false_positives,
        }
        counted = {name: (rows > 0).sum(axis=0) for name, rows in outcomes.items()}
        return [
            {name: int(numbers[place]) for name, numbers in counted.items()} for place in range(len(CURVE_THRESHOLDS))
        ]

    def compute_net_benefit(self, weights: Floats, prevalence: float) -> Floats:
        """Compute the net benefit at each threshold, ``(draws, thresholds)``; NaN where a class has no row.

        Args:
            weights: ``(draws, patients)``, how often each patient counts.
            prevalence: The fraction of positives where the model is to be used.
        """
        odds = np.asarray(CURVE_THRESHOLDS) / (1 - np.asarray(CURVE_THRESHOLDS))
        sensitivity = divide_or_nan(weights @ self.true_positives, weights @ self.positives)
        alarms = divide_or_nan(weights @ self.false_positives, weights @ self.negatives)
        benefit: Floats = sensitivity * prevalence - alarms * (1 - prevalence) * odds
        return benefit


def count_calls(rows: PositiveRows) -> Calls:
    """Count the rows of each patient that reach each threshold of a decision curve."""
    num_patients = int(rows.patients.max()) + 1
    is_called = rows.probability[:, None] >= np.asarray(CURVE_THRESHOLDS) - ROUNDING

    def count(is_counted: NDArray[np.bool_]) -> Floats:
        columns = [np.bincount(rows.patients, column, num_patients) for column in is_counted.T]
        return np.stack(columns, axis=1).astype(np.float64)

    positive, negative = rows.is_positive[:, None], ~rows.is_positive[:, None]
    return Calls(count(is_called & positive), count(is_called & negative), count(positive), count(negative))


def compute_decision_curve(
    rows: PositiveRows, prevalence: float | None, bootstrap: Bootstrap, support: Support
) -> DecisionCurve:
    """Compute the net benefit of acting on rows whose probability reaches a threshold.

    Whoever acts at a probability of t weighs a true positive as much as (1 - t) / t false ones. The net benefit, for
    each row, is

        sensitivity x prevalence - (1 - specificity) x (1 - prevalence) x t / (1 - t)

    Acting on all rows has a sensitivity of 1 and a specificity of 0; acting on none has a benefit of 0.

    Args:
        rows: The test rows of one level.
        prevalence: The fraction of positives where the model is to be used; None takes that of the rows. Probabilities
            are not adapted to it.
        bootstrap: The resamples of patients.
        support: The groups that an interval rests on. A threshold with an outcome that too few of them have gets none.

    Source:
        Vickers and Elkin, "Decision curve analysis", Medical Decision Making 26, 2006.
    """
    calls = count_calls(rows)
    used = float(rows.is_positive.mean()) if prevalence is None else prevalence
    values = calls.compute_net_benefit(np.ones((1, calls.num_patients)), used)[0]
    supports = [replace(support, with_event=counted) for counted in calls.count_groups()]
    resampled = None
    if not all(found.shortage for found in supports):
        resampled = bootstrap.resample(
            lambda weights: calls.compute_net_benefit(weights, used), calls.num_patients, len(CURVE_THRESHOLDS)
        )
    draws: Sequence[Floats | None] = [None] * len(values) if resampled is None else list(resampled.T)
    return {
        "prevalence": used,
        "is_observed": prevalence is None,
        "curve": [
            {
                "threshold": threshold,
                "model": estimate_by_bootstrap(float(value), drawn, found),
                "treat_all": float(used - (1 - used) * threshold / (1 - threshold)),
            }
            for threshold, value, drawn, found in zip(CURVE_THRESHOLDS, values, draws, supports, strict=True)
        ],
    }
