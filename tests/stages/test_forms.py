"""One scan in every form in which it may come: the same store, bit for bit, and the same probabilities."""

import shutil
import tarfile
import zipfile

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from pipeline.cli import main
from pipeline.core.tables import MANIFEST_COLUMNS, read_table
from pipeline.data.store import read_store
from tests.builders.dicom import write_series
from tests.builders.preprocessing import make_experiment, run

SHAPE = (12, 34, 36)  # of fewer pixels a side JPEG 2000 has no room for its resolutions
NAMES = [
    f"OAI900000{patient}_BaseLine_3_de3d1_SAG_3D_DESS_WE_{side}" for patient in (0, 1) for side in ("LEFT", "RIGHT")
]


def draw(number):
    return np.random.default_rng(number).integers(0, 1000, SHAPE).astype(np.int16)


def write_folder(folder, number, **changes):
    return write_series(folder, draw(number), centre=(80.0 if number % 2 else -80.0, 0.0, 0.0), **changes)


def compress(folder, syntax):
    for path in folder.iterdir():
        header = pydicom.dcmread(path)
        header.compress(syntax)
        header.save_as(path)
    return folder


def pack_tar(folder):
    path = folder.with_name(f"{folder.name}.tar.gz")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "10424405")
    shutil.rmtree(folder)
    return path


def pack_zip(folder):
    path = folder.with_name(f"{folder.name}.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"series/{file.name}")
    shutil.rmtree(folder)
    return path


def write_without_suffix(folder):
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(folder / f"{number:03d}")
    return folder


FORMS = {
    "folder": lambda folder: folder,
    "folder without extensions": write_without_suffix,
    "tar.gz": pack_tar,
    "zip": pack_zip,
    "JPEG-LS": lambda folder: compress(folder, JPEGLSLossless),
    "JPEG 2000 in a tar.gz": lambda folder: pack_tar(compress(folder, JPEG2000Lossless)),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The store of the NIfTI files."""
    from pipeline.formats.nifti import write_volume

    folder = tmp_path_factory.mktemp("nifti")
    for number, name in enumerate(NAMES):
        affine = np.diag([4.0, 5.0, 6.0, 1.0])
        affine[:3, 3] = np.array([80.0 if number % 2 else -80.0, 0, 0]) - affine[:3, :3] @ (np.array(SHAPE) - 1) / 2
        write_volume(folder / "raw" / f"{name}.nii.gz", draw(number), affine, "RAS")
    experiment = make_experiment(folder)
    run(experiment)
    return read_store(experiment.paths.prepared)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_scan_gives_the_store_of_its_nifti_file(form, expected, tmp_path):
    for number, name in enumerate(NAMES):
        FORMS[form](write_folder(tmp_path / "raw" / name, number))
    experiment = make_experiment(tmp_path)
    assert "4 scans of 2 patients (2 left, 2 right)" in run(experiment)
    assert read_store(experiment.paths.prepared).fingerprint == expected.fingerprint
    manifest = read_table(experiment.paths.manifest, MANIFEST_COLUMNS)
    assert (manifest["side"] == manifest["side_by_position"]).all()
    assert manifest["sha256"].str.fullmatch("[0-9a-f]{64}").all()
    assert "Secret" not in experiment.paths.manifest.read_text()


def test_a_table_names_files_folders_and_archives_alike(expected, tmp_path):
    rows = ["path,patient,label"]
    for number, name in enumerate(NAMES):
        path = list(FORMS.values())[number](write_folder(tmp_path / "raw" / name, number))
        rows.append(f"{path.name},{name[3:10]},{'right' if number % 2 else 'left'}")
    (tmp_path / "scans.csv").write_text("\n".join(rows))
    experiment = make_experiment(tmp_path, label_table=tmp_path / "scans.csv")
    run(experiment)
    np.testing.assert_array_equal(read_store(experiment.paths.prepared).examples, expected.examples)


def test_predict_gives_every_form_the_same_probabilities(tiny_workspace, tmp_path, capsys):
    paths = [FORMS[form](write_folder(tmp_path / f"knee{number}", 1)) for number, form in enumerate(FORMS)]
    words = ["--config", str(tiny_workspace / "tiny.yaml"), "--workspace", str(tiny_workspace)]
    output = tmp_path / "out.csv"
    assert main(["predict", *map(str, paths), *words, "--predict.output", str(output)]) == 0
    table = read_table(output, ("path", "predicted"))
    columns = [name for name in table.columns if name.startswith("probability_")]
    assert len(table) == len(FORMS)
    assert (table[columns].nunique() == 1).all()
    assert "Secret" not in output.read_text() + capsys.readouterr().out
