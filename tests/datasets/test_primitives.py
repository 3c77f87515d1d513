import numpy as np
import pytest
from rich.console import Console

from pipeline.config.sources import DataConfig
from pipeline.core.errors import UserError
from pipeline.datasets.primitives import (
    SOLIDS,
    build_solid,
    make_primitives,
    read_primitives,
    rotate_about_x,
    rotate_about_z,
    write_off,
)
from pipeline.formats.off import parse_off

FEW = {"train": 2, "test": 1}
CONFIG = DataConfig(dataset="primitives")
CONSOLE = Console(quiet=True)


def read_all(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_solids_are_made_each_time_and_kept_when_they_are_there(tmp_path):
    make_primitives(tmp_path / "a", CONSOLE, FEW)
    make_primitives(tmp_path / "b", CONSOLE, FEW)
    first = read_all(tmp_path / "a")
    assert first == read_all(tmp_path / "b")
    assert len(first) == 3 * len(SOLIDS) + 1
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    make_primitives(tmp_path / "a", CONSOLE, FEW)
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}


def test_another_number_replaces_the_solids_and_more_begin_with_fewer(tmp_path):
    make_primitives(tmp_path, CONSOLE, {"train": 3, "test": 2})
    three = read_all(tmp_path)
    make_primitives(tmp_path, CONSOLE, FEW)
    two = read_all(tmp_path)
    del two["primitives.json"]
    assert len(two) == 3 * len(SOLIDS)
    assert set(two) < set(three)
    assert all(three[name] == content for name, content in two.items())


def test_solids_that_were_not_finished_are_not_read(tmp_path):
    make_primitives(tmp_path, CONSOLE, FEW)
    (tmp_path / "primitives.json").unlink()
    with pytest.raises(UserError, match=r"no complete set of solids. Run the fetch stage"):
        read_primitives(tmp_path, CONFIG)


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds thesis.txt, which is no synthetic solid"):
        make_primitives(tmp_path, CONSOLE, FEW)
    assert read_all(tmp_path) == {"thesis.txt": b"mine"}


def test_what_is_made_is_read(tmp_path):
    make_primitives(tmp_path, CONSOLE, FEW)
    found = read_primitives(tmp_path, CONFIG)
    assert found.missing == ""
    assert sorted(set(found.labels)) == sorted(SOLIDS)
    assert [(found.official_splits == split).sum() for split in ("train", "test")] == [2 * len(SOLIDS), len(SOLIDS)]
    next(tmp_path.rglob("torus_0001.off")).unlink()
    with pytest.raises(UserError, match="only 19 of 20 train objects"):
        read_primitives(tmp_path, CONFIG)


@pytest.mark.parametrize("name", SOLIDS)
def test_a_solid_is_closed_and_no_two_are_equal(name):
    """Each edge of a closed surface belongs to two triangles."""
    corners, triangles = build_solid(name, "train", 0)
    edges = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    assert set(np.unique(edges, axis=0, return_counts=True)[1]) == {2}
    for other in (build_solid(name, "train", 1), build_solid(name, "test", 0)):
        assert np.abs(np.ptp(corners, axis=0) / np.ptp(other[0], axis=0) - 1).max() > 0.01


def test_no_solid_is_tilted_beyond_the_limit():
    """The axis of a cone, from the middle of its corners to the tip, stays within the limit and the stretching."""
    for row in range(20):
        corners, _ = build_solid("cone", "train", row)
        axis = corners[np.argmax(corners[:, 2])] - corners.mean(axis=0)
        assert np.degrees(np.arccos(axis[2] / np.linalg.norm(axis))) < 45


def test_rotations_by_hand():
    np.testing.assert_allclose(rotate_about_z(np.pi / 2) @ [1, 2, 3], [-2, 1, 3], atol=1e-15)
    np.testing.assert_allclose(rotate_about_x(np.pi / 2) @ [1, 2, 3], [1, -3, 2], atol=1e-15)


@pytest.mark.parametrize("glued", [False, True])
def test_both_spellings_of_the_header_are_written_and_read(glued):
    text = write_off(np.array([[0, 0, 0], [1.5, 0, 0], [0, 1, -2]]), np.array([[0, 1, 2]]), glued=glued)
    assert text.startswith("OFF3 1 0\n" if glued else "OFF\n3 1 0\n")
    mesh = parse_off(text.encode(), "written.off")
    np.testing.assert_array_equal(mesh.vertices, [[0, 0, 0], [1.5, 0, 0], [0, 1, -2]])
    np.testing.assert_array_equal(mesh.triangles, [[0, 1, 2]])
