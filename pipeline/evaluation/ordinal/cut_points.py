"""Cut points on the expected grade: where one grade ends and the next begins, fitted on validation.

The most probable grade is the best answer where every mistake counts alike. Where a mistake by two grades is worse than
two by one, the expected grade, cut into pieces, answers better.
"""

import numpy as np

from pipeline.core.array_types import Floats, Indices
from pipeline.core.predictions import TIE_DECIMALS
from pipeline.evaluation.class_scores import compute_kappa

MAX_CANDIDATES = 500  # places of one cut point that are tried; of more, so many are spread evenly over the rows
MAX_ROUNDS = 20


def compute_expected_grades(probabilities: Floats) -> Floats:
    """Return the mean of the places of the grades, counted from 0 and weighted by their probabilities, ``(rows,)``.

    Args:
        probabilities: ``(rows, classes)``, from the lowest grade to the highest.
    """
    expected: Floats = (probabilities @ np.arange(probabilities.shape[1])).round(TIE_DECIMALS)
    return expected


def apply_cut_points(expected: Floats, cut_points: Floats) -> Indices:
    """Return the place of the grade of each row: the number of cut points below its expected grade, ``(rows,)``."""
    return np.searchsorted(cut_points, expected, side="left")


def fit_cut_points(expected: Floats, labels: Indices, num_classes: int) -> Floats:
    """Find the cut points with the largest quadratic weighted kappa.

    From the middles between the grades on, one cut point after the other is moved to its best place between its two
    neighbours, until none moves. Places are the middles between expected grades that follow each other in the rows. An
    example of five rows and two grades:

        expected   0.1   0.2   0.3   0.6   0.9
        label        0     0     1     1     1     from 0.5, the cut point moves to 0.25

    A cut point that nothing is gained by moving stays where it is.

    Args:
        expected: ``(rows,)``, the expected grade of each validation row.
        labels: ``(rows,)``, the place of its label; two grades at least occur.
        num_classes: The number of grades.

    Returns:
        ``(classes - 1,)``, not falling.
    """
    values, place = np.unique(expected, return_inverse=True)
    counts = np.zeros((len(values) + 1, num_classes))
    np.add.at(counts, (place + 1, labels), 1)
    reached = counts.cumsum(axis=0)  # of each number of values, the rows of each grade that lie among the lowest ones
    cuts = np.arange(num_classes - 1) + 0.5
    places = np.searchsorted(values, cuts, side="right")
    distance = np.subtract.outer(np.arange(num_classes), np.arange(num_classes)).astype(np.float64)
    best = _score(reached, places[None], distance**2)[0]
    for _ in range(MAX_ROUNDS):
        before = best
        for cut in range(num_classes - 1):
            low = places[cut - 1] if cut > 0 else 0
            high = places[cut + 1] if cut + 1 < num_classes - 1 else len(values)
            step = max(1, (high - low) // MAX_CANDIDATES)
            candidates = np.repeat(places[None], len(range(low, high + 1, step)), axis=0)
            candidates[:, cut] = np.arange(low, high + 1, step)
            kappas = _score(reached, candidates, distance**2)
            if kappas.max() > best:
                best, places[cut] = kappas.max(), candidates[kappas.argmax(), cut]
                cuts[cut] = _find_middle(values, int(places[cut]))
        if best == before:
            break
    return np.maximum.accumulate(cuts)


def _score(reached: Floats, places: Indices, disagreement: Floats) -> Floats:
    """Compute kappa for rows of places, ``(candidates,)``; minus 1 where it is not defined."""
    ends = np.zeros((len(places), 1), dtype=np.int64)
    edges = np.concatenate([ends, places, ends + len(reached) - 1], axis=1)
    confusion = np.diff(reached[edges], axis=1).swapaxes(1, 2)
    return np.nan_to_num(compute_kappa(confusion, disagreement), nan=-1.0)


def _find_middle(values: Floats, place: int) -> float:
    """Return a number with so many of the sorted values below it, in the middle between its neighbours."""
    if place == 0:
        return float(values[0] - 0.5)
    return float(values[-1] + 0.5) if place == len(values) else float((values[place - 1] + values[place]) / 2)
