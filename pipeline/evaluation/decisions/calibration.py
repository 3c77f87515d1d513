"""Calibration of probabilities: bins of equally many rows, a debiased error, and logistic recalibration.

Of two classes the probability of the last one is compared with how often it is right. Of several, bins and error take
the highest probability of a row and whether that class is right; the recalibration takes each class against the rest.

scikit-learn's ``calibration_curve`` has bins of equally many rows, but counts rows as independent, and so has no
interval over patients; neither it nor statsmodels has the debiased error.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from pipeline.core.array_types import Floats, Indices
from pipeline.evaluation.bootstrap import Support, estimate_by_linearisation
from pipeline.evaluation.decisions.temperature_scaling import take_logarithms
from pipeline.evaluation.predictions import number_patients, read_class_indices, read_probabilities
from pipeline.evaluation.proportions import compute_fractions
from pipeline.evaluation.schema import CalibrationBin, Estimate, Recalibration, explain_missing_interval

NUM_BINS = 10
MIN_GROUPS_IN_BIN = 5  # with fewer, neither a fraction of a bin nor its variance says much
UPWARDS = "the debiasing does not reach resamples: their errors lie above that of the table"
NO_OVERLAP = "not defined: the probabilities separate the rows with the class from those without"
NO_INFORMATION = "not defined: the probabilities are so close to 0 and 1 that no constant fits better"
# The intercept of logits within 40 lies within 100, unless nearly all rows have the same label.
INTERCEPT_BOUNDS = (-100.0, 100.0)
SMALLEST_INFORMATION = 1e-9  # a row's mean p (1 - p); below it, the fit rests on rounding errors
MAX_NEWTON_STEPS = 100
CONVERGED = 1e-12  # of the fall of the loss, as a fraction


@dataclass(frozen=True)
class Events:
    """The probability of one event in each row, and whether it happened.

    Args:
        probability: ``(rows,)``.
        happened: ``(rows,)``.
        patients: ``(rows,)``, index of the patient, 0 to the number of patients - 1.
    """

    probability: Floats
    happened: NDArray[np.bool_]
    patients: Indices

    @property
    def excess(self) -> Floats:
        """The probability minus what happened, ``(rows,)``."""
        excess: Floats = self.probability - self.happened
        return excess


def read_events(table: pandas.DataFrame, class_names: Sequence[str]) -> Events:
    """Return the event of bins and error: the last of two classes, or that the most probable of several is right."""
    probabilities, patients = read_probabilities(table, class_names), number_patients(table["group_id"])
    if len(class_names) == 2:
        return Events(probabilities[:, 1], (table["label"] == class_names[1]).to_numpy(), patients)
    return Events(probabilities.max(axis=1), (table["label"] == table["predicted"]).to_numpy(), patients)


def assign_equal_bins(probability: Floats, patients: Indices, num_bins: int = NUM_BINS) -> Indices:
    """Assign rows to bins of about as many rows each; equal probabilities share a bin.

    A bin with rows of fewer than five patients is joined with the next one, and the last with the one before. An
    example of five rows, of two bins and at least two patients each:

        probability      0.1   0.2   0.2   0.6   0.9
        patient            a     a     b     b     b
        middle rank      0.5     2     2   3.5   4.5
        half of 5          0     0     0     1     1
        patients a bin            2           1
        bin                0     0     0     0     0    the last bin has one patient, and joins the first

    Args:
        probability: ``(rows,)``.
        patients: ``(rows,)``, the patient of each row.
        num_bins: The largest number of bins.

    Returns:
        ``(rows,)``, 0 to the number of bins - 1.
    """
    _, value_of_row, counts = np.unique(probability, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    bins = np.asarray(middle * num_bins / len(probability), dtype=np.int64)[value_of_row]
    joined = np.zeros(num_bins, dtype=np.int64)
    members: list[set[int]] = [set()]
    for index in range(num_bins):
        if len(members[-1]) >= MIN_GROUPS_IN_BIN:
            members.append(set())
        members[-1] |= set(np.unique(patients[bins == index]).tolist())
        joined[index] = len(members) - 1
    if len(members) > 1 and len(members[-1]) < MIN_GROUPS_IN_BIN:
        joined = np.minimum(joined, len(members) - 2)
    return joined[bins]


def compute_bins(events: Events) -> list[CalibrationBin]:
    """Compare the probabilities of each bin with how often the event happened, with an interval over patients."""
    bins = assign_equal_bins(events.probability, events.patients)
    found = compute_fractions(events.happened, bins, events.patients, int(bins.max()) + 1)
    return [
        {
            "n": part.num_rows,
            "groups": part.num_patients,
            "lowest": float(events.probability[bins == index].min()),
            "highest": float(events.probability[bins == index].max()),
            "probability": float(events.probability[bins == index].mean()),
            "fraction": part.fraction,
        }
        for index, part in enumerate(found)
    ]


def compute_debiased_error(events: Events) -> Estimate:
    """Compute the root mean square of the bins' gaps, without what chance adds to them.

    The gap of a bin, mean probability minus fraction, is never quite 0: its square is on average the true one plus the
    variance of the gap. That variance, over patients, is taken off; where nothing is left the error is 0.

    Args:
        events: The rows of one level.

    Returns:
        The error, between 0 and 1, without an interval; not defined for a single patient.

    Source:
        Kumar, Liang and Ma, "Verified uncertainty calibration", 2019, section 4 (the debiased estimator, for
        independent rows); Roelofs and others, "Mitigating bias in calibration error estimation", 2022 (bins of equally
        many rows). The variance is that of clustered data.
    """
    bins = assign_equal_bins(events.probability, events.patients)
    num_patients = int(events.patients.max()) + 1
    if num_patients < 2:
        return explain_missing_interval(None, "not defined: rows of one group only")
    squares = 0.0
    for index in range(int(bins.max()) + 1):
        is_here = bins == index
        excess, patients = events.excess[is_here], events.patients[is_here]
        gap, num_groups = excess.mean(), len(np.unique(patients))
        sums = np.bincount(patients, excess - gap, num_patients)
        variance = num_groups / (num_groups - 1) * (sums**2).sum() / len(excess) ** 2
        squares += len(excess) * (gap**2 - variance)
    return explain_missing_interval(float(np.sqrt(max(0.0, squares / len(bins)))), UPWARDS)


def recalibrate_classes(
    table: pandas.DataFrame, class_names: Sequence[str], support: Support
) -> dict[str, Recalibration]:
    """Fit the logistic recalibration of the last of two classes, or of each of several against the rest.

    Args:
        table: The predictions of one level.
        class_names: All classes.
        support: The groups that intervals rest on.
    """
    labels, patients = read_class_indices(table["label"], class_names), number_patients(table["group_id"])
    return {
        class_names[index]: recalibrate(logits, labels == index, patients, support)
        for index, logits in _list_logits(read_probabilities(table, class_names))
    }


def _list_logits(probabilities: Floats) -> Iterator[tuple[int, Floats]]:
    num_classes = probabilities.shape[1]
    for index in range(1 if num_classes == 2 else 0, num_classes):
        rest = np.delete(probabilities, index, axis=1).sum(axis=1)
        yield index, take_logarithms(probabilities[:, index]) - take_logarithms(rest)


def recalibrate(logits: Floats, happened: NDArray[np.bool_], patients: Indices, support: Support) -> Recalibration:
    """Fit the logistic regression of what happened on the model's logits: log odds = intercept + slope x logit.

    A slope of 1 and an intercept of 0 need no correction. A slope below 1 is that of an overconfident model. The
    calibration in the large is the intercept where the slope stays 1: above 0, the event happens more often than the
    probabilities say. Intervals come from the influence of each patient on the fit (the sandwich estimator).

    Args:
        logits: ``(rows,)``, the log odds that the model gives the event.
        happened: ``(rows,)``.
        patients: ``(rows,)``, index of the patient.
        support: The groups that intervals rest on.

    Returns:
        The three numbers; not defined where the event happens always or never. Slope and intercept are not defined
        where no row with the event has lower logits than one without, because the steeper the better.

    Source:
        Cox, "Two further applications of a model for binary regression", Biometrika 45, 1958; Van Calster and others,
        "Calibration: the Achilles heel of predictive analytics", BMC Medicine 17, 2019; Liang and Zeger, Biometrika
        73, 1986 (the variance).
    """
    if happened.all() or not happened.any():
        missing = explain_missing_interval(None, "not defined: a class has no row")
        return {"slope": missing, "intercept": missing, "in_the_large": missing}
    slope, intercept = _fit_line(logits, happened, patients, support)
    return {
        "slope": slope,
        "intercept": intercept,
        "in_the_large": _fit_constant(logits, happened, patients, support),
    }


def _fit_constant(logits: Floats, happened: NDArray[np.bool_], patients: Indices, support: Support) -> Estimate:
    """Find the constant that, added to the logits, makes the mean probability that of the event."""
    constant = float(brentq(lambda shift: float((expit(logits + shift) - happened).mean()), *INTERCEPT_BOUNDS))
    probability = expit(logits + constant)
    information = float((probability * (1 - probability)).sum())
    if information < SMALLEST_INFORMATION * len(logits):
        return explain_missing_interval(None, NO_INFORMATION)
    return estimate_by_linearisation(constant, np.bincount(patients, happened - probability) / information, support)


def _fit_line(
    logits: Floats, happened: NDArray[np.bool_], patients: Indices, support: Support
) -> tuple[Estimate, Estimate]:
    """Find slope and intercept by Newton's method; a step that does not lower the loss is halved."""
    with_event, without = logits[happened], logits[~happened]
    if without.max() <= with_event.min() or with_event.max() <= without.min():
        missing = explain_missing_interval(None, NO_OVERLAP)
        return missing, missing
    design = np.stack([np.ones(len(logits)), logits], axis=1)
    signs = np.where(happened, 1.0, -1.0)

    def compute_loss(line: Floats) -> float:
        return float(np.logaddexp(0, -signs * (design @ line)).sum())

    fraction = happened.mean()
    line = np.array([np.log(fraction / (1 - fraction)), 0.0])
    loss = compute_loss(line)
    for _ in range(MAX_NEWTON_STEPS):
        step, _, _ = _solve(design, line, happened)
        shorter = (line + step / 2**halvings for halvings in range(MAX_NEWTON_STEPS))
        nearer = next((other for other in shorter if compute_loss(other) < loss), None)
        if nearer is None:
            break
        line, before, loss = nearer, loss, compute_loss(nearer)
        if before - loss < CONVERGED * before:
            break
    _, excess, inverse = _solve(design, line, happened)
    influences = np.stack([np.bincount(patients, part) for part in (design * excess[:, None]).T], axis=1) @ inverse
    intercept, slope = (
        estimate_by_linearisation(float(value), influence, support)
        for value, influence in zip(line, influences.T, strict=True)
    )
    return slope, intercept


def _solve(design: Floats, line: Floats, happened: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
    """Return Newton's step, what happened minus the probability, and the inverse of the information."""
    probability = expit(design @ line)
    excess = happened - probability
    inverse = np.linalg.pinv(design.T @ (design * (probability * (1 - probability))[:, None]), hermitian=True)
    step: Floats = inverse @ (design.T @ excess)
    return step, excess, inverse
