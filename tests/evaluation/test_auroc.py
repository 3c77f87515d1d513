import numpy as np
import pytest

from pipeline.evaluation import auroc as ranking
from pipeline.evaluation.auroc import RankCounts, compute_auroc, count_ranks
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
