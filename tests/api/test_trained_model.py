"""The Python interface: the numbers of the predict stage, wherever the model lies, and shapes that are checked."""

import doctest
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import pipeline
from pipeline import load_model
from pipeline.cli import main
from pipeline.config.tracking import TrackingConfig
from pipeline.core.data_kinds import PATIENT_IMAGES
from pipeline.core.errors import UserError
from pipeline.core.workspace import Workspace
from pipeline.export.mlflow_model import log_model
from pipeline.preprocessing.slicing import read_stack
from pipeline.tracking.mlflow_run import open_run
from pipeline.training.checkpoint import write_checkpoint
from tests.builders.checkpoints import draw_images, make_checkpoint, make_scan_checkpoint
from tests.builders.scan_models import CHOICES

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_checkpoint(folder / "best.safetensors", make_checkpoint())
    return folder


@pytest.fixture(scope="module")
def model(run_folder):
    return load_model(run_folder, accelerator="cpu")


def test_files_get_the_numbers_and_warnings_of_the_stage(model, run_folder, write_knee, tmp_path):
    paths = [write_knee(tmp_path / name, seed=seed) for seed, name in enumerate(("a_LEFT.nii.gz", "b.nii"))]
    options = ["--predict.output", str(tmp_path / "table.csv"), "--predict.min_confidence", "0.5001"]
    weights = ["--predict.checkpoint", str(run_folder / "best.safetensors")]
    assert main(["predict", *map(str, paths), *weights, *options]) == 0
    table = pd.read_csv(tmp_path / "table.csv", keep_default_na=False)
    answers = model.predict(paths, min_confidence=0.5001)
    assert [answer.path for answer in answers] == list(table["path"])
    assert [answer.predicted for answer in answers] == list(table["predicted"])
    assert [answer.abstained for answer in answers] == list(table["abstained"])
    assert ["; ".join(answer.warnings) for answer in answers] == list(table["warnings"])
    for name in model.class_names:
        found = [answer.probabilities[name] for answer in answers]
        np.testing.assert_allclose(found, table[f"probability_{name}"], rtol=1e-6)
    assert model.predict(str(paths[1]), min_confidence=0.5001) == answers[1]


def test_what_cannot_be_answered_is_said(model, write_knee, tmp_path):
    for name in ("a.nii", "b.nii"):
        write_knee(tmp_path / name)
    with pytest.raises(UserError, match="holds 2 volumes"):
        model.predict(tmp_path)
    (tmp_path / "b.nii").write_bytes(b"no scan")
    with pytest.raises(UserError, match=r"b\.nii"):
        model.predict([tmp_path])


def test_the_slices_of_a_volume_give_its_answer_by_their_mean(model, write_knee, tmp_path):
    path = write_knee(tmp_path / "knee.nii.gz")
    stack, _ = read_stack((path,), model.checkpoint.preprocess)
    scores = model.predict_proba(stack.images, stack.positions, batch_size=2)
    assert scores.shape == (5, 2)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    found = list(model.predict(path).probabilities.values())
    np.testing.assert_allclose(scores.mean(axis=0), found, rtol=1e-6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 9)), "found shape"),
        (np.zeros((8, 8)), "found shape"),
        ([], "none given"),
        (3, "none given"),
        ([np.zeros((8, 8)), np.zeros((8, 9))], "several shapes"),
        (np.full((1, 8, 8), 0.5), "grey levels"),
        (np.full((1, 8, 8), 256), "grey levels"),
        (np.full((1, 8, 8), np.nan), "finite"),
        (np.full((1, 8, 8), "0"), "finite"),
    ],
)
def test_arrays_of_another_form_are_refused(images, message, model):
    with pytest.raises(UserError, match=message):
        model.predict_proba(images)


@pytest.mark.parametrize("places", [[0.0], [0.0] * 4 + [1.5], [[0.0]] * 5, [np.nan] * 5])
def test_places_are_one_a_slice_and_inside_the_volume(places, model):
    with pytest.raises(UserError, match="slice_position"):
        model.predict_proba(draw_images()[0], places)


def test_a_model_of_images_without_places_takes_arrays(tmp_path):
    write_checkpoint(tmp_path / "best.safetensors", make_checkpoint(kind=PATIENT_IMAGES))
    assert load_model(tmp_path).predict_proba(draw_images()[0]).shape == (5, 2)


@pytest.fixture(scope="module")
def scan_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    checkpoint = make_scan_checkpoint(CHOICES["joint"])
    write_checkpoint(folder / "best.safetensors", checkpoint)
    return load_model(folder, accelerator="cpu")


def test_whole_scans_get_the_same_probabilities_as_files_and_as_arrays_with_places(scan_model, write_knee, tmp_path):
    paths = [write_knee(tmp_path / f"{seed}.nii.gz", seed=seed) for seed in range(2)]
    stacks = [read_stack((path,), scan_model.checkpoint.preprocess)[0] for path in paths]
    expected = [list(answer.probabilities.values()) for answer in scan_model.predict(paths)]
    np.testing.assert_array_equal(scan_model.predict_proba(paths), expected)
    np.testing.assert_array_equal(scan_model.predict_proba(str(paths[0])), expected[:1])
    volumes, places = np.stack([stack.images for stack in stacks]), np.stack([stack.places_mm for stack in stacks])
    np.testing.assert_allclose(scan_model.predict_proba(volumes, places), expected, rtol=1e-6)
    longer = np.pad(volumes, ((0, 0), (0, 2), (0, 0), (0, 0)))
    padded = np.pad(places, ((0, 0), (0, 2), (0, 0)), constant_values=np.nan)
    np.testing.assert_allclose(scan_model.predict_proba(longer, padded), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda places: None, "none given"),
        (lambda places: places[:, :4], "found shape"),
        (lambda places: [["middle"]], "no array of numbers"),
        (lambda places: np.where(np.arange(3) == 1, np.nan, places), "three numbers"),
        (lambda places: places * np.nan, "padding alone"),
        (lambda places: places + 60, "field of view"),
    ],
)
def test_places_of_whole_scans_are_checked(change, message, scan_model):
    volumes, places = np.zeros((1, 5, 8, 8)), np.full((1, 5, 3), 10.0)
    assert scan_model.predict_proba(volumes, places).shape == (1, 2)
    with pytest.raises(UserError, match=message):
        scan_model.predict_proba(volumes, change(places))
    with pytest.raises(UserError, match=r"allowed is \(slices, 8, 8\)"):
        scan_model.predict_proba(volumes[..., :7], places)


@pytest.mark.slow
def test_the_registry_gives_the_same_model_by_version_and_alias(model, tracking_uri, run_folder, tmp_path):
    run = open_run(TrackingConfig(uri=tracking_uri), Workspace(tmp_path, "handed on"))
    run.sync()
    log_model(run.client, run.run_id, run_folder / "best.safetensors", "handed on")
    run.client.set_registered_model_alias("handed on", "best", "1")
    images, places = draw_images()
    expected = model.predict_proba(images, places)
    for address in ("models:/handed on/1", "models:/handed on@best"):
        found = load_model(address, accelerator="cpu", tracking_uri=tracking_uri)
        np.testing.assert_array_equal(found.predict_proba(images, places), expected)
    with pytest.raises(UserError, match="models:/gone@best"):
        load_model("models:/gone@best", tracking_uri=tracking_uri)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no best\.safetensors"):
        load_model(tmp_path)
    with pytest.raises(UserError, match="no such checkpoint"):
        load_model(tmp_path / "gone.safetensors")


def test_the_package_is_light_until_a_model_is_loaded():
    code = "import sys, pipeline; assert 'load_model' in dir(pipeline); print({'numpy', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    with pytest.raises(AttributeError, match="no attribute 'lode_model'"):
        _ = pipeline.lode_model


def test_the_examples_of_the_page_run(run_folder, write_knee, tmp_path, monkeypatch):
    shutil.copytree(run_folder, tmp_path / "runs" / "phantom")
    write_knee(tmp_path / "knee.nii.gz")
    (tmp_path / "more").mkdir()
    write_knee(tmp_path / "more" / "other.nii.gz", seed=1)
    monkeypatch.chdir(tmp_path)
    text = re.sub(r"^```.*$", "", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    examples = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    done = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL).run(examples)
    assert done.failed == 0
    assert done.attempted > 8
