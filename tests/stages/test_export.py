"""The export stage leaves one folder, whole, that says what is in it."""

import hashlib
import json
import sys

import pytest

from pipeline.cli import main
from pipeline.training.checkpoint import read_checkpoint


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


def test_an_earlier_export_is_replaced_and_nothing_else_is(tiny_workspace, tmp_path, capsys):
    output = tmp_path / "model"
    output.mkdir()
    (output / "thesis.tex").write_text("years of work")
    assert run(tiny_workspace, output, "--export.formats", "[torch]") == 2
    assert "model: holds thesis.tex, which is no part of an export" in capsys.readouterr().err
    assert (output / "thesis.tex").read_text() == "years of work"
    (output / "thesis.tex").rename(output / "model.onnx")
    assert run(tiny_workspace, output, "--export.formats", "[torch]") == 0
    assert {path.name for path in output.iterdir()} == {"model.pt2", "model.json"}


def test_a_package_that_is_absent_is_named_and_nothing_is_written(tiny_workspace, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert run(tiny_workspace, tmp_path / "model", "--export.formats", "[onnx]") == 2
    assert "onnx needs onnxscript, not installed here" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [".model.lock"]


@pytest.mark.parametrize("formats", ["[]", "[torch, torch]", "[coreml]"])
def test_formats_are_checked(formats, tiny_workspace, tmp_path, capsys):
    assert run(tiny_workspace, tmp_path / "model", "--export.formats", formats) == 2
    assert "export.formats" in capsys.readouterr().err
