"""The sentences of the leak study agree with its numbers, with and without a leak."""

import dataclasses

import pandas as pd
import pytest

from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.reporting.elements import Figure
from pipeline.reporting.figures.intervals import labelled_accuracies, run_accuracies
from pipeline.reporting.studies.leak_study_page import describe_method, describe_outcomes, tabulate_outcomes
from pipeline.studies.leak_study import LeakOutcome, summarise_outcomes
from pipeline.studies.leaky_splits import LABELLINGS, SPLIT_UNITS

NAMES = ("left", "right")


def make_outcomes(**shuffled):
    """Outcomes with given accuracies (value, low, high) for shuffled labels; for true ones 99 % by slice, else 90 %."""
    rows = []
    for unit in SPLIT_UNITS:
        for labelling in LABELLINGS:
            value, low, high = shuffled[unit] if labelling == "shuffled" else (0.9, 0.85, 0.95)
            if (unit, labelling) == ("slice", "true"):
                value, low, high = 0.99, 0.98, 1.0
            accuracy = {"value": value, "low": low, "high": high}
            rows.append(LeakOutcome(unit, labelling, seeds=1, n=1200, groups=16, accuracy=accuracy))
    return rows


LEAKY = {
    "slice": (0.97, 0.95, 0.99),
    "volume": (0.7, 0.6, 0.8),
    "side": (0.55, 0.45, 0.65),
    "patient": (0.48, 0.3, 0.66),
}


def test_leaks_are_named_where_the_interval_lies_above_chance_and_only_there():
    text = " ".join(describe_outcomes(make_outcomes(**LEAKY), NAMES))
    assert "97.0\u00a0% (95.0 to 99.0) where slices were split" in text
    assert "chance is 50\u00a0%" in text
    assert "Where slices or scans were split, the model can only have recognised patients" in text
    assert "Where knees were split, no score above chance" in text
    assert "Where patients were split, chance lies in the interval" in text
    assert "same recipe: slices 99.0\u00a0% (98.0 to 100.0), scans 90.0" in text
    assert "9.0 points above that of a split of patients" in text


def test_without_a_leak_none_is_claimed():
    nothing = dict.fromkeys(SPLIT_UNITS, (0.5, 0.4, 0.6))
    text = " ".join(describe_outcomes(make_outcomes(**nothing), NAMES))
    assert "recognised" not in text
    assert "Where slices, scans or knees were split, no score above chance" in text


@pytest.mark.parametrize(("accuracy", "word"), [((0.8, 0.6, 0.9), "above"), ((0.3, 0.1, 0.45), "below")])
def test_a_clean_split_away_from_chance_is_reported(accuracy, word):
    text = " ".join(describe_outcomes(make_outcomes(**(LEAKY | {"patient": accuracy})), NAMES))
    assert f"the interval lies {word} chance" in text
    assert "chance lies in the interval" not in text


def test_chance_and_words_follow_the_labels():
    text = " ".join(describe_outcomes(make_outcomes(**LEAKY), ("mild", "none", "severe", "some")))
    assert "chance is 25\u00a0%" in text
    assert "knees" not in text
    assert "where patients and labels were split" in text


def make_predictions(patients, is_right):
    rows = []
    for place, patient in enumerate(patients):
        predicted = "left" if is_right[place] else "right"
        ids = {"example_id": f"{patient}_{place}", "source_id": f"{patient}_s", "group_id": patient, "split": "test"}
        rows.append(ids | {"label": "left", "predicted": predicted, "probability_left": 0.5, "probability_right": 0.5})
    return pd.DataFrame(rows)


def test_seeds_are_pooled_with_each_patient_drawn_whole():
    table = make_predictions(["a", "a", "b", "b", "c", "c"], [True, True, True, False, False, False])
    keys = [(unit, labelling) for unit in SPLIT_UNITS for labelling in LABELLINGS]
    one = summarise_outcomes({key: [table] for key in keys}, NAMES, Bootstrap(400))
    many = summarise_outcomes({key: [table] * 4 for key in keys}, NAMES, Bootstrap(400))
    assert [(outcome.unit, outcome.labels) for outcome in one] == keys
    assert one[0].accuracy["value"] == 0.5
    assert (many[0].n, many[0].groups, many[0].seeds) == (24, 3, 4)
    assert many[0].accuracy == pytest.approx(one[0].accuracy), "more seeds are no more patients"


def test_the_table_has_a_row_for_each_way_to_split_with_both_labellings():
    table = tabulate_outcomes(make_outcomes(**LEAKY), NAMES)
    assert [row[0] for row in table.rows] == ["slices", "scans", "knees", "patients"]
    assert table.rows[0][1].startswith("99.0")
    assert table.rows[0][2].startswith("97.0")
    assert table.rows[0][3:] == ("1,200", "16")


def test_words_follow_what_was_split():
    names = {"slice": "image", "side": "side", "patient": "patient"}
    kept = [outcome for outcome in make_outcomes(**LEAKY) if outcome.unit in names]
    images = [dataclasses.replace(outcome, unit=names[outcome.unit]) for outcome in kept]
    table = tabulate_outcomes(images, NAMES)
    assert [row[0] for row in table.rows] == ["images", "knees", "patients"]
    assert table.columns[3] == "Test images"
    text = " ".join([*describe_outcomes(images, NAMES), *describe_method(("image", "side", "patient"))])
    assert "A split of images gives a score 9.0 points above" in text
    assert "three ways to split, by the same fractions: by image, by the images of a patient" in text
    assert "slice" not in text
    assert "scan" not in text
    assert (
        "four ways to split, by the same fractions: by slice, by scan, by the scans" in describe_method(SPLIT_UNITS)[0]
    )
    assert (
        "two ways to split, by the same fractions: by image, and by patient" in describe_method(("image", "patient"))[0]
    )


def test_figures_change_with_their_numbers():
    accuracy = {"value": 0.9, "low": 0.8, "high": 0.95}
    other = accuracy | {"value": 0.85}
    first, second = (labelled_accuracies([("slices", accuracy, item)], 0.5) for item in (accuracy, other))
    assert first != second
    unsure = {"value": 0.9, "low": None, "high": None}
    drawn = [run_accuracies([("fold-0", accuracy), ("fold-1", unsure)], item, "Accuracy") for item in (accuracy, other)]
    assert drawn[0] != drawn[1]
    assert all(Figure("a", "", "", svg).width > 720 for svg in (first, second, *drawn))
