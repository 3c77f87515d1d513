"""Served models take files as base64: archives of a DICOM series, and images in any format."""

import base64
import io
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
from PIL import Image

from pipeline.config.data import PreprocessConfig
from pipeline.core.data_kinds import IMAGES, PATIENT_IMAGES
from pipeline.export.mlflow_serving import ServedCheckpoint
from pipeline.preprocessing.images import read_stored
from pipeline.training.checkpoint import read_checkpoint, write_checkpoint
from tests.builders.checkpoints import make_checkpoint
from tests.builders.dicom import write_radiograph, write_series
from tests.builders.odd_files import write_contradictions, write_grey_modes, write_units


@pytest.fixture
def serve(tmp_path):
    """Load a checkpoint as a server does."""

    def load(**changes):
        path = tmp_path / "best.safetensors"
        write_checkpoint(path, make_checkpoint(**changes))
        served = ServedCheckpoint()
        served.load_context(SimpleNamespace(artifacts={"checkpoint": str(path)}))
        return served

    return load


def encode(path):
    return base64.b64encode(path.read_bytes()).decode()


def test_archives_of_a_series_get_the_numbers_of_its_files(serve, tmp_path):
    served = serve()
    voxels = np.random.default_rng(0).integers(0, 1000, (12, 10, 8)).astype(np.int16)
    folder = write_series(tmp_path / "series", voxels)
    packed = [shutil.make_archive(str(tmp_path / "packed"), form, folder) for form in ("gztar", "tar", "zip")]
    answers = served.predict(None, {"nifti": [encode(tmp_path / path) for path in packed]})
    np.testing.assert_array_equal(answers[1:], answers[:1].repeat(2, axis=0))
    other = write_series(tmp_path / "other", voxels[::-1])
    shutil.make_archive(str(tmp_path / "other"), "zip", other)
    assert (served.predict(None, {"nifti": [encode(tmp_path / "other.zip")]}) != answers[:1]).all()


def test_image_files_of_every_format_and_size_get_the_numbers_of_predict(serve, tmp_path):
    options = PreprocessConfig(image_size=(8, 8), fit="pad")
    served = serve(kind=PATIENT_IMAGES, preprocess=options)
    pixels = np.random.default_rng(0).integers(0, 256, (11, 9), dtype=np.uint8)
    paths = [tmp_path / name for name in ("a.png", "b.jpg", "c.tif", "d.bmp")]
    for path in paths:
        Image.fromarray(pixels).save(path)
    write_radiograph(tmp_path / "radiograph", 16 * pixels.astype(np.uint16))
    paths.append(tmp_path / "radiograph")
    spec = read_checkpoint(tmp_path / "best.safetensors").spec
    prepared = [read_stored(path, spec, options) for path in paths]
    answers = served.predict(None, {"files": [encode(path) for path in paths]})
    np.testing.assert_array_equal(answers, served.predict(None, {"images": prepared, "slice_position": [0.0] * 5}))
    assert len(np.unique(answers[:, 0].round(9))) > 1


def test_one_image_in_any_mode_of_grey_gets_the_same_numbers(serve, tmp_path):
    served = serve(kind=PATIENT_IMAGES, preprocess=PreprocessConfig(image_size=(8, 8), intensity_percentiles=(0, 100)))
    levels = np.random.default_rng(0).permutation(np.linspace(0, 255, 80)).reshape(10, 8).astype(np.uint8)
    answers = served.predict(None, {"files": [encode(path) for path in write_grey_modes(tmp_path, levels)]})
    np.testing.assert_array_equal(answers, answers[:1].repeat(len(answers), axis=0))


def test_units_are_read_and_contradictions_refused(serve, tmp_path):
    served = serve()
    voxels = np.random.default_rng(0).integers(0, 1000, (12, 10, 8)).astype(np.int16)
    answers = served.predict(None, {"nifti": [encode(path) for path in write_units(tmp_path, voxels)]})
    np.testing.assert_allclose(answers, answers[:1].repeat(3, axis=0), atol=1e-6)
    mirrored, gap = write_contradictions(tmp_path, voxels)
    wrong = {mirrored: "nifti: sform and qform name different sides", Path(gap): "slices (is|are) missing"}
    for path, message in wrong.items():
        with pytest.raises(mlflow.exceptions.MlflowException, match=message):
            served.predict(None, {"nifti": [encode(path)]})


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        (PATIENT_IMAGES, b"no image", "files: not readable as an image"),
        (PATIENT_IMAGES, b"PK\x03\x04", "files: not readable as an image"),
        (IMAGES, b"no image", "files: this model takes images of its own size"),
    ],
)
def test_files_that_are_no_images_are_refused_without_a_path_of_the_server(kind, content, message, serve):
    text = base64.b64encode(content).decode()
    with pytest.raises(mlflow.exceptions.MlflowException, match=message) as caught:
        serve(kind=kind).predict(None, {"files": [text]})
    assert tempfile.gettempdir() not in str(caught.value)


def test_an_image_in_colour_is_refused_by_a_model_of_grey_ones(serve):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file, "PNG")
    with pytest.raises(mlflow.exceptions.MlflowException, match="files: in colour, the model was trained on grey"):
        serve(kind=PATIENT_IMAGES).predict(None, {"files": [base64.b64encode(file.getvalue()).decode()]})


@pytest.mark.parametrize("content", [b"PK\x03\x04 no zip", b"\x1f\x8b no gzip", b"\x00" * 400])
def test_archives_that_hold_no_series_are_refused_without_a_path_of_the_server(content, serve):
    with pytest.raises(mlflow.exceptions.MlflowException, match="nifti") as caught:
        serve().predict(None, {"nifti": [base64.b64encode(content).decode()]})
    assert tempfile.gettempdir() not in str(caught.value)
