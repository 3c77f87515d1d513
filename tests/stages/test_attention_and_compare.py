"""The stages attention and compare on the command line, after a run was trained and evaluated."""

import re
import shutil
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from pipeline import load_model
from pipeline.attention.storage import MAP_COLUMNS, read_maps
from pipeline.cli import main
from pipeline.core.files import read_json


@pytest.fixture(scope="module")
def workspace(tiny_workspace, tmp_path_factory):
    """The tiny run, with a longer one that kept its attention."""
    folder = tmp_path_factory.mktemp("stages") / "copy"
    shutil.copytree(tiny_workspace, folder, ignore=shutil.ignore_patterns("mlflow*", "mlartifacts"))
    words = ("--run", "longer", "--train.epochs", "3", "--train.keep_attention_every_epochs", "1")
    assert run(folder, "train", *words) == 0
    assert run(folder, "evaluate", *words, "--evaluate.logistic_regression", "false") == 0
    return folder


def run(folder, stage, *words):
    options = ("--config", str(folder / "tiny.yaml"), "--workspace", str(folder), "--tracking.enabled", "false")
    return main([stage, *options, *words])  # options after the file override it


def test_attention_draws_validation_slices_of_a_trained_run(workspace, capsys):
    assert run(workspace, "attention", "--run", "longer", "--attention.num_examples", "3") == 0
    assert "3 val examples, 1 layers, 1 heads ->" in capsys.readouterr().out
    folder = workspace / "reports" / "tiny" / "longer" / "attention"
    maps, table = read_maps(folder / "maps.npz"), pd.read_csv(folder / "maps.csv", dtype={"example_id": str})
    assert list(table.columns) == list(MAP_COLUMNS)
    assert tuple(table["example_id"]) == maps.example_ids
    np.testing.assert_allclose(maps.weights.sum(axis=(-1, -2)), 1, rtol=1e-5)
    page = (folder / "index.html").read_text()
    assert "where the model looks, not why it answers" in page
    assert "Synthetic data." in page
    expected = 2 * 3 + 1 + (maps.epoch != 3)
    assert page.count("data:image/png") == expected, "inputs and maps, epochs, and the last epoch where it is another"
    assert len(list((folder / "overlays").glob("*_layer0_head0.png"))) == 3
    for outside in ("<script", "http://", "https://", "<link"):
        assert outside not in page
    predictions = pd.read_csv(workspace / "reports" / "tiny" / "longer" / "predictions.csv", dtype={"example_id": str})
    scored = predictions.set_index("example_id").loc[list(maps.example_ids)]
    assert (scored["split"] == "val").all()
    columns = [f"probability_{name}" for name in maps.class_names]
    np.testing.assert_allclose(maps.probabilities, scored[columns], atol=1e-6)  # batches of other sizes


def test_attention_is_drawn_over_the_scans_own_pixels(workspace, capsys):
    words = (
        "--attention.num_examples",
        "2",
        "--attention.native_resolution",
        "true",
        "--attention.interpolation",
        "smooth",
    )
    folder = workspace / "reports" / "tiny" / "attention"
    assert run(workspace, "attention", *words[:2]) == 0
    page = (folder / "index.html").read_text()
    assert "(16 x 16 pixels over the field that the model saw as 16 x 16)" in page
    assert "drawn as a flat square" in page
    stored = {path.name: path.read_bytes() for path in (folder / "overlays").iterdir()}
    assert run(workspace, "attention", *words) == 0
    page = (folder / "index.html").read_text()
    assert "(32 x 32 pixels over the field that the model saw as 16 x 16)" in page, "9 mm against 6 mm"
    assert "interpolated linearly" in page
    native = {path.name: path.read_bytes() for path in (folder / "overlays").iterdir()}
    assert native.keys() == stored.keys()
    assert all(native[name] != stored[name] for name in stored)
    assert run(workspace, "attention", *words, "--preprocess.plane", "coronal", "--preprocess.num_slices", "1") == 0
    again = {path.name: path.read_bytes() for path in (folder / "overlays").iterdir()}
    assert again == native, "scans are cut as they were for the store"
    assert (
        run(workspace, "attention", *words, "--data.raw_folder", str(workspace / "runs"), "--data.pattern", "*.json")
        == 2
    )
    assert "no scan is called" in capsys.readouterr().err


def test_answers_of_slices_lie_along_the_axis_that_the_store_was_cut_along(workspace):
    page = workspace / "reports" / "tiny" / "cases.html"
    assert run(workspace, "cases") == 0
    first = page.read_bytes()
    assert run(workspace, "cases", "--preprocess.plane", "coronal") == 0
    assert page.read_bytes() == first


def test_a_scan_that_was_replaced_is_not_shown_next_to_its_old_answer(workspace, tmp_path, capsys):
    folder = shutil.copytree(workspace, tmp_path / "copy")
    scans = sorted((folder / "data" / "tiny" / "raw").rglob("*.nii*"))
    contents = [path.read_bytes() for path in scans]
    for path, content in zip(scans, contents[1:] + contents[:1], strict=True):
        path.write_bytes(content)
    before = _list_page(folder)
    assert run(folder, "cases") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert ".nii.gz: not the file that was cut for the store. Restore it, or run preprocess again" in line
    assert _list_page(folder) == before


@pytest.mark.parametrize("num_slices", ["3", "5"])
def test_answers_to_slices_of_another_store_are_refused(num_slices, workspace, tmp_path, capsys):
    folder = shutil.copytree(workspace, tmp_path / "copy")
    shutil.rmtree(folder / "runs")  # with them preprocess refuses
    assert run(folder, "preprocess", "--preprocess.num_slices", num_slices) == 0
    capsys.readouterr()
    assert run(folder, "cases") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "predictions.csv: its" in line
    assert "are not those of the store" in line
    assert "Run evaluate again" in line


def test_answers_to_images_that_were_cut_in_another_way_are_refused(workspace, tmp_path, capsys):
    folder = shutil.copytree(workspace, tmp_path / "copy")
    shutil.rmtree(folder / "runs")  # with them preprocess refuses
    assert run(folder, "preprocess", "--preprocess.intensity_percentiles", "[0,90]") == 0
    capsys.readouterr()
    before = _list_page(folder)
    assert run(folder, "cases") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "predictions.csv: answers to the examples of store" in line
    assert _list_page(folder) == before


def _list_page(workspace):
    page = workspace / "reports" / "tiny" / "cases.html"
    return page.read_bytes() if page.is_file() else None


def test_missing_layers_epochs_and_checkpoints_are_refused(workspace, capsys):
    assert run(workspace, "attention", "--attention.layers", "[7]") == 2
    assert "attention.layers: found [7], but the model has 1 for kind cross" in capsys.readouterr().err
    assert run(workspace, "attention", "--attention.epochs", "[2]") == 2
    assert "attention.epochs: found [2], but maps were kept of []" in capsys.readouterr().err
    assert run(workspace, "attention", "--run", "absent") == 2
    assert "no such checkpoint" in capsys.readouterr().err
    assert run(workspace, "attention", "--split.seed", "5", "--attention.checkpoint", "x.safetensors") == 2


def test_every_report_shows_attention(workspace):
    assert "Where the model looks" in (workspace / "reports" / "tiny" / "report.html").read_text()
    assert (workspace / "reports" / "tiny" / "longer" / "attention_1.png").is_file()


def test_compare_puts_the_runs_of_an_experiment_side_by_side(workspace, capsys):
    assert run(workspace, "compare") == 0
    printed = capsys.readouterr().out
    scores = dict(re.findall(r"^  (\w+): validation ([\d.]+), test accuracy", printed, re.MULTILINE))
    assert scores.keys() == {"tiny", "longer"}
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    assert f"best on validation: {next(iter(scores))};" in printed
    page = (workspace / "reports" / "tiny" / "comparison.html").read_text()
    assert "tiny: 2 runs side by side" in page
    assert "train.epochs" in page
    assert "Attention in training: longer" in page
    assert "Attention in training: tiny" not in page
    assert "paired bootstrap" not in page, "differences are for runs that were named"
    assert run(workspace, "compare", "tiny/longer", "tiny") == 0
    assert "paired bootstrap" in (workspace / "reports" / "tiny" / "comparison.html").read_text()
    output = workspace / "one.html"
    assert run(workspace, "compare", "tiny/longer", "--compare.output", str(output)) == 0
    assert "tiny: 1 run side by side" in output.read_text()
    assert run(workspace, "compare", "nothing") == 2
    assert "nothing: no evaluated run" in capsys.readouterr().err


@pytest.mark.slow
def test_one_page_leads_to_the_reports_of_all_experiments(workspace):
    other = workspace / "reports" / "other one"
    shutil.copytree(workspace / "reports" / "tiny", other, ignore=shutil.ignore_patterns("longer"))
    assert run(workspace, "compare") == 0
    page = (workspace / "reports" / "index.html").read_text()
    links = re.findall(r'href="([^"]+)"', page)
    assert sorted(links) == ["other%20one/report.html", "tiny/longer/report.html", "tiny/report.html"]
    assert all((workspace / "reports" / unquote(link)).is_file() for link in links)
    (other / "metrics.json").write_text("{")
    assert run(workspace, "compare") == 0, "a damaged run does not hide the others"
    assert (workspace / "reports" / "index.html").read_text().count("href=") == 2


def test_only_a_run_in_mlflow_can_be_registered(workspace, capsys):
    assert run(workspace, "compare", "--compare.register", "true") == 2
    assert "tracking.enabled" in capsys.readouterr().err


@pytest.mark.slow
def test_the_best_run_on_validation_is_registered_and_loaded_by_its_alias(workspace, tracking_uri, capsys):
    words = ("--compare.register", "true", "--tracking.enabled", "true", "--tracking.uri", tracking_uri)
    assert run(workspace, "compare", *words) == 0
    assert "as models:/tiny@best" in capsys.readouterr().out
    records = [read_json(workspace / "runs" / "tiny" / name / "training.json") for name in ("", "longer")]
    best = max(record["best"]["val_accuracy"] for record in records)
    model = load_model("models:/tiny@best", tracking_uri=tracking_uri)
    assert model.checkpoint.history[model.checkpoint.epoch - 1].val_accuracy == best
