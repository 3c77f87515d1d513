"""Published sets are read as they were published, or refused with the error in one line."""

import gzip
import io
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.config.sources import DataConfig, SplitConfig
from pipeline.core.data_kinds import IMAGES
from pipeline.core.errors import UserError
from pipeline.core.files import read_json
from pipeline.core.tables import MANIFEST_COLUMNS, OFFICIAL_SPLIT_COLUMNS, SPLIT_COLUMNS, read_table
from pipeline.data.store import read_store
from pipeline.datasets.base import describe_missing
from pipeline.datasets.cifar import read_cifar10, read_cifar100
from pipeline.datasets.mnist import read_mnist
from pipeline.stages.preprocess import preprocess
from pipeline.stages.split import split

PART = DataConfig(allow_partial=True)
TRAIN_IMAGES = "train-images-idx3-ubyte.gz"
TRAIN_LABELS = "train-labels-idx1-ubyte.gz"


@pytest.mark.parametrize("compress", [True, False])
def test_mnist_is_what_the_bytes_say(compress, write_mnist, tmp_path):
    write_mnist(tmp_path / "below", num_train=3, num_test=2, compress=compress)
    found = read_mnist(tmp_path, PART)
    path = next((tmp_path / "below").glob("train-images*"))
    content = gzip.decompress(path.read_bytes()) if compress else path.read_bytes()
    # 16 bytes of header; row 5, column 7 of the second image.
    assert found.examples[1, 5, 7] == content[16 + 784 + 5 * 28 + 7]
    assert found.labels.tolist() == ["0", "1", "2", "0", "1"]
    assert found.official_splits.tolist() == ["train"] * 3 + ["test"] * 2
    assert found.origins[1] == f"below/{path.name}#1"
    assert found.missing.startswith(
        "This is a part of the published set: 3 of 60,000 train images and 2 of 10,000 test images."
    )


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        (TRAIN_IMAGES, lambda content: b"\x00\x00\x0d\x03" + content[4:], r"begins with 00 00 0d 03; .* 00 00 08 03"),
        (TRAIN_LABELS, lambda content: b"", r"begins with nothing"),
        (TRAIN_IMAGES, lambda content: content[:10], r"truncated within its header of 16 bytes"),
        (TRAIN_IMAGES, lambda content: content[:-1], r"47,039 bytes .*47,040"),
        (TRAIN_IMAGES, lambda content: content + b"\x00", r"too long: more than 47,040 bytes"),
        (TRAIN_LABELS, lambda content: content[:8] + b"\x0a" + content[9:], r"label 0 is 10; allowed are 0 to 9"),
        (TRAIN_LABELS, lambda content: content[:7] + b"\x3b" + content[8:-1], r"59 labels, but .* has 60 images"),
        (TRAIN_IMAGES, lambda content: content[:7] + b"\x3c\x00\x00\x00\x1d" + content[12:], r"60 x 29 x 28 values"),
        (TRAIN_IMAGES, lambda content: content[:4] + b"\xff" * 4 + content[8:], r"at most 60000 x 28 x 28"),
    ],
)
def test_a_bad_idx_file_is_refused_by_name(name, change, match, write_mnist, tmp_path):
    path = write_mnist(tmp_path) / name
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))
    with pytest.raises(UserError, match=f"{name}: .*{match}" if "labels, but" not in match else match):
        read_mnist(tmp_path, PART)


@pytest.mark.parametrize(
    "change", [lambda content: content[:-9], lambda content: content + b"x", lambda _: b"\x00" * 40]
)
def test_a_broken_gzip_file_is_refused_by_name(change, write_mnist, tmp_path):
    path = write_mnist(tmp_path) / TRAIN_IMAGES
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=f"{TRAIN_IMAGES}: not a whole gzip file"):
        read_mnist(tmp_path, PART)


def test_a_flipped_bit_inside_gzip_is_refused(write_mnist, tmp_path):
    path = write_mnist(tmp_path) / TRAIN_IMAGES
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{TRAIN_IMAGES}: "):
        read_mnist(tmp_path, PART)


@pytest.mark.parametrize("num_classes", [10, 100])
def test_cifar_is_what_the_bytes_say(num_classes, write_cifar, tmp_path):
    write_cifar(tmp_path / "below", num_classes, num_train=210, num_test=5)
    read, num_label_bytes = (read_cifar10, 1) if num_classes == 10 else (read_cifar100, 2)
    found = read(tmp_path, PART)
    content = next((tmp_path / "below").glob("test*.bin")).read_bytes()
    # The third test image: green is the second plane; row 5, column 7.
    record = 2 * (num_label_bytes + 3072)
    assert found.examples[212, 1, 5, 7] == content[record + num_label_bytes + 1024 + 5 * 32 + 7]
    assert found.labels[212] == f"class_{content[record + num_label_bytes - 1]}" == "class_2"
    assert found.labels[:210].tolist() == [f"class_{number % num_classes}" for number in range(210)]
    assert Counter(found.official_splits) == {"train": 210, "test": 5}
    assert found.origins[213].endswith(".bin#3")


def test_the_fine_labels_are_the_classes_of_cifar100(write_cifar, tmp_path):
    write_cifar(tmp_path, 100, num_train=100, num_test=100)
    assert len(set(read_cifar100(tmp_path, PART).labels)) == 100, "the coarse ones would be 20"


@pytest.mark.parametrize(
    ("num_classes", "name", "change", "match"),
    [
        (10, "data_batch_2.bin", lambda content: content[:-1], r"36,875 bytes; .* records of 3,073 bytes"),
        (10, "data_batch_2.bin", lambda content: content + b"\x00", r"36,877 bytes"),
        (10, "data_batch_2.bin", lambda content: b"", r"0 bytes"),
        (10, "test_batch.bin", lambda content: b"\x0a" + content[1:], r"record 0 has the label 10; .* 0 to 9"),
        (
            100,
            "train.bin",
            lambda content: content[:1] + b"\x64" + content[2:],
            r"record 0 has the label 100; .* 0 to 99",
        ),
        (100, "train.bin", lambda content: b"\x14" + content[1:], r"record 0 has the label 20; allowed are 0 to 19"),
        (10, "batches.meta.txt", lambda content: content.replace(b"class_3\n", b""), r"9 names, 9 of them"),
        (10, "batches.meta.txt", lambda content: content.replace(b"class_3", b"class_4"), r"10 names, 9 of them"),
    ],
)
def test_a_bad_cifar_file_is_refused_by_name(num_classes, name, change, match, write_cifar, tmp_path):
    path = write_cifar(tmp_path, num_classes) / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=f"{name}: {match}"):
        (read_cifar10 if num_classes == 10 else read_cifar100)(tmp_path, PART)


def test_more_records_than_were_published_are_refused(write_cifar, tmp_path):
    path = write_cifar(tmp_path) / "test_batch.bin"
    path.write_bytes(bytes(3073 * 10_001))
    with pytest.raises(UserError, match=r"test_batch.bin: 30,733,073 bytes; .* from 1 to 10,000"):
        read_cifar10(tmp_path, PART)
    with pytest.raises(UserError, match=r"11 objects for test, but the published set has 10"):
        describe_missing(tmp_path, {"train": 5, "test": 11}, {"train": 5, "test": 10}, "object", True)


def test_a_part_is_refused_unless_it_is_allowed_and_then_said(write_cifar, tmp_path):
    write_cifar(tmp_path)
    (tmp_path / "data_batch_5.bin").unlink()
    with pytest.raises(
        UserError, match=r"only 48 of 50,000 train images .*\(data_batch_5.bin not there\).*allow_partial"
    ):
        read_cifar10(tmp_path, DataConfig())
    assert "48 of 50,000 train images" in read_cifar10(tmp_path, PART).missing
    (tmp_path / "test_batch.bin").unlink()
    with pytest.raises(UserError, match=r"no image for test \(data_batch_5.bin, test_batch.bin\)"):
        read_cifar10(tmp_path, PART)
    whole = {"train": 5, "test": 2}
    assert describe_missing(tmp_path, whole, whole, "image", allow_partial=False) == ""


def test_files_that_are_absent_or_doubled_are_named(write_mnist, write_cifar, tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such folder"):
        read_mnist(tmp_path / "nowhere", PART)
    write_mnist(tmp_path / "one")
    (tmp_path / "one" / TRAIN_LABELS).unlink()
    with pytest.raises(UserError, match=r"no train-labels-idx1-ubyte or train-labels-idx1-ubyte.gz"):
        read_mnist(tmp_path / "one", PART)
    write_mnist(tmp_path / "two")
    with pytest.raises(UserError, match=rf"two files named {TRAIN_IMAGES}: one/.* and two/"):
        read_mnist(tmp_path, PART)
    (write_cifar(tmp_path / "three") / "batches.meta.txt").unlink()
    with pytest.raises(UserError, match=r"no batches\.meta\.txt, which names the classes"):
        read_cifar10(tmp_path / "three", PART)


def make_experiment(workspace, raw, dataset="mnist", **changes):
    data = DataConfig(dataset=dataset, raw_folder=raw, allow_partial=True)
    return Experiment(**({"name": "small", "workspace": workspace, "data": data} | changes))


def run(stage, experiment):
    console = Console(file=io.StringIO(), width=200)
    stage(experiment, console)
    return console.file.getvalue()


def test_tables_and_store_say_the_same_of_each_example(write_cifar, tmp_path):
    raw = write_cifar(tmp_path / "raw")
    experiment = make_experiment(tmp_path / "work", raw, "cifar10")
    text = run(preprocess, experiment)
    assert "train 60 images of 10 classes, 6 to 6 a class" in text
    assert "warning: This is a part" in text
    paths = experiment.paths
    store = read_store(paths.prepared, verify=True)
    found = read_cifar10(raw, PART)
    assert store.kind == IMAGES
    assert store.missing == found.missing
    np.testing.assert_array_equal(store.examples, found.examples)
    assert store.index["label"].tolist() == found.labels.tolist()
    assert store.index["example_id"].tolist()[59:61] == ["train-00059", "test-00000"]
    for column in ("source_id", "group_id"):
        assert store.index[column].tolist() == store.index["example_id"].tolist()
    manifest = read_table(paths.manifest, MANIFEST_COLUMNS)
    assert manifest["path"].tolist() == list(found.origins)
    assert manifest["sha256"].is_unique
    official = read_table(paths.official_splits, OFFICIAL_SPLIT_COLUMNS)
    assert official["split"].tolist() == found.official_splits.tolist()
    assert official["group_id"].str.rpartition("-")[0].tolist() == found.official_splits.tolist()


def test_preprocess_does_nothing_twice_and_redoes_what_changed(write_mnist, tmp_path):
    raw = write_mnist(tmp_path / "raw")
    experiment = make_experiment(tmp_path / "work", raw)
    run(preprocess, experiment)
    before = (experiment.paths.prepared / "store.json").stat().st_mtime_ns
    assert "nothing to do" in run(preprocess, experiment)
    assert (experiment.paths.prepared / "store.json").stat().st_mtime_ns == before
    write_mnist(raw, num_train=50)
    assert "train 50 images" in run(preprocess, experiment)
    (raw / TRAIN_IMAGES).write_bytes(b"no")
    with pytest.raises(UserError, match="not a whole gzip file"):
        run(preprocess, experiment)
    with pytest.raises(UserError, match="no complete example store"):
        read_store(experiment.paths.prepared)


def test_options_for_volumes_are_refused(write_mnist, tmp_path):
    raw = write_mnist(tmp_path / "raw")
    data = DataConfig(dataset="mnist", raw_folder=raw, allow_partial=True, pattern="*a*")
    with pytest.raises(UserError, match=r"data.pattern: found \*a\*; mnist is read whole"):
        run(preprocess, make_experiment(tmp_path, raw, data=data))


@pytest.mark.parametrize(("options", "num_val"), [({"val_count": 20}, 20), ({"val_fraction": 0.25}, 15)])
def test_the_published_test_rows_stay_and_validation_is_a_stratified_part_of_train(
    options, num_val, write_mnist, tmp_path
):
    experiment = make_experiment(tmp_path / "work", write_mnist(tmp_path / "raw"), split=SplitConfig(**options))
    run(preprocess, experiment)
    text = run(split, experiment)
    assert f"val   {num_val} images" in text
    assert "No image is in two splits" in text
    splits = read_table(experiment.paths.splits, SPLIT_COLUMNS)
    official = splits["group_id"].str.rpartition("-")[0]
    assert set(splits.loc[official == "test", "split"]) == {"test"}
    assert Counter(splits["split"]) == {"train": 60 - num_val, "val": num_val, "test": 20}
    labels = read_store(experiment.paths.prepared).index.set_index("group_id")["label"]
    counts = Counter(labels[splits.loc[splits["split"] == "val", "group_id"]])
    assert len(counts) == 10
    assert max(counts.values()) - min(counts.values()) <= 1
    assert "nothing to do" in run(split, experiment)
    certificate = read_json(experiment.paths.certificate)
    assert certificate["passed"]
    assert certificate["kind"] == "images"


def rewrite(path, change):
    content = bytearray(gzip.decompress(path.read_bytes()))
    images = np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28)
    change(images)
    path.write_bytes(gzip.compress(bytes(content)))


@pytest.mark.slow
def test_duplicates_across_the_published_test_split_are_listed_and_those_within_train_stay_in_train(
    write_mnist, tmp_path
):
    raw = write_mnist(tmp_path / "raw")

    def double_within(images):
        images[10:20] = images[0:10]

    rewrite(raw / TRAIN_IMAGES, double_within)
    test_image = gzip.decompress((raw / TRAIN_IMAGES).read_bytes())[16 + 30 * 784 : 16 + 31 * 784]

    def double_across(images):
        images[4] = np.frombuffer(test_image, np.uint8).reshape(28, 28)

    rewrite(raw / "t10k-images-idx3-ubyte.gz", double_across)
    experiment = make_experiment(tmp_path / "work", raw, split=SplitConfig(val_count=30))
    run(preprocess, experiment)
    text = run(split, experiment)
    assert "1 pair of exactly equal images lie across the published splits" in text
    certificate = read_json(experiment.paths.certificate)
    assert certificate["passed"]
    assert certificate["identical_images"]["count"] == 0
    (pair,) = certificate["published_doubles"]["pairs"]
    assert pair["first"].startswith("train-00030")
    assert pair["second"] == "test-00004 (test)"
    splits = read_table(experiment.paths.splits, SPLIT_COLUMNS).set_index("group_id")["split"]
    assert set(splits[[f"train-{number:05d}" for number in range(20)]]) == {"train"}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"val_count": 51}, r"split.val_count: 51 of 60 training rows for validation; allowed are 1 to 50"),
        ({"val_fraction": 0.001}, r"split.val_fraction: 0 of 60 training rows"),
        ({"num_folds": 5}, r"split.num_folds: found 5, but the set has published test rows"),
    ],
)
def test_validation_that_cannot_be_drawn_is_refused(options, match, write_mnist, tmp_path):
    experiment = make_experiment(tmp_path / "work", write_mnist(tmp_path / "raw"), split=SplitConfig(**options))
    run(preprocess, experiment)
    with pytest.raises(UserError, match=match):
        run(split, experiment)


@pytest.mark.slow
def test_a_table_may_divide_train_but_not_move_test_rows(write_mnist, tmp_path):
    experiment = make_experiment(tmp_path / "work", write_mnist(tmp_path / "raw"))
    run(preprocess, experiment)
    run(split, experiment)
    mine = pd.read_csv(experiment.paths.splits)
    table = tmp_path / "mine.csv"
    mine["split"] = np.where(mine["group_id"] == "train-00007", "val", mine["split"].replace("val", "train"))
    mine.to_csv(table, index=False)
    given = make_experiment(tmp_path / "work", tmp_path / "raw", split=SplitConfig(split_table=table))
    assert "val   1 image (7: 1)" in run(split, given)
    mine["split"] = np.where(mine["group_id"] == "test-00003", "val", mine["split"])
    mine.to_csv(table, index=False)
    with pytest.raises(UserError, match=r"mine.csv: test-00003 is test in the published set"):
        run(split, given)


@pytest.mark.real_data
def test_the_real_sets_are_read(real_data):
    digits = read_mnist(real_data / "mnist", DataConfig())
    assert digits.examples.shape == (70_000, 28, 28)
    assert digits.missing == ""
    assert Counter(digits.labels[60_000:])["5"] == 892
    colours = read_cifar10(real_data / "cifar-10-batches-bin", PART)
    assert "40,000 of 50,000 train images" in colours.missing
    assert colours.labels[:3].tolist() == ["frog", "truck", "truck"]
