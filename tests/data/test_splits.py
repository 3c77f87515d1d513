"""Patients are split, not images; strata keep their mix; what cannot be split is refused."""

from collections import Counter

import pandas as pd
import pytest

from pipeline.config.sources import SplitConfig
from pipeline.core.errors import UserError
from pipeline.data.splits import (
    assign_official_splits,
    assign_splits,
    collect_strata,
    draw_validation,
    read_splits,
    resolve_roles,
)


def make_index(**num_patients_by_labels):
    """``both=3`` makes three patients with both labels, each with several images."""
    rows = []
    for labels, number in num_patients_by_labels.items():
        for patient in range(number):
            for label in ("left", "right") if labels == "both" else (labels,):
                rows += [{"group_id": f"{labels}{patient:03d}", "label": label}] * 4
    return pd.DataFrame(rows)


def test_a_stratum_is_the_set_of_a_patients_labels():
    assert {labels: len(patients) for labels, patients in collect_strata(make_index(both=3, left=2)).items()} == {
        "left": 2,
        "left+right": 3,
    }


@pytest.mark.parametrize("seed", range(5))
def test_fractions_hold_in_all_and_in_every_stratum(seed):
    index = make_index(both=60, left=20, right=20)
    splits = assign_splits(index, SplitConfig(val_fraction=0.15, test_fraction=0.25, seed=seed))
    assert Counter(splits["split"]) == {"train": 60, "val": 15, "test": 25}
    stratum = splits["group_id"].str[:-3]
    for name, number in (("both", 60), ("left", 20), ("right", 20)):
        counts = Counter(splits.loc[stratum == name, "split"])
        assert counts == {"train": 0.6 * number, "val": 0.15 * number, "test": 0.25 * number}


def test_every_patient_has_exactly_one_split_whatever_the_order_of_the_rows():
    index = make_index(both=20, left=5)
    splits = assign_splits(index, SplitConfig())
    assert sorted(splits["group_id"]) == sorted(set(index["group_id"]))
    shuffled = assign_splits(index.sample(frac=1, random_state=1), SplitConfig())
    pd.testing.assert_frame_equal(splits, shuffled)


def test_the_seed_is_the_draw():
    index = make_index(both=30)
    first, again, other = (assign_splits(index, SplitConfig(seed=seed)) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)


def test_small_strata_have_one_patient_in_every_split():
    splits = assign_splits(make_index(both=3, left=3), SplitConfig(val_fraction=0.1, test_fraction=0.1))
    assert Counter(splits["split"]) == {"train": 2, "val": 2, "test": 2}


def test_rounding_does_not_pile_up_over_the_strata():
    """Three strata of seven need 5.25 test patients in all; each alone would round to one or two."""
    index = make_index(both=7, left=7, right=7)
    splits = assign_splits(index, SplitConfig(val_fraction=0.15, test_fraction=0.25))
    counts = Counter(splits["split"])
    for split, wanted in (("train", 12.6), ("val", 3.15), ("test", 5.25)):
        assert abs(counts[split] - wanted) <= 1


def test_folds_are_even_and_every_patient_is_tested_once():
    options = [SplitConfig(num_folds=5, test_fold=fold) for fold in range(5)]
    splits = assign_splits(make_index(both=42, left=9), options[0])
    assert sorted(Counter(splits["split"]).values()) == [10, 10, 10, 10, 11]
    tested = [
        patient for option in options for patient, role in resolve_roles(splits, option).items() if role == "test"
    ]
    assert sorted(tested) == sorted(splits["group_id"])
    for option in options:
        assert set(resolve_roles(splits, option).values()) == {"train", "val", "test"}


def test_a_given_table_is_taken_as_it_is(tmp_path):
    index = make_index(both=3)
    path = tmp_path / "mine.csv"
    path.write_text("group_id,split\nboth000,test\nboth001,train\nboth002,val\nother,train\n")
    splits = assign_splits(index, SplitConfig(split_table=path))
    assert dict(zip(splits["group_id"], splits["split"], strict=True)) == {
        "both000": "test",
        "both001": "train",
        "both002": "val",
    }


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ("both000,test\nboth001,train\n", "1 patient has no row, such as both002"),
        ("both000,test\nboth001,train\nboth002,dev\n", "found split 'dev', allowed are test, train, val"),
        ("both000,test\nboth001,train\nboth002,train\n", "no patient of the data is in val"),
        ("both000,test\nboth001,train\nboth002,val\nboth000,train\n", "patient both000 has more than one row"),
        ("both000,test\nboth001,train\nboth002,val\nboth000\u00a0,train\n", "patient both000 has more than one row"),
        ("Both000,test\nboth001,train\nboth002,val\n", "'both000' .in the data. and 'Both000' .in the table."),
        ("both00,test\nboth000,test\nboth001,train\nboth002,val\n", "leading zeros"),
    ],
)
def test_a_given_table_that_does_not_fit_is_refused(rows, match, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("group_id,split\n" + rows)
    with pytest.raises(UserError, match=match):
        assign_splits(make_index(both=3), SplitConfig(split_table=path))


def test_folds_where_splits_are_wanted_are_refused(tmp_path):
    path = tmp_path / "splits.csv"
    path.write_text("group_id,split\na,0\nb,1\nc,2\n")
    with pytest.raises(UserError, match=r"found split '0', allowed are .*split.num_folds is 0"):
        read_splits(path, SplitConfig())
    assert len(read_splits(path, SplitConfig(num_folds=3))) == 3


def test_too_few_patients_are_refused():
    with pytest.raises(UserError, match="2 patients, at least 3 are needed"):
        assign_splits(make_index(both=2), SplitConfig())
    with pytest.raises(UserError, match="4 patients, at least 5 are needed"):
        assign_splits(make_index(both=4), SplitConfig(num_folds=5))


def test_one_label_alone_is_refused():
    with pytest.raises(UserError, match="every scan has the label left; a classifier needs two"):
        assign_splits(make_index(left=9), SplitConfig())


def test_a_label_that_one_patient_has_is_refused_by_name():
    with pytest.raises(UserError, match=r"only 1 patient\(s\) have the labels left \(left000\).*split.stratify: false"):
        assign_splits(make_index(both=9, left=1), SplitConfig())
    assert len(assign_splits(make_index(both=9, left=1), SplitConfig(stratify=False))) == 10


@pytest.mark.parametrize(
    "options",
    [
        {"val_fraction": 0.0},
        {"test_fraction": 1.0},
        {"val_fraction": 0.5, "test_fraction": 0.5},
        {"num_folds": 2},
        {"num_folds": 5, "test_fold": 5},
        {"test_fold": 1},
        {"accept_copies": (("a", "a"),)},
    ],
)
def test_bad_options_are_refused_by_name(options):
    with pytest.raises(UserError, match=r"split\."):
        SplitConfig(**options)


def test_published_validation_rows_are_kept_and_nothing_is_drawn():
    names = [f"{split}-{number}" for split in ("val", "train", "test") for number in range(3)]
    index = pd.DataFrame({"group_id": names, "label": ["a", "b", "a"] * 3})
    splits = [name.rpartition("-")[0] for name in names]
    official = pd.DataFrame({"group_id": names, "split": splits, "sha256": names})
    for seed in (0, 1):
        kept = assign_official_splits(index, official, SplitConfig(seed=seed, val_fraction=0.5))
        assert kept["group_id"].tolist() == sorted(names)
        assert (kept["group_id"].str.rpartition("-")[0] == kept["split"]).all()
    with pytest.raises(UserError, match=r"split.val_count: found 2, but .* published validation rows"):
        assign_official_splits(index, official, SplitConfig(val_count=2))


def publish(**patients_by_split):
    return {patient: split for split, patients in patients_by_split.items() for patient in patients}


def test_a_published_split_is_kept_and_a_part_that_it_lacks_is_drawn_from_train_by_patient():
    index = make_index(both=60, left=40)
    names = sorted(set(index["group_id"]))
    published = publish(test=names[::5], train=[name for name in names if name not in names[::5]])
    splits = assign_splits(index, SplitConfig(val_fraction=0.25, seed=3), published)
    found = dict(zip(splits["group_id"], splits["split"], strict=True))
    assert {name for name, split in found.items() if split == "test"} == set(names[::5])
    assert Counter(found.values()) == {"train": 60, "val": 20, "test": 20}
    # 48 of the patients with both labels and 32 of those with one are published as train.
    assert sum(name.startswith("both") for name, split in found.items() if split == "val") == 12
    whole = found
    assert assign_splits(index, SplitConfig(val_fraction=0.5), whole).set_index("group_id")["split"].to_dict() == whole
    both = assign_splits(index, SplitConfig(val_fraction=0.1, test_fraction=0.2), publish(train=names))
    assert Counter(both["split"]) == {"train": 70, "val": 10, "test": 20}


@pytest.mark.parametrize(
    ("published", "options", "match"),
    [
        (publish(test=["both000"], val=["both001", "both002"]), {}, "no patient in train"),
        (publish(train=["both000"], test=["both001", "both002"]), {}, "1 patients, at least 2 are needed"),
        (
            publish(train=["both000"], val=["both001"], test=["both002"]),
            {"num_folds": 3},
            "folds would train",
        ),
    ],
)
def test_a_published_split_that_cannot_be_used_is_refused(published, options, match):
    with pytest.raises(UserError, match=match):
        assign_splits(make_index(both=3), SplitConfig(**options), published)


@pytest.mark.parametrize("seed", range(5))
def test_validation_is_drawn_by_patient_from_each_set_of_labels(seed):
    roles = draw_validation(make_index(left=4, right=3, both=1), 1 / 3, seed)
    assert Counter((name[:-3], role) for name, role in roles.items()) == {
        ("left", "train"): 3,
        ("left", "val"): 1,
        ("right", "train"): 2,
        ("right", "val"): 1,
        ("both", "train"): 1,
    }
    with pytest.raises(UserError, match="no two patients"):
        draw_validation(make_index(left=1, right=1), 0.5, seed)
