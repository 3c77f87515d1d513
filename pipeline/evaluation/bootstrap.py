"""The bootstrap over patients."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from einops import rearrange
from numpy.typing import NDArray

from pipeline.core.array_types import Floats, Indices

# An interval needs this share of resamples in which the metric is defined.
MIN_DEFINED_SHARE = 0.9

# Numbers held at once by one array of a chunk: 4 MB as float64, so that a few of them stay
# in a processor's cache; 16 times more took 2.5 times as long.
MAX_CHUNK_NUMBERS = 500_000


def summarise(value: float, resampled: Floats | None) -> dict[str, float | None]:
    """Return value, low and high; None, never NaN, where there is no such number."""
    if np.isnan(value):
        return {"value": None, "low": None, "high": None}
    defined = np.empty(0) if resampled is None else resampled[~np.isnan(resampled)]
    if resampled is None or len(defined) < MIN_DEFINED_SHARE * len(resampled):
        return {"value": float(value), "low": None, "high": None}
    low, high = np.percentile(defined, [2.5, 97.5])
    return {"value": float(value), "low": float(low), "high": float(high)}


def draw_patient_weights(num_patients: int, num_resamples: int, generator: np.random.Generator) -> Floats:
    """Draw as many patients as there are, with replacement, and count each.

    Returns:
        ``(resamples, patients)``; each row sums to the number of patients.
    """
    drawn = generator.integers(0, num_patients, size=(num_resamples, num_patients))
    cells = drawn + num_patients * np.arange(num_resamples)[:, None]
    flat: Indices = rearrange(cells, "resample draw -> (resample draw)")
    counts = np.bincount(flat, minlength=cells.size)
    weights: Floats = counts.astype(np.float64)
    return rearrange(weights, "(resample patient) -> resample patient", patient=num_patients)


def chunk_sizes(total: int, largest: int) -> Iterator[int]:
    """Yield sizes of at most ``largest`` that sum to ``total``."""
    for start in range(0, total, largest):
        yield min(largest, total - start)


@dataclass(frozen=True)
class Draws:
    """How intervals are drawn.

    Args:
        num_resamples: how many times the patients are drawn again.
        seed: of the draws.
    """

    num_resamples: int
    seed: int


def count_cells(rows: Indices, columns: Indices, shape: tuple[int, int]) -> scipy.sparse.csr_array:
    """Count how often each (row, column) pair occurs, as a sparse ``shape`` of float64."""
    ones = np.ones(len(rows))
    return scipy.sparse.csr_array(scipy.sparse.coo_array((ones, (rows, columns)), shape=shape))


def divide(numerator: NDArray[Any], denominator: NDArray[Any]) -> Floats:
    """Divide; NaN where the denominator is 0."""
    result = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator != 0)
    return result


def draw_weights(num_patients: int, num_resamples: int, seed: int, largest: int) -> Iterator[Floats]:
    """Draw the patients of all resamples, some at once.

    Args:
        num_patients: of the table.
        num_resamples: how many times they are drawn.
        seed: of the draws.
        largest: how many numbers a resample needs at once; so much less are drawn together.

    Yields:
        ``(resamples, patients)``: how often each patient was drawn.
    """
    generator = np.random.default_rng(seed)
    for size in chunk_sizes(num_resamples, max(1, MAX_CHUNK_NUMBERS // largest)):
        yield draw_patient_weights(num_patients, size, generator)
