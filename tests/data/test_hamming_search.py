"""The search finds exactly the pairs that comparing all of them finds, whatever the hashes look like."""

from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import hamming_search
from pipeline.data.hamming_search import find_close_hashes, find_runs, take_bits


@contextmanager
def small_limits():
    """Limits so low that a hundred hashes are sorted, grouped, and grouped again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming_search, "MAX_COMPARED", 8)
        patch.setattr(hamming_search, "MAX_SMALL_GROUP", 3)
        patch.setattr(hamming_search, "BLOCK", (2, 5))
        patch.setattr(hamming_search, "CHUNK", 7)
        yield


def list_found(hashes, codes, max_bits):
    found = [np.stack(pairs, axis=1) for pairs in find_close_hashes(hashes, codes, max_bits)]
    return sorted(map(tuple, np.concatenate([np.zeros((0, 3), int), *found]).tolist()))


def list_all(hashes, codes, max_bits):
    bits = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2, dtype=np.int64)
    first, second = np.nonzero(np.triu((bits <= max_bits) & (codes[:, None] != codes[None]), 1))
    return list(zip(first.tolist(), second.tolist(), bits[first, second].tolist(), strict=True))


def draw_hashes(generator, number, num_centres, num_varying, max_flips):
    """Neighbours of a few centres; only some bits are ever set, as where images are black at their border."""
    varying = generator.permutation(256)[:num_varying]
    centres = np.zeros((num_centres, 256), np.uint8)
    centres[:, varying] = generator.integers(0, 2, (num_centres, num_varying))
    bits = centres[generator.integers(0, num_centres, number)]
    for row in bits:
        row[generator.choice(varying, min(num_varying, generator.integers(0, max_flips + 1)), replace=False)] ^= 1
    return np.packbits(bits, axis=1).view(np.uint64)


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    number=st.integers(1, 120),
    num_centres=st.integers(1, 40),
    num_varying=st.sampled_from([1, 5, 40, 120, 256]),
    max_flips=st.integers(0, 12),
    num_codes=st.integers(1, 5),
    max_bits=st.one_of(st.integers(0, 12), st.integers(0, 255)),
)
def test_the_search_finds_each_pair_of_a_plain_comparison_once(
    seed, number, num_centres, num_varying, max_flips, num_codes, max_bits
):
    generator = np.random.default_rng(seed)
    hashes = draw_hashes(generator, number, num_centres, num_varying, max_flips)
    codes = np.array(["train", "val", "test", "a", "b"])[generator.integers(0, num_codes, number)]
    with small_limits():
        found = list_found(hashes, codes, max_bits)
    assert found == list_all(hashes, codes, max_bits)


@pytest.mark.parametrize("max_bits", [0, 6, 20])
@pytest.mark.parametrize("num_varying", [60, 256])
def test_neighbours_among_thousands_are_found(num_varying, max_bits):
    """Copies that differ in up to one bit more than is looked for, among groups of all sizes."""
    generator = np.random.default_rng(num_varying)
    hashes = draw_hashes(generator, 1_500, 750, num_varying, max_flips=max_bits + 1)
    crowded = draw_hashes(generator, 1_000, 10, num_varying, max_flips=3)
    hashes, codes = np.concatenate([hashes, crowded]), generator.integers(0, 3, 2_500)
    expected = list_all(hashes, codes, max_bits)
    assert len(expected) > 100
    assert list_found(hashes, codes, max_bits) == expected


def test_images_and_their_negatives_are_far_from_each_other():
    """All 256 bits differ: counted in eight bits that would be none."""
    hashes = np.random.default_rng(0).integers(0, 2**64, (1, 4), dtype=np.uint64)
    assert list_found(np.concatenate([hashes, ~hashes]), np.array([0, 1]), 255) == []


def test_bits_are_taken_in_the_given_order():
    hashes = np.array([[0b1010, 1, 0, 1 << 63]], np.uint64)
    assert take_bits(hashes, [1, 0, 3, 255, 64, 65]).tolist() == [[0b011101]]
    assert take_bits(hashes, range(256)).tolist() == hashes.tolist()
    assert take_bits(hashes, [1] * 65).tolist() == [[2**64 - 1, 1]]


def test_bits_that_never_vary_do_not_put_all_hashes_into_one_group():
    """Only every seventh bit varies: parts in the order of the bits would be one with all, and six with none."""
    bits = np.zeros((4_000, 256), np.uint8)
    bits[:, ::7] = np.random.default_rng(0).integers(0, 2, (4_000, 37))
    hashes = np.packbits(bits, axis=1, bitorder="little").view(np.uint64)
    ordered = take_bits(hashes, hamming_search._order_bits(hashes))
    num_compared = 0
    for start in range(7):
        keys = np.sort(take_bits(ordered, range(start, 256, 7))[:, 0])
        num_compared += find_runs(keys, np.arange(4_000)).num_pairs
    # A part has five or six bits that vary: a pair shares it with a chance of 1 / 32 or 1 / 64.
    assert num_compared < 7 * 4_000**2 / 2 / 30


def test_the_six_rows_of_the_docstring_are_cut_into_four_runs_of_two_groups():
    runs = find_runs(np.array([7, 7, 7, 7, 9, 9]), np.array([0, 0, 1, 2, 0, 0]))
    assert runs.starts.tolist() == [0, 2, 3, 4]
    assert runs.ends.tolist() == [2, 3, 4, 6]
    assert runs.group_ends.tolist() == [4, 4, 4, 6]
    assert runs.is_first.tolist() == [True, False, False, True]
    assert runs.num_pairs == 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming_search, "MAX_SMALL_GROUP", 6)
        keys, same = np.array([7, 7, 7, 7, 9, 9], np.uint64), np.zeros((6, 4), np.uint64)
        steps = list(hamming_search._search_groups(same, np.array([0, 0, 1, 2, 0, 0]), keys, max_bits=0))
    assert [(first.tolist(), second.tolist()) for first, second, _ in steps] == [
        ([0, 1, 2], [2, 2, 3]),
        ([0, 1], [3, 3]),
    ]
