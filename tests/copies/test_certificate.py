"""The certificate finds every leak that is planted, and training does not start without it."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from pipeline.copies.alterations import ALTERATIONS
from pipeline.copies.certificate import certify, list_absent
from pipeline.core.data_kinds import IMAGES, PATIENT_IMAGES
from pipeline.core.errors import UserError
from pipeline.core.files import write_checksummed_json
from pipeline.data.leak_certificate import check_certificate, describe_findings
from pipeline.data.store import read_store, write_store
from tests.builders.certificates import build_certificate
from tests.builders.painted_scans import build_store


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
    certificate = certify(make_store(tmp_path, images), SPLITS)
    assert certificate["passed"]
    assert certificate["splits"]["train"] == {
        "patients": 3,
        "sources": 6,
        "examples": 6,
        "sources_by_label": {"left": 3, "right": 3},
    }
    assert certificate["copies"]["across_splits"] == {"count": 0, "pairs": []}
    assert certificate["copies"]["unverified"]["count"] == 0


def test_a_patient_in_two_splits_fails(images, tmp_path):
    doubled = pd.concat([SPLITS, pd.DataFrame({"group_id": ["p0"], "split": ["test"]})])
    certificate = certify(make_store(tmp_path, images), doubled)
    assert not certificate["passed"]
    assert certificate["patients_in_two_splits"] == ["p0"]


def test_a_patient_without_a_split_fails(images, tmp_path):
    certificate = certify(make_store(tmp_path, images), SPLITS.iloc[1:])
    assert not certificate["passed"]
    assert certificate["patients_without_split"] == ["p0"]


def test_an_identical_image_in_two_splits_fails_and_is_named(images, tmp_path):
    images[11] = images[0]
    certificate = certify(make_store(tmp_path, images), SPLITS)
    assert not certificate["passed"]
    assert certificate["identical_images"]["pairs"] == [{"first": "e0 (train)", "second": "e11 (test)"}]


def test_identical_images_of_one_split_and_blank_ones_are_no_leak(images, tmp_path):
    images[1] = images[0]
    images[[2, 11]] = 0
    assert certify(make_store(tmp_path, images), SPLITS)["passed"]


def test_training_is_refused_without_a_certificate_that_fits(images, tmp_path):
    store = make_store(tmp_path, images)
    path = tmp_path / "leak_certificate.json"
    with pytest.raises(UserError, match="no leak certificate"):
        check_certificate(path, store, SPLITS)
    write_checksummed_json(path, certify(store, SPLITS))
    assert check_certificate(path, store, SPLITS)["passed"]
    moved = SPLITS.assign(split=["val", "train", "train", "val", "test", "test"])
    with pytest.raises(UserError, match="made for other images"):
        check_certificate(path, store, moved)
    images[0, 0, 0] ^= 1
    with pytest.raises(UserError, match="made for other images"):
        check_certificate(path, make_store(tmp_path, images), SPLITS)
    images[11] = images[0]
    leaky = make_store(tmp_path, images)
    write_checksummed_json(path, certify(leaky, SPLITS))
    with pytest.raises(UserError, match=r"the splits leak \(0 patients in two splits, 0 in none, 1 identical images"):
        check_certificate(path, leaky, SPLITS)


def test_copies_and_doubles_of_a_published_set_are_listed_and_fail_nothing(images, tmp_path):
    images[11] = images[0]
    images[7] = np.clip(images[1].astype(int) + 1, 0, 255)
    store = make_store(tmp_path, images)
    failed = certify(store, SPLITS)
    assert not failed["passed"]
    assert failed["copies"]["across_splits"]["count"] == 2
    assert "published" not in " ".join(describe_findings(failed))
    certificate = certify(dataclasses.replace(store, kind=IMAGES), SPLITS, has_published_test=True)
    assert certificate["passed"]
    assert certificate["published_doubles"]["pairs"] == [{"first": "e0 (train)", "second": "e11 (test)"}]
    assert certificate["identical_images"]["count"] == 0
    (pair,) = certificate["copies"]["across_splits"]["pairs"]
    assert (pair["first"]["source_id"], pair["second"]["source_id"]) == ("s1", "s7")
    findings = describe_findings(certificate)
    assert findings[0].startswith("1 pair of exactly equal images lie across the published splits")
    assert findings[1].startswith("1 pair of copied images lie across splits")


def plant(images, alter):
    """Patient 5, of the test, gets an altered copy of the first image of patient 0, who is trained on."""
    images[11] = alter(images[:1], np.random.default_rng(0))[0]
    return images


def test_an_altered_copy_in_two_splits_fails_and_the_message_names_both_scans(images, tmp_path):
    store = make_store(tmp_path, plant(images, ALTERATIONS["mirrored"]))
    certificate = certify(store, SPLITS)
    assert not certificate["passed"]
    (pair,) = certificate["copies"]["across_splits"]["pairs"]
    assert pair["first"] == {"source_id": "s0", "group_id": "p0", "split": "train", "label": "left", "row": 0}
    assert pair["second"] == {"source_id": "s11", "group_id": "p5", "split": "test", "label": "right", "row": 11}
    assert pair["alteration"] == "mirrored"
    assert pair["similarity"] > 0.99
    assert certificate["copies"]["labels_disagree"]["pairs"] == [pair]
    path = tmp_path / "leak_certificate.json"
    write_checksummed_json(path, certificate)
    with pytest.raises(
        UserError, match=r"1 copied scan across splits\). Scan s0 of patient p0 \(train\) shows the same"
    ):
        check_certificate(path, store, SPLITS)
    with pytest.raises(UserError, match=r"as scan s11 of patient p5 \(test\), mirrored, similarity 1.00"):
        check_certificate(path, store, SPLITS)


def test_an_accepted_pair_does_not_fail_and_is_reported(images, tmp_path):
    store = make_store(tmp_path, plant(images, ALTERATIONS["inverted"]))
    certificate = certify(store, SPLITS, accept_copies=[("s11", "s0")])
    assert certificate["passed"]
    assert certificate["copies"]["accepted"]["count"] == 1
    assert certificate["copies"]["accept"] == [["s11", "s0"]]
    assert any("were accepted by split.accept_copies" in sentence for sentence in describe_findings(certificate))


def test_accepted_scans_that_a_part_of_a_set_lacks_are_passed_over_and_only_all_of_them_refused(images, tmp_path):
    store = make_store(tmp_path, plant(images, ALTERATIONS["inverted"]))
    pairs = [("s11", "s0"), ("s0", "s99"), ("s98", "s99")]
    assert list_absent(store, pairs) == ["s99", "s98"]
    certificate = certify(store, SPLITS, accept_copies=pairs)
    assert certificate["passed"]
    assert certificate["copies"]["accept"] == [list(pair) for pair in pairs]
    assert list_absent(store, [("s11", "s0")]) == []
    assert not certify(store, SPLITS, accept_copies=[("s0", "s99")])["passed"], "half a pair accepts nothing"
    with pytest.raises(UserError, match=r"found 's1O', and neither .* in the store, which has s1"):
        certify(store, SPLITS, accept_copies=[("s1O", "s99")])


def test_an_accepted_identical_pair_does_not_fail(images, tmp_path):
    images[11] = images[0]
    assert certify(make_store(tmp_path, images), SPLITS, accept_copies=[("s0", "s11")])["passed"]


def test_copies_within_a_patient_and_within_a_split_are_no_leak_and_are_reported_apart(images, tmp_path):
    images[1] = 255 - images[0]
    images[4] = images[2][:, ::-1]
    certificate = certify(make_store(tmp_path, images), SPLITS)
    assert certificate["passed"]
    copies = certificate["copies"]
    assert [copies[name]["count"] for name in ("within_patient", "within_split", "across_splits")] == [1, 1, 0]
    assert describe_findings(certificate)[0] == "1 pair of patients in one split have a copied scan."


@pytest.mark.parametrize(("place", "kind", "count"), [(1, "within_patient", 0), (11, "across_splits", 1)])
def test_what_is_alike_as_two_knees_of_a_patient_are_is_a_copy_between_patients_alone(place, kind, count, tmp_path):
    fields = gaussian_filter(np.random.default_rng(0).normal(size=(12, 32, 32)), (0, 1, 1))
    fields /= fields.std()
    fields[place] = 0.87 * fields[0, :, ::-1] + 0.49 * fields[place]
    store = make_store(tmp_path, np.clip(127.5 + 50 * fields, 0, 255).astype(np.uint8))
    copies = certify(store, SPLITS)["copies"]
    assert copies[kind]["count"] == copies["labels_disagree"]["count"] == count


def test_a_certificate_of_an_earlier_version_is_refused(images, tmp_path):
    path, store = tmp_path / "leak_certificate.json", make_store(tmp_path, images)
    write_checksummed_json(path, {"passed": True})
    with pytest.raises(UserError, match=r"format 1, this version reads 4\. Run the split stage again"):
        check_certificate(path, store, SPLITS)
    # Of format 2, which verified copies by another rule, all else is the same.
    write_checksummed_json(path, {**certify(store, SPLITS), "format": 2})
    with pytest.raises(UserError, match=r"format 2, this version reads 4\. Run the split stage again"):
        check_certificate(path, store, SPLITS)


@pytest.mark.parametrize("number", [6, pytest.param(27, marks=pytest.mark.slow)])
def test_a_patient_of_many_similar_images_who_is_filed_twice_fails(number):
    """Frames of one patient look more like each other than like their turned copies."""
    generator = np.random.default_rng(0)
    scenes = gaussian_filter(generator.normal(size=(6, 40, 40)), (0, 1, 1))
    scenes = 128 + 50 * scenes / scenes.std()
    videos = [np.clip(scene + generator.normal(0, 3, (number, 40, 40)), 0, 255).astype(np.uint8) for scene in scenes]
    videos.append(ALTERATIONS["rotated by 5 degrees"](videos[0], generator))
    groups = [f"p{patient}" for patient in range(len(videos))]
    splits = pd.DataFrame({"group_id": groups, "split": ["train"] * 6 + ["test"]})
    images = [image[None] for video in videos for image in video]
    store = dataclasses.replace(build_store(images, np.repeat(groups, number)), kind=PATIENT_IMAGES)
    certificate = certify(store, splits)
    assert not certificate["passed"]
    assert certificate["copies"]["across_splits"]["count"] >= number
    patients = {
        frozenset((pair["first"]["group_id"], pair["second"]["group_id"]))
        for pair in certificate["copies"]["across_splits"]["pairs"]
    }
    assert patients == {frozenset(("p0", "p6"))}


def test_a_limited_search_is_reported():
    (reported,) = describe_findings(build_certificate(kind=IMAGES.name, num_limited=2))
    assert reported.startswith("The search for copies was limited: of 2 images the nearest are")
