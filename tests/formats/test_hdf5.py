import h5py
import numpy as np
import pytest

from pipeline.core.errors import UserError
from pipeline.formats.hdf5 import read_hdf5_points

NUM_POINTS = 8


def clouds(num_objects=3):
    return np.random.default_rng(0).random((num_objects, NUM_POINTS, 3), dtype=np.float32)


def labels(num_objects=3):
    return np.arange(num_objects, dtype=np.uint8)[:, None]


@pytest.fixture
def write(tmp_path):
    def write(data=None, label=None, **options):
        path = tmp_path / "objects.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("data", data=clouds() if data is None else data, **options)
            file.create_dataset("label", data=labels() if label is None else label)
            file.create_dataset("normal", data=clouds())
        return path

    return write


@pytest.mark.parametrize("options", [{}, {"compression": "gzip", "chunks": (1, 8, 3)}])
def test_points_and_labels_come_back_as_they_were_written(write, options):
    points, found = read_hdf5_points(write(**options), NUM_POINTS)
    np.testing.assert_array_equal(points, clouds())
    assert points.dtype == np.float32
    assert found.tolist() == [0, 1, 2]


def test_flat_labels_are_read_too(write):
    assert read_hdf5_points(write(label=labels().reshape(-1)), NUM_POINTS)[1].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("data", "label", "message"),
    [
        (clouds().astype(np.float64), None, r"data is \(3, 8, 3\) of float64, allowed is \(objects, 8, 3\) of float32"),
        (clouds()[:, :7], None, r"data is \(3, 7, 3\) of float32"),
        (clouds()[:, :, :2], None, r"data is \(3, 8, 2\)"),
        (clouds()[0], None, r"data is \(8, 3\)"),
        (None, labels(2), r"label is \(2, 1\) of uint8, allowed is \(3, 1\) of uint8"),
        (None, labels().astype(np.int64), r"label is \(3, 1\) of int64"),
        (np.float32(1), None, r"data is \(\) of float32"),
        (clouds()[:0], labels(0), "data has 0 objects, allowed are 1 to 20000"),
    ],
)
def test_other_shapes_and_types_are_refused(write, data, label, message):
    with pytest.raises(UserError, match=message):
        read_hdf5_points(write(data, label), NUM_POINTS)


def test_a_coordinate_that_is_not_finite_is_named_by_its_row(write):
    data = clouds()
    data[1, 2, 0] = np.nan
    with pytest.raises(UserError, match="row 1 of data has a coordinate that is not finite"):
        read_hdf5_points(write(data), NUM_POINTS)


def test_absurd_sizes_are_refused_before_anything_is_read(tmp_path):
    path = tmp_path / "bomb.h5"
    with h5py.File(path, "w") as file:  # 10^12 objects in a file of a few kilobytes
        file.create_dataset("data", (10**12, NUM_POINTS, 3), np.float32, chunks=(100, NUM_POINTS, 3))
        file.create_dataset("label", (10**12, 1), np.uint8, chunks=(100, 1))
    with pytest.raises(UserError, match="data has 1000000000000 objects, allowed are 1 to 20000"):
        read_hdf5_points(path, NUM_POINTS)


def test_links_are_not_followed(tmp_path, write):
    other = write()
    path = tmp_path / "links.h5"
    for link, kind in (
        (h5py.ExternalLink(other.name, "/data"), "ExternalLink"),
        (h5py.SoftLink("/hidden"), "SoftLink"),
    ):
        with h5py.File(path, "w") as file:
            file["hidden"] = clouds()
            file["label"] = labels()
            file["data"] = link
        with pytest.raises(UserError, match=rf"'data' is a link \({kind}\) and not a dataset"):
            read_hdf5_points(path, NUM_POINTS)


def test_values_in_another_file_are_not_read(tmp_path, write):
    other = write()
    path = tmp_path / "external.h5"
    layout = h5py.VirtualLayout((3, NUM_POINTS, 3), np.float32)
    layout[:] = h5py.VirtualSource(other.name, "data", (3, NUM_POINTS, 3))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("data", layout)
        file["label"] = labels()
    with pytest.raises(UserError, match="the values of 'data' lie in another file"):
        read_hdf5_points(path, NUM_POINTS)
    (tmp_path / "secret").write_bytes(clouds().tobytes())
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "data", clouds().shape, np.float32, external=[(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)]
        )
        file["label"] = labels()
    with pytest.raises(UserError, match="the values of 'data' lie in another file"):
        read_hdf5_points(path, NUM_POINTS)


def test_what_is_no_dataset_is_refused(tmp_path):
    path = tmp_path / "groups.h5"
    with h5py.File(path, "w") as file:
        file.create_group("data")
    with pytest.raises(UserError, match="'data' is a group and not a dataset"):
        read_hdf5_points(path, NUM_POINTS)
    with h5py.File(path, "w") as file:
        file["data"] = clouds()
    with pytest.raises(UserError, match="there is no dataset 'label'"):
        read_hdf5_points(path, NUM_POINTS)


@pytest.mark.parametrize("num_bytes", [0, 4, 1000, -100])
def test_a_truncated_file_is_refused_in_one_line(write, num_bytes):
    path = write(data=np.random.default_rng(1).random((3, NUM_POINTS, 3)).astype(np.float32))
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(UserError, match="not a whole HDF5 file") as refusal:
        read_hdf5_points(path, NUM_POINTS)
    assert "\n" not in str(refusal.value)


def test_what_is_no_hdf5_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"absent.h5: no such file"):
        read_hdf5_points(tmp_path / "absent.h5", NUM_POINTS)
    (tmp_path / "text.h5").write_text("data")
    with pytest.raises(UserError, match=r"text.h5: not a whole HDF5 file"):
        read_hdf5_points(tmp_path / "text.h5", NUM_POINTS)
