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


def compute_logit_ends(value, variance, quantile):
    """The ends on the logit scale, from the mean and the variance of the logit of a beta variable as SciPy has them."""
    scale = value * (1 - value) / variance
    shapes = value * scale, (1 - value) * scale
    # The logarithm of a gamma variable has SciPy's loggamma distribution; the logit is the difference of two.
    (mean_a, variance_a), (mean_b, variance_b) = (stats.loggamma.stats(shape) for shape in shapes)
    bias = (mean_a - mean_b) - special.logit(value)
    half_width = quantile * np.sqrt(variance_a + variance_b)
    return tuple(special.expit(special.logit(value) - bias + np.array([-half_width, half_width])))


def test_of_single_rows_the_variance_is_that_of_delong():
    scores, is_positive, patients = draw_rows(80)
    above = (scores[is_positive][:, None] > scores[~is_positive]).astype(float)
    value = above.mean()
    variance = above.mean(axis=1).var(ddof=1) / len(above) + above.mean(axis=0).var(ddof=1) / len(above[0])
    # The contribution of a row to the difference of the AUROC from the truth, and the spread of its square.
    squares = np.r_[(above.mean(axis=1) - value) / len(above), (above.mean(axis=0) - value) / len(above[0])] ** 2
    freedom = 2 * len(squares) * squares.mean() ** 2 / squares.var()
    assert freedom < min(above.shape) - 1
    found = estimate_auroc(count_ranks(scores, is_positive, patients, 80))
    assert found["value"] == pytest.approx(value)
    assert found["method"] == "logit"
    expected = compute_logit_ends(value, variance, stats.t.ppf(0.975, freedom))
    assert (found["low"], found["high"]) == pytest.approx(expected)


def test_an_interval_of_three_patients_by_hand(monkeypatch):
    monkeypatch.setattr(ranking, "MIN_EFFECTIVE_GROUPS", 0.0)  # so few have none; the formula is the same for many
    # Patients 0 and 2 have a positive at 5 and at 4, patients 1 and 2 a negative at 1 and at 2; patient 0 a negative at
    # 4.5 too, which is above the positive of patient 2.
    counts = count_ranks(
        np.array([5.0, 4.0, 1.0, 2.0, 4.5]), np.array([True, True, False, False, False]), np.array([0, 2, 1, 2, 0]), 3
    )
    found = estimate_auroc(counts)
    # Positives win 1 and 2/3 of the negatives, negatives lose to 1, 1 and 1/2 of the positives; the mean is 5/6.
    # Excesses are 1/6 and -1/6 over two rows, and 1/6, 1/6 and -1/3 over three.
    variance = 2 * (2 / 144) + (3 / 2) * (1 / 324 + 1 / 324 + 4 / 324) + 2 * (3 / 2) * (-1 / 108 - 1 / 216)
    # The table of 2 patients has fewer degrees of freedom than the squares of 1/36, 1/18 and 1/36 have.
    assert found["value"] == pytest.approx(5 / 6)
    low, high = compute_logit_ends(5 / 6, variance, stats.t.ppf(0.975, 1))
    exact = stats.beta.ppf([0.025, 0.975], [5 / 3, 8 / 3], [4 / 3, 1 / 3])
    assert low < exact[0], "two patients of a class: the exact interval is narrower"
    assert found["low"] == pytest.approx(exact[0])
    assert found["high"] == pytest.approx(min(high, exact[1]))


def test_an_interval_of_one_wrong_positive_by_hand():
    """Forty patients of each class; the last positive is below four negatives."""
    scores = np.r_[np.arange(100, 139), 35.5, np.arange(0, 40)]
    is_positive = np.arange(80) < 40
    found = estimate_auroc(count_ranks(scores, is_positive, np.arange(80), 80))
    # Excesses in units of 1/400: a positive of -39 and 39 of 1, four negatives of -9 and 36 of 1.
    positives, negatives = 39**2 + 39, 4 * 9**2 + 36
    variance = (positives + negatives) / 400**2 / 39 / 40
    fourth_powers = 39**4 + 39 + 4 * 9**4 + 36
    freedom = 2 * 80 * (positives + negatives) ** 2 / (80 * fourth_powers - (positives + negatives) ** 2)
    quantile = stats.t.ppf(0.975, freedom)
    assert freedom < 4
    assert found["value"] == 0.9975
    low, high = compute_logit_ends(0.9975, variance, quantile)
    exact = stats.beta.ppf(0.025, 39.9, 1.1)
    assert low < exact, "so few degrees of freedom say less than forty patients do"
    assert (found["low"], found["high"]) == pytest.approx((exact, high))
    delta = special.expit(special.logit(0.9975) - quantile * np.sqrt(variance) / (0.9975 * 0.0025))
    assert exact < delta - 0.01, "near 1 the delta method is too narrow"


def test_with_many_patients_the_interval_is_symmetric_on_the_logit_scale_as_by_the_delta_method():
    found = estimate_auroc(count_ranks(*draw_rows(3000), 3000))
    logits = special.logit([found["low"], found["value"], found["high"]])
    assert logits[1] - logits[0] == pytest.approx(logits[2] - logits[1], rel=0.03)


@pytest.mark.parametrize("separation", [0.0, 1.0, 3.0, -2.0])
@pytest.mark.parametrize("num_patients", [5, 7, 25])
@pytest.mark.parametrize("seed", range(4))
def test_an_interval_holds_the_estimate_has_a_width_and_lies_between_0_and_1(separation, num_patients, seed):
    generator = np.random.default_rng(seed)
    patients = np.repeat(np.arange(num_patients), 3)
    is_positive = patients % 2 == 0 if seed % 2 else np.arange(len(patients)) % 2 == 0
    scores = np.round(generator.normal(size=len(patients)) + separation * is_positive, seed)
    found = estimate_auroc(count_ranks(scores, is_positive, patients, num_patients))
    assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
    assert found["high"] - found["low"] > 0.01
    mirrored = estimate_auroc(count_ranks(-scores, is_positive, patients, num_patients))
    assert mirrored["low"] == pytest.approx(1 - found["high"])


def test_no_interval_is_wider_than_the_exact_one_over_the_rarer_patients():
    scores, is_positive, patients = draw_rows(12, seed=3, rows_a_patient=2)
    counts = count_ranks(scores, is_positive, patients, 12)
    fewer = min(len(np.unique(patients[is_positive])), len(np.unique(patients[~is_positive])))
    found = estimate_auroc(counts)
    exact = stats.beta.ppf(
        [0.025, 0.975],
        [found["value"] * fewer, found["value"] * fewer + 1],
        [(1 - found["value"]) * fewer + 1, (1 - found["value"]) * fewer],
    )
    assert exact[0] - 1e-12 <= found["low"]
    assert found["high"] <= exact[1] + 1e-12


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


def test_patients_count_by_their_rows_and_fewer_than_five_have_no_interval_but_the_exact_bound():
    for rows, count in (((1, 1, 1, 3), 3), ((4, 4, 4, 4, 4), 5), ((0, 2, 2), 2), ((10, 1, 1, 1, 1, 1), 225 / 105)):
        assert ranking.count_effective_groups(np.array(rows, float)) == count
    wrong = np.array([0.1] + [0.6] * 199)  # the first positive is below all negatives

    def estimate(rows, scores=wrong):
        is_positive = np.arange(sum(rows)) % 2 == 0
        chosen = np.where(is_positive, scores[: sum(rows)], 0.4)
        return estimate_auroc(count_ranks(chosen, is_positive, np.repeat(np.arange(len(rows)), rows), len(rows)))

    five, unequal = estimate((4,) * 5), estimate((4, 4, 4, 4, 6))
    assert (five["method"], unequal["method"]) == ("logit", None), "22^2 / 100 = 4.84 patients"
    assert unequal["value"] == pytest.approx(10 / 11)
    assert unequal["reason"] == "by their rows the groups count like 4.8 of equal size, 5 needed"
    perfect = estimate((4, 4, 4, 4, 6), np.full(200, 0.6))
    assert (perfect["method"], perfect["low"]) == ("exact over groups", pytest.approx(0.025 ** (1 / 5)))


def test_an_auroc_has_no_interval_of_one_patient_of_a_class_nor_without_variance():
    is_positive = np.array([True, True, False, False])
    one = estimate_auroc(count_ranks(np.array([0.9, 0.4, 0.5, 0.1]), is_positive, np.array([0, 0, 1, 2]), 3))
    assert (one["value"], one["low"], one["reason"]) == (0.75, None, "a class has rows of one group only")
    equal = estimate_auroc(count_ranks(np.full(6, 0.5), np.arange(6) % 2 == 0, np.arange(6), 6))
    assert (equal["value"], equal["low"]) == (0.5, None)
    assert "no variance" in equal["reason"]
    none = estimate_auroc(count_ranks(np.full(2, 0.5), np.array([False, False]), np.arange(2), 2))
    assert (none["value"], none["low"]) == (None, None)
