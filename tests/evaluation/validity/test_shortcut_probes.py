import dataclasses

import numpy as np
import pandas as pd
import pytest

from pipeline.core.data_kinds import IMAGES, PATIENT_IMAGES, POINTS, SCANS
from pipeline.core.predictions import Mirrored
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.metrics import compute_level
from pipeline.evaluation.predictions import build_predictions
from pipeline.evaluation.validity.shortcut_probes import (
    check_mirrored,
    compute_brightness,
    compute_probes,
    is_background,
    name_visits,
    order_visit,
    score_slice_indices,
    split_into_quartiles,
)
from pipeline.evaluation.validity.within_class_probe import probe_within_classes
from pipeline.reporting.evaluation.shortcut_section import build_probe_sections, list_probe_warnings
from tests.builders.stores import NAMES, ROWS, build_store

BOOTSTRAP = Bootstrap(num_resamples=100, seed=0)


def build_predicted(store, wrong=()) -> pd.DataFrame:
    """Predictions of the store's test rows that are right but for some."""
    index = store.index.iloc[ROWS["test"]]
    is_left = np.array(index["label"] == "left")
    is_left[list(wrong)] = ~is_left[list(wrong)]
    left = np.where(is_left, 0.9, 0.1)
    return build_predictions(index, np.stack([left, 1 - left], axis=1), NAMES)


def probe(store, wrong=(), mirror=None, visits=None):
    test = build_predicted(store, wrong)
    visits = pd.Series("3", index=store.index["source_id"]) if visits is None else visits
    kind = store.kind
    metrics = {
        "levels": {kind.example: compute_level(test, NAMES, Bootstrap(50))},
        "baselines": {"majority": compute_level(test, NAMES, Bootstrap(50))["metrics"]},
    }
    probes = compute_probes(store, ROWS, test, visits, 10_000, BOOTSTRAP)
    if mirror is not None:
        probes["mirror"] = check_mirrored(Mirrored(*mirror, is_averaged=False), test, NAMES)
    return probes, metrics, kind


def test_accuracy_of_parts_by_hand():
    store = build_store(slice_index=np.arange(400) % 4)
    test = build_predicted(store, wrong=[0, 4, 5])
    index = store.index["slice_index"].to_numpy()[ROWS["test"]]
    parts = score_slice_indices(test, index)
    assert [part["slice_index"] for part in parts] == [0, 1, 2, 3]
    assert [part["n"] for part in parts] == [35] * 4
    assert [part["accuracy"]["value"] for part in parts] == pytest.approx([33 / 35, 34 / 35, 1.0, 1.0])


def test_visits_are_named_as_written_and_dates_by_their_year():
    names = name_visits(pd.Series(["3", "101", "20040105", "20041231", "", None, "2004010", "baseline", "90040105"]))
    expected = ["3", "101", "2004", "2004", "unknown", "unknown", "2004010", "baseline", "90040105"]
    assert names.tolist() == expected


def test_visits_stand_in_the_order_of_their_numbers():
    names = ["unknown", "baseline", "101", "2004", "3", "100", "others"]
    assert sorted(names, key=order_visit) == ["3", "100", "101", "2004", "baseline", "others", "unknown"]


def test_of_many_visits_the_rarest_are_counted_together():
    visits = pd.Series([str(visit) for visit in range(20) for _ in range(30 - visit)])
    names = name_visits(visits)
    assert set(names) == {*(str(visit) for visit in range(11)), "others"}
    assert (names == "others").sum() == sum(30 - visit for visit in range(11, 20))


def test_quartiles_hold_as_many_rows_from_the_darkest_to_the_brightest():
    values = np.random.default_rng(0).random(80)
    quartiles, edges = split_into_quartiles(values)
    assert np.bincount(quartiles).tolist() == [0, 20, 20, 20, 20]
    assert values[quartiles == 1].max() < values[quartiles == 2].min()
    assert (edges[0], edges[4]) == (values.min(), values.max())
    assert set(split_into_quartiles(np.ones(5))[0]) == {1}, "equal values are in one quartile"


@pytest.mark.parametrize("shape", [(4, 6), (3, 4, 6)])
def test_brightness_is_the_mean_of_all_pixels(shape, monkeypatch):
    monkeypatch.setattr("pipeline.evaluation.validity.shortcut_probes.ROWS_AT_ONCE", 2)
    images = np.random.default_rng(0).integers(0, 256, (5, *shape), dtype=np.uint8)
    rows = np.array([4, 0, 2])
    expected = [images[row].mean() / 255 for row in rows]
    store = dataclasses.replace(build_store(), examples=images)
    np.testing.assert_allclose(compute_brightness(store, rows), expected)


def test_what_fills_up_a_scan_is_neither_dark_brightness_nor_dark_border():
    images = np.full((3, 4, 32, 32), 200, np.uint8)
    places = np.full((3, 4, 3), 40.0, np.float32)
    images[1:, 1:], places[1:, 1:] = 0, np.nan
    scans = dataclasses.replace(build_store(), examples=images, kind=SCANS, places_mm=places)
    rows = np.array([2, 0, 1])
    np.testing.assert_allclose(compute_brightness(scans, rows), 200 / 255)
    assert not is_background(scans, rows), "3 of 12 slices are there, and their border is bright"
    images[0] = 0
    assert is_background(scans, rows), "4 of 6 slices are dark"


def test_each_kind_of_data_has_the_probes_that_make_sense():
    store = build_store()
    found, *_ = probe(store)
    of_images = {"intensity_quartile", "border_only", "border_is_background"}
    assert set(found) == {"slice_index", "visit", "index_only"} | of_images
    assert set(probe(dataclasses.replace(store, kind=PATIENT_IMAGES))[0]) == {"visit"} | of_images
    unknown = pd.Series("", index=store.index["source_id"])
    assert set(probe(dataclasses.replace(store, kind=PATIENT_IMAGES), visits=unknown)[0]) == of_images
    assert set(probe(dataclasses.replace(store, kind=IMAGES))[0]) == of_images
    assert probe(dataclasses.replace(store, kind=POINTS))[0] == {}
    assert build_probe_sections({}, {}, POINTS, "axial") == []


def test_noise_gives_no_warning():
    found, metrics, kind = probe(build_store(), wrong=[3, 50])
    assert list_probe_warnings(found, metrics, kind) == []


def test_a_label_that_the_index_or_the_border_predicts_gives_a_warning():
    slice_index = np.random.default_rng(3).integers(0, 10, 400)
    leaky = build_store(labels=np.where(slice_index % 2 == 0, "left", "right"), slice_index=slice_index)
    found, metrics, kind = probe(leaky)
    (warning,) = list_probe_warnings(found, metrics, kind)
    assert warning.startswith("Slice index alone")
    assert "AUROC 1.000" in warning
    store = build_store()
    marked = np.pad(store.examples[:, 2:-2, 2:-2], ((0, 0), (2, 2), (2, 2)))
    marked[:, :2, :2] = np.where(store.index["label"] == "left", 200, 50)[:, None, None]
    found, metrics, kind = probe(build_store(marked))
    (warning,) = list_probe_warnings(found, metrics, kind)
    assert warning.startswith("Border of the images alone")


def test_a_border_that_shows_what_was_imaged_is_no_sign_of_a_shortcut():
    store = build_store()
    marked = store.examples.copy()
    marked[:, :2, :2] = np.where(store.index["label"] == "left", 200, 50)[:, None, None]
    found, metrics, kind = probe(build_store(marked))
    assert found["border_only"]["auroc"]["low"] > 0.9
    assert list_probe_warnings(found, metrics, kind) == []
    (section,) = build_probe_sections(found, metrics, kind, "axial")
    assert "fill their frame" in " ".join(section.sentences)
    assert "no anatomy" not in " ".join((*section.sentences, *(table.caption for table in section.tables)))


def test_a_visit_of_low_accuracy_gives_a_warning():
    store = build_store()
    visits = pd.Series(np.where(np.arange(400) < 290, "4", "3"), index=store.index["source_id"])
    found, metrics, kind = probe(store, wrong=range(0, 30, 2), visits=visits)
    (warning,) = list_probe_warnings(found, metrics, kind)
    assert "slices of visit 4" in warning
    assert "50.0\u00a0%" in warning
    assert "89.3\u00a0% of all" in warning


def build_mirror(store, num_not_flipped):
    is_left = (store.index["label"].to_numpy()[ROWS["test"]] == "left").astype(np.float32)
    straight = np.stack([is_left, 1 - is_left], axis=1)
    mirrored = straight[:, ::-1].copy()
    mirrored[:num_not_flipped] = straight[:num_not_flipped]
    return straight, mirrored


@pytest.mark.parametrize(("num_not_flipped", "is_alarming"), [(0, False), (4, False), (60, True)])
def test_too_few_flips_give_a_warning(num_not_flipped, is_alarming):
    store = build_store()
    found, metrics, kind = probe(store, mirror=build_mirror(store, num_not_flipped))
    warnings = list_probe_warnings(found, metrics, kind)
    assert [warning.startswith("Mirrored, only 57.1") for warning in warnings] == [True] * is_alarming


def test_the_section_reports_what_was_found():
    store = build_store(slice_index=np.arange(400) % 4)
    found, metrics, kind = probe(store, wrong=[0, 4], mirror=build_mirror(store, 7))
    (section,) = build_probe_sections(found, metrics, kind, "axial")
    text = " ".join(section.sentences).replace("\u00a0", " ")
    assert "accuracy is lowest at 0 with 94.3 %" in text
    assert "95.0 % (95 % interval" in text
    assert "of the test slices flip" in text
    assert [table.caption for table in section.tables] == [
        "Models that see a part alone",
        "Accuracy by visit",
        "Accuracy by intensity quartile",
    ]
    assert "Accuracy is lowest at 0" in section.figures[0].text
    assert "98.6\u00a0%" in section.figures[1].text, "138 of 140 test rows are right"
    for figure in section.figures:
        assert 500 < figure.width < 3000, figure.name
        assert 300 < figure.height < 1200, figure.name


@pytest.mark.parametrize(
    ("plane", "reason"), [("sagittal", "the slices are sagittal"), ("axial", "not left and right")]
)
def test_the_section_explains_why_there_is_no_mirror_check(plane, reason):
    found, metrics, kind = probe(build_store())
    assert reason in " ".join(build_probe_sections(found, metrics, kind, plane)[0].sentences)


def build_features(seed, signal, num_patients=24):
    """Both knees of each patient at two visits, two slices each; patients of every second site differ by a signal."""
    generator = np.random.default_rng(seed)
    rows, features, scans = [], [], {}
    for patient in range(num_patients):
        own = generator.normal(size=16)
        for side in NAMES:
            for visit in range(2):
                source_id = f"{patient}-{side}-{visit}"
                scans[source_id] = {"site": "AB"[patient % 2], "visit": str(visit)}
                scan = own + 0.5 * generator.normal(size=16)
                scan[:2] += signal * (patient % 2)
                rows += [(f"{source_id}-{place}", source_id, f"p{patient}", side, side) for place in range(2)]
                features += [scan + 0.3 * generator.normal(size=16) for _ in range(2)]
    table = pd.DataFrame(rows, columns=["example_id", "source_id", "group_id", "label", "predicted"])
    return table, np.array(features, np.float32), pd.DataFrame.from_dict(scans, orient="index")


def test_a_site_that_the_features_show_is_found_within_each_class():
    found = probe_within_classes(*build_features(0, signal=4.0), NAMES, BOOTSTRAP)
    assert [(probe["covariate"], probe["label"]) for probe in found] == [
        ("site", "left"), ("site", "right"), ("visit", "left"), ("visit", "right"),
    ]  # fmt: skip
    assert [(probe["values"], probe["n"], probe["groups"]) for probe in found[:2]] == [(["A", "B"], 48, 24)] * 2
    assert all(probe["auroc"]["low"] > 0.7 for probe in found[:2])
    assert all(probe["auroc"]["low"] <= probe["chance"] <= probe["auroc"]["high"] for probe in found[2:])
    _, metrics, kind = probe(build_store())
    warnings = list_probe_warnings({"within_class": found}, metrics, kind)
    for warning, side in zip(warnings, NAMES, strict=True):
        assert "show the site" in warning
        assert f"class {side}" in warning


@pytest.mark.slow
def test_without_a_signal_the_interval_of_the_site_holds_chance():
    held = []
    for seed in range(5):
        found = probe_within_classes(*build_features(seed, signal=0.0), NAMES, BOOTSTRAP)
        held += [probe["auroc"]["low"] <= probe["chance"] <= probe["auroc"]["high"] for probe in found[:2]]
    # With two or more of 10 intervals of 95 % missing in 9 of 100 such draws, one is allowed.
    assert sum(held) >= 9


def test_few_patients_and_unknown_facts_get_a_reason_and_no_verdict():
    table, features, scans = build_features(0, signal=4.0, num_patients=9)
    found = probe_within_classes(table, features, scans, NAMES, BOOTSTRAP)
    assert [probe["auroc"]["value"] for probe in found] == [None] * 4
    assert "5 patients" in found[0]["auroc"]["reason"], "site B has four patients"
    assert found[2]["auroc"]["reason"] == "fewer than 10 patients"
    _, metrics, kind = probe(build_store())
    (section,) = build_probe_sections(found_with(found), metrics, kind, "axial")
    text = " ".join(section.sentences)
    assert "visit in class left: fewer than 10 patients" in text
    assert "whether the features show the scanner." in text
    assert section.tables[-1].rows[0][:5] == ("Site", "left", "A", "10", "5")
    nothing = probe_within_classes(table, features, scans[[]], NAMES, BOOTSTRAP)
    (section,) = build_probe_sections(found_with(nothing), metrics, kind, "axial")
    assert "whether the features show the site or the scanner or the visit." in section.sentences[-1]


def found_with(within_class):
    return probe(build_store())[0] | {"within_class": within_class}
