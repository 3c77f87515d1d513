"""Accuracies of subgroups by hand, and a permutation test that finds what is there and little else."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import hypergeom

from pipeline.config.outputs import EvaluateConfig
from pipeline.core.data_kinds import PATIENT_IMAGES
from pipeline.core.errors import UserError
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.validity.subgroups import compute_subgroups, read_facts
from pipeline.reporting.evaluation.subgroup_section import build_subgroup_section
from tests.builders.predictions import build_table

NAMES = ("a", "b")


def build_test(is_correct, patients):
    labels = np.array(NAMES)[np.zeros(len(is_correct), dtype=int)]
    probabilities = np.where(is_correct, 0.1, 0.9)
    return build_table(probabilities, labels, NAMES, np.asarray(patients).astype(str))


def build_scans(**columns):
    scans = pd.DataFrame(columns)
    return scans.set_index(scans.index.astype(str))


def score(test, wanted, class_names=NAMES, is_ordinal=False, **columns):
    facts = read_facts(build_scans(**columns), wanted)
    return compute_subgroups(test, facts, class_names, is_ordinal, Bootstrap(200, seed=0))


def test_parts_and_gap_by_hand():
    """Ten patients of each sex with two rows; of the men's 20 rows 15 are right, of the women's 10."""
    patients = np.arange(20).repeat(2)
    is_correct = np.concatenate([np.arange(20) < 15, np.arange(20) < 10])
    sexes = np.where(patients < 10, "M", "F")
    (table,) = score(build_test(is_correct, patients), ["sex"], sex=sexes)
    assert [(part["value"], part["n"], part["groups"]) for part in table["parts"]] == [("F", 20, 10), ("M", 20, 10)]
    assert [part["accuracy"]["value"] for part in table["parts"]] == [0.5, 0.75]
    assert table["gap"] == pytest.approx(0.25)
    assert not table["is_within_patients"]
    assert 0.2 < table["p_value"] == table["p_corrected"] < 0.6  # rows of a patient go together


def test_numbers_are_cut_at_their_quantiles_and_blanks_are_counted():
    test = build_test(np.ones(9, dtype=bool), np.arange(9))
    ages = ["40", "50.5", "60", "70", "41", "51", "61", "71", ""]
    (table,) = score(test, ["age:4"], age=ages)
    assert [(part["value"], part["n"]) for part in table["parts"]] == [
        ("below 48.125", 2),
        ("48.125 to below 55.5", 2),
        ("55.5 to below 63.25", 2),
        ("63.25 and above", 2),
    ]
    assert table["num_unknown"] == 1


def test_few_patients_have_no_verdict():
    test = build_test(np.arange(19) < 10, np.arange(19))
    (table,) = score(test, ["sex"], sex=["M"] * 10 + ["F"] * 9)
    assert table["gap"] is None
    assert table["p_value"] is None
    assert table["reason"] == "fewer than two parts with 10 patients or more"


def test_sides_are_exchanged_within_patients():
    """Right knees are always right and left ones in half of 12 patients: 2 of 64 exchanges of 6 are as large."""
    patients = np.arange(12).repeat(2)
    is_left = np.tile([True, False], 12)
    is_correct = ~is_left | (patients < 6)
    (table,) = score(build_test(is_correct, patients), ["side"], side=np.where(is_left, "left", "right"))
    assert table["is_within_patients"]
    assert not table["is_between_patients"]
    assert table["p_value"] == pytest.approx(2 / 64, abs=0.012)  # of 2,000 drawn exchanges


def test_values_are_exchanged_within_patients_of_several_and_between_all_others_by_hand():
    """Nine patients of A, of whom 7 are right, nine of B, of whom 3 are, and two of both who are right at A alone.

    Each part has 11 rows, so that the gap is (9 - 3) / 11. An exchange gives x of 10 right answers to the nine of A,
    and each of the two to A or to B: as large are those in which |x - (10 - x) + d| is 6 or more, where d is the sum of
    two signs.
    """
    patients = [*range(18), 18, 18, 19, 19]
    sites = [*"A" * 9, *"B" * 9, *"AB", *"AB"]
    is_correct = np.array([*(np.arange(9) < 7), *(np.arange(9) < 3), True, False, True, False])
    (table,) = score(build_test(is_correct, patients), ["site"], site=sites)
    assert table["gap"] == pytest.approx(6 / 11)
    assert table["is_within_patients"]
    assert table["is_between_patients"]
    chances = {x: hypergeom.pmf(x, 18, 10, 9) for x in range(1, 10)}
    exact = sum(
        chance * weight
        for x, chance in chances.items()
        for d, weight in ((-2, 0.25), (0, 0.5), (2, 0.25))
        if abs(2 * x - 10 + d) >= 6
    )
    assert table["p_value"] == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 2000))


@pytest.mark.parametrize("num_both", [0, 1, 9, 10, 20])
def test_a_gap_between_patients_is_found_however_many_others_have_both_values(num_both):
    """All 40 patients of A are right, of B every second; those seen at both sites are right at both."""
    patients = np.concatenate([np.arange(80).repeat(2), 80 + np.arange(num_both).repeat(2)])
    sites = np.where(patients < 40, "A", np.where(patients < 80, "B", np.tile(["A", "B"], len(patients) // 2)))
    is_correct = (sites == "A") | (patients % 2 == 0) | (patients >= 80)
    (table,) = score(build_test(is_correct, patients), ["site"], site=sites)
    assert table["gap"] > 0.3
    assert table["p_value"] < 0.01
    (section,) = build_subgroup_section({"subgroups": [table]}, PATIENT_IMAGES)
    how = "within patients of several values and between the others" if num_both else "between patients"
    assert f"(permutation {how}: p = " in section.sentences[0]


@pytest.mark.slow
@pytest.mark.parametrize("num_both", [0, 4, 15, 30])
def test_the_test_rejects_a_true_null_hypothesis_in_five_of_a_hundred_cases(num_both, monkeypatch):
    """The first patients have a value for each row, drawn by chance, and all others one."""
    monkeypatch.setattr("pipeline.evaluation.validity.subgroups.NUM_PERMUTATIONS", 200)
    generator = np.random.default_rng(0)
    patients = np.arange(30).repeat(3)
    found = []
    for _ in range(60):
        skill = generator.random(30).repeat(3)
        sites = generator.permutation(["A"] * 15 + ["B"] * 15).repeat(3)
        sites[: 3 * num_both] = generator.choice(["A", "B"], 3 * num_both)
        (table,) = score(build_test(generator.random(90) < skill, patients), ["site"], site=sites)
        found.append(table["p_value"])
    # Of 60, more than 7 below 0.05 have a chance of 1 %.
    assert sum(p_value < 0.05 for p_value in found) <= 7
    assert np.mean(found) == pytest.approx(0.5, abs=0.12)


def test_two_classes_have_the_auroc_of_each_part_by_hand():
    """Of M's 2 x 2 pairs of a "b" and an "a" 3 are in order, of F's 1.5; the one scan of X has no pair."""
    labels = np.array(["a", "a", "b", "b", "a", "a", "b", "b", "b"])
    probabilities = [0.1, 0.6, 0.5, 0.9, 0.2, 0.8, 0.2, 0.7, 0.3]
    test = build_table(probabilities, labels, NAMES)
    (table,) = score(test, ["sex"], sex=["M"] * 4 + ["F"] * 4 + ["X"])
    found = {part["value"]: part["auroc"] for part in table["parts"]}
    assert found["M"]["value"] == pytest.approx(3 / 4)
    assert found["F"]["value"] == pytest.approx(1.5 / 4)
    assert (found["M"]["low"], "4.0 of equal size" in found["M"]["reason"]) == (None, True)
    assert found["X"]["value"] is None
    assert found["X"]["reason"] == "not defined: a class has no row"
    assert "mae" not in table["parts"][0]


def test_the_auroc_of_a_part_has_the_interval_over_its_patients():
    """The same rows as four for each of six patients, or as two for each of twelve: the latter know more."""
    labels = np.array(["a", "b"] * 12)
    probabilities = np.tile([0.2, 0.4, 0.5, 0.3, 0.1, 0.9, 0.3, 0.6], 3)
    widths = []
    for patients in (np.arange(24) // 4, np.arange(24) // 2):
        test = build_table(probabilities, labels, NAMES, patients.astype(str))
        (table,) = score(test, ["sex"], sex=["M"] * 24)
        widths.append(table["parts"][0]["auroc"]["high"] - table["parts"][0]["auroc"]["low"])
    assert widths[0] > widths[1]


def test_grades_have_quadratic_kappa_and_mean_absolute_error_of_each_part_by_hand():
    """Grades 0 to 2 of six women, and of two men who both have grade 1.

    The women's labels are 0, 0, 1, 1, 2, 2 and the answers 0, 1, 1, 1, 2, 0: distances 0, 1, 0, 0, 0, 2. The squares
    are 5 / 6 in the mean; by chance, each label with each answer (2, 3 and 1 of 6), they are
    (2 (0 + 3 + 4) + 2 (2 + 0 + 1) + 2 (8 + 3 + 0)) / 36 = 42 / 36. Kappa is 1 - 30 / 42.
    """
    grades, men = ("0", "1", "2"), ["1", "1"]
    labels, answers = np.array([*"001122", *men]), np.array([*"011120", "1", "2"])
    probabilities = np.where(answers[:, None] == np.array(grades), 0.8, 0.1)
    test = build_table(probabilities, labels, grades)
    (table,) = score(test, ["sex"], grades, True, sex=["F"] * 6 + ["M"] * 2)
    women, others = table["parts"]
    assert women["quadratic_kappa"]["value"] == pytest.approx(1 - 30 / 42)
    assert women["mae"]["value"] == pytest.approx(3 / 6)
    assert others["mae"]["value"] == pytest.approx(1 / 2)
    assert others["quadratic_kappa"]["value"] is None, "the labels are all alike"
    assert women["mae"]["low"] is None
    assert "fewer than 60 groups" in women["mae"]["reason"]
    assert "auroc" not in women


def test_the_scores_of_grades_have_intervals_in_parts_that_are_large_enough():
    grades = ("0", "1", "2")
    labels = np.array(grades)[np.arange(140) % 3]
    answers = np.array(grades)[(np.arange(140) // 2) % 3]
    test = build_table(np.where(answers[:, None] == np.array(grades), 0.8, 0.1), labels, grades)
    (table,) = score(test, ["sex"], grades, True, sex=["F"] * 80 + ["M"] * 60)
    for part in table["parts"]:
        for name in ("mae", "quadratic_kappa"):
            assert part[name]["low"] < part[name]["value"] < part[name]["high"]
            assert part[name]["method"] == "bootstrap"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("colour", r"'colour' is no fact.*side, sex, age"),
        ("label", "'label' is no fact"),
        ("site", "no scan has a site"),
        ("sex:4", r"sex of 0 is 'F'"),
        ("age", r"age has 20 values.*age:4"),
    ],
)
def test_what_no_scan_has_and_numbers_without_quantiles_are_refused(wanted, message):
    columns = {"label": "a", "site": "", "side": "left", "sex": ["F"] * 20, "age": [str(age) for age in range(20)]}
    with pytest.raises(UserError, match=message):
        read_facts(build_scans(**columns), [wanted])


@pytest.mark.parametrize("wanted", [("age:1",), ("age:x",), ("sex", "sex:2"), ("",)])
def test_options_of_another_form_are_refused(wanted):
    with pytest.raises(UserError, match=r"evaluate\.subgroups"):
        EvaluateConfig(subgroups=wanted)


def test_a_section_has_a_table_a_fact_and_says_where_there_is_no_verdict():
    patients = np.arange(24)
    columns = {"sex": ["M", "F"] * 12, "site": ["A"] * 20 + ["B"] * 4}
    tables = score(build_test(patients < 12, patients), ["sex", "site"], **columns)
    (section,) = build_subgroup_section({"subgroups": tables}, PATIENT_IMAGES)
    assert "differ by 0.0 points (permutation between patients: p = 1.000" in section.sentences[0]
    assert "Site: no verdict" in section.sentences[1]
    assert section.tables[1].rows[1][:3] == ("B", "4", "4")
    assert section.tables[0].columns[3:] == ("Accuracy", "AUROC")
    assert "Without an interval or a value: not defined: a class has no row." in section.tables[0].note
    assert build_subgroup_section({}, PATIENT_IMAGES) == []
