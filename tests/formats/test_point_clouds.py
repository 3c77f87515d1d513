import numpy as np
import pytest
import trimesh

from pipeline.core.errors import UserError
from pipeline.formats.off import Mesh
from pipeline.formats.point_clouds import read_off_points, sample_surface


def build_mesh(vertices, triangles):
    return Mesh(np.array(vertices, dtype=np.float64), np.array(triangles, dtype=np.int64))


def squares(second_side=3.0):
    """A unit square in the plane z = 0, and a larger one in the plane z = 1."""
    lower = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    upper = [[second_side * x, second_side * y, 1] for x, y, _ in lower]
    return build_mesh(lower + upper, [[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])


def sphere():
    solid = trimesh.creation.icosphere(subdivisions=3)
    return build_mesh(solid.vertices, solid.faces)


def test_points_are_drawn_by_area():
    points = sample_surface(squares(), 10_000, seed=0, name="squares")
    lower = (points[:, 2] < 0).mean()
    # Of 10,000 points a tenth with a standard deviation of 0.3 %: areas 1 and 9.
    assert lower == pytest.approx(0.1, abs=0.012)


def test_points_are_spread_evenly_within_a_face():
    points = sample_surface(
        build_mesh([[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]], [[0, 1, 2], [0, 2, 3]]), 9000, 0, ""
    )
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=3, range=[[-1, 1], [-1, 1]])
    # 1,000 a cell with a standard deviation of 30.
    assert np.abs(counts - 1000).max() < 130


def test_points_lie_on_the_surface_and_all_around():
    points = sample_surface(sphere(), 5000, seed=1, name="sphere")
    radius = np.linalg.norm(points, axis=1)
    # A face of the 1,280-sided ball lies up to 1 % below the sphere; the box of the points adds as much again.
    assert radius.min() > 0.97
    assert radius.max() < 1.02
    # The mean of 5,000 coordinates of standard deviation 0.58 varies by 0.008.
    assert np.abs(points.mean(axis=0)).max() < 0.035


def test_the_box_of_the_points_is_centred_and_its_longest_side_is_two():
    for mesh in (squares(), sphere()):
        points = sample_surface(mesh, 500, seed=2, name="mesh")
        low, high = points.min(axis=0), points.max(axis=0)
        np.testing.assert_allclose(low + high, 0, atol=1e-6)  # float32
        assert (high - low).max() == pytest.approx(2, abs=1e-6)


@pytest.mark.parametrize("factor", [1e-6, 1e6, 1e60])
def test_unit_and_place_of_a_mesh_change_nothing(factor):
    """In float32 a mesh of size 1 at a distance of a million would be a staircase of 0.06."""
    expected = sample_surface(squares(), 300, seed=3, name="near")
    mesh = squares()
    moved = Mesh((mesh.vertices + 1e6) * factor, mesh.triangles)
    # A coordinate near a million has an error of 1e-10 in float64; float32 itself has 6e-8.
    np.testing.assert_allclose(sample_surface(moved, 300, seed=3, name="far"), expected, atol=1e-6)


def test_degenerate_faces_change_nothing():
    mesh = squares()
    more = np.concatenate([[[0, 0, 1], [2, 2, 2]], mesh.triangles, [[0, 1, 0]]])
    expected = sample_surface(mesh, 200, seed=4, name="mesh")
    # The cumulative sum of areas, and so the face of each point, is the same.
    np.testing.assert_allclose(sample_surface(Mesh(mesh.vertices, more), 200, seed=4, name="mesh"), expected, atol=1e-6)


def test_corners_of_no_face_change_nothing():
    mesh = squares()
    stray = Mesh(np.concatenate([mesh.vertices, [[1e30, -1e30, 0.0]]]), mesh.triangles)
    expected = sample_surface(mesh, 200, seed=4, name="mesh")
    np.testing.assert_array_equal(sample_surface(stray, 200, seed=4, name="mesh"), expected)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("triangles", [[[0, 0, 1]], [[2, 2, 2]], [[0, 1, 8]], np.zeros((0, 3), np.int64)])
def test_a_mesh_without_area_is_refused(triangles):
    mesh = squares()
    mesh = Mesh(np.concatenate([mesh.vertices, [[0.5, 0.0, 0.0]]]), np.array(triangles))
    with pytest.raises(UserError, match=r"^flat.off: no triangle has an area, so there is no surface"):
        sample_surface(mesh, 10, seed=0, name="flat.off")


OFF = "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"


def test_an_object_has_the_same_points_wherever_its_file_lies(tmp_path):
    for name in ("a.off", "b.off"):
        (tmp_path / name).write_text(OFF)
    first = read_off_points(tmp_path / "a.off", 100)
    np.testing.assert_array_equal(first, read_off_points(tmp_path / "a.off", 100))
    np.testing.assert_array_equal(first, read_off_points(tmp_path / "b.off", 100))
    (tmp_path / "b.off").write_text(OFF + "\n")  # other bytes, other draw
    assert np.abs(first - read_off_points(tmp_path / "b.off", 100)).max() > 0.01


def test_a_file_that_is_not_there_or_no_mesh_is_named(tmp_path):
    with pytest.raises(UserError, match=r"chair.off: cannot be read \(No such file"):
        read_off_points(tmp_path / "chair.off", 10)
    (tmp_path / "chair.off").write_text(OFF.replace("1 0 0", "1 O 0"))
    with pytest.raises(UserError, match=r"chair.off, line 4: found 'O'"):
        read_off_points(tmp_path / "chair.off", 10)
