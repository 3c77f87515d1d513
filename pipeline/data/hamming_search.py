"""Find all pairs of hashes that differ in few bits, without comparing all of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.core.array_types import Array

# First rows, second rows, and in how many bits they differ: three arrays of one length.
Pairs = tuple[Array, Array, Array]

NUM_BITS = 256
WORD_BITS = 64
# Up to so many hashes, to compare them all is quicker than to sort them seven times.
MAX_COMPARED = 2048
# Groups up to this size are compared all at once, one neighbour after the other; larger ones by themselves.
MAX_SMALL_GROUP = 64
# A search that would still compare more than this fraction of all pairs does not repay its sorting. It also bounds the
# depth: each further search has an eighth of the pairs.
MAX_FRACTION = 1 / 8
SAMPLE = 1 << 16
# Blocks of 64 x 512 words stay in a processor's cache, and so do 8,192 hashes.
BLOCK = (64, 512)
CHUNK = 8192


def find_close_hashes(hashes: Array, codes: Array, max_bits: int) -> Iterator[Pairs]:
    """Yield each pair of hashes that differ in few bits and carry different codes, once.

    Hashes that differ in ``max_bits`` bits at most agree in one of ``max_bits + 1`` parts at least, so only those that
    agree in a part are compared. Bits are assigned to parts in turn, those that vary most first: images that are black
    at their border have whole rows of equal bits, and neighbouring bits would make parts that are equal in all images.
    Hashes that agree in a part and are many even so are searched by themselves in the same way, with the bits that
    vary among them.

    Args:
        hashes: ``(rows, 4)`` uint64.
        codes: ``(rows,)``; rows of the same code are not compared.
        max_bits: The largest number of differing bits.

    Yields:
        Rows, the smaller first, and bits; in no particular order.

    Source:
        M. Norouzi, A. Punjani, D. J. Fleet, "Fast Search in Hamming Space with Multi-Index Hashing" (2012).
    """
    codes = np.unique(codes, return_inverse=True)[1]
    by_code = np.argsort(codes, kind="stable")
    for first, second, bits in _search(hashes[by_code], codes[by_code], max_bits):
        rows = by_code[first], by_code[second]
        yield np.minimum(*rows), np.maximum(*rows), bits


def _search(hashes: Array, codes: Array, max_bits: int) -> Iterator[Pairs]:
    """Find the close pairs of hashes that are in the order of their codes."""
    sample = slice(None, None, -(-len(hashes) // SAMPLE))
    hashes = take_bits(hashes, _order_bits(hashes[sample]))
    parts = [range(start, NUM_BITS, max_bits + 1)[:WORD_BITS] for start in range(max_bits + 1)]
    if len(hashes) <= MAX_COMPARED or not _is_worthwhile(hashes[sample], codes[sample], parts):
        yield from _compare_all(hashes, codes, max_bits)
        return
    for number, part in enumerate(parts):
        keys = take_bits(hashes, part)[:, 0]
        for first, second, bits in _search_groups(hashes, codes, keys, max_bits):
            differing = hashes[first] ^ hashes[second]
            # A pair that agrees in an earlier part was found there.
            is_new = np.ones(len(first), bool)
            for earlier in parts[:number]:
                is_new &= take_bits(differing, earlier)[:, 0] != 0
            yield first[is_new], second[is_new], bits[is_new]


def _order_bits(hashes: Array) -> Array:
    """Return the positions of the bits, those that vary most first."""
    ones = np.unpackbits(hashes.view(np.uint8), axis=1, bitorder="little").sum(axis=0)
    return np.argsort(np.abs(ones - len(hashes) / 2), kind="stable")


def take_bits(hashes: Array, positions: Array | range) -> Array:
    """Return the chosen bits of each hash, ``(rows, words)`` uint64, the first in the lowest bit of the first word.

    Args:
        hashes: ``(rows, words)`` uint64.
        positions: The bits to take; bit 64 is the lowest of the second word.
    """
    taken = np.zeros((len(hashes), -(-len(positions) // WORD_BITS)), np.uint64)
    for start in range(0, len(hashes), CHUNK):
        words = np.ascontiguousarray(hashes[start : start + CHUNK].T)
        chosen = np.zeros((taken.shape[1], words.shape[1]), np.uint64)
        for target, position in enumerate(positions):
            bit = (words[position // WORD_BITS] >> np.uint64(position % WORD_BITS)) & np.uint64(1)
            chosen[target // WORD_BITS] |= bit << np.uint64(target % WORD_BITS)
        taken[start : start + CHUNK] = chosen.T
    return taken


def _is_worthwhile(hashes: Array, codes: Array, parts: list[range]) -> bool:
    """Estimate from a sample whether comparing what shares a part is much less than comparing all."""
    compared, limit = 0, MAX_FRACTION * find_runs(np.zeros(len(codes), np.uint64), codes).num_pairs
    for part in parts:
        keys = take_bits(hashes, part)[:, 0]
        order = np.argsort(keys, kind="stable")
        compared += find_runs(keys[order], codes[order]).num_pairs
        if compared > limit:
            return False
    return True


@dataclass(frozen=True)
class Runs:
    """Sorted rows, cut into groups of equal key and these into runs of equal code.

    Runs follow each other without a gap: the first starts at 0 and each other one where the run before it ends. A
    group is one or more whole runs, and no two runs of a group have the same code. So a row has to be compared with
    the rows from its run's end to its group's end, and with no others: each pair of a group that differs in code is
    met once, by its first row.

    Six rows with keys 7 7 7 7 9 9 and codes a a b c a a are four runs in two groups:

    ====================  ==========  =====  =====  ==========
    run                   rows 0, 1   row 2  row 3  rows 4, 5
    ====================  ==========  =====  =====  ==========
    ``starts``            0           2      3      4
    ``ends``              2           3      4      6
    ``group_ends``        4           4      4      6
    compared with         rows 2, 3   row 3  none   none
    ====================  ==========  =====  =====  ==========

    These are 2 x 2 + 1 = 5 pairs.

    Args:
        starts: ``(runs,)``, the first row of each run.
        ends: ``(runs,)``, the row after its last one.
        group_ends: ``(runs,)``, the row after the last one of its group; never before ``ends``.
    """

    starts: Array
    ends: Array
    group_ends: Array

    @property
    def num_pairs(self) -> int:
        """The number of pairs of rows that share a key and differ in code."""
        return int(((self.ends - self.starts) * (self.group_ends - self.ends)).sum())

    @property
    def is_first(self) -> Array:
        """A mask of the runs that are the first one of their group, ``(runs,)``."""
        return np.append(True, self.group_ends[1:] != self.group_ends[:-1])


def find_runs(keys: Array, codes: Array) -> Runs:
    """Find the runs of rows of equal key and code.

    Args:
        keys: ``(rows,)``, equal ones next to each other.
        codes: ``(rows,)``, equal ones of a key next to each other.
    """
    is_other_key = keys[1:] != keys[:-1]
    key_ends = np.append(np.flatnonzero(is_other_key) + 1, len(keys))
    ends = np.append(np.flatnonzero(is_other_key | (codes[1:] != codes[:-1])) + 1, len(keys))
    starts = np.concatenate([[0], ends[:-1]])
    return Runs(starts, ends, key_ends[np.searchsorted(key_ends, ends)])


def _search_groups(hashes: Array, codes: Array, keys: Array, max_bits: int) -> Iterator[Pairs]:
    """Find the close pairs among hashes of equal keys.

    Small groups are compared all at once. A large group is searched by itself: there its runs end their own group, so
    that the comparison of the small ones finds nothing to compare them with.
    """
    order = np.argsort(keys, kind="stable")
    hashes, codes = hashes[order], codes[order]
    runs = find_runs(keys[order], codes)
    group_starts = runs.starts[runs.is_first][np.cumsum(runs.is_first) - 1]
    is_small = runs.group_ends - group_starts <= MAX_SMALL_GROUP
    small = Runs(runs.starts, runs.ends, np.where(is_small, runs.group_ends, runs.ends))
    for first, second, bits in _compare_small(hashes, small, max_bits):
        yield order[first], order[second], bits
    has_pairs = runs.ends < runs.group_ends
    for run in np.flatnonzero(runs.is_first & ~is_small & has_pairs):
        group = slice(runs.starts[run], runs.group_ends[run])
        rows = order[group]
        search = _compare_all if len(rows) <= MAX_COMPARED else _search
        for first, second, bits in search(hashes[group], codes[group], max_bits):
            yield rows[first], rows[second], bits


def _compare_small(hashes: Array, runs: Runs, max_bits: int) -> Iterator[Pairs]:
    """Compare each row with the rows from its run's end to its group's end, all rows at once, one step after the other.

    With the six rows of :class:`Runs` the first step compares 0, 1, 2 with 2, 2, 3 and the second one 0, 1 with 3, 3.
    """
    words = np.ascontiguousarray(hashes.T)
    lengths = np.where(runs.ends < runs.group_ends, runs.ends - runs.starts, 0)
    others, last = np.repeat(runs.ends, lengths), np.repeat(runs.group_ends, lengths)
    rows = np.flatnonzero(np.repeat(lengths > 0, runs.ends - runs.starts))
    while len(rows) > 0:
        # The first word has the bits that vary most; few pairs remain after it.
        close = np.flatnonzero(np.bitwise_count(words[0][rows] ^ words[0][others]) <= max_bits)
        bits = np.bitwise_count(hashes[rows[close]] ^ hashes[others[close]]).sum(axis=1, dtype=np.int64)
        close, bits = close[bits <= max_bits], bits[bits <= max_bits]
        yield rows[close], others[close], bits
        others = others + 1
        has_more = others < last
        rows, others, last = rows[has_more], others[has_more], last[has_more]


def _compare_all(hashes: Array, codes: Array, max_bits: int) -> Iterator[Pairs]:
    """Compare all pairs of hashes that are in the order of their codes, and whose codes differ."""
    runs = find_runs(np.zeros(len(codes), np.uint64), codes)
    for start, end in zip(runs.starts, runs.ends, strict=True):
        for row in range(start, end, BLOCK[0]):
            words = np.ascontiguousarray(hashes[row : min(row + BLOCK[0], end)].T)[:, :, None]
            for other in range(end, len(hashes), BLOCK[1]):
                other_words = np.ascontiguousarray(hashes[other : other + BLOCK[1]].T)[:, None, :]
                # Sixteen bits: all 256 may differ, which eight bits would call none.
                bits = np.bitwise_count(words[0] ^ other_words[0]).astype(np.uint16)
                for word in range(1, len(words)):
                    bits += np.bitwise_count(words[word] ^ other_words[word])
                close = np.flatnonzero(bits <= max_bits)
                if len(close) > 0:
                    first, second = np.divmod(close, bits.shape[1])
                    yield row + first, other + second, bits.reshape(-1)[close].astype(np.int64)
