import numpy as np
import pytest

from pipeline.reporting.attention.colours import UNREAD, colour_points
from pipeline.reporting.figures.point_cloud import SIDE, draw_cloud, project_points


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


def brightness(image: np.ndarray) -> np.ndarray:
    return image.max(axis=2)


def test_a_higher_point_is_drawn_higher_and_a_nearer_one_brighter():
    image = draw_cloud(np.array([[0, 0, 1.0], [0, 0, -1.0]]), side=40)
    assert (image[..., 0] == image[..., 2]).all()  # grey
    light = brightness(image)
    rows, columns = np.nonzero(light)
    assert set(columns) <= {18, 19, 20, 21}
    # Nine tenths of 40 pixels are 36 from dot to dot; a dot has a radius of one pixel.
    assert (rows.min(), rows.max()) == (pytest.approx(2, abs=1), pytest.approx(38, abs=1))
    assert light[:20].max() > light[20:].max() + 100  # seen from above, the upper one is nearer


def test_a_near_point_covers_a_far_one():
    right, up, towards = project_points(np.eye(3)).T
    points = np.stack([-towards, towards, right + up, -right - up])
    dark, light = np.full(3, 0.1), np.ones(3)
    middle = slice(SIDE // 2 - 1, SIDE // 2 + 1)
    seen = draw_cloud(points, np.stack([dark, light, dark, dark]))[middle, middle]
    hidden = draw_cloud(points, np.stack([light, dark, dark, dark]))[middle, middle]
    assert seen.min() > 150
    assert hidden.max() < 50
    order = [2, 1, 3, 0]
    np.testing.assert_array_equal(draw_cloud(points), draw_cloud(points[order]))


def test_larger_sizes_cover_more_of_the_image():
    points = np.random.default_rng(0).normal(size=(20, 3))
    covered = [(brightness(draw_cloud(points, None, np.full(20, size))) > 0).sum() for size in (0.0, 0.5, 1.0)]
    assert covered[0] < covered[1] < covered[2]


def test_size_and_place_of_a_cloud_change_nothing():
    cloud = np.random.default_rng(0).random((50, 3))
    expected = draw_cloud(cloud)
    np.testing.assert_array_equal(draw_cloud(cloud * 1024 - 64), expected)  # powers of two: no rounding
    assert draw_cloud(np.zeros((3, 3))).max() > 0  # a single place is a dot


def test_every_point_lies_inside_the_image():
    for seed in range(5):
        image = draw_cloud(np.random.default_rng(seed).normal(size=(500, 3)), None, np.ones(500))
        assert image.shape == (SIDE, SIDE, 3)
        assert image[[0, -1]].max() == 0


def test_an_array_of_another_shape_is_refused():
    with pytest.raises(AssertionError, match=r"\(3, 2\)"):
        draw_cloud(np.ones((3, 2)))


def test_the_most_read_points_are_brighter_and_larger_than_all_others():
    weights = np.array([0.0, 0.1, 0.9, 0.9])
    colours, sizes = colour_points(weights)
    assert list(sizes) == pytest.approx([0, 1 / 9, 1, 1])
    np.testing.assert_allclose(colours[0], UNREAD)
    light = colours.max(axis=1)
    assert light[0] < light[2] == light[3]
