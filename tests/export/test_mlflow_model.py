"""The model in MLflow answers slices and volumes with predict's own numbers, wherever it is loaded."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import unquote

import mlflow.pyfunc
import numpy as np
import pytest
import torch

from pipeline.config.tracking import TrackingConfig
from pipeline.core.workspace import Workspace
from pipeline.export.mlflow_model import log_model
from pipeline.formats.nifti import read_volume
from pipeline.inference.probabilities import compute_probabilities, score_stack
from pipeline.preprocessing.slicing import cut_stack
from pipeline.tracking.mlflow_run import open_run
from pipeline.training.checkpoint import (
    build_from_checkpoint,
    compute_weights_digest,
    read_checkpoint,
    write_checkpoint,
)
from tests.builders.checkpoints import draw_images, make_checkpoint, make_scan_checkpoint
from tests.builders.scan_models import CHOICES, CNN_CHOICES

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def logged(tracking_uri, tmp_path_factory):
    """A checkpoint, its run and the folder of the model that was logged."""
    folder = tmp_path_factory.mktemp("logged") / "My knees?#ü"  # MLflow itself loads none from a folder with a %20
    folder.mkdir()
    write_checkpoint(folder / "best.safetensors", make_checkpoint())
    run = open_run(TrackingConfig(uri=tracking_uri), Workspace(folder, "served"))
    run.sync()
    for _ in range(2):  # a stage that is run again logs nothing again
        log_model(run.client, run.run_id, folder / "best.safetensors", "served")
    outputs = run.client.get_run(run.run_id).outputs.model_outputs
    assert len(outputs) == 1
    location = run.client.get_logged_model(outputs[0].model_id).artifact_location
    return folder / "best.safetensors", run, Path(unquote(location.removeprefix("file://")))


@pytest.fixture(scope="module")
def loaded(logged):
    return mlflow.pyfunc.load_model(logged[2].as_uri())


@pytest.fixture
def knee(write_knee, tmp_path):
    return write_knee(tmp_path / "knee.nii.gz", stored_axes="PIR")


def encode(path):
    return base64.b64encode(path.read_bytes()).decode()


def score_knee(checkpoint_path, knee):
    checkpoint = read_checkpoint(checkpoint_path)
    stack = cut_stack(read_volume(knee), checkpoint.preprocess, "")
    return score_stack(build_from_checkpoint(checkpoint), stack, checkpoint.spec, CPU, 256)


def test_slices_get_the_checkpoints_probabilities_without_pickles(logged, loaded):
    images, places = draw_images()
    inputs = {"images": images, "slice_position": places.astype(np.float32)}
    classifier = build_from_checkpoint(read_checkpoint(logged[0]))
    expected = compute_probabilities(classifier, images, places, CPU, batch_size=2)
    np.testing.assert_allclose(loaded.predict(inputs), expected, rtol=1e-6)
    assert not list(logged[2].rglob("*.pkl"))


def test_volumes_get_the_numbers_of_predict(logged, loaded, knee, write_knee, tmp_path):
    other = write_knee(tmp_path / "other.nii", "left", seed=1)
    answers = loaded.predict({"nifti": [encode(knee), encode(other)]})
    expected = [score_knee(logged[0], path) for path in (knee, other)]
    np.testing.assert_array_equal(answers, expected)
    np.testing.assert_array_equal(loaded.predict({"nifti": [encode(knee)]}), expected[:1])


@pytest.mark.parametrize("name", ["joint", "plain"])
def test_whole_scans_of_any_number_of_slices_get_the_numbers_of_predict(name, tracking_uri, write_knee, tmp_path):
    path = tmp_path / "best.safetensors"
    write_checkpoint(path, make_scan_checkpoint((CHOICES | CNN_CHOICES)[name]))
    run = open_run(TrackingConfig(uri=tracking_uri), Workspace(tmp_path, f"scans-{name}"))
    run.sync()
    log_model(run.client, run.run_id, path, name)
    model_id = run.client.get_run(run.run_id).outputs.model_outputs[0].model_id
    model = mlflow.pyfunc.load_model(run.client.get_logged_model(model_id).artifact_location)
    knees = [write_knee(tmp_path / f"{depth}.nii.gz", stored_axes="PIR", shape=(12, 14, depth)) for depth in (16, 3, 1)]
    answers = model.predict({"nifti": [encode(knee) for knee in knees]})
    np.testing.assert_array_equal(answers, [score_knee(path, knee) for knee in knees])
    assert model.predict(model.input_example).shape == (1, 2)
    large = write_knee(tmp_path / "large.nii.gz", spacing_mm=(40.0, 40.0, 40.0))
    with pytest.raises(Exception, match="field of view"):
        model.predict({"nifti": [encode(large)]})


def test_the_input_example_is_an_input(loaded):
    answers = loaded.predict(loaded.input_example)
    assert answers.shape == (2, 2)
    np.testing.assert_allclose(answers.sum(axis=1), 1, rtol=1e-6)
    assert [item.name for item in loaded.metadata.signature.inputs.inputs] == ["images", "slice_position", "nifti"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"images": np.zeros((1, 4, 8), np.uint8)}, r"found shape \(4, 8\), allowed is \(8, 8\)"),
        ({"images": np.zeros((1, 8, 8)) + 0.5}, "no grey levels"),
        ({"images": np.zeros((1, 8, 8)) + 300}, "no grey levels"),
        ({"images": np.zeros((1, 8, 8)) - 1}, "no grey levels"),
        ({"images": np.zeros((1, 8, 8)) + np.nan}, "no finite numbers"),
        ({"slice_position": [0.0]}, "none given"),
        ({"nifti": ["/etc/passwd"]}, "not a NIfTI file|no base64"),
        ({"nifti": ["bm8="]}, "nifti: not a NIfTI file"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_its_reason(inputs, message, loaded):
    with pytest.raises(mlflow.exceptions.MlflowException, match=message) as caught:
        loaded.predict(inputs)
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


def test_the_registry_has_a_version_with_its_facts(logged):
    path, run, folder = logged
    checkpoint = read_checkpoint(path)
    (version,) = run.client.search_model_versions("name = 'served'")
    assert (int(version.version), version.run_id) == (1, run.run_id)
    assert version.tags == {
        "class_names": "left, right",
        "epoch": str(checkpoint.epoch),
        "run": "served",
        "val_accuracy": f"{checkpoint.history[-1].val_accuracy:.4f}",
        "store_fingerprint": checkpoint.store_fingerprint,
        "split_fingerprint": checkpoint.split_fingerprint,
        "weights": compute_weights_digest(checkpoint.weights),
    }
    assert version.source == folder.as_uri()


def test_without_a_name_nothing_is_registered(tracking_uri, logged, tmp_path):
    run = open_run(TrackingConfig(uri=tracking_uri), Workspace(tmp_path, "unregistered"))
    run.sync()
    log_model(run.client, run.run_id, logged[0], "")
    assert not run.client.search_registered_models("name = 'unregistered'")


@pytest.mark.slow
def test_the_logged_model_brings_its_code_along(logged, knee, tmp_path):
    code = f"""
import base64, mlflow.pyfunc, numpy as np
text = base64.b64encode(open({str(knee)!r}, "rb").read()).decode()
print(repr(float(mlflow.pyfunc.load_model({logged[2].as_uri()!r}).predict({{"nifti": [text]}})[0, 0])))
import pipeline
assert pipeline.__file__.startswith({str(logged[2])!r}), pipeline.__file__
"""
    environment = {"OMP_NUM_THREADS": "1", "HOME": str(tmp_path), "MLFLOW_DISABLE_TELEMETRY": "true"}
    answer = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert float(answer.stdout.split()[0]) == pytest.approx(score_knee(logged[0], knee)[0], abs=1e-12)


@pytest.mark.slow
def test_a_server_answers_a_slice_and_a_volume(logged, tracking_uri, knee, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    # The server is another interpreter, which the command looks for in PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": tracking_uri}
    words = ["models", "serve", "-m", "models:/served/1", "--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            env=environment,
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_until_it_answers(server, f"{address}/ping", tmp_path / "server.log")
        images, places = draw_images()
        slices = {"images": images[:1].tolist(), "slice_position": places[:1].tolist()}
        classifier = build_from_checkpoint(read_checkpoint(logged[0]))
        expected = compute_probabilities(classifier, images[:1], places[:1], CPU, batch_size=1)
        np.testing.assert_allclose(ask(address, slices), expected, rtol=1e-6)
        np.testing.assert_allclose(ask(address, {"nifti": [encode(knee)]}), [score_knee(logged[0], knee)], rtol=1e-12)
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(address, {"nifti": ["bm8="]})
        assert caught.value.code == 400
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)


def wait_until_it_answers(server, address, log):
    """Ask for the server's health until it is there; the process's own end ends the waiting."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(timeout=0.5)  # returns when the process ends, else after half a second
            raise AssertionError(log.read_text())
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            if urllib.request.urlopen(address).status == 200:
                return


def ask(address, inputs):
    body = json.dumps({"inputs": inputs}).encode()
    request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["predictions"]
