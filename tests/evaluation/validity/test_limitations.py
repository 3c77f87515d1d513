import dataclasses

import pandas
import pytest

from pipeline.config.outputs import EvaluateConfig
from pipeline.core.data_kinds import IMAGES, VOLUMES
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.class_scores import compute_class_table
from pipeline.evaluation.decisions.decision_support import compute_decision
from pipeline.evaluation.metrics import compute_levels
from pipeline.evaluation.predictions import aggregate
from pipeline.evaluation.schema import explain_missing_interval
from pipeline.evaluation.validity.limitations import Evaluated, list_not_evaluated
from tests.builders.predictions import CLASSES, build_table

ALWAYS = {"Variation between trainings"}


def build_evaluated(kind=VOLUMES, num_patients=24, **columns) -> Evaluated:
    """Patients with a scan of each side at two visits and two sites; the odd ones were tested, half of them women."""
    rows = []
    for patient in range(num_patients):
        for side in ("left", "right"):
            for visit in ("1", "2"):
                name = f"P{patient}-{side}-{visit}"
                rows.append((name, f"P{patient}", visit, side, f"site {patient % 3}", "FM"[patient // 2 % 2]))
    names = ["source_id", "group_id", "visit", "side", "site", "sex"]
    scans = pandas.DataFrame(rows, columns=names).assign(age=range(len(rows)), scanner="A")
    scans.loc[::3, "scanner"] = "B"
    scans = scans.assign(**columns).set_index("source_id")
    right = (scans["side"] == "right").to_numpy()
    table = build_table(
        0.2 + 0.6 * right, scans["side"].to_list(), CLASSES[2], scans["group_id"].to_list(), scans.index.to_list()
    )
    table["side"] = scans["side"].to_list()
    is_test = scans["group_id"].str[1:].astype(int).to_numpy() % 2 == 1
    table["split"] = ["test" if tested else "val" for tested in is_test]
    test = table[is_test].reset_index(drop=True)
    levels = compute_levels(test, CLASSES[2], Bootstrap(100), kind)
    decision = compute_decision(table, levels, CLASSES[2], EvaluateConfig(num_bootstrap_resamples=100))
    classes = {level: compute_class_table(aggregate(test, level), CLASSES[2], Bootstrap(100)) for level in levels}
    return Evaluated(kind, test, scans, frozenset(scans["group_id"][~is_test]), levels, classes, decision)


def read(evaluated: Evaluated) -> dict[str, str]:
    return {item["question"]: item["reason"] for item in list_not_evaluated(evaluated)}


@pytest.fixture(scope="module")
def whole():
    return build_evaluated()


def test_what_the_rows_can_answer_is_not_listed(whole):
    found = read(whole)
    assert found.keys() >= ALWAYS
    assert found.pop("Scores of whole patients") == "a test patient has rows of several classes"
    assert found.pop("Sites that were not trained on") == "all sites of test scans (3) have training scans"
    left = {name for name in found if not name.startswith("Intervals of")}
    assert left == ALWAYS | {"Scans from another source"}


@pytest.mark.parametrize(
    ("column", "values", "question", "reason"),
    [
        ("site", "", "Differences between sites", "no site is known"),
        ("site", "Graz", "Differences between sites", "all scans are from the site Graz"),
        ("sex", "", "Differences by sex", "no sex is known"),
        ("sex", "F", "Differences by sex", "all test scans have the same, F"),
        ("age", "", "Differences by age", "no age is known"),
        ("visit", "", "Changes between visits", "no visit is known"),
        ("visit", "1", "Changes between visits", "no test patient has scans of two visits"),
        ("side", "", "Differences between left and right", "no side is known"),
        ("side", "left", "Both sides of one person", "no test patient has scans of both"),
    ],
)
def test_what_is_unknown_or_the_same_for_all_is_listed(whole, column, values, question, reason):
    assert question not in read(whole)
    changed = dataclasses.replace(whole, scans=whole.scans.assign(**{column: values}))
    assert read(changed)[question] == reason


def test_a_site_that_was_not_trained_on_is_an_answer(whole):
    is_third = whole.scans["site"] == "site 1"
    elsewhere = frozenset(whole.scans["group_id"][~is_third]) & whole.train_groups
    assert "Sites that were not trained on" not in read(dataclasses.replace(whole, train_groups=elsewhere))


def test_a_column_that_is_absent_is_unknown(whole):
    changed = dataclasses.replace(whole, scans=whole.scans.drop(columns=["sex"]).rename(columns={"age": "Age"}))
    assert read(changed)["Differences by sex"] == "no sex is known"
    assert "Differences by age" not in read(changed), "capitals do not matter"


def test_a_class_without_rows_and_one_of_few_patients_are_listed(whole):
    levels = {**whole.levels, "slice": whole.levels["slice"] | {"support": {"left": 24, "right": 24, "both": 0}}}
    found = read(dataclasses.replace(whole, levels=levels))
    assert found["Class “both”"] == "no test row has it"
    assert found["Operating points and net benefit"] == "there are 3 classes, and both need two"
    few = read(build_evaluated(num_patients=12))
    assert few["Rates of rare classes, to more than a rough extent"] == ("fewer than 10 patients: “left” 6, “right” 6")
    assert not any(name.startswith("Rates") for name in read(whole)), "twelve patients have each"


def test_missing_intervals_are_listed_by_reason(whole):
    found = read(whole)
    names = "Intervals of Balanced accuracy, Matthews correlation, F1, Negative log-likelihood, Brier score"
    assert found[names] == "a bootstrap over fewer than 60 patients is too narrow"


def test_a_net_benefit_without_an_interval_is_listed_with_its_thresholds(whole):
    few = "over fewer than 100 patients is too narrow"
    assert read(whole)["Intervals of the net benefit of slices, volumes, knees"] == f"a bootstrap {few}"
    assert read(whole)["Intervals of the average precision"] == f"a linearised interval {few}"
    reason = "a bootstrap with false positives in fewer than 10 groups is too narrow"
    given = {"value": 0.2, "low": 0.1, "high": 0.3, "method": "bootstrap", "reason": ""}
    curve = whole.decision["net_benefit"]["volume"]
    points = [
        point | {"model": explain_missing_interval(0.1, reason) if point["threshold"] >= 0.9 else given}
        for point in curve["curve"]
    ]
    decision = whole.decision | {"net_benefit": {"volume": curve | {"curve": points}}}
    found = read(dataclasses.replace(whole, decision=decision))
    listed = {question: why for question, why in found.items() if "net benefit" in question}
    assert listed == {
        "Intervals of the net benefit of volumes at thresholds 0.90, 0.95": reason.replace("group", "patient")
    }


def test_a_threshold_that_validation_cannot_choose_is_listed(whole):
    point = whole.decision["operating_points"]["volume"][0] | {"test": None}
    points = {**whole.decision["operating_points"], "volume": [point]}
    found = read(dataclasses.replace(whole, decision=whole.decision | {"operating_points": points}))
    assert found["A threshold for a sensitivity of volumes"] == "validation has no row of that class"


def test_a_level_that_validation_lacks_has_no_temperature(whole):
    calibration = {name: found for name, found in whole.decision["calibration"].items() if name != "knee"}
    found = read(dataclasses.replace(whole, decision=whole.decision | {"calibration": calibration}))
    assert "Temperature and thresholds of knees" in found


def test_of_images_without_patients_nothing_is_said_on_persons(whole):
    found = read(dataclasses.replace(whole, kind=IMAGES))
    assert not any("Differences" in name or "Changes" in name for name in found)
    assert "Images from another source" in found
