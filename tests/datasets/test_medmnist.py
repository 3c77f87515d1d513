"""Sets of MedMNIST are read as they were published, or refused with the error in one line."""

import re
from collections import Counter

import numpy as np
import pytest

from pipeline.config.sources import DataConfig
from pipeline.core.errors import UserError
from pipeline.datasets import find_dataset
from pipeline.datasets.medmnist import SETS, Variant, describe_checksum, find_variant, read_medmnist
from tests.builders.published_sets import write_medmnist


def configure(variant, dataset="medmnist", **changes):
    return DataConfig(dataset=dataset, variant=variant, **({"allow_partial": True} | changes))


def test_the_table_has_all_sets_of_one_label_with_a_checksum_for_each_size():
    sizes = Counter(tuple(facts.checksums) for facts in SETS.values())
    assert sizes == {(28, 64, 128, 224): 11, (28, 64): 6}
    checksums = [checksum for facts in SETS.values() for checksum in facts.checksums.values()]
    assert len(set(checksums)) == 11 * 4 + 6 * 2
    assert all(re.fullmatch("[0-9a-f]{32}", checksum) for checksum in checksums)
    assert [name for name, facts in SETS.items() if facts.num_channels == 3] == [
        *("pathmnist", "dermamnist", "retinamnist", "bloodmnist"),
    ]
    # The paper counts 708,069 images in 12 sets, 112,120 of them of the set with several labels; the files that are
    # published now have 107 images of organs fewer, and of 9,998 volumes two fewer.
    assert sum(sum(facts.num_examples) for facts in SETS.values() if not facts.is_3d) == 708_069 - 112_120 - 107
    assert sum(sum(facts.num_examples) for facts in SETS.values() if facts.is_3d) == 9_998 - 2


def test_grey_images_are_as_in_the_file_with_labels_by_name_and_the_published_splits(tmp_path):
    arrays = write_medmnist(tmp_path / "below", Variant("breastmnist", 28))
    found = read_medmnist(tmp_path, configure("breastmnist"))
    np.testing.assert_array_equal(found.examples[40:52], arrays["val_images"])
    assert found.labels[:3].tolist() == ["malignant", "normal, benign", "malignant"]
    assert Counter(found.official_splits) == {"train": 40, "val": 12, "test": 12}
    assert found.origins[41] == "below/breastmnist.npz#1"
    assert "40 of 546 train images, 12 of 78 val images" in found.missing.replace(" and", ",")


@pytest.mark.parametrize("side", [28, 64])
def test_the_colours_come_first_and_ordinal_grades_keep_their_order(side, tmp_path):
    variant = Variant("retinamnist", side)
    arrays = write_medmnist(tmp_path, variant, (10, 5, 5))
    found = read_medmnist(tmp_path, configure(variant.file_name.removesuffix(".npz")))
    assert found.examples.shape == (20, 3, side, side)
    np.testing.assert_array_equal(found.examples[3, 1], arrays["train_images"][3, :, :, 1])
    assert sorted(set(found.labels)) == ["0", "1", "2", "3", "4"]


def test_a_volume_is_one_example_with_its_slices_as_channels(tmp_path):
    arrays = write_medmnist(tmp_path, Variant("adrenalmnist3d", 28))
    found = read_medmnist(tmp_path, configure("adrenalmnist3d", "medmnist3d"))
    np.testing.assert_array_equal(found.examples[:40], arrays["train_images"])
    assert found.labels[:2].tolist() == ["normal", "hyperplasia"]
    assert "volumes" in found.missing


def test_labels_of_one_axis_are_read_as_those_of_a_column(tmp_path):
    arrays = write_medmnist(tmp_path, Variant("breastmnist", 28))
    column = read_medmnist(tmp_path, configure("breastmnist"))
    flat = {name: values[:, 0].astype(int) if "labels" in name else values for name, values in arrays.items()}
    np.savez(tmp_path / "breastmnist.npz", **flat)
    assert read_medmnist(tmp_path, configure("breastmnist")).labels.tolist() == column.labels.tolist()


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("val_labels", lambda labels: labels + 1, r"breastmnist\.npz: val_labels: label 1 is 2; allowed are 0 to 1"),
        ("val_labels", lambda labels: labels.astype(int) - 1, r"label 0 is -1"),
        ("val_labels", lambda labels: labels[1:], r"11 val_labels, but 12 val_images"),
        ("val_labels", lambda labels: labels.repeat(14, axis=1), r"val_labels is \(12, 14\)"),
        (
            "test_images",
            lambda images: images[:, 1:],
            r"test_images is \(12, 27, 28\) of uint8, allowed is \(156, 28, 28\)",
        ),
        ("train_images", lambda images: images.astype(object), r"train_images is .* of object"),
    ],
)
def test_a_file_with_something_else_is_refused(name, change, match, tmp_path):
    arrays = write_medmnist(tmp_path, Variant("breastmnist", 28))
    np.savez(tmp_path / "breastmnist.npz", **(arrays | {name: change(arrays[name])}))
    with pytest.raises(UserError, match=match) as refusal:
        read_medmnist(tmp_path, configure("breastmnist"))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("variant", "dataset", "match"),
    [
        ("chestmnist", "medmnist", r"several labels each \(multi-label\)"),
        ("chestmnist_64", "medmnist", r"several labels each"),
        (None, "medmnist", r"found None; allowed is the name of a set"),
        ("brestmnist_64", "medmnist", r"Did you mean breastmnist_64\?"),
        ("breastmnist_32", "medmnist", r"allowed are breastmnist, breastmnist_64, breastmnist_128, breastmnist_224"),
        ("breastmnist_28", "medmnist", r"a size that is not published"),
        ("adrenalmnist3d", "medmnist", r"read by data.dataset: medmnist3d"),
        ("adrenalmnist3d_128", "medmnist3d", r"allowed are adrenalmnist3d, adrenalmnist3d_64\."),
        ("breastmnist", "mnist", r"allowed is null, because mnist is a single set"),
    ],
)
def test_a_set_that_is_not_there_is_refused_in_one_line_that_helps(variant, dataset, match):
    with pytest.raises(UserError, match=match) as refusal:
        find_dataset(configure(variant, dataset))
    assert "\n" not in str(refusal.value)


def test_each_set_is_fetched_from_the_published_address_with_the_published_checksum():
    remote = find_variant(configure("retinamnist_128")).remote
    assert remote.name == "retinamnist_128.npz"
    assert remote.urls == ("https://zenodo.org/records/10519652/files/retinamnist_128.npz?download=1",)
    assert remote.checksum == "md5:e48e916a24454daf90583d4e6efb1a18"


def test_a_file_that_is_not_there_and_a_part_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no breastmnist_64\.npz"):
        read_medmnist(tmp_path, configure("breastmnist_64"))
    write_medmnist(tmp_path, Variant("breastmnist", 28))
    with pytest.raises(UserError, match=r"only 40 of 546 train images"):
        read_medmnist(tmp_path, configure("breastmnist", allow_partial=False))


def test_the_checksum_of_a_file_that_was_saved_again_differs(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"abc")
    assert describe_checksum(path, "900150983cd24fb0d6963f7d28e17f72") == ""
    write_medmnist(tmp_path, Variant("breastmnist", 28))
    found = read_medmnist(tmp_path, configure("breastmnist")).missing
    assert re.search(
        r"breastmnist\.npz is not the published file bit for bit \(MD5 [0-9a-f]{32}, published 750601b1", found
    )
    assert "MD5 900150983cd24fb0d6963f7d28e17f72, published 0" in describe_checksum(path, "0")


@pytest.mark.real_data
def test_the_real_files_are_read(real_data):
    grades = read_medmnist(real_data / "medmnist", DataConfig(dataset="medmnist", variant="retinamnist"))
    assert Counter(grades.labels[1200:]) == {"0": 174, "1": 46, "2": 92, "3": 68, "4": 20}
    volumes = read_medmnist(real_data / "medmnist", DataConfig(dataset="medmnist3d", variant="adrenalmnist3d"))
    assert volumes.examples.shape == (1584, 28, 28, 28)
    assert volumes.missing == ""
