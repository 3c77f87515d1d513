"""Candidates: pairs of scans whose descriptors are close. The only module that imports faiss.

Close is measured on the scans of the store itself. Some of them are altered in the ways that a copy may be; the
directions in which descriptors then move count little, those in which scans differ count much (linear discriminant
analysis), and a pair is a candidate where it is no further apart than altered copies are.
"""

from dataclasses import dataclass

import faiss
import numpy as np
from einops import rearrange

from pipeline.copies.alterations import ALTERATIONS, FITTED, VOLUME_ALTERATIONS, Alteration
from pipeline.copies.descriptors import Sources, describe_stacks
from pipeline.core.array_types import Array, Indices
from pipeline.data.store import Store

# So many scans are altered, of volumes fewer: a volume is altered in several slices.
NUM_SAMPLED, NUM_SAMPLED_VOLUMES, MAX_SLICES = 200, 80, 6
NUM_DIRECTIONS = 32
# A candidate is no further apart than this part of the copies under the alteration that moves them most, and a margin.
QUANTILE, MARGIN = 0.98, 1.15
# Of each scan so many of its neighbours are looked at, and of these the closest ones of other patients and of its own.
NUM_NEIGHBOURS, NUM_OF_OTHERS, NUM_OF_OWN = 24, 3, 2
# What looks most like a scan shows how much unrelated ones agree with it.
NUM_ALIKE = 9
# Frames of one patient are one thing many times. Of another patient with more scans than this only the closest counts:
# else they would hide closer patients, and copied frames would be most of what looks alike.
MAX_ALIKE_OF_ONE = (NUM_ALIKE - 1) // 2
# So many distances are computed at most where the first neighbours are of too few patients: a minute of one core, which
# 40,000 frames need. At once in memory are so many, 64 MiB.
MAX_SEARCHED_FURTHER, MAX_IN_MEMORY = 2_000_000_000, 1 << 24
RIDGE = 3e-3


@dataclass(frozen=True)
class Metric:
    """The distance of two descriptors, in units of what alterations do.

    Args:
        centre: ``(NUM_VALUES,)``.
        directions: ``(NUM_VALUES, NUM_DIRECTIONS)``.
        max_distance: The largest distance of a candidate.
    """

    centre: Array
    directions: Array
    max_distance: float

    def project(self, descriptors: Array) -> Array:
        """Return points whose Euclidean distance is the distance, ``(..., NUM_DIRECTIONS)`` float32."""
        points: Array = ((descriptors - self.centre) @ self.directions).astype(np.float32)
        return points


@dataclass(frozen=True)
class Candidates:
    """Pairs of scans that may be copies.

    Args:
        pairs: Places in the list of scans, the smaller first, ``(pairs, 2)``, the closest pair first.
        distances: ``(pairs,)``, rising.
        neighbours: The closest scans of other patients, ``(scans, NUM_ALIKE)``, the closest first, however far they
            are; -1 where there are no more. Of a patient with more than ``MAX_ALIKE_OF_ONE`` scans the closest alone.
        num_limited: The number of scans that needed a further search for those and got none: there are too many.
    """

    pairs: Array
    distances: Array
    neighbours: Indices
    num_limited: int = 0


def fit_metric(store: Store, sources: Sources, seed: int = 0) -> Metric:
    """Measure what alterations do to the descriptors of this store's scans.

    Args:
        store: The examples.
        sources: Its scans.
        seed: The seed of the choice of scans and of the noise.
    """
    generator = np.random.default_rng(seed)
    has_slices = max(len(rows) for rows in sources.rows) > 1
    num_sampled = NUM_SAMPLED_VOLUMES if has_slices else NUM_SAMPLED
    chosen = generator.permutation(len(sources.rows))[:num_sampled]
    changes = _measure_changes(store, [sources.rows[source] for source in chosen], generator)
    # Directions fit the scans that they come from too well, so the distance is measured on others.
    fitted, measured = changes[:, ::2], changes[:, 1::2] if len(chosen) > 1 else changes
    fitted = rearrange(fitted, "alteration scan value -> (alteration scan) value")
    within = _regularise(fitted.T @ fitted / len(fitted))
    between = _regularise(np.atleast_2d(np.cov(sources.descriptors.T, bias=True)))
    scales, axes = np.linalg.eigh(within)
    whitening = axes / np.sqrt(scales)
    spread, turned = np.linalg.eigh(whitening.T @ between @ whitening)
    directions = whitening @ turned[:, np.argsort(-spread)[:NUM_DIRECTIONS]]
    distances = np.linalg.norm(measured @ directions, axis=2)
    farthest = float(np.quantile(distances, QUANTILE, axis=1).max())
    return Metric(sources.descriptors.mean(axis=0), directions, MARGIN * farthest)


def _regularise(covariance: Array) -> Array:
    size = len(covariance)
    regularised: Array = covariance + (RIDGE * np.trace(covariance) / size + 1e-12) * np.eye(size)
    return regularised


def _measure_changes(store: Store, scans: list[Indices], generator: np.random.Generator) -> Array:
    """Return how each alteration moves the descriptor of each scan, ``(alterations, scans, NUM_VALUES)``.

    Args:
        store: The examples.
        scans: The rows of each scan; some slices stand for all, but where it is their distance that is altered.
        generator: The source of noise.
    """
    has_slices = min(len(rows) for rows in scans) >= 2 * MAX_SLICES
    chunk = MAX_SLICES if has_slices else 10 * MAX_SLICES  # scans that are in memory at once
    changes = []
    for start in range(0, len(scans), chunk):
        some = [read_grey(store, _thin_out(rows)) for rows in scans[start : start + chunk]]
        changed = [_measure_change(some, ALTERATIONS[name], generator) for name in FITTED]
        if has_slices:
            whole = [read_grey(store, rows) for rows in scans[start : start + chunk]]
            changed += [_measure_change(whole, alter, generator) for alter in VOLUME_ALTERATIONS.values()]
        changes.append(np.stack(changed))
    return np.concatenate(changes, axis=1)


def _thin_out(rows: Indices) -> Indices:
    thinned: Indices = rows[np.unique(np.linspace(0, len(rows) - 1, MAX_SLICES).astype(int))]
    return thinned


def _measure_change(stacks: list[Array], alter: Alteration, generator: np.random.Generator) -> Array:
    return describe_stacks([alter(stack, generator) for stack in stacks]) - describe_stacks(stacks)


def read_grey(store: Store, rows: Array) -> Array:
    """Return examples as ``(rows, height, width)`` uint8; channels are averaged."""
    images = np.asarray(store.examples[rows])
    return images if images.ndim == 3 else np.floor(images.mean(axis=1) + 0.5).astype(np.uint8)


def find_candidates(
    points: Array, group_ids: Array, max_distance: float, max_compared: int = MAX_SEARCHED_FURTHER
) -> Candidates:
    """Find pairs of points that are close, by comparing all.

    A patient with many scans fills the neighbours of its own scans, and of those of others, with what looks alike. Such
    points are searched further, until as many patients are found as of patients with one scan each.

    Args:
        points: ``(points, directions)`` float32.
        group_ids: The patient of each point.
        max_distance: The largest distance.
        max_compared: So many distances are computed at most to search further.
    """
    index = faiss.IndexFlatL2(points.shape[1])
    index.add(points)
    squares, neighbours = index.search(points, min(NUM_NEIGHBOURS + 1, len(points)))
    own = np.arange(len(points))[:, None]
    groups = np.unique(group_ids, return_inverse=True)[1]
    is_own_patient = groups[neighbours] == groups[:, None]
    is_close = (neighbours != own) & (squares <= max_distance**2)
    counts_alone = np.bincount(groups)[groups] <= MAX_ALIKE_OF_ONE
    is_counted = ~is_own_patient & (counts_alone[neighbours] | _is_first(groups[neighbours]))
    of_own = is_close & is_own_patient
    is_near = (is_close & ~is_own_patient & ((~is_own_patient).cumsum(axis=1) <= NUM_OF_OTHERS)) | (
        is_close & is_counted & (is_counted.cumsum(axis=1) <= NUM_OF_OTHERS)
    )
    is_near |= of_own & (of_own.cumsum(axis=1) <= NUM_OF_OWN)
    pairs = np.stack([np.broadcast_to(own, neighbours.shape)[is_near], neighbours[is_near]], axis=1)
    distances = np.sqrt(np.maximum(squares[is_near], 0))
    # In each row the scans of other patients that count come first, in their order.
    front = np.argsort(~is_counted, axis=1, kind="stable")[:, :NUM_ALIKE]
    alike = np.where(np.take_along_axis(is_counted, front, axis=1), neighbours[own, front], -1)
    is_short = (is_counted.sum(axis=1) < NUM_ALIKE) & (neighbours.shape[1] < len(points))
    rows, num_limited = _choose_evenly(np.flatnonzero(is_short), groups, max_compared // len(points))
    if len(rows):
        more, far, alike[rows] = _search_others(points, groups, counts_alone, rows)
        pairs = np.concatenate([pairs, more[far <= max_distance]])
        distances = np.concatenate([distances, far[far <= max_distance]])
    pairs, first = np.unique(np.sort(pairs, axis=1), axis=0, return_index=True)
    distances = distances[first]
    order = np.argsort(distances, kind="stable")
    return Candidates(pairs[order], distances[order], alike, num_limited)


def _is_first(groups: Indices) -> Array:
    """Return ``(rows, places)``, whether no earlier place of the row is of the same patient."""
    order = np.argsort(groups, axis=1, kind="stable")
    ordered = np.take_along_axis(groups, order, axis=1)
    is_first = np.ones(groups.shape, bool)
    np.put_along_axis(is_first, order[:, 1:], ordered[:, 1:] != ordered[:, :-1], axis=1)
    return is_first


def _choose_evenly(rows: Indices, groups: Indices, number: int) -> tuple[Indices, int]:
    """Return at most so many of the rows, of each patient as many as of any other, and how many were left out."""
    if len(rows) <= number:
        return rows, 0
    drawn = np.random.default_rng(0).permutation(rows)
    by_patient = drawn[np.argsort(groups[drawn], kind="stable")]
    starts = np.searchsorted(groups[by_patient], groups[by_patient])
    rounds = np.arange(len(by_patient)) - starts
    return np.sort(by_patient[np.argsort(rounds, kind="stable")[:number]]), len(rows) - number


def _search_others(points: Array, groups: Indices, counts_alone: Array, rows: Indices) -> tuple[Array, Array, Indices]:
    """Compare some of the points with all of other patients.

    Returns:
        Pairs of places, ``(pairs, 2)``, of each row the nearest points and the nearest patients; their distances,
        ``(pairs,)``; and neighbours as in :class:`Candidates`, ``(rows, NUM_ALIKE)``.
    """
    order = np.argsort(groups, kind="stable")
    ordered, groups_in_order = points[order], groups[order]
    # A patient with many scans is one stretch, a scan of another one is a stretch of its own.
    starts = np.flatnonzero(np.append(True, groups_in_order[1:] != groups_in_order[:-1]) | counts_alone[order])
    ends = np.append(starts[1:], len(order))
    lengths = (ordered**2).sum(axis=1)
    alike = np.full((len(rows), NUM_ALIKE), -1)
    pairs = []
    chunk = max(1, MAX_IN_MEMORY // len(points))
    for begin in range(0, len(rows), chunk):
        some = rows[begin : begin + chunk]
        squares = points[some] @ (-2 * ordered.T)
        squares += lengths
        lows, highs = (np.searchsorted(groups_in_order, groups[some], side) for side in ("left", "right"))
        for line, (low, high) in enumerate(zip(lows, highs, strict=True)):
            squares[line, low:high] = np.inf
        closest = np.minimum.reduceat(squares, starts, axis=1)
        stretches = np.argpartition(closest, min(NUM_ALIKE, len(starts)) - 1, axis=1)[:, :NUM_ALIKE]
        for line, row in enumerate(some):
            near = stretches[line][np.isfinite(closest[line, stretches[line]])]
            near = near[np.argsort(closest[line, near], kind="stable")]
            found = [starts[k] + int(squares[line, starts[k] : ends[k]].argmin()) for k in near]
            alike[begin + line, : len(found)] = order[found]
            # The nearest points are of the nearest patients.
            stretched = [np.arange(starts[k], ends[k]) for k in near[:NUM_OF_OTHERS]]
            places = np.concatenate([np.array([], np.int64), *stretched])
            places = places[np.argsort(squares[line, places], kind="stable")[:NUM_OF_OTHERS]]
            pairs += [(row, order[place]) for place in {*found[:NUM_OF_OTHERS], *places.tolist()}]
    joined = np.array(pairs, np.int64).reshape(-1, 2)
    # The squares above are rounded: those of equal points are not zero.
    return joined, np.linalg.norm(points[joined[:, 0]] - points[joined[:, 1]], axis=1), alike
