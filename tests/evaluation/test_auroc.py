import numpy as np
import pytest
from scipy import special, stats

from pipeline.evaluation import auroc as ranking
from pipeline.evaluation.auroc import RankCounts, compute_auroc, count_ranks, estimate_auroc
from pipeline.evaluation.bootstrap import draw_patient_weights


@pytest.mark.parametrize("num_patients", [1, 3, 60])  # 60: ranks are merged several times
@pytest.mark.parametrize("num_scores", [1, 4, 1000])  # all tie, many tie, few tie
@pytest.mark.parametrize("max_chunk_numbers", [1, 500_000])
def test_wins_are_those_counted_pair_by_pair(num_patients, num_scores, max_chunk_numbers, monkeypatch):
    monkeypatch.setattr(ranking, "MAX_CHUNK_NUMBERS", max_chunk_numbers)
    generator = np.random.default_rng(num_patients + num_scores)
    scores = generator.integers(0, num_scores, 150) / num_scores
    is_positive = generator.random(150) < 0.4
    patients = generator.integers(0, num_patients, 150)
    expected = np.zeros((num_patients, num_patients))
    for positive in np.flatnonzero(is_positive):
        for negative in np.flatnonzero(~is_positive):
            win = (scores[positive] > scores[negative]) + (scores[positive] == scores[negative]) / 2
            expected[patients[positive], patients[negative]] += win
    found = count_ranks(scores, is_positive, patients, num_patients)
    np.testing.assert_array_equal(found.pair_wins, expected)


@pytest.mark.parametrize(("rows_a_patient", "is_paired"), [(99, False), (100, True)])
def test_more_patients_are_paired_where_each_has_many_rows_and_the_score_is_the_same(
    rows_a_patient, is_paired, monkeypatch
):
    monkeypatch.setattr(ranking, "MAX_PAIRED_PATIENTS", 10)
    generator = np.random.default_rng(0)
    patients = np.repeat(np.arange(11), rows_a_patient)
    is_positive = generator.random(len(patients)) < 0.5
    built = count_ranks(generator.normal(size=len(patients)), is_positive, patients, 11)
    assert (built.pair_wins is not None) == is_paired
    weights = draw_patient_weights(11, 5, generator)
    direct = RankCounts(built.positives, built.negatives, None)
    np.testing.assert_allclose(compute_auroc(built, weights), compute_auroc(direct, weights), rtol=1e-12)


def test_the_example_of_the_docstring_is_counted_by_merging():
    """Patients a and b: a-, b+, b-, a+ from the lowest score on; a+ wins twice, b+ once."""
    scores, patients = np.arange(4.0), np.array([0, 1, 1, 0])
    counts = count_ranks(scores, np.array([False, True, False, True]), patients, 2)
    np.testing.assert_array_equal(counts.pair_wins, [[1, 1], [1, 0]])
    assert compute_auroc(counts, np.ones((1, 2))) == 0.75
    assert compute_auroc(counts, np.array([[0.0, 1.0]])) == 0.0, "b+ is below b-"


def draw_rows(num_patients, seed=0, rows_a_patient=1):
    generator = np.random.default_rng(seed)
    patients = np.repeat(np.arange(num_patients), rows_a_patient)
    is_positive = generator.random(len(patients)) < 0.4
    hardness = generator.normal(size=num_patients)[patients]
    return generator.normal(size=len(patients)) + (1.5 + hardness) * is_positive, is_positive, patients


def test_of_single_rows_the_interval_is_that_of_delong():
    scores, is_positive, patients = draw_rows(80)
    above = (scores[is_positive][:, None] > scores[~is_positive]).astype(float)
    value = above.mean()
    variance = above.mean(axis=1).var(ddof=1) / len(above) + above.mean(axis=0).var(ddof=1) / len(above[0])
    # The contribution of a row to the difference of the AUROC from the truth, and the spread of its square.
    squares = np.r_[(above.mean(axis=1) - value) / len(above), (above.mean(axis=0) - value) / len(above[0])] ** 2
    freedom = 2 * len(squares) * squares.mean() ** 2 / squares.var()
    assert freedom < min(above.shape) - 1
    quantile = stats.t.ppf(0.975, freedom)
    half_width = quantile * np.sqrt(variance) / (value * (1 - value))
    found = estimate_auroc(count_ranks(scores, is_positive, patients, 80))
    assert found["value"] == pytest.approx(value)
    assert found["method"] == "logit"
    expected = special.expit(special.logit(value) + np.array([-half_width, half_width]))
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected))


def test_a_variance_of_three_patients_by_hand():
    # Patient 0 has a positive at 4 and a negative at 1, patient 1 a positive at 2, patient 2 a negative at 3.
    counts = count_ranks(
        np.array([4.0, 1.0, 2.0, 3.0]), np.array([True, False, True, False]), np.array([0, 0, 1, 2]), 3
    )
    found = estimate_auroc(counts)
    # Positives win 1 and 1/2 of the negatives, negatives lose to 1 and 1/2 of the positives; the mean is 3/4.
    # Excesses are 1/4 and -1/4 in both, divided by two rows each; patient 0 has one of each.
    variance = 2 * (2 / 64) + 2 * (2 / 64) + 2 * (3 / 2) * (1 / 64)
    # Patients 0, 1 and 2 contribute 1/4, -1/8 and -1/8: squares of 4, 1 and 1, with a mean of 2 and a variance of 2.
    # That gives 12 degrees of freedom, and the class of two patients 1.
    half_width = stats.t.ppf(0.975, 1) * np.sqrt(variance) / (3 / 16)
    assert found["value"] == 0.75
    assert found["low"] == pytest.approx(special.expit(special.logit(0.75) - half_width))


def test_repeated_rows_of_a_patient_add_no_certainty_to_the_auroc():
    scores, is_positive, patients = draw_rows(30, rows_a_patient=4)
    once = estimate_auroc(count_ranks(scores, is_positive, patients, 30))
    often = estimate_auroc(count_ranks(*(np.tile(part, 5) for part in (scores, is_positive, patients)), 30))
    assert often == pytest.approx(once)


def test_an_auroc_without_a_wrong_pair_has_the_exact_bound_over_the_rarer_patients():
    is_positive = np.array([True] * 4 + [False] * 9)
    patients = np.array([0, 0, 1, 2, *range(9)])
    perfect = estimate_auroc(count_ranks(np.where(is_positive, 0.9, 0.1), is_positive, patients, 9))
    assert (perfect["value"], perfect["high"], perfect["method"]) == (1.0, 1.0, "exact over groups")
    assert perfect["low"] == pytest.approx(0.025 ** (1 / 3)), "three patients have a positive, nine a negative"
    reversed_ranks = estimate_auroc(count_ranks(np.where(is_positive, 0.1, 0.9), is_positive, patients, 9))
    assert (reversed_ranks["low"], reversed_ranks["high"]) == (0.0, 1 - perfect["low"])


def test_an_auroc_has_no_interval_of_one_patient_of_a_class_nor_without_variance():
    is_positive = np.array([True, True, False, False])
    one = estimate_auroc(count_ranks(np.array([0.9, 0.4, 0.5, 0.1]), is_positive, np.array([0, 0, 1, 2]), 3))
    assert (one["value"], one["low"], one["reason"]) == (0.75, None, "a class has rows of one group only")
    equal = estimate_auroc(count_ranks(np.full(4, 0.5), is_positive, np.arange(4), 4))
    assert (equal["value"], equal["low"]) == (0.5, None)
    assert "no variance" in equal["reason"]
    none = estimate_auroc(count_ranks(np.full(2, 0.5), np.array([False, False]), np.arange(2), 2))
    assert (none["value"], none["low"]) == (None, None)
