import numpy as np
import pytest

from pipeline.clouds import draw_cloud, project_points


def test_the_view_is_a_rotation_with_z_up():
    view = project_points(np.eye(3)).T  # rows: right, up, towards
    np.testing.assert_allclose(view @ view.T, np.eye(3), atol=1e-12)  # float64
    assert np.linalg.det(view) == pytest.approx(1)
    right, up, towards = view
    assert right[2] == 0  # what stands upright is drawn upright
    assert up[2] > 0.9
    # The viewer stands at the front (-y), to the right (+x) and above.
    assert towards[0] > 0
    assert towards[1] < 0
    assert towards[2] > 0


def test_a_higher_point_is_drawn_higher_and_a_nearer_one_brighter():
    picture = draw_cloud(np.array([[0, 0, 1.0], [0, 0, -1.0]]), side=40)
    rows, columns = np.nonzero(picture)
    # Nine tenths of 38 pixels are 34.2 from dot to dot; a dot is two by two.
    assert sorted(set(rows)) == [2, 3, 36, 37]
    assert sorted(set(columns)) == [19, 20]
    assert picture[2, 19] > picture[36, 19]  # seen from above, the upper one is nearer
    assert (picture.max(), picture[picture > 0].min()) == (255, 70)


def test_of_two_points_in_one_place_the_nearer_is_seen():
    cloud = np.array([[0.3, -0.5, 0.2], [-0.3, 0.5, -0.2], [0, 0, 2.0], [0, 0, -2.0]])
    towards = project_points(np.eye(3))[:, 2]
    cloud = np.concatenate([cloud, [3 * towards, -3 * towards]])
    both = draw_cloud(cloud)
    assert both[both.shape[0] // 2, both.shape[1] // 2] == 255
    np.testing.assert_array_equal(both, draw_cloud(cloud[::-1]))


def test_size_and_place_of_a_cloud_change_nothing():
    cloud = np.random.default_rng(0).random((50, 3))
    expected = draw_cloud(cloud)
    np.testing.assert_array_equal(draw_cloud(cloud * 1024 - 64), expected)  # powers of two: no rounding
    assert draw_cloud(np.zeros((3, 3))).max() > 0  # a single place is a dot


def test_every_point_lies_inside_the_picture():
    for seed in range(5):
        picture = draw_cloud(np.random.default_rng(seed).normal(size=(500, 3)), side=64)
        assert picture.shape == (64, 64)
        assert picture[[0, -1]].max() == 0
