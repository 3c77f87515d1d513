"""Filmstrips mark the slices without which an answer loses something that is shown."""

import numpy as np
import pytest

from pipeline.attention.slices import SliceWeights
from pipeline.reporting.attention.filmstrips import choose_marked, show_points


@pytest.mark.parametrize(
    ("lost", "marked"),
    [
        ([0.2, 0.5, 0.1, 0.4], [1, 3, 0]),
        ([0.2, 0.0004, -0.3, 0.0005], [0, 3]),
        ([1e-6, 4e-4, -1e-5, 0.0], []),
        ([np.nan], []),
    ],
)
def test_slices_without_which_nothing_that_is_shown_is_lost_are_not_marked(lost, marked):
    places = np.zeros((len(lost), 3))
    assert choose_marked(SliceWeights("a", "tear", np.array([0.1, 0.9]), places, np.array(lost), None)) == marked


def test_points_have_no_sign_where_they_are_0():
    assert [show_points(lost) for lost in (-1e-6, 0.0, 0.0004, 0.0005, -0.012, 0.9996)] == [
        "0.0", "0.0", "0.0", "0.1", "-1.2", "100.0",
    ]  # fmt: skip
