"""The certificate finds every leak that is planted, and training does not start without it."""

import numpy as np
import pandas as pd
import pytest

from pipeline.core.errors import UserError
from pipeline.core.files import write_checksummed_json
from pipeline.data.leak_certificate import certify, check_certificate, describe_findings
from pipeline.data.near_duplicates import compute_perceptual_hashes, find_near_duplicates
from pipeline.data.store import read_store, write_store


def make_store(folder, images):
    """One patient an image pair: images 2i and 2i+1 belong to patient i."""
    number = len(images)
    index = pd.DataFrame(
        {
            "example_id": [f"e{i}" for i in range(number)],
            "source_id": [f"s{i}" for i in range(number)],
            "group_id": [f"p{i // 2}" for i in range(number)],
            "label": ["left", "right"] * (number // 2),
            "slice_index": 0,
            "slice_position": 0.0,
        }
    )
    write_store(folder, [images], index, {})
    return read_store(folder)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (12, 32, 32)).astype(np.uint8)


SPLITS = pd.DataFrame(
    {"group_id": [f"p{i}" for i in range(6)], "split": ["train", "train", "train", "val", "test", "test"]}
)


def test_clean_splits_pass(images, tmp_path):
    certificate = certify(make_store(tmp_path, images), SPLITS, 6)
    assert certificate["passed"]
    assert certificate["splits"]["train"] == {
        "patients": 3,
        "sources": 6,
        "examples": 6,
        "sources_by_label": {"left": 3, "right": 3},
    }
    assert certificate["near_identical_images"]["count"] == 0


def test_a_patient_in_two_splits_fails(images, tmp_path):
    doubled = pd.concat([SPLITS, pd.DataFrame({"group_id": ["p0"], "split": ["test"]})])
    certificate = certify(make_store(tmp_path, images), doubled, 6)
    assert not certificate["passed"]
    assert certificate["patients_in_two_splits"] == ["p0"]


def test_a_patient_without_a_split_fails(images, tmp_path):
    certificate = certify(make_store(tmp_path, images), SPLITS.iloc[1:], 6)
    assert not certificate["passed"]
    assert certificate["patients_without_split"] == ["p0"]


def test_an_identical_image_in_two_splits_fails_and_is_named(images, tmp_path):
    images[11] = images[0]
    certificate = certify(make_store(tmp_path, images), SPLITS, 6)
    assert not certificate["passed"]
    assert certificate["identical_images"]["pairs"] == [{"first": "e0 (train)", "second": "e11 (test)", "bits": 0}]
    assert certificate["near_identical_images"]["count"] == 0, "listed once, as identical"


def test_identical_images_of_one_split_and_blank_ones_are_no_leak(images, tmp_path):
    images[1] = images[0]
    images[[2, 11]] = 0
    assert certify(make_store(tmp_path, images), SPLITS, 6)["passed"]


def test_near_duplicates_are_listed_and_do_not_fail(images, tmp_path):
    smooth = np.kron(images[0, ::8, ::8], np.ones((8, 8))).astype(np.uint8)
    images[0] = smooth
    images[11] = np.clip(smooth * 0.9 + np.random.default_rng(1).normal(0, 1, smooth.shape), 0, 255).astype(np.uint8)
    certificate = certify(make_store(tmp_path, images), SPLITS, 12)
    assert certificate["passed"]
    assert [pair["second"] for pair in certificate["near_identical_images"]["pairs"]] == ["e11 (test)"]


def test_the_hash_ignores_brightness_and_contrast_but_not_a_mirror(images):
    smooth = np.kron(images[:, ::8, ::8], np.ones((1, 8, 8))).astype(np.float32)
    hashes = compute_perceptual_hashes((smooth * 0.5 + 20).astype(np.uint8))
    same = np.bitwise_count(hashes ^ compute_perceptual_hashes(smooth.astype(np.uint8))).sum(axis=1)
    mirrored = np.bitwise_count(hashes ^ compute_perceptual_hashes(smooth[:, :, ::-1].astype(np.uint8))).sum(axis=1)
    # Halving may join two grey levels that were one apart; few cells are.
    assert same.max() <= 8
    assert mirrored.min() > 40


def test_training_is_refused_without_a_certificate_that_fits(images, tmp_path):
    store = make_store(tmp_path, images)
    path = tmp_path / "leak_certificate.json"
    with pytest.raises(UserError, match="no leak certificate"):
        check_certificate(path, store, SPLITS)
    write_checksummed_json(path, certify(store, SPLITS, 6))
    assert check_certificate(path, store, SPLITS)["passed"]
    moved = SPLITS.assign(split=["val", "train", "train", "val", "test", "test"])
    with pytest.raises(UserError, match="made for other images"):
        check_certificate(path, store, moved)
    images[0, 0, 0] ^= 1
    with pytest.raises(UserError, match="made for other images"):
        check_certificate(path, make_store(tmp_path, images), SPLITS)
    images[11] = images[0]
    leaky = make_store(tmp_path, images)
    write_checksummed_json(path, certify(leaky, SPLITS, 6))
    with pytest.raises(UserError, match=r"the splits leak \(0 patients in two splits, 0 in none, 1 identical images"):
        check_certificate(path, leaky, SPLITS)


def test_close_hashes_of_unlike_images_are_not_listed(images, tmp_path):
    """Two thin strokes on black: few hash bits differ, but the pixels do not agree."""
    images[[0, 11]] = 0
    images[0, 4:28, 8] = 250
    images[11, 4:28, 9] = 250
    certificate = certify(make_store(tmp_path, images), SPLITS, 40)
    assert certificate["near_identical_images"]["count"] == 0


def test_the_closest_pairs_are_those_of_a_plain_search(tmp_path):
    generator = np.random.default_rng(3)
    smooth = np.kron(generator.integers(0, 256, (60, 4, 4)), np.ones((8, 8)))
    copies = smooth[generator.integers(0, 20, 600)] * 0.9 + generator.normal(0, 1, (600, 32, 32))
    images = np.clip(copies, 0, 255).astype(np.uint8)
    codes = np.array(["train", "val", "test"])[generator.integers(0, 3, 600)]
    hashes = compute_perceptual_hashes(images)
    count, found = find_near_duplicates(images, hashes, np.ones(600, bool), codes, 4, [])
    distance = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2)
    correlation = np.corrcoef(images.reshape(600, -1))
    first, second = np.nonzero(np.triu((distance <= 4) & (correlation >= 0.99) & (codes[:, None] != codes[None]), 1))
    expected = sorted(zip(distance[first, second], first, second, strict=True))
    assert count == len(expected) > 2000, "more than are kept"
    assert found == [(int(a), int(b), int(bits)) for bits, a, b in expected[:100]]


def test_doubles_across_a_published_test_split_do_not_fail_but_others_do(images, tmp_path):
    images[11] = images[0]
    store = make_store(tmp_path, images)
    assert not certify(store, SPLITS, 6)["passed"]
    certificate = certify(store, SPLITS, 6, has_published_test=True)
    assert certificate["passed"]
    assert certificate["published_doubles"]["pairs"] == [{"first": "e0 (train)", "second": "e11 (test)", "bits": 0}]
    assert certificate["near_identical_images"]["count"] == 0, "listed once"
    assert describe_findings(certificate) == [
        "1 pair of exactly equal slices lie across the published test split, which is kept as it was published."
    ]
    images[7] = images[0]
    certificate = certify(make_store(tmp_path, images), SPLITS, 6, has_published_test=True)
    assert not certificate["passed"], "a double of train and val is not the publisher's"
