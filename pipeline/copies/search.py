"""The search for copies: candidates, compared after alignment.

A pair is verified where it agrees better than unrelated scans ever would: those of a set that look most like each other
show what agrees by chance, or because all knees are knees. What is compared is the significance of their similarity
(:mod:`~pipeline.copies.alignment`), so that small and smooth images have to agree more than large and sharp ones. Pairs
that agree less, and still more than is usual, are listed for a person to look at.

Source:
    B. Efron, "Large-scale simultaneous hypothesis testing: the choice of a null hypothesis", JASA 99 (2004): what
    unrelated pairs are like is measured, robustly, on the pairs themselves.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from pipeline.copies.alignment import MIN_COARSE, ORIENTATIONS, Alignments, align, join
from pipeline.copies.candidates import Candidates, Metric, find_candidates, fit_metric, read_grey
from pipeline.copies.descriptors import Sources, compute_descriptors, describe_sources
from pipeline.core.array_types import Array, Floats, Indices
from pipeline.core.data_kinds import VOXEL_VOLUMES, WHOLE_VOLUMES
from pipeline.data.store import Store

# Altered copies agree by this at least: of radiographs of 160 x 160 by 0.84, of 80 x 80 by 0.63.
MIN_SIMILARITY = 0.6
# The significance that no unrelated scans reach though none are there to measure it on. The best of 8,712 alignments of
# each of 20,000 pairs would be 7 with one chance in a thousand, before its refinement.
MIN_SIGNIFICANCE = 9.0
# Of a volume so many slices are compared; the middle one of their similarities counts.
NUM_COMPARED = 3
# How much closer or wider the slices of a copy may be, how far its middle may be off, and what both must have.
STRETCHES = (0.9, 1.0, 1.1)
MAX_OFFSET, MIN_OVERLAP = 0.2, 0.6
# A slice that shows less than this part of what the typical slice of its scan shows is not compared.
MIN_STRENGTH = 0.5
NUM_UNRELATED = 80
# A volume is compared further where its most similar slice reaches this.
MIN_HOPEFUL = 0.6
# Above what unrelated scans reach: the median of their significance, and so many of its standard deviations. The first
# is for pairs whose scans have too few others that look like them, or that are too many to be checked one by one.
NUM_STDS, NUM_STDS_ALIKE, NUM_STDS_LISTED, NUM_STDS_CHECKED = 6.0, 5.0, 4.0, 2.5
MIN_UNRELATED = 5
MAX_COMPARED, MAX_CHECKED = 20_000, 300
BATCH = 64
# Without anything to measure them on: from here a pair is checked, listed, and verified if it is not checked.
NO_THRESHOLDS = (MIN_SIGNIFICANCE, MIN_SIGNIFICANCE, MIN_SIGNIFICANCE)

NO_SOURCES = Sources(np.array([], str), np.array([], str), np.array([], str), (), np.zeros((0, 0), np.float32))


@dataclass(frozen=True)
class Pair:
    """Two scans that agree.

    Args:
        first: The place of the first scan in the list of scans.
        second: The place of the second one.
        similarity: Their correlation after alignment, 0 to 1.
        significance: How far that is above what images have in common by chance, in standard deviations.
        orientation: How one lies to the other, in words.
        is_inverted: Whether black is white in one of them.
        rows: The rows of the store that agree best.
    """

    first: int
    second: int
    similarity: float
    significance: float
    orientation: str
    is_inverted: bool
    rows: tuple[int, int]


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Args:
        sources: The scans.
        threshold: The significance from which on a pair is verified where its scans have too few that look like them.
        verified: Pairs that are copies.
        unverified: Pairs that agree less than copies do and more than is usual.
        num_candidates: The number of pairs whose descriptors are close.
        num_compared: The number of these that were aligned.
        num_limited: The number of scans that were not compared with all of other patients
            (:class:`~pipeline.copies.candidates.Candidates`).
    """

    sources: Sources
    threshold: float
    verified: tuple[Pair, ...]
    unverified: tuple[Pair, ...]
    num_candidates: int
    num_compared: int
    num_limited: int = 0


def search_copies(store: Store, split_of: Array, only_across: bool = False) -> Found:
    """Find the pairs of scans that show the same.

    Args:
        store: Slices or images; among point clouds and whole volumes nothing is searched.
        split_of: The split of each row; pairs of two patients across splits are compared first.
        only_across: Whether pairs within one split are passed over.
    """
    # The mean over all slices of a whole volume is a blurred silhouette, which many volumes have in common.
    is_searched = store.kind.is_image and store.kind not in (WHOLE_VOLUMES, VOXEL_VOLUMES)
    sources = describe_sources(store) if is_searched else NO_SOURCES
    if len(sources.rows) < 2:
        return Found(sources, MIN_SIGNIFICANCE, (), (), 0, 0)
    metric = fit_metric(store, sources)
    candidates = find_candidates(metric.project(sources.descriptors), sources.group_ids, metric.max_distance)
    pairs = _order(candidates, sources, split_of, only_across)[:MAX_COMPARED]
    comparer = Comparer(store, sources, metric)
    found = [pair for pair in comparer.compare(pairs) if pair.similarity >= MIN_SIMILARITY]
    # Where nothing agrees there is nothing to set a threshold for.
    checked, listed, threshold = measure_thresholds(comparer, candidates.neighbours) if found else NO_THRESHOLDS
    found = [pair for pair in found if pair.significance >= checked]
    apart = _stand_out(comparer, found, candidates.neighbours, threshold)
    found = [pair for pair in found if pair in apart or pair.significance >= listed]
    return Found(
        sources,
        threshold,
        tuple(pair for pair in found if pair in apart),
        tuple(pair for pair in found if pair not in apart),
        len(candidates.pairs),
        len(pairs),
        candidates.num_limited,
    )


def _order(candidates: Candidates, sources: Sources, split_of: Array, only_across: bool) -> Array:
    """Return the pairs in the order of what they would mean: two patients across splits, two patients, one patient."""
    splits = np.array([split_of[rows[0]] for rows in sources.rows])
    first, second = candidates.pairs.T
    is_one_patient = sources.group_ids[first] == sources.group_ids[second]
    is_one_split = splits[first] == splits[second]
    order = np.argsort(2 * is_one_patient + is_one_split, kind="stable")
    return candidates.pairs[order[~is_one_split[order]] if only_across else order]


def measure_thresholds(comparer: "Comparer", neighbours: Indices, seed: int = 0) -> tuple[float, float, float]:
    """Return the significances from which on a pair is checked, listed, and verified where it cannot be checked.

    Scans are drawn, and for each one of those that look most like it. That fewer than half of them are copies is all
    that is assumed.

    Args:
        comparer: The scans of the store.
        neighbours: For each scan those of other patients that look most like it, -1 for none.
        seed: The seed of the draw.
    """
    generator = np.random.default_rng(seed)
    drawn = generator.permutation(len(neighbours))[:NUM_UNRELATED]
    others = neighbours[drawn, generator.integers(0, neighbours.shape[1], len(drawn))]
    pairs = np.stack([drawn, others], axis=1)[others >= 0]
    significances = _list_significances(comparer, np.unique(np.sort(pairs, axis=1), axis=0))
    if len(significances) < MIN_UNRELATED:
        return NO_THRESHOLDS
    middle, spread = measure_unrelated(significances)
    checked, listed, verified = (
        max(MIN_SIGNIFICANCE, middle + stds * spread) for stds in (NUM_STDS_CHECKED, NUM_STDS_LISTED, NUM_STDS)
    )
    return checked, listed, verified


def _list_significances(comparer: "Comparer", pairs: Array) -> Floats:
    """Return the significance of each pair that can be aligned at all."""
    found = np.array([pair.significance for pair in comparer.compare_all(pairs)])
    return found[found > 0]


def measure_unrelated(significances: Floats) -> tuple[float, float]:
    """Return median and standard deviation of unrelated pairs, both robust, though some of the pairs may be copies.

    What is more than ``NUM_STDS`` standard deviations above the median are copies; it is measured again without them,
    until there are none. Of 8, 9, 10, 11, 12 and 90 that is 10.5 and 2.2 first, and without 90 it is 10 and 1.5.
    """
    while True:
        middle = float(np.median(significances))
        spread = float(1.4826 * np.median(np.abs(significances - middle)))
        is_copy = significances > middle + NUM_STDS * spread
        if not is_copy.any():
            return middle, spread
        significances = significances[~is_copy]


def _stand_out(comparer: "Comparer", pairs: list[Pair], neighbours: Indices, threshold: float) -> set[Pair]:
    """Return the pairs that agree more than either scan does with those that look most like it.

    Where these are not compared, the pairs of a significance of ``threshold``.
    """
    checked = sorted(pairs, key=lambda pair: pair.significance)[:MAX_CHECKED]
    scans = sorted({scan for pair in checked for scan in (pair.first, pair.second)})
    bounds = measure_bounds(comparer, scans, neighbours)
    return {
        pair
        for pair in pairs
        if pair.significance >= max(bounds.get(scan, threshold) for scan in (pair.first, pair.second))
    }


def measure_bounds(comparer: "Comparer", scans: list[int], neighbours: Indices) -> dict[int, float]:
    """Return for each scan the significance that none of those that look most like it reaches.

    Some scans of a set may look alike though most do not, as digits do that are one stroke. A scan that has more copies
    than half of its neighbours is taken for such; where there are few neighbours there is no bound.

    Args:
        comparer: The scans of the store.
        scans: Places in the list of scans.
        neighbours: For each scan of the list those of other patients that look most like it, -1 for none.
    """
    values: dict[int, Floats] = {}
    for scan in scans:
        others = neighbours[scan][neighbours[scan] >= 0]
        if len(others) >= MIN_UNRELATED:
            alike = _list_significances(comparer, np.stack([np.full(len(others), scan), others], axis=1))
            if len(alike) >= MIN_UNRELATED:
                values[scan] = alike
    if not values:
        return {}
    middles = {scan: float(np.median(found)) for scan, found in values.items()}
    # Nine values alone say little about their spread.
    spread = 1.4826 * np.median(np.abs(np.concatenate([values[scan] - middles[scan] for scan in values])))
    return {scan: max(MIN_SIGNIFICANCE, float(middle + NUM_STDS_ALIKE * spread)) for scan, middle in middles.items()}


@dataclass(frozen=True)
class Comparer:
    """The scans of one store and their distance, to compare them with each other.

    Args:
        store: The examples.
        sources: Its scans.
        metric: The distance of descriptors, by which a slice finds its partner.
    """

    store: Store
    sources: Sources
    metric: Metric

    def compare(self, pairs: Array) -> Iterator[Pair]:
        """Align pairs of scans; those of which even the most similar slices do not agree are left out.

        Args:
            pairs: Places in the list of scans, ``(pairs, 2)``.
        """
        for start in range(0, len(pairs), BATCH):
            batch = pairs[start : start + BATCH].tolist()
            matches = self._match(batch)
            found = self._align(np.stack([match[0] for match in matches]), MIN_COARSE)
            hopeful = np.flatnonzero(found.similarity >= MIN_HOPEFUL)
            yield from self._compare([batch[k] for k in hopeful], [matches[k] for k in hopeful], found.take(hopeful))

    def compare_all(self, pairs: Array) -> list[Pair]:
        """Align pairs of scans, whether they agree or not.

        Args:
            pairs: Places in the list of scans, ``(pairs, 2)``.
        """
        if len(pairs) == 0:
            return []
        matches = self._match(pairs.tolist())
        return self._compare(pairs.tolist(), matches, self._align(np.stack([match[0] for match in matches]), 0.0))

    def _match(self, pairs: list[list[int]]) -> list[Indices]:
        """Return the rows of the store to compare for each pair, ``(slices, 2)``, the most similar ones first."""
        points = {
            source: self._project(self.sources.rows[source]) for source in sorted({s for pair in pairs for s in pair})
        }
        matches = []
        for first, second in pairs:
            own, other = match_slices(points[first], points[second])
            matches.append(np.stack([self.sources.rows[first][own], self.sources.rows[second][other]], axis=1))
        return matches

    def _align(self, rows: Indices, min_coarse: float) -> Alignments:
        return align(read_grey(self.store, rows[:, 0]), read_grey(self.store, rows[:, 1]), min_coarse)

    def _compare(self, pairs: list[list[int]], matches: list[Indices], most_similar: Alignments) -> list[Pair]:
        """Align the other slices of pairs whose most similar ones are aligned already."""
        if not pairs:
            return []
        rows = np.concatenate(matches)
        ends = np.cumsum([len(match) for match in matches])
        is_first = np.isin(np.arange(len(rows)), [0, *ends[:-1]])
        order = np.concatenate([np.flatnonzero(is_first), np.flatnonzero(~is_first)])
        found = join([most_similar, self._align(rows[~is_first], 0.0)]).take(np.argsort(order))
        compared = []
        for (first, second), start, end in zip(pairs, [0, *ends[:-1]], ends, strict=True):
            similarity = found.similarity[start:end]
            # The slice in the middle of the similarities, of an even number the lower one.
            place = start + int(np.argsort(similarity)[(len(similarity) - 1) // 2])
            compared.append(
                Pair(
                    first,
                    second,
                    float(found.similarity[place]),
                    float(found.significance[place]),
                    ORIENTATIONS[found.orientation[place]],
                    bool(found.is_inverted[place]),
                    (int(rows[place, 0]), int(rows[place, 1])),
                )
            )
        return compared

    def _project(self, rows: Array) -> Array:
        """Return the points of the slices, NaN where one shows next to nothing; a scan of one slice needs none."""
        if len(rows) == 1:
            return np.zeros((1, 1), np.float32)
        values = compute_descriptors(self.store.examples[rows])
        strengths = np.linalg.norm(values, axis=1, keepdims=True)
        points = self.metric.project(values / np.maximum(strengths, 1e-12))
        return np.where(strengths >= MIN_STRENGTH * np.median(strengths), points, np.float32(np.nan))


def match_slices(first: Array, second: Array) -> tuple[Indices, Indices]:
    """Choose slices of one scan, and for each the slice of the other one that it should look like.

    The slices of a copy follow each other as those of the scan do, from either end, a little closer or wider and a
    little earlier or later. Of all such lines the one is taken along which slices are alike on average: a single
    slice is easily taken for its neighbour. Then each third of the line gives the slice that is most like one on the
    line, or far more like one next to it: where every second plane was left out, every second slice has a partner.

    Args:
        first: The points of the slices of one scan, ``(slices, directions)``; NaN where a slice shows nothing.
        second: Those of the other one.

    Returns:
        Places of slices, ``(chosen,)`` each, the most similar ones first.
    """
    distances = np.linalg.norm(first[:, None] - second[None], axis=2)
    own, last = np.arange(len(first)), len(second) - 1
    lines = _list_lines(len(first), len(second))
    along = distances[own, np.clip(lines, 0, last)]
    is_there = (lines >= 0) & (lines <= last) & ~np.isnan(along)
    counts = is_there.sum(axis=1)
    means = np.where(is_there, along, 0).sum(axis=1) / np.maximum(counts, 1)
    means[counts < max(1, MIN_OVERLAP * (~np.isnan(distances).all(axis=1)).sum())] = np.inf
    best = int(means.argmin())
    line = np.where(is_there[best], lines[best], -1) if np.isfinite(means[best]) else np.minimum(own, last)
    there = np.flatnonzero(line >= 0)
    nearby = np.clip(line[there, None] + np.array([0, -1, 1]), 0, last)
    costs = np.nan_to_num(distances[there[:, None], nearby], nan=np.inf) * np.array([1, 2, 2])
    partners = nearby[np.arange(len(there)), costs.argmin(axis=1)]
    thirds = np.array_split(np.arange(len(there)), min(NUM_COMPARED, len(there)))
    lowest = costs.min(axis=1)
    chosen = np.array([third[lowest[third].argmin()] for third in thirds])
    chosen = chosen[np.argsort(lowest[chosen], kind="stable")]
    return there[chosen], partners[chosen]


@cache
def _list_lines(num_first: int, num_second: int) -> Indices:
    """Return for each line the place in the second scan of each slice of the first one, ``(lines, num_first)``."""
    own, last = np.arange(num_first), num_second - 1
    furthest = round(2 * MAX_OFFSET * last)
    lines = [
        last / 2 + offset + direction * stretch * num_second / num_first * (own - (num_first - 1) / 2)
        for stretch, direction, offset in itertools.product(STRETCHES, (1, -1), np.arange(-furthest, furthest + 1) / 2)
    ]
    return np.floor(np.array(lines) + 0.5).astype(np.int64)
