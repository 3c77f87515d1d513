"""Temperature scaling: one number, fitted on validation, that corrects overconfidence and underconfidence."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import softmax

from pipeline.core.array_types import Floats
from pipeline.evaluation.predictions import read_class_indices, read_probabilities

# Where all predictions are correct, the likelihood grows without end as the temperature falls to 0; where they are
# worse than guessing, as it rises. The bounds keep a fit from few patients within a factor of ten.
BOUNDS = (0.1, 10.0)
# The same floor as under the negative log-likelihood in metrics.json, so that temperature 1 changes no score.
SMALLEST_PROBABILITY = float(np.finfo(np.float64).eps)
FLAT_SLOPE = 1e-12  # rounding of a slope that is 0


@dataclass(frozen=True)
class Temperature:
    """A fitted temperature.

    Attributes:
        value: The temperature; above 1 the model was overconfident, below 1 underconfident.
        is_bounded: Whether the fit ended at a bound, so that a more extreme one would fit better.
    """

    value: float
    is_bounded: bool


def scale_probabilities(probabilities: Floats, temperature: float) -> Floats:
    """Divide the logarithms of probabilities by a temperature and make them add up to 1 again.

    Softmax is invariant to a constant added to all logits, so that the logarithms of its probabilities serve as logits:
    softmax(log p / T) = p^(1/T) / sum of p^(1/T). A probability of exactly 0, which models trained with squared error
    give, has no logarithm and counts as the rounding of float64, 2.2e-16. The order of the classes stays.

    Args:
        probabilities: ``(rows, classes)``.
        temperature: The temperature, above 0.

    Returns:
        ``(rows, classes)``, each row sums to 1.

    Source:
        Guo and others, "On calibration of modern neural networks", 2017, section 4.2.
    """
    scaled: Floats = softmax(take_logarithms(probabilities) / temperature, axis=1)
    return scaled


def take_logarithms(probabilities: Floats) -> Floats:
    """Take logarithms; 0 counts as the smallest probability."""
    logarithms: Floats = np.log(np.clip(probabilities, SMALLEST_PROBABILITY, 1.0))
    return logarithms


def fit_temperature(probabilities: Floats, labels: NDArray[np.int64]) -> Temperature:
    """Find the temperature of the least mean negative log-likelihood.

    The likelihood has one peak in 1 / T, where its slope is 0. With z = log p and w = softmax(z / T) the slope of the
    loss is the mean over the rows of sum over the classes of w (z - z of the true class).

    Args:
        probabilities: ``(rows, classes)``, of rows that the model was not trained on.
        labels: ``(rows,)``, index of the true class.

    Returns:
        The temperature, within ``BOUNDS``; 1 where none is better, as for a model that gives all classes the same
        probability.
    """
    log_probabilities = take_logarithms(probabilities)
    distances = log_probabilities - log_probabilities[np.arange(len(labels)), labels][:, None]

    def compute_slope(inverse_temperature: float) -> float:
        weights = softmax(distances * inverse_temperature, axis=1)
        return float((weights * distances).sum(axis=1).mean())

    if abs(compute_slope(1.0)) < FLAT_SLOPE:
        return Temperature(1.0, is_bounded=False)
    coldest, hottest = BOUNDS
    if compute_slope(1 / coldest) <= 0:
        return Temperature(coldest, is_bounded=True)
    if compute_slope(1 / hottest) >= 0:
        return Temperature(hottest, is_bounded=True)
    return Temperature(1 / float(brentq(compute_slope, 1 / hottest, 1 / coldest)), is_bounded=False)


def fit_on_predictions(val: pandas.DataFrame, class_names: Sequence[str]) -> Temperature:
    """Fit the temperature on the validation rows of a predictions table."""
    return fit_temperature(read_probabilities(val, class_names), read_class_indices(val["label"], class_names))


def scale_predictions(
    predictions: pandas.DataFrame, class_names: Sequence[str], temperature: float
) -> pandas.DataFrame:
    """Return a predictions table with scaled probabilities; the predicted classes and all else stay.

    Args:
        predictions: A predictions table.
        class_names: All classes.
        temperature: The temperature, above 0.
    """
    scaled = predictions.copy()
    columns = [f"probability_{name}" for name in class_names]
    scaled[columns] = scale_probabilities(read_probabilities(predictions, class_names), temperature)
    return scaled
