"""The cumulative logit model: its loss by hand, its gradient, and what it finds in rows that follow it."""

import numpy as np
import pytest
import scipy.optimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from pipeline.evaluation.ordinal.baseline import CumulativeLogit, compute_penalised_loss


def draw_rows(num_rows=3000, seed=0):
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(num_rows, 3))
    severity = values @ [1.0, -2.0, 0.0] + generator.logistic(size=num_rows)
    return values, np.searchsorted([-1.0, 0.5, 2.0], severity)


def test_the_loss_of_one_row_by_hand():
    """Weight 2, cut points 1 and 2 (a gap of 1, logarithm 0), value 0.5: scores of 1, and grade 1 of three."""
    parameters, values = np.array([2.0, 1.0, 0.0]), np.array([[0.5]])
    loss, _ = compute_penalised_loss(parameters, values, np.array([1]), 3.0)
    assert loss == pytest.approx(-3 * np.log(expit(1) - expit(0)) + 2)


def test_the_gradient_is_the_slope_of_the_loss():
    values, grades = draw_rows(50)
    parameters = np.random.default_rng(1).normal(size=6)
    arguments = (values, grades, 0.7)
    _, gradient = compute_penalised_loss(parameters, *arguments)
    slopes = scipy.optimize.approx_fprime(parameters, lambda at: compute_penalised_loss(at, *arguments)[0], 1e-7)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=1e-4)  # differences of losses near 100


def test_scores_far_from_all_cut_points_lose_no_digits():
    loss, gradient = compute_penalised_loss(np.array([1.0, 0.0, 0.0]), np.array([[800.0]]), np.array([1]), 1.0)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


def test_what_made_the_rows_is_found_and_probabilities_add_up_to_one():
    values, grades = draw_rows()
    model = CumulativeLogit("abcd").set_params(C=1e3).fit(values, np.array(list("abcd"))[grades])
    np.testing.assert_allclose(model.parameters[:3], [1, -2, 0], atol=0.15)
    probabilities = model.predict_proba(values)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert probabilities.min() >= 0


def test_two_grades_are_a_logistic_regression():
    values, grades = draw_rows(300)
    labels = np.where(grades > 1, "b", "a")
    found = CumulativeLogit("ab").set_params(C=0.1).fit(values, labels).predict_proba(values)
    expected = LogisticRegression(C=0.1, tol=1e-8).fit(values, labels).predict_proba(values)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_grade_without_rows_is_left_out():
    values, grades = draw_rows(300)
    model = CumulativeLogit("abcde").fit(values, np.array(list("abde"))[grades])
    assert model.classes_ == ("a", "b", "d", "e")
