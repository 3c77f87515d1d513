"""Drift of grey levels: how far the scans of another site are from those of training, as the model sees them.

Two measures, neither of which knows a label: the mean and the standard deviation of each scan's pixels, compared over
scans, and the distance of the histograms of all pixels. The run's own test scans show how large both are within one
source.
"""

from dataclasses import dataclass

import numpy as np
import scipy.stats
from einops import reduce

from pipeline.core.array_types import Floats, Indices
from pipeline.data.statistics import QUANTILES, IntensityReference, describe_distance, measure
from pipeline.data.store import Store
from pipeline.evaluation.schema import Drift, LevelDrift, Quantiles

# Of more scans in a part so many are drawn: their quantiles are exact enough, and a large store is not read again.
MAX_SCANS = 1000
NUMBERS = ("mean", "std")
ROUNDING = 1e-9
NUM_RANGES = 32  # of a histogram that is drawn


@dataclass(frozen=True)
class GreyLevels:
    """The grey levels of one part's scans.

    Args:
        numbers: Mean and standard deviation of each scan, ``(scans, 2)``, black 0 and white 1.
        histogram: The fraction of each of 256 levels, ``(256,)``; each scan counts once.
        num_far: The number of scans that are far from those of a reference.
    """

    numbers: Floats
    histogram: Floats
    num_far: int = 0

    def build_reference(self) -> IntensityReference:
        """Return what new scans are compared with, as ``predict`` does."""
        mean, std = np.quantile(self.numbers, QUANTILES, axis=0).T.tolist()
        return IntensityReference(len(self.numbers), tuple(mean), tuple(std))


def measure_scans(
    store: Store, rows: Indices, reference: IntensityReference | None = None, seed: int = 0
) -> GreyLevels:
    """Measure the scans of some rows of a store.

    Args:
        store: Slices, images or whole scans.
        rows: The rows of the part.
        reference: The training scans, where those that are far from them are counted.
        seed: The seed of the choice of scans where there are many.
    """
    names, codes = np.unique(store.index["source_id"].to_numpy(dtype=str)[rows], return_inverse=True)
    chosen = np.arange(len(names))
    if len(names) > MAX_SCANS:
        chosen = np.sort(np.random.default_rng(seed).choice(len(names), MAX_SCANS, replace=False))
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(names) + 1))
    numbers, histogram, num_far = [], np.zeros(256), 0
    for place in chosen:
        of_scan = rows[order[starts[place] : starts[place + 1]]]
        images = np.asarray(store.examples[of_scan])
        if store.places_mm is not None:  # what fills up a scan with fewer slices is no part of it
            images = images[~np.isnan(store.places_mm[of_scan, :, 0])]
        numbers.append(measure(images))
        histogram += np.bincount(images.reshape(-1), minlength=256) / images.size
        num_far += describe_distance(images, reference) != ""
    return GreyLevels(np.array(numbers), histogram / len(chosen), num_far)


def compute_distance(first: Floats, second: Floats) -> float:
    """Compute the 1-Wasserstein distance of two histograms of 256 levels, in grey levels.

    It is the area between the two cumulative histograms: the mean number of levels by which pixels would have to
    change for one histogram to become the other. Of 1 pixel at level 10 and 1 at level 13 it is 3.

    Args:
        first: The fractions, ``(256,)``.
        second: Those of the other one.

    Source:
        Vallender, "Calculation of the Wasserstein distance between probability distributions on the line", Theory of
        Probability and its Applications 18, 1974.
    """
    levels = np.arange(len(first))
    return float(scipy.stats.wasserstein_distance(levels, levels, first, second))


def compute_drift(training: GreyLevels, test: GreyLevels, external: GreyLevels) -> Drift:
    """Compare the grey levels of external scans, and of the run's own test scans, with those of training."""
    parts = {"training": training, "test": test, "external": external}
    return {
        "num_scans": {name: len(part.numbers) for name, part in parts.items()},
        "histograms": {
            name: reduce(part.histogram, "(range level) -> range", "sum", range=NUM_RANGES).tolist()
            for name, part in parts.items()
        },
        "distance": compute_distance(training.histogram, external.histogram),
        "test_distance": compute_distance(training.histogram, test.histogram),
        "numbers": [
            _compare(name, training.numbers[:, place], test.numbers[:, place], external.numbers[:, place])
            for place, name in enumerate(NUMBERS)
        ],
        "num_far": external.num_far,
    }


def _compare(name: str, training: Floats, test: Floats, external: Floats) -> LevelDrift:
    spread = float(training.std())
    is_spread = spread > ROUNDING
    limits = _summarise(training)
    return {
        "number": name,
        "training": limits,
        "test": _summarise(test),
        "external": _summarise(external),
        "difference": float(external.mean() - training.mean()) / spread if is_spread else None,
        "test_difference": float(test.mean() - training.mean()) / spread if is_spread else None,
        "outside": float(((external < limits["low"]) | (external > limits["high"])).mean()),
    }


def _summarise(values: Floats) -> Quantiles:
    low, median, high = (float(value) for value in np.quantile(values, (0.05, 0.5, 0.95)))
    return {"low": low, "median": median, "high": high}
