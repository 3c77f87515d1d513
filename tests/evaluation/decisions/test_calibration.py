import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from pipeline.evaluation.bootstrap import Support
from pipeline.evaluation.decisions.calibration import (
    Events,
    assign_equal_bins,
    compute_bins,
    compute_debiased_error,
    read_events,
    recalibrate,
    recalibrate_classes,
)
from tests.builders.predictions import CLASSES, build_random_table

MANY = Support(num_groups=200, num_with_errors=100)


def draw_rows(num_patients, rows, slope=1.0, intercept=0.0, seed=0, patient_std=0.0):
    """Logits of a model, and events whose log odds are intercept + slope x logit, shifted alike for a patient."""
    generator = np.random.default_rng(seed)
    patients = np.repeat(np.arange(num_patients), rows)
    logits = 1.5 * generator.normal(size=len(patients))
    shift = patient_std * generator.normal(size=num_patients)[patients]
    happened = generator.random(len(patients)) < expit(intercept + slope * logits + shift)
    return logits, happened, patients


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.5, -0.8), (2.0, 0.4), (-0.7, 0.0)])
def test_slope_and_intercept_are_those_of_an_unpenalised_logistic_regression(slope, intercept):
    logits, happened, patients = draw_rows(200, 4, slope, intercept)
    found = recalibrate(logits, happened, patients, MANY)
    reference = LogisticRegression(C=np.inf, tol=1e-10).fit(logits[:, None], happened)
    assert found["slope"]["value"] == pytest.approx(reference.coef_[0, 0], abs=1e-4)
    assert found["intercept"]["value"] == pytest.approx(reference.intercept_[0], abs=1e-4)
    constant = found["in_the_large"]["value"]
    assert expit(logits + constant).mean() == pytest.approx(happened.mean(), abs=1e-9)
    for name, true in (("slope", slope), ("intercept", intercept)):
        assert found[name]["low"] < true < found[name]["high"], "with this seed"
        assert found[name]["method"] == "linearised"


def test_rows_repeated_within_their_patients_do_not_narrow_an_interval():
    rows = draw_rows(200, 1)
    once, often = recalibrate(*rows, MANY), recalibrate(*(np.repeat(part, 10) for part in rows), MANY)
    for name in once:
        for end in ("value", "low", "high"):
            assert often[name][end] == pytest.approx(once[name][end], rel=1e-6), name


def test_few_patients_have_no_interval_and_the_reason():
    found = recalibrate(*draw_rows(16, 20), Support(16, 10))
    assert {part["low"] for part in found.values()} == {None}
    assert {part["reason"] for part in found.values()} == {
        "a linearised interval over fewer than 60 groups is too narrow"
    }


@pytest.mark.parametrize("logits", [[-2, -1, 1, 2], [2, 1, -1, -2], [-1, 0, 0, 1], [0, 0, 0, 0]])
def test_a_separated_table_has_no_slope(logits):
    found = recalibrate(np.array(logits, float), np.array([False, False, True, True]), np.arange(4), Support(4, 0))
    assert found["slope"]["value"] is found["intercept"]["value"] is None
    assert "separate" in found["slope"]["reason"]
    assert found["in_the_large"]["value"] == pytest.approx(0, abs=1e-9)


def test_where_the_event_never_happens_nothing_is_defined():
    found = recalibrate(np.zeros(3), np.zeros(3, bool), np.arange(3), Support(3, 0))
    assert {part["value"] for part in found.values()} == {None}


def test_certain_probabilities_that_are_half_wrong_have_no_constant():
    logits, happened = np.array([36.0, 36, -36, -36]), np.array([True, False, True, False])
    found = recalibrate(logits, happened, np.arange(4), Support(4, 2))
    assert found["in_the_large"]["value"] is None
    assert found["slope"]["value"] == pytest.approx(0, abs=1e-9)


def test_each_of_several_classes_is_compared_with_the_rest():
    table = build_random_table(3, num_patients=40, decimals=6)
    found = recalibrate_classes(table, CLASSES[3], MANY)
    assert list(found) == list(CLASSES[3])
    last = recalibrate_classes(build_random_table(2), CLASSES[2], MANY)
    assert list(last) == ["right"]
    probability = table["probability_tear"].to_numpy()
    patients = table["group_id"].astype(int).to_numpy()
    alone = recalibrate(logit(probability), (table["label"] == "tear").to_numpy(), patients, MANY)
    assert found["tear"]["slope"]["value"] == pytest.approx(alone["slope"]["value"])


def test_bins_hold_equally_many_rows_and_ties_stay_together():
    generator = np.random.default_rng(0)
    probability, patients = generator.random(1000).round(2), np.arange(1000)
    bins = assign_equal_bins(probability, patients)
    counts = np.bincount(bins)
    assert len(counts) == 10
    assert counts.min() > 80
    for value in np.unique(probability):
        assert len(set(bins[probability == value])) == 1
    assert (np.diff(bins[np.argsort(probability)]) >= 0).all()


def test_each_bin_has_five_patients():
    probability = np.linspace(0, 1, 40)
    few = assign_equal_bins(probability, np.repeat(np.arange(4), 10))
    assert set(few) == {0}
    some = assign_equal_bins(probability, np.repeat(np.arange(20), 2))
    for index in range(some.max() + 1):
        assert len(set(np.repeat(np.arange(20), 2)[some == index])) >= 5
    assert some.max() == 2, "ten bins of two patients each join by three, the tenth goes to the last"


def test_the_event_of_two_classes_is_the_last_and_of_several_a_right_answer():
    table = build_random_table(2)
    assert read_events(table, CLASSES[2]).probability.tolist() == table["probability_right"].tolist()
    events = read_events(build_random_table(3), CLASSES[3])
    assert events.probability.min() > 1 / 3
    bins = compute_bins(events)
    assert sum(part["n"] for part in bins) == 180
    assert sum(part["n"] * part["fraction"]["value"] for part in bins) == pytest.approx(events.happened.sum())


def test_the_debiased_error_by_hand():
    # One bin of six patients, a row each: gap 0.7 - 3/6 = 0.2; variance 6/5 x 6 x 0.25 / 36 = 0.05 > 0.04.
    happened = np.array([1, 1, 1, 0, 0, 0], bool)
    assert compute_debiased_error(Events(np.full(6, 0.7), happened, np.arange(6)))["value"] == 0
    # 0.9 - 3/6 = 0.4: 0.16 - 0.05 = 0.11.
    found = compute_debiased_error(Events(np.full(6, 0.9), happened, np.arange(6)))
    assert found["value"] == pytest.approx(np.sqrt(0.11))
    assert found["low"] is None
    assert compute_debiased_error(Events(np.full(6, 0.9), happened, np.zeros(6, int)))["value"] is None


@pytest.mark.parametrize("patient_std", [0.0, 1.0])
def test_the_square_of_the_debiased_error_is_on_average_the_true_one(patient_std):
    """Of calibrated probabilities 0, also where rows of a patient are alike; a plain error would not be."""
    debiased, plain = [], []
    for seed in range(150):
        logits, happened, patients = draw_rows(60, 10, seed=seed, patient_std=patient_std)
        # Averaged over patients, a shift makes probabilities less extreme: those are the calibrated ones.
        shifts = patient_std * np.linspace(-3, 3, 61)
        weights = np.exp(-(np.linspace(-3, 3, 61) ** 2) / 2)
        probability = np.average(expit(logits[:, None] + shifts), axis=1, weights=weights)
        events = Events(probability, happened, patients)
        bins = assign_equal_bins(probability, patients)
        gaps = np.bincount(bins, events.excess) / np.bincount(bins)
        plain.append((np.bincount(bins) * gaps**2).sum() / len(bins))
        debiased.append(compute_debiased_error(events)["value"] ** 2)
    # An error is never below 0, so that the mean stays a little above 0.
    assert np.mean(debiased) < 0.3 * np.mean(plain)
