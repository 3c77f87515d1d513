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
            are; -1 where there are no more.
    """

    pairs: Array
    distances: Array
    neighbours: Indices


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


def find_candidates(points: Array, group_ids: Array, max_distance: float) -> Candidates:
    """Find pairs of points that are close, by comparing all.

    Args:
        points: ``(points, directions)`` float32.
        group_ids: The patient of each point.
        max_distance: The largest distance.
    """
    index = faiss.IndexFlatL2(points.shape[1])
    index.add(points)
    squares, neighbours = index.search(points, min(NUM_NEIGHBOURS + 1, len(points)))
    own = np.arange(len(points))[:, None]
    groups = np.unique(group_ids, return_inverse=True)[1]
    is_own_patient = groups[neighbours] == groups[:, None]
    is_other = (neighbours != own) & (squares <= max_distance**2)
    of_others, of_own = is_other & ~is_own_patient, is_other & is_own_patient
    is_near = (of_others & (of_others.cumsum(axis=1) <= NUM_OF_OTHERS)) | (
        of_own & (of_own.cumsum(axis=1) <= NUM_OF_OWN)
    )
    pairs = np.sort(np.stack([np.broadcast_to(own, neighbours.shape)[is_near], neighbours[is_near]], axis=1), axis=1)
    pairs, first = np.unique(pairs, axis=0, return_index=True)
    distances = np.sqrt(np.maximum(squares[is_near][first], 0))
    order = np.argsort(distances, kind="stable")
    # In each row the scans of other patients come first, in their order.
    front = np.argsort(~((neighbours != own) & ~is_own_patient), axis=1, kind="stable")[:, :NUM_ALIKE]
    alike = np.where(
        np.take_along_axis((neighbours != own) & ~is_own_patient, front, axis=1), neighbours[own, front], -1
    )
    return Candidates(pairs[order], distances[order], alike)
