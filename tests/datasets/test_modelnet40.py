import re

import h5py
import numpy as np
import pytest

from pipeline.config.sources import DataConfig
from pipeline.core.errors import UserError
from pipeline.datasets.modelnet40 import (
    NUM_POINTS,
    REMOTE_CLOUDS,
    REMOTE_MESHES,
    read_mesh_tree,
    read_modelnet40,
    read_modelnet40_meshes,
    turn_z_up,
)
from pipeline.formats.point_clouds import read_off_points

PART = DataConfig(dataset="modelnet40", allow_partial=True)
WHOLE = DataConfig(dataset="modelnet40")
CLASSES = ["airplane", "night_stand"]


def clouds(num_objects, seed):
    return np.random.default_rng(seed).uniform(-1, 1, (num_objects, NUM_POINTS, 3)).astype(np.float32)


@pytest.fixture
def hdf5_set(tmp_path):
    """Two training files and a test file as the published archive lays them out, in a folder below the raw one."""
    folder = tmp_path / "modelnet40_ply_hdf5_2048"
    folder.mkdir()
    (folder / "shape_names.txt").write_text("\n".join(CLASSES) + "\n")
    files = {"train": ["ply_data_train0.h5", "ply_data_train1.h5"], "test": ["ply_data_test0.h5"]}
    for split, names in files.items():
        listed = [f"data/modelnet40_ply_hdf5_2048/{name}" for name in names]
        (folder / f"{split}_files.txt").write_text("\n".join(listed) + "\n")
        for seed, name in enumerate(names):
            with h5py.File(folder / name, "w") as file:
                file["data"] = clouds(3, seed)
                file["label"] = np.array([[0], [1], [seed]], np.uint8)
    return tmp_path


def test_the_hdf5_files_come_in_the_order_of_their_lists_with_names_for_labels(hdf5_set):
    found = read_modelnet40(hdf5_set, PART)
    assert found.labels.tolist() == [CLASSES[index] for index in (0, 1, 0, 0, 1, 1, 0, 1, 0)]
    assert found.official_splits.tolist() == ["train"] * 6 + ["test"] * 3
    assert found.origins[4] == "modelnet40_ply_hdf5_2048/ply_data_train1.h5#1"
    assert found.examples.dtype == np.float32
    np.testing.assert_array_equal(found.examples[3:6], turn_z_up(clouds(3, 1)))
    np.testing.assert_array_equal(found.examples[6:], turn_z_up(clouds(3, 0)))
    assert found.missing.startswith("This is a part of the published set: 6 of 9,840 train objects and 3 of 2,468 test")


def test_the_archive_gives_the_files_that_are_read(hdf5_set):
    folder = hdf5_set / "modelnet40_ply_hdf5_2048"
    names = set(REMOTE_CLOUDS.gives)
    assert {path.name for path in folder.iterdir()} < names
    for remote in (REMOTE_CLOUDS, REMOTE_MESHES):
        assert remote.is_archive
        assert re.fullmatch("sha256:[0-9a-f]{64}", remote.checksum)


def test_y_up_becomes_z_up_without_a_mirror():
    right, up, front = np.eye(3)
    points = np.stack([right, up, front])[None]
    # To the right stays; up was y and is z; towards the front was z and is -y.
    np.testing.assert_array_equal(turn_z_up(points)[0], [[1, 0, 0], [0, 0, 1], [0, -1, 0]])
    assert np.linalg.det(turn_z_up(points)[0]) == pytest.approx(1)


def test_a_part_is_refused_unless_it_is_allowed(hdf5_set):
    with pytest.raises(UserError, match=r"only 6 of 9,840 train objects and 3 of 2,468 test objects.*allow_partial"):
        read_modelnet40(hdf5_set, WHOLE)


def test_the_published_numbers_of_objects_leave_nothing_to_say(tmp_path, hdf5_set, monkeypatch):
    monkeypatch.setattr("pipeline.datasets.modelnet40.PUBLISHED_CLOUDS", {"train": 6, "test": 3})
    assert read_modelnet40(hdf5_set, WHOLE).missing == ""
    monkeypatch.setattr("pipeline.datasets.modelnet40.PUBLISHED_CLOUDS", {"train": 5, "test": 3})
    with pytest.raises(UserError, match=r"6 objects for train, but the published set has 5"):
        read_modelnet40(hdf5_set, PART)


def test_a_listed_file_that_is_not_there_is_named(hdf5_set):
    (hdf5_set / "modelnet40_ply_hdf5_2048" / "ply_data_train1.h5").unlink()
    with pytest.raises(UserError, match=r"only 3 of 9,840.*ply_data_train1.h5 not there"):
        read_modelnet40(hdf5_set, WHOLE)
    assert "ply_data_train1.h5" in read_modelnet40(hdf5_set, PART).missing


def test_a_list_cannot_lead_out_of_the_folder(hdf5_set):
    """Only the file's name is taken, whatever folder the list gives."""
    folder = hdf5_set / "modelnet40_ply_hdf5_2048"
    expected = read_modelnet40(hdf5_set, PART)
    (folder / "test_files.txt").write_text(r"C:\data\ply_data_test0.h5")
    np.testing.assert_array_equal(read_modelnet40(hdf5_set, PART).examples, expected.examples)
    (hdf5_set / "secret.h5").write_bytes((folder / "ply_data_test0.h5").read_bytes())
    (folder / "test_files.txt").write_text("../secret.h5")
    with pytest.raises(UserError, match=r"no object for test \(secret.h5\)"):
        read_modelnet40(hdf5_set, PART)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("shape_names.txt", "airplane\n", r"ply_data_train0.h5: row 1 has label 1, but shape_names.txt has 1 names"),
        ("shape_names.txt", "\n\n", "shape_names.txt: is empty"),
        ("train_files.txt", "a/ply_data_train0.h5\nb/ply_data_train0.h5\n", "train_files.txt: names a file twice"),
    ],
)
def test_lists_that_do_not_fit_are_refused(hdf5_set, name, text, message):
    (hdf5_set / "modelnet40_ply_hdf5_2048" / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_modelnet40(hdf5_set, PART)


def test_a_list_that_is_not_there_is_named(hdf5_set):
    (hdf5_set / "modelnet40_ply_hdf5_2048" / "test_files.txt").unlink()
    with pytest.raises(UserError, match=r"test_files.txt: cannot be read"):
        read_modelnet40(hdf5_set, PART)


@pytest.fixture
def mesh_tree(tmp_path):
    """A few boxes as Princeton's archive lays them out, with what else lies about in it."""
    folder = tmp_path / "ModelNet40"
    for label in CLASSES:
        for split, rows in (("train", (1, 2)), ("test", (3,))):
            for row in rows:
                path = folder / label / split / f"object_{row:04d}.off"
                path.parent.mkdir(parents=True, exist_ok=True)
                header = "OFF4 4 0" if row == 1 else "OFF\n4 4 0"
                path.write_text(f"{header}\n0 0 0\n{row} 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n")
    (folder / "README.txt").write_text("about")
    (folder / ".DS_Store").write_text("")
    hidden = tmp_path / "__MACOSX" / "ModelNet40" / "airplane" / "train" / "._airplane_0001.off"
    hidden.parent.mkdir(parents=True)
    hidden.write_text("resource fork")
    return tmp_path


def test_meshes_of_ones_own_need_some_for_each_split(mesh_tree):
    for path in mesh_tree.rglob("test/*.off"):
        path.unlink()
    with pytest.raises(
        UserError, match=r"no object for test. Meshes of your own .* put some of each class into <class>/test"
    ):
        read_modelnet40(mesh_tree, PART)


def test_meshes_are_labelled_and_split_by_their_folders(mesh_tree):
    found = read_modelnet40(mesh_tree, PART)
    assert list(found.origins[:3]) == [
        "ModelNet40/airplane/test/object_0003.off",
        "ModelNet40/airplane/train/object_0001.off",
        "ModelNet40/airplane/train/object_0002.off",
    ]
    assert found.labels.tolist() == ["airplane"] * 3 + ["night_stand"] * 3
    assert found.official_splits.tolist() == ["test", "train", "train"] * 2
    assert found.examples.shape == (6, NUM_POINTS, 3)
    for origin, points in zip(found.origins, found.examples, strict=True):
        np.testing.assert_array_equal(points, read_off_points(mesh_tree / origin, NUM_POINTS))
    assert "4 of 9,843 train objects and 2 of 2,468 test objects" in found.missing


def test_points_do_not_depend_on_the_number_of_workers(mesh_tree, monkeypatch):
    alone = read_modelnet40(mesh_tree, PART).examples
    monkeypatch.setattr("pipeline.datasets.modelnet40.BYTES_WORTH_A_PROCESS", 1)
    monkeypatch.setattr("pipeline.core.provenance.count_cores", lambda: 2)
    np.testing.assert_array_equal(read_modelnet40(mesh_tree, PART).examples, alone)


def test_a_part_of_the_meshes_is_refused_before_any_is_read(mesh_tree):
    (mesh_tree / "ModelNet40" / "airplane" / "train" / "object_0001.off").write_text("no mesh")
    with pytest.raises(UserError, match=r"only 4 of 9,843 train objects"):
        read_modelnet40(mesh_tree, WHOLE)
    with pytest.raises(UserError, match=r"object_0001.off: an OFF file begins with OFF, found 'no'"):
        read_modelnet40(mesh_tree, PART)


def test_whole_is_what_was_published(mesh_tree):
    assert read_mesh_tree(mesh_tree, {"train": 4, "test": 2}, allow_partial=False).missing == ""


def test_a_mesh_outside_the_layout_is_named(mesh_tree):
    stray = mesh_tree / "ModelNet40" / "airplane" / "chair.off"
    stray.write_text("OFF")
    with pytest.raises(UserError, match=r"chair.off: a mesh belongs into <class>/train or <class>/test"):
        read_modelnet40(mesh_tree, PART)


def test_classes_that_differ_only_in_case_are_refused_and_unicode_forms_are_one(mesh_tree):
    folder = mesh_tree / "ModelNet40"
    (folder / "airplane").rename(folder / "ta\u0308ble")
    assert set(read_modelnet40(mesh_tree, PART).labels) == {"t\u00e4ble", "night_stand"}
    (folder / "night_stand").rename(folder / "T\u00e4ble")
    with pytest.raises(UserError, match=r"'T.ble' .*'t.ble' .*differ only in upper and lower case"):
        read_modelnet40(mesh_tree, PART)


def test_a_folder_without_either_form_is_named(tmp_path):
    with pytest.raises(UserError, match=r"neither shape_names.txt of modelnet40_ply_hdf5_2048 nor any OFF file"):
        read_modelnet40(tmp_path, PART)
    with pytest.raises(UserError, match="no such folder"):
        read_modelnet40(tmp_path / "absent", PART)


def test_the_meshes_are_read_as_a_set_of_their_own_even_next_to_the_clouds(mesh_tree):
    (mesh_tree / "shape_names.txt").write_text("airplane")
    assert len(read_modelnet40_meshes(mesh_tree, PART).examples) == 6
    with pytest.raises(UserError, match=r"train_files.txt: cannot be read"):
        read_modelnet40(mesh_tree, PART)
