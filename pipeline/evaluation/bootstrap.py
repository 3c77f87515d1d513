"""The bootstrap over patients: whole patients are drawn, and intervals come from the scores of such resamples.

Slices of a patient resemble each other, so they are not independent: a patient is drawn with all its rows. A resample
is a row of weights, how often each patient was drawn, and a score is computed for many such rows at once.

Neither library at hand does this. ``torchmetrics.BootStrapper`` draws single rows, and needs torch. With
``scipy.stats.bootstrap`` one could draw the numbers of patients, but each score would draw them again, every resample
would walk through the rows again, and one resample without a class would make the whole interval NaN.

Source:
    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentile interval); Field and Welsh,
    "Bootstrapping clustered data", 2007 (whole clusters are drawn).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from einops import rearrange
from numpy.typing import NDArray

from pipeline.core.array_types import Floats, Indices
from pipeline.core.errors import UserError
from pipeline.evaluation.schema import Estimate

# An interval needs this fraction of resamples in which the score is defined.
MIN_DEFINED_FRACTION = 0.9

# A bootstrap over fewer patients than these makes intervals that are too narrow; reports warn of it.
MIN_PATIENTS = 20

# Numbers held at once by one array of a chunk: 4 MB as float64, so that a few of them stay
# in a processor's cache; 16 times more took 2.5 times as long.
MAX_CHUNK_NUMBERS = 500_000


@dataclass(frozen=True)
class Bootstrap:
    """Resamples of patients.

    Args:
        num_resamples: How many times the patients are drawn again.
        seed: The seed of the random numbers. The same seed draws the same patients at every level and for every
            model, so results on one table can be compared in pairs.
    """

    num_resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_resamples < 1:
            raise UserError(f"num_resamples: found {self.num_resamples}; allowed are 1 and more.")

    def draw(self, num_patients: int, numbers_held: int) -> Iterator[Floats]:
        """Draw the patients of all resamples, many at once.

        Args:
            num_patients: The number of patients to draw from.
            numbers_held: How many numbers a resample needs at once; the more, the fewer are drawn together.

        Yields:
            ``(resamples, patients)``: how often each patient was drawn.
        """
        generator = np.random.default_rng(self.seed)
        chunk_size = max(1, MAX_CHUNK_NUMBERS // max(num_patients, numbers_held))
        for start in range(0, self.num_resamples, chunk_size):
            size = min(chunk_size, self.num_resamples - start)
            yield draw_patient_weights(num_patients, size, generator)

    def resample(self, compute: Callable[[Floats], Floats], num_patients: int, numbers_held: int = 1) -> Floats | None:
        """Compute a statistic of every resample.

        Args:
            compute: The statistic: weights ``(resamples, patients)`` to ``(resamples, ...)``, NaN where undefined.
            num_patients: The number of patients to draw from.
            numbers_held: See ``draw``.

        Returns:
            ``(resamples, ...)``; None for a single patient, of whom every resample is the same.
        """
        if num_patients < 2:
            return None
        return np.concatenate([compute(weights) for weights in self.draw(num_patients, numbers_held)])


def percentile_interval(value: float, resampled: Floats | None) -> Estimate:
    """Return a value with its 95 % percentile interval; None, never NaN, where there is no such number.

    Args:
        value: The statistic of the table itself.
        resampled: ``(resamples,)``: the statistic of each resample, or None where there are none.
    """
    if np.isnan(value):
        return {"value": None, "low": None, "high": None}
    defined = np.empty(0) if resampled is None else resampled[~np.isnan(resampled)]
    if resampled is None or len(defined) < MIN_DEFINED_FRACTION * len(resampled):
        return {"value": float(value), "low": None, "high": None}
    low, high = np.percentile(defined, [2.5, 97.5])
    return {"value": float(value), "low": float(low), "high": float(high)}


def draw_patient_weights(num_patients: int, num_resamples: int, generator: np.random.Generator) -> Floats:
    """Draw as many patients as there are, with replacement, and count each.

    Args:
        num_patients: The number of patients to draw from, and of draws a resample.
        num_resamples: The number of resamples.
        generator: The random number generator.

    Returns:
        ``(resamples, patients)``; each row sums to the number of patients.
    """
    drawn = generator.integers(0, num_patients, size=(num_resamples, num_patients))
    cells = drawn + num_patients * np.arange(num_resamples)[:, None]
    flat: Indices = rearrange(cells, "resample draw -> (resample draw)")
    counts = np.bincount(flat, minlength=cells.size)
    weights: Floats = counts.astype(np.float64)
    return rearrange(weights, "(resample patient) -> resample patient", patient=num_patients)


def count_pairs(rows: Indices, columns: Indices, shape: tuple[int, int]) -> scipy.sparse.csr_array:
    """Count how often each (row, column) pair occurs.

    Args:
        rows: The row of each pair.
        columns: The column of each pair.
        shape: The numbers of rows and columns of the result.

    Returns:
        A sparse table of float64 counts.
    """
    ones = np.ones(len(rows))
    return scipy.sparse.csr_array(scipy.sparse.coo_array((ones, (rows, columns)), shape=shape))


def divide_or_nan(numerator: NDArray[Any], denominator: NDArray[Any]) -> Floats:
    """Divide; NaN where the denominator is 0."""
    result = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator != 0)
    return result
