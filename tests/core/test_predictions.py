"""Probabilities have one column a class, and a tie goes to the first class."""

import numpy as np

from pipeline.core.predictions import choose_class, choose_classes, probability_columns


def test_columns_follow_the_classes():
    assert probability_columns(("right", "left")) == ["probability_right", "probability_left"]


def test_the_first_of_equal_probabilities_is_chosen_though_their_last_digits_differ():
    rows = np.array([[0.5, 0.5], [0.5 - 1e-14, 0.5 + 1e-14], [0.4, 0.6]])
    assert choose_classes(rows).tolist() == [0, 0, 1]
    assert [choose_class(row) for row in rows] == [0, 0, 1]
