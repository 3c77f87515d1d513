"""Each of the four ways to split keeps its unit together and no more; shuffled labels do not depend on the knees."""

import dataclasses
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.sources import SplitConfig
from pipeline.config.studies import LeakStudyConfig
from pipeline.core.data_kinds import PATIENT_IMAGES, SCANS
from pipeline.core.errors import UserError
from pipeline.data.store import Store
from pipeline.studies.leaky_splits import (
    SPLIT_UNITS,
    assign_by_unit,
    choose_middle_slices,
    equalize_training,
    list_units,
    name_units,
    plan_leaky_runs,
    shuffle_labels,
)


def make_index(num_visits, num_slices=3, sides=("left", "right")):
    """A patient for each number of visits, with all sides at each visit."""
    rows = [
        {
            "example_id": f"{patient}_{visit}_{side}_{place}",
            "source_id": f"{patient}_{visit}_{side}",
            "group_id": f"{patient}",
            "label": side,
            "slice_index": place,
        }
        for patient, visits in enumerate(num_visits)
        for visit in range(visits)
        for side in sides
        for place in range(num_slices)
    ]
    return pd.DataFrame(rows)


PATIENTS = st.lists(st.integers(1, 3), min_size=6, max_size=30)
COARSER = {"slice": (), "volume": ("slice",), "side": ("slice", "volume"), "patient": ("slice", "volume", "side")}


@settings(deadline=None, max_examples=25)
@given(num_visits=PATIENTS, seed=st.integers(0, 9), unit=st.sampled_from(SPLIT_UNITS))
def test_a_unit_and_all_that_is_in_it_is_on_one_side(num_visits, seed, unit):
    index = make_index(num_visits)
    index["split"] = assign_by_unit(index, unit, SplitConfig(), seed)
    for finer in (unit, *COARSER[unit]):
        assert (index.groupby(name_units(index, finer))["split"].nunique() == 1).all(), finer
    assert set(index["split"]) == {"train", "val", "test"}


@settings(deadline=None, max_examples=25)
@given(num_visits=PATIENTS, seed=st.integers(0, 9), unit=st.sampled_from(SPLIT_UNITS))
def test_the_fractions_hold_for_the_units(num_visits, seed, unit):
    index = make_index(num_visits)
    options = SplitConfig(val_fraction=0.2, test_fraction=0.3)
    index["split"] = assign_by_unit(index, unit, options, seed)
    units = index.assign(unit=name_units(index, unit)).groupby("unit")["split"].first()
    for split, fraction in (("train", 0.5), ("val", 0.2), ("test", 0.3)):
        # One stratum for patients, two (left, right) for what has one label: each rounds by less than one unit.
        assert abs((units == split).sum() - fraction * len(units)) < 2, split


def make_image_store(sides, num_images):
    """Images of eight patients: ``num_images`` of each side."""
    index = make_index([num_images] * 8, num_slices=1, sides=sides)
    index["source_id"], index["slice_position"] = index["example_id"], 0.0
    return Store(np.zeros((len(index), 8, 8), np.uint8), index, tuple(sorted(sides)), {}, "", PATIENT_IMAGES)


def test_images_are_split_by_image_by_knee_and_by_patient_where_these_differ():
    options, split = LeakStudyConfig(), SplitConfig(val_fraction=0.25, test_fraction=0.25)
    for sides, num_images, units in (
        (("left", "right"), 2, ["image", "side", "patient"]),
        (("left", "right"), 1, ["image", "patient"]),
        (("left",), 2, ["image", "patient"]),
    ):
        store = make_image_store(sides, num_images)
        if len(sides) == 1:  # half of the patients have each label, so that a patient and label is the patient
            store.index["label"] = np.where(store.index["group_id"].astype(int) < 4, "left", "right")
            store = dataclasses.replace(store, class_names=("left", "right"))
        runs = plan_leaky_runs(store, options, split)
        assert [run.unit for run in runs[::2]] == units
        assert len({run.num_train for run in runs}) == 1
        (by_patient,) = (run for run in runs if run.name == "patient-true-seed-0")
        used = by_patient.splits != ""
        splits = pd.Series(by_patient.splits[used]).groupby(store.index["group_id"].to_numpy()[used])
        assert (splits.nunique() == 1).all()
    with pytest.raises(UserError, match="each of the 8 patients has one image"):
        plan_leaky_runs(make_image_store(("left",), 1), options, split)


def test_whole_scans_are_split_by_scan_by_knee_and_by_patient_where_these_differ():
    for num_visits, units in (([2] * 8, ("volume", "side", "patient")), ([1] * 8, ("volume", "patient"))):
        index = make_index(num_visits, num_slices=1)
        assert list_units(index.assign(source_id=index["example_id"]), SCANS) == units
    with pytest.raises(UserError, match="each of the 8 patients has one scan, so that no split by scan can leak"):
        list_units(make_index([1] * 8, num_slices=1, sides=("left",)), SCANS)


def test_what_leaks_really_leaks():
    """Each way to split but the last puts the next coarser unit on both sides."""
    index = make_index([2] * 20)
    for unit, coarser in zip(SPLIT_UNITS, ("volume", "side", "patient"), strict=False):
        split = pd.Series(assign_by_unit(index, unit, SplitConfig(), 0))
        assert (split.groupby(name_units(index, coarser).to_numpy()).nunique() > 1).any(), unit


def test_a_side_is_a_knee_with_all_its_visits():
    index = make_index([3, 1])
    units = name_units(index, "side")
    assert set(units) == {"0 left", "0 right", "1 left", "1 right"}
    assert index.loc[units == "0 left", "source_id"].nunique() == 3


@settings(deadline=None, max_examples=25)
@given(num_visits=PATIENTS, seed=st.integers(0, 9), num_classes=st.integers(2, 4))
def test_shuffled_labels_are_one_a_patient_and_balanced(num_visits, seed, num_classes):
    index = make_index(num_visits)
    names = tuple("abcd"[:num_classes])
    index["assigned"] = shuffle_labels(index, names, seed)
    by_patient = index.groupby("group_id")["assigned"]
    assert (by_patient.nunique() == 1).all()
    counts = Counter(by_patient.first())
    assert max(counts.values()) - min(counts[name] for name in names) <= 1
    if num_classes == 2:
        # Sorted patients are paired, so the differences of all pairs add up to less than the largest patient has
        # slices; a last patient without a partner may add as many.
        num_slices = Counter(index["assigned"])
        assert abs(num_slices["a"] - num_slices["b"]) < 2 * (2 * 3 * max(num_visits))


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_labels_do_not_look_at_the_knees(seed):
    index = make_index([1, 2, 3] * 4)
    assigned = shuffle_labels(index, ("left", "right"), seed)
    swapped = index.assign(label=index["label"].map({"left": "right", "right": "left"}))
    np.testing.assert_array_equal(shuffle_labels(swapped, ("left", "right"), seed), assigned)
    # Everyone has both knees, so side and assigned label are independent to the last slice.
    table = pd.crosstab(index["label"], assigned)
    np.testing.assert_array_equal(table.loc["left"], table.loc["right"])
    order = np.random.default_rng(seed).permutation(len(index))
    again = shuffle_labels(index.iloc[order], ("left", "right"), seed)
    np.testing.assert_array_equal(again, assigned[order])


def test_the_seed_is_the_draw():
    index = make_index([1, 2, 3] * 6)
    first, again, other = (shuffle_labels(index, ("left", "right"), seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_patients_label_is_open_whatever_the_number_of_slices():
    index = make_index(range(1, 8))
    assigned = [shuffle_labels(index, ("left", "right"), seed) for seed in range(20)]
    assert all(len({labels[place] for labels in assigned}) == 2 for place in range(len(index)))


def test_every_way_to_split_trains_on_as_many_slices_and_keeps_its_test_rows():
    index = make_index([1, 2, 3, 3, 1, 2, 2])
    splits = {unit: assign_by_unit(index, unit, SplitConfig(), 0) for unit in SPLIT_UNITS}
    kept = equalize_training(splits, 0)
    numbers = {(split == "train").sum() for split in kept.values()}
    assert numbers == {min((split == "train").sum() for split in splits.values())}
    for unit in SPLIT_UNITS:
        same = kept[unit] == splits[unit]
        assert set(kept[unit][~same]) <= {""}
        assert set(splits[unit][~same]) <= {"train"}


def test_slices_are_neighbours_from_the_middle():
    index = make_index([2, 1], num_slices=10)
    chosen = index.iloc[choose_middle_slices(index, 4)]
    assert chosen.groupby("source_id")["slice_index"].apply(list).tolist() == [[3, 4, 5, 6]] * 6
    assert len(choose_middle_slices(index, 0)) == len(choose_middle_slices(index, 99)) == len(index)
    order = np.random.default_rng(0).permutation(len(index))
    moved = index.iloc[order]
    assert set(moved.iloc[choose_middle_slices(moved, 4)]["example_id"]) == set(chosen["example_id"])
