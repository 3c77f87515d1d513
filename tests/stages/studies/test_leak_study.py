"""The leak study runs from end to end, leaves the files of training alone, and resumes after an interruption."""

import json
import shutil

import mlflow
import pandas as pd
import pytest
import yaml

from pipeline.cli import main
from tests.builders.tiny_workspace import TINY_CONFIG

WORDS = ("--leak_study.num_steps", "4", "--leak_study.num_slices", "3", "--split.val_fraction", "0.2")


def run(folder, *words):
    return main(["leak-study", "--config", str(folder / "tiny.yaml"), "--workspace", str(folder), *WORDS, *words])


def read_main_files(folder):
    """The files that training reads or wrote, byte for byte."""
    places = [folder / "data" / "tiny", folder / "runs", folder / "reports" / "tiny" / "metrics.json"]
    files = [item for place in places for item in ([place] if place.is_file() else place.rglob("*"))]
    return {item: item.read_bytes() for item in files if item.is_file()}


@pytest.fixture(scope="module")
def workspace(tiny_workspace, tmp_path_factory):
    folder = tmp_path_factory.mktemp("leak_study") / "ws"
    shutil.copytree(tiny_workspace, folder)
    before = read_main_files(folder)
    assert run(folder) == 0
    assert read_main_files(folder) == before, "no file of the study is where training reads"
    return folder


def read_leak_study(folder):
    return json.loads((folder / "reports" / "tiny" / "leak_study" / "leak_study.json").read_text())


@pytest.mark.slow
def test_eight_models_differ_in_splits_and_labels_alone(workspace):
    content = read_leak_study(workspace)
    keys = [(run["division"], run["labels"]) for run in content["runs"]]
    assert len(set(keys)) == len(keys) == 8
    assert len({(run["num_train"], run["num_steps"]) for run in content["runs"]}) == 1
    off = {"model.mirror_tta": False, "augment.horizontal_flip": "none", "augment.rotation_degrees": 0}
    assert {name: content["settings"][name] for name in off} == off
    records = [json.loads(path.read_text()) for path in workspace.glob("reports/tiny/leak_study/runs/*.json")]
    assert len(records) == 8
    assert all(record["settings"] == content["settings"] for record in records)


def test_numbers_are_those_of_the_predictions(workspace):
    folder = workspace / "reports" / "tiny" / "leak_study"
    table = pd.read_csv(folder / "leak_study.csv")
    for row in table.rename(columns={"division": "unit"}).itertuples():
        predictions = pd.read_csv(folder / "runs" / f"{row.unit}-{row.labels}-seed-0.csv", dtype=str)
        assert row.accuracy == pytest.approx((predictions["label"] == predictions["predicted"]).mean())
        assert (row.n, row.groups) == (len(predictions), predictions["group_id"].nunique())
        if row.labels == "shuffled":
            assert (predictions.groupby("group_id")["label"].nunique() == 1).all()
    page = (folder / "leak_study.html").read_text()
    for sentence in read_leak_study(workspace)["sentences"]:
        assert sentence in page
    assert (folder / "leak_study.svg").read_bytes()[:5] == b"<?xml"


def test_mlflow_shows_the_eight_below_one_parent(workspace):
    client = mlflow.MlflowClient(f"sqlite:///{workspace / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    (parent,) = client.search_runs([experiment.experiment_id], "attributes.run_name = 'leak_study'")
    children = client.search_runs([experiment.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert len(children) == 8
    assert {child.info.status for child in (*children, parent)} == {"FINISHED"}
    digests = {child.info.run_name: child.inputs.dataset_inputs[0].dataset.digest for child in children}
    assert digests["leak_study-slice-true-seed-0"] == digests["leak_study-slice-shuffled-seed-0"]
    # At one visit a knee is one scan, so two of the four splits are the same here.
    assert len(set(digests.values())) == 3, "a split is one data set, whatever its labels"
    outcomes = {
        (row["division"], row["labels"]): row["accuracy"]["value"] for row in read_leak_study(workspace)["outcomes"]
    }
    assert parent.data.metrics["slice_shuffled_accuracy"] == pytest.approx(outcomes["slice", "shuffled"])


@pytest.mark.slow
def test_an_evaluated_model_is_not_trained_again_and_the_numbers_are_the_same(workspace, tmp_path, capsys):
    other = tmp_path / "ws"
    shutil.copytree(workspace, other)
    lost = other / "reports" / "tiny" / "leak_study" / "runs" / "volume-true-seed-0.json"
    lost.unlink()
    capsys.readouterr()
    assert run(other, "--tracking.enabled", "false") == 0
    trained = [line for line in capsys.readouterr().out.splitlines() if "seed-0: accuracy" in line]
    assert len(trained) == 1
    assert "volume-true" in trained[0]
    assert read_leak_study(other)["outcomes"] == read_leak_study(workspace)["outcomes"]
    assert run(other, "--tracking.enabled", "false", "--leak_study.learning_rate", "1e-3") == 0
    trained = [line for line in capsys.readouterr().out.splitlines() if "seed-0: accuracy" in line]
    assert len(trained) == 8, "other settings are another study"


def test_a_loss_that_is_nan_names_the_model_and_the_option_of_the_study(workspace, tmp_path, capsys):
    other = tmp_path / "ws"
    shutil.copytree(workspace, other)
    capsys.readouterr()
    assert run(other, "--tracking.enabled", "false", "--leak_study.learning_rate", "1e30") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "leak-study, slice-true-seed-0: the loss became " in line
    assert ". Lower leak_study.learning_rate (now 1e+30) " in line
    assert "train.learning_rate" not in line
    assert "checkpoint" not in line


def test_published_sets_are_refused_in_one_line(write_mnist, tmp_path, capsys):
    config = TINY_CONFIG | {"name": "digits", "data": {"dataset": "mnist"}}
    (tmp_path / "digits.yaml").write_text(yaml.safe_dump(config))
    raw = write_mnist(tmp_path / "raw")
    words = ["--config", str(tmp_path / "digits.yaml"), "--workspace", str(tmp_path), "--data.raw_folder", str(raw)]
    assert main(["preprocess", *words, "--data.allow_partial", "true"]) == 0
    capsys.readouterr()
    assert main(["leak-study", *words, "--data.allow_partial", "true"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "leak-study: mnist is made of images without patients" in line
