"""Whatever stands in a file, a reader gives a value or refuses it in one line, and takes neither memory nor time."""

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.fuzz import HARD_NUMBERS, HARD_TEXTS, KINDS, edit, find_fault, fuzz_apart
from tests.faults.readers import READERS

NUM_FAST, NUM_SLOW, NUM_COVERAGE = 30, 100_000, 20_000
SLOW_INPUT = [HealthCheck.too_slow, HealthCheck.large_base_example, HealthCheck.data_too_large]


@pytest.mark.parametrize("name", READERS)
def test_no_change_of_a_valid_file_is_more_than_a_reader_bears(name, tmp_path):
    reader = READERS[name]
    seeds = reader.seeds(tmp_path)
    values = st.sampled_from((*HARD_NUMBERS, *HARD_TEXTS, *reader.words)) | st.binary(min_size=1, max_size=8)
    edits = st.lists(st.tuples(st.sampled_from(KINDS), st.floats(0, 1), values), min_size=1, max_size=6)

    @settings(max_examples=NUM_FAST, derandomize=True, deadline=None, database=None, suppress_health_check=SLOW_INPUT)
    @given(st.sampled_from(seeds), edits)
    def check(content, edits):
        assert find_fault(reader, edit(content, edits), tmp_path) == ""

    check()


@pytest.mark.parametrize("name", READERS)
def test_files_made_at_random_are_read_or_refused(name, tmp_path):
    @settings(max_examples=NUM_FAST // 2, derandomize=True, deadline=None, database=None)
    @given(st.binary(max_size=500) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
    def check(content):
        assert find_fault(READERS[name], content, tmp_path) == ""

    check()


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_hundred_thousand_hostile_files_are_read_or_refused(name):
    assert fuzz_apart(name, 0, NUM_SLOW) == (NUM_SLOW, [])


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_files_that_grow_towards_new_code_are_read_or_refused(name, tmp_path):
    pytest.importorskip("atheris", reason="pip install perceiver-knees[fuzz]")
    words = [sys.executable, "-m", "tests.faults.coverage_fuzz", name, str(NUM_COVERAGE), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"Done {NUM_COVERAGE}" in done.stderr
