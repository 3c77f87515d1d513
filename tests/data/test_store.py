"""A store is read as it was written, and one that is not whole is refused."""

import numpy as np
import pandas as pd
import pytest

from pipeline.core.data_kinds import IMAGES, POINTS
from pipeline.core.errors import UserError
from pipeline.data.store import read_store, write_store


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 4, 6)).astype(np.uint8)


@pytest.fixture
def index():
    rows = {
        "example_id": list("abcde"),
        "source_id": "NA",
        "group_id": "007",
        "label": ["left", "right", "left", "left", "left"],
    }
    return pd.DataFrame(rows | {"slice_index": range(5), "slice_position": np.float32([0.1, 0.2, 0.3, -1, 1])})


def test_a_store_gives_back_what_was_written(images, index, tmp_path):
    fingerprint = write_store(tmp_path, [images[:2], images[2:]], index, {"plane": "axial"})
    store = read_store(tmp_path, verify=True)
    np.testing.assert_array_equal(store.examples, images)
    pd.testing.assert_frame_equal(store.index, index, check_dtype=False)
    assert store.class_names == ("left", "right")
    assert store.settings == {"plane": "axial"}
    assert store.fingerprint == fingerprint


def test_the_fingerprint_changes_with_a_pixel_and_with_a_label(images, index, tmp_path):
    first = write_store(tmp_path, [images], index, {})
    assert write_store(tmp_path, [images], index, {}) == first
    other = images.copy()
    other[0, 0, 0] ^= 1
    assert write_store(tmp_path, [other], index, {}) != first
    assert write_store(tmp_path, [images], index.assign(label="left"), {}) != first


def test_an_incomplete_or_damaged_store_is_refused(images, index, tmp_path):
    with pytest.raises(UserError, match=r"no complete example store\. Run"):
        read_store(tmp_path)
    write_store(tmp_path, [images], index, {})
    content = bytearray((tmp_path / "examples.npy").read_bytes())
    content[-1] ^= 1
    (tmp_path / "examples.npy").write_bytes(content)
    assert read_store(tmp_path)
    with pytest.raises(UserError, match="changed since they were written"):
        read_store(tmp_path, verify=True)
    (tmp_path / "examples.npy").write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"examples.npy: not readable"):
        read_store(tmp_path)


def test_a_write_that_fails_leaves_no_store_that_looks_complete(images, index, tmp_path):
    write_store(tmp_path, [images], index, {})

    def broken():
        yield images[:2]
        raise RuntimeError("a worker died")

    with pytest.raises(RuntimeError):
        write_store(tmp_path, broken(), index, {})
    with pytest.raises(UserError, match="no complete example store"):
        read_store(tmp_path)


@pytest.mark.parametrize(
    ("shape", "dtype", "kind"),
    [((4, 6), "uint8", IMAGES), ((3, 4, 6), "uint8", IMAGES), ((7, 3), "float32", POINTS)],
)
def test_examples_keep_their_type_and_shape(shape, dtype, kind, index, tmp_path):
    examples = np.random.default_rng(0).normal(100, 30, (5, *shape)).astype(dtype)
    write_store(tmp_path, [examples[:2], examples[2:]], index, {}, kind, "One is missing.")
    store = read_store(tmp_path, verify=True)
    np.testing.assert_array_equal(store.examples, examples)
    assert store.examples.dtype == examples.dtype
    assert (store.kind, store.missing) == (kind, "One is missing.")
