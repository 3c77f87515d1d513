"""The export stage leaves one folder, whole, that says what is in it."""

import dataclasses
import hashlib
import json
import shutil
import sys

import pytest
import torch
import yaml

from pipeline import load_model
from pipeline.cli import main
from pipeline.core.files import read_json, write_json
from pipeline.core.workspace import Workspace
from pipeline.export.hub_folder import read_handover
from pipeline.studies.cross_validation import is_evaluated
from pipeline.training.checkpoint import read_checkpoint, write_checkpoint


def run(workspace, output, *words):
    options = ("--config", str(workspace / "tiny.yaml"), "--workspace", str(workspace))
    return main(["export", *options, "--export.output", str(output), *words])


def test_an_export_says_what_is_in_it(tiny_workspace, tmp_path, capsys):
    output = tmp_path / "new" / "model"
    assert run(tiny_workspace, output, "--export.formats", "[torch]") == 0
    assert "model.pt2: probabilities within" in capsys.readouterr().out
    assert {path.name for path in output.iterdir()} == {"model.pt2", "model.json"}
    assert {path.name for path in output.parent.iterdir()} == {"model", ".model.lock"}, "nothing unfinished is left"
    record = json.loads((output / "model.json").read_text())
    path = tiny_workspace / "runs" / "tiny" / "best.safetensors"
    checkpoint = read_checkpoint(path)
    assert record["class_names"] == ["left", "right"]
    assert record["inputs"][0]["shape"] == ["batch", 1, 16, 16]
    assert record["preprocessing"]["spacing_mm"] == 9.0
    assert record["inside_the_model"]["mean"] == list(checkpoint.mean)
    assert record["store_fingerprint"] == checkpoint.store_fingerprint
    assert record["checkpoint_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert 0 <= record["largest_difference_to_the_checkpoint"]["model.pt2"] <= record["tolerance"]


def test_a_folder_for_hubs_has_the_scores_of_its_weights_and_loads_back(tiny_workspace, tmp_path):
    assert run(tiny_workspace, tmp_path / "model", "--export.formats", "[hub]", "--export.licence", "mit") == 0
    folder, metrics = (
        tmp_path / "model" / "hub",
        json.loads((tiny_workspace / "reports" / "tiny" / "metrics.json").read_text()),
    )
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    facts = yaml.safe_load(front)
    assert (facts["license"], facts["pipeline_tag"], facts["datasets"]) == ("mit", "image-classification", ["tiny"])
    results = facts["model-index"][0]["results"]
    assert [result["dataset"]["name"] for result in results] == [f"tiny, {level}s" for level in metrics["levels"]]
    accuracy = metrics["levels"]["slice"]["metrics"]["accuracy"]
    written = results[0]["metrics"][0]
    assert written["value"] == accuracy["value"]
    assert f"{accuracy['low']:.4f} to {accuracy['high']:.4f}" in written["name"]
    assert "# Model card" in text
    model = load_model(folder, accelerator="cpu")
    weights = read_checkpoint(tiny_workspace / "runs" / "tiny" / "best.safetensors").weights
    assert all(torch.equal(value, weights[name]) for name, value in model.checkpoint.weights.items())


def test_weights_that_were_not_evaluated_get_no_scores(tiny_workspace, tmp_path):
    path = tiny_workspace / "runs" / "tiny" / "last.safetensors"
    words = ("--export.formats", "[hub]", "--export.checkpoint", str(path))
    assert run(tiny_workspace, tmp_path / "model", *words) == 0
    text = (tmp_path / "model" / "hub" / "README.md").read_text()
    assert "model-index" not in text
    assert "were not evaluated" in text
    assert "licence of the weights is not stated" in text


@pytest.fixture(scope="module")
def other_weights(tiny_workspace, tmp_path_factory):
    """A workspace whose run was evaluated with other weights than its best, and their file."""
    workspace = shutil.copytree(tiny_workspace, tmp_path_factory.mktemp("other") / "workspace")
    checkpoint = read_checkpoint(workspace / "runs" / "tiny" / "best.safetensors")
    path = workspace / "other.safetensors"
    weights = {name: value * 1.5 for name, value in checkpoint.weights.items()}
    write_checkpoint(path, dataclasses.replace(checkpoint, weights=weights))
    words = ("--config", str(workspace / "tiny.yaml"), "--workspace", str(workspace), "--tracking.enabled", "false")
    assert main(["evaluate", *words, "--evaluate.checkpoint", str(path)]) == 0
    return workspace, path


@pytest.mark.slow
def test_scores_go_with_the_weights_that_were_scored(other_weights, tmp_path):
    workspace, path = other_weights
    found = {}
    for name, words in {"best": (), "other": ("--export.checkpoint", str(path))}.items():
        assert run(workspace, tmp_path / name, "--export.formats", "[hub]", *words) == 0
        text = (tmp_path / name / "hub" / "README.md").read_text()
        found[name] = ("were not evaluated" in text, "model-index" in text, "# Model card" in text)
    assert found == {"best": (True, False, False), "other": (False, True, True)}


def test_scores_of_an_older_version_go_with_the_best_weights(tiny_workspace, tmp_path):
    paths = Workspace(shutil.copytree(tiny_workspace, tmp_path / "workspace"), "tiny")
    metrics = read_json(paths.metrics)
    assert metrics.pop("weights") == read_json(paths.training_record)["weights"]
    write_json(paths.metrics, metrics)
    assert read_handover(paths, "mit", "digest", is_best=True).metrics == metrics
    assert read_handover(paths, "mit", "digest", is_best=False).metrics is None


@pytest.mark.slow
def test_scores_of_other_weights_are_not_taken_for_the_runs_own(other_weights, tiny_workspace, capsys):
    workspace, _ = other_weights
    words = ("--config", str(workspace / "tiny.yaml"), "--workspace", str(workspace), "--tracking.enabled", "false")
    capsys.readouterr()
    assert main(["compare", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "tiny: its scores are of other weights" in line
    assert "Run evaluate for it again, without evaluate.checkpoint" in line
    dash = '<td class="number">\u2013</td>'
    pages = [(folder / "reports" / "index.html").read_text() for folder in (workspace, tiny_workspace)]
    assert [dash in page for page in pages] == [True, False], "no accuracy on validation of other weights"
    assert not is_evaluated(Workspace(workspace, "tiny"))
    assert is_evaluated(Workspace(tiny_workspace, "tiny"))


def test_an_earlier_export_is_replaced_and_nothing_else_is(tiny_workspace, tmp_path, capsys):
    output = tmp_path / "model"
    output.mkdir()
    (output / "thesis.tex").write_text("years of work")
    assert run(tiny_workspace, output, "--export.formats", "[hub]") == 2
    assert "model: holds thesis.tex, which is no part of an export" in capsys.readouterr().err
    assert (output / "thesis.tex").read_text() == "years of work"
    (output / "thesis.tex").rename(output / "model.onnx")
    assert run(tiny_workspace, output, "--export.formats", "[hub]") == 0
    assert {path.name for path in output.iterdir()} == {"hub", "model.json"}


@pytest.mark.slow
def test_a_package_that_is_absent_is_named_and_nothing_is_written(tiny_workspace, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert run(tiny_workspace, tmp_path / "model", "--export.formats", "[onnx]") == 2
    assert "onnx needs onnxscript, not installed here" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [".model.lock"]


@pytest.mark.parametrize("formats", ["[]", "[torch, torch]", "[coreml]"])
def test_formats_are_checked(formats, tiny_workspace, tmp_path, capsys):
    assert run(tiny_workspace, tmp_path / "model", "--export.formats", formats) == 2
    assert "export.formats" in capsys.readouterr().err
