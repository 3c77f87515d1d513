"""The numbers of a learning curve: a mean over draws, two models on the same draws, and the patients that are needed.

The error of a model falls with the number of its training patients by a power law, error = floor + scale x
patients^-exponent. It is fitted by least squares to the mean errors: for each exponent of a grid, floor and scale
follow from a straight line, and the exponent of the least squares is kept. ``scipy.optimize.curve_fit`` needs a start
and fails in a part of the resamples, mostly where the exponent is not determined; the grid has an answer for each.

Its uncertainty is that of the draws and of the test patients together: both are drawn again with replacement, and the
law is fitted to each resample. A law of three numbers that was seen at sizes of a factor of eight says little about
sizes a hundred times larger, so that nothing is claimed beyond ``MAX_FACTOR`` times the largest.

Source:
    Figueroa and others, "Predicting sample size required for classification performance", BMC Medical Informatics and
    Decision Making 12:8, 2012; Hestness and others, "Deep learning scaling is predictable, empirically", 2017.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from pipeline.core.array_types import Array, Floats
from pipeline.evaluation.bootstrap import Bootstrap, draw_patient_weights, find_percentiles, widen_tail
from pipeline.evaluation.schema import TAIL, Estimate, explain_missing_interval

EXPONENTS = np.linspace(0.05, 2.0, 40)
MIN_SIZES = 4  # three numbers are fitted
MAX_FACTOR = 4
MIN_FALL = 1e-9  # of the error over the sizes; below it the curve is flat

Verdict = Literal["wins", "draws", "loses", "not tested"]
Reach = Literal["reached", "extrapolated", "too far", "never", "flat", "too few sizes"]


@dataclass(frozen=True)
class Comparison:
    """The accuracy of the Perceiver minus that of the CNN with one number of training patients.

    Args:
        size: The number of training patients.
        differences: That of each draw, of both on the same patients.
        over_draws: Their mean, with its interval over draws.
        over_patients: The ends of the interval over test patients; None for one patient, or where all gain the same.
        verdict: Whether the Perceiver wins, loses, or neither is shown: wins and loses have 0 outside the interval over
            draws. Without an interval nothing is tested, unless all differences are 0.
    """

    size: int
    differences: tuple[float, ...]
    over_draws: Estimate
    over_patients: tuple[float, float] | None
    verdict: Verdict


@dataclass(frozen=True)
class PowerLaw:
    """The error by the number of training patients, of one fit or of many.

    Args:
        floor: The error that no number of patients goes below, ``(fits,)``.
        scale: What is added to it with one patient, ``(fits,)``.
        exponent: How fast that falls, ``(fits,)``.
    """

    floor: Floats
    scale: Floats
    exponent: Floats

    def compute_error(self, size: float) -> Floats:
        """Return the error with a number of patients, ``(fits,)``."""
        return np.asarray(self.floor + self.scale * size**-self.exponent)

    def compute_size(self, error: float) -> Floats:
        """Return the number of patients with an error, ``(fits,)``; infinity where it is never reached."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            sizes = (self.scale / (error - self.floor)) ** (1 / self.exponent)
        sizes = np.where(error > self.floor, sizes, np.inf)
        # A flat curve has its floor everywhere.
        return np.asarray(np.where((self.scale <= 0) & (error >= self.floor), 0.0, sizes))


@dataclass(frozen=True)
class Forecast:
    """The number of training patients that a model needs for a wanted accuracy.

    Args:
        model: The model.
        wanted: The accuracy.
        reach: What the curve says. reached: the number is within the sizes, or below them. extrapolated: it is at most
            ``MAX_FACTOR`` times the largest. too far: it is beyond. never: the fit levels off below the accuracy. flat:
            the error does not fall. too few sizes: fewer than ``MIN_SIZES``.
        size: The number of patients, where there is one.
        low: The lower end of its 95 % interval; None where there is none.
        high: The upper end; None where it is beyond ``limit``, or where there is none.
        limit: The largest number of patients that anything is claimed about.
        ceiling: The accuracy that the fit levels off at; None without a fit.
        exponent: The exponent of the fit; None without one.
    """

    model: str
    wanted: float
    reach: Reach
    size: float | None
    low: float | None
    high: float | None
    limit: int
    ceiling: float | None = None
    exponent: float | None = None


def estimate_mean(values: Sequence[float], bounds: tuple[float, float] = (-np.inf, np.inf)) -> Estimate:
    """Return the mean of independent draws with its 95 % interval, Student's t.

    Of the draws 0.7, 0.8 and 0.9 the mean is 0.8, its standard error 0.1 / sqrt(3) and the interval 0.8 - 0.248 to
    0.8 + 0.248.

    Args:
        values: A number for each draw.
        bounds: The least and the largest value that the mean can have; the interval ends there.
    """
    mean, number = float(np.mean(values)), len(values)
    if number < 2:
        return explain_missing_interval(mean, "one draw only")
    std = float(np.std(values, ddof=1))
    if np.isclose(std, 0, atol=1e-12):
        return explain_missing_interval(mean, "all draws are equal")
    half_width = float(stats.t.ppf(1 - TAIL, number - 1)) * std / number**0.5
    low, high = max(bounds[0], mean - half_width), min(bounds[1], mean + half_width)
    return {"value": mean, "low": low, "high": high, "method": "t over draws", "reason": ""}


def name_verdict(difference: Estimate) -> Verdict:
    """Return whether the first of two models wins, by the interval of its difference to the second.

    Args:
        difference: The mean difference with its interval over draws.
    """
    low, high = difference["low"], difference["high"]
    if low is None or high is None:
        return "draws" if difference["value"] == 0 else "not tested"
    if low > 0:
        return "wins"
    return "loses" if high < 0 else "draws"


def compare_draws(size: int, first: Array, second: Array, num_rows: Array, bootstrap: Bootstrap) -> Comparison:
    """Compare two models that were trained on the same patients in each draw.

    Args:
        size: The number of training patients.
        first: The right rows of each test patient, ``(draws, patients)``, of the first model.
        second: Those of the second.
        num_rows: The rows of each test patient, ``(patients,)``.
        bootstrap: The resamples of test patients.
    """
    gained = first - second
    differences = tuple((gained.sum(axis=1) / num_rows.sum()).tolist())
    over_draws, mean = estimate_mean(differences), gained.mean(axis=0)
    resampled = bootstrap.resample(lambda weights: (weights @ mean) / (weights @ num_rows), len(num_rows))
    over_patients = None if resampled is None else find_percentiles(resampled, widen_tail(len(num_rows)))
    if over_patients is not None and np.isclose(*over_patients, atol=1e-12):
        over_patients = None  # all patients differ alike, which says nothing of those who were not tested
    return Comparison(size, differences, over_draws, over_patients, name_verdict(over_draws))


def fit_power_law(sizes: Array, errors: Floats) -> PowerLaw:
    """Fit error = floor + scale x size^-exponent by least squares, with floor and scale of 0 or more.

    Args:
        sizes: The numbers of training patients, ``(sizes,)``.
        errors: The errors of several fits, ``(fits, sizes)``.

    Returns:
        A law for each fit.
    """
    best = np.full(len(errors), np.inf)
    found = np.zeros((3, len(errors)))
    for exponent in EXPONENTS:
        values = np.asarray(sizes, dtype=np.float64) ** -exponent
        centred, mean = values - values.mean(), errors.mean(axis=1)
        scale = np.maximum(0.0, errors @ centred / (centred @ centred))
        floor = mean - scale * values.mean()
        through_zero = np.maximum(0.0, errors @ values / (values @ values))
        scale, floor = np.where(floor < 0, through_zero, scale), np.maximum(0.0, floor)
        squares = ((errors - floor[:, None] - scale[:, None] * values) ** 2).sum(axis=1)
        better = squares < best
        best = np.where(better, squares, best)
        found = np.where(better, np.stack([floor, scale, np.full(len(errors), exponent)]), found)
    return PowerLaw(*found)


def resample_errors(correct: Array, num_rows: Array, bootstrap: Bootstrap) -> Floats:
    """Draw the draws and the test patients again, and return the errors of each resample.

    Args:
        correct: The right rows, ``(sizes, draws, patients)``.
        num_rows: The rows of each test patient, ``(patients,)``.
        bootstrap: The resamples.

    Returns:
        ``(resamples, sizes)``.
    """
    num_sizes, num_draws, num_patients = correct.shape
    generator = np.random.default_rng((bootstrap.seed, 1))
    parts = []
    for weights in bootstrap.draw(num_patients, num_sizes * num_draws):
        chosen = draw_patient_weights(num_draws, len(weights), generator) / num_draws
        counted = np.einsum("rp,sdp->rsd", weights, correct) / (weights @ num_rows)[:, None, None]
        parts.append(1 - np.einsum("rsd,rd->rs", counted, chosen))
    return np.concatenate(parts)


def forecast_size(
    model: str, sizes: Sequence[int], correct: Array, num_rows: Array, wanted: float, bootstrap: Bootstrap
) -> Forecast:
    """Estimate the number of training patients that a model needs for an accuracy, or say why this is not known.

    Args:
        model: The model.
        sizes: The numbers of training patients, growing.
        correct: The right rows, ``(sizes, draws, patients)``.
        num_rows: The rows of each test patient, ``(patients,)``.
        wanted: The accuracy.
        bootstrap: The resamples of draws and test patients.
    """
    limit = MAX_FACTOR * max(sizes)
    if len(sizes) < MIN_SIZES:
        return Forecast(model, wanted, "too few sizes", None, None, None, limit)
    errors = 1 - correct.sum(axis=2).mean(axis=1) / num_rows.sum()
    law = fit_power_law(np.array(sizes), errors[None])
    size, ceiling, exponent = float(law.compute_size(1 - wanted)[0]), 1 - float(law.floor[0]), float(law.exponent[0])
    fall = float(law.compute_error(min(sizes))[0] - law.compute_error(max(sizes))[0])
    resampled = fit_power_law(np.array(sizes), resample_errors(correct, num_rows, bootstrap)).compute_size(1 - wanted)
    num_draws, num_patients = correct.shape[1:]
    has_interval = num_draws > 1 and num_patients > 1
    tail = widen_tail(min(num_draws, num_patients)) if has_interval else TAIL
    # Ends may be infinite, of which no quantile can be interpolated.
    low, high = (float(np.quantile(resampled, part, method="inverted_cdf")) for part in (tail, 1 - tail))
    ends = (low if low <= limit else None, high if high <= limit else None) if has_interval else (None, None)
    if fall < MIN_FALL and 1 - errors[0] < wanted:
        return Forecast(model, wanted, "flat", None, None, None, limit, ceiling)
    if size > limit:
        reach: Reach = "never" if np.isinf(size) else "too far"
        return Forecast(model, wanted, reach, None, ends[0], None, limit, ceiling, exponent)
    reach = "reached" if size <= max(sizes) else "extrapolated"
    return Forecast(model, wanted, reach, size, *ends, limit, ceiling, exponent)
