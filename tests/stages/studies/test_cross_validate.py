"""Every fold is trained and evaluated once, next to the single split; every patient is tested once."""

import json
import shutil

import mlflow
import pandas as pd
import pytest
import yaml

from pipeline.cli import main
from tests.builders.tiny_workspace import TINY_CONFIG

WORDS = ("--split.num_folds", "3", "--train.epochs", "1", "--evaluate.logistic_regression", "false")


def run(folder, *words):
    return main(["cross-validate", "--config", str(folder / "tiny.yaml"), "--workspace", str(folder), *words])


@pytest.fixture(scope="module")
def workspace(tiny_workspace, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cross_validation") / "ws"
    shutil.copytree(tiny_workspace, folder)
    assert run(folder, *WORDS) == 0
    return folder


def read_cross_validation(folder, name="cross_validation"):
    return json.loads((folder / "reports" / "tiny" / name / "cross_validation.json").read_text())


@pytest.mark.slow
def test_every_patient_is_tested_once_and_the_pooled_score_is_theirs(workspace):
    tables = []
    for fold in range(3):
        table = pd.read_csv(workspace / "reports" / "tiny" / f"fold-{fold}" / "predictions.csv", dtype=str)
        tables.append(table[table["split"] == "test"])
    together = pd.concat(tables)
    assert together["group_id"].nunique() == 10
    assert not together["example_id"].duplicated().any()
    content = read_cross_validation(workspace)
    pooled = content["pooled"]["slice"]
    assert (pooled["n"], pooled["groups"]) == (len(together), 10)
    assert pooled["metrics"]["accuracy"]["value"] == pytest.approx((together["label"] == together["predicted"]).mean())
    assert [item["run"] for item in content["runs"]] == ["fold-0", "fold-1", "fold-2"]
    page = (workspace / "reports" / "tiny" / "cross_validation" / "cross_validation.html").read_text()
    assert all(sentence in page for sentence in content["sentences"])
    doubts = pd.read_csv(workspace / "reports" / "tiny" / "cross_validation" / "label_doubts.csv", dtype=str)
    assert "Of 20 scans the models contradict" in page
    assert set(doubts["source_id"]) <= set(together["source_id"])


@pytest.mark.slow
def test_the_single_split_and_its_run_stay_as_they_were(workspace, tiny_workspace, capsys):
    for name in ("data/tiny/splits.csv", "data/tiny/leak_certificate.json", "runs/tiny/training.json"):
        assert (workspace / name).read_bytes() == (tiny_workspace / name).read_bytes(), name
    assert (workspace / "data" / "tiny" / "splits-3-folds.csv").is_file()
    assert json.loads((workspace / "data" / "tiny" / "leak_certificate-3-folds.json").read_text())["passed"]
    assert main(["train", "--config", str(workspace / "tiny.yaml"), "--workspace", str(workspace)]) == 0
    assert "already trained" in capsys.readouterr().out


@pytest.mark.slow
def test_mlflow_shows_folds_below_one_parent(workspace):
    client = mlflow.MlflowClient(f"sqlite:///{workspace / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    (parent,) = client.search_runs([experiment.experiment_id], "attributes.run_name = 'cross_validation'")
    children = client.search_runs([experiment.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert {child.info.run_name for child in children} == {"fold-0", "fold-1", "fold-2"}
    assert parent.info.status == "FINISHED"
    pooled = read_cross_validation(workspace)["pooled"]["slice"]["metrics"]["accuracy"]
    assert parent.data.metrics["pooled_slice_accuracy"] == pytest.approx(pooled["value"])
    for child in children:
        assert {item.tags[0].value for item in child.inputs.dataset_inputs} == {"train", "val", "test"}


@pytest.mark.slow
def test_evaluated_runs_are_not_computed_again(workspace, tmp_path, capsys):
    other = tmp_path / "ws"
    shutil.copytree(workspace, other)
    (other / "reports" / "tiny" / "fold-1" / "report.html").unlink()
    (other / "runs" / "tiny" / "fold-2" / "training.json").unlink()  # interrupted before the record was written
    capsys.readouterr()
    assert run(other, *WORDS, "--tracking.enabled", "false") == 0
    shown = capsys.readouterr().out
    assert shown.count("already trained") == 2
    assert shown.count("already evaluated") == 1
    before, after = read_cross_validation(workspace), read_cross_validation(other)
    assert after["pooled"] == before["pooled"]


@pytest.mark.slow
def test_published_sets_vary_the_seed_alone(write_mnist, tmp_path, capsys):
    config = TINY_CONFIG | {"name": "digits", "data": {"dataset": "mnist", "allow_partial": True}}
    config |= {"model": TINY_CONFIG["model"] | {"patch_size": 7}, "augment": {}, "tracking": {"enabled": False}}
    config |= {"train": TINY_CONFIG["train"] | {"epochs": 1}, "split": {"val_fraction": 0.2}}
    (tmp_path / "digits.yaml").write_text(yaml.safe_dump(config))
    raw = write_mnist(tmp_path / "raw")
    words = ["--config", str(tmp_path / "digits.yaml"), "--workspace", str(tmp_path), "--data.raw_folder", str(raw)]
    words += ["--evaluate.logistic_regression", "false"]
    assert main(["preprocess", *words]) == 0
    capsys.readouterr()
    assert main(["cross-validate", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cross-validate: mnist has published test rows" in line
    assert main(["cross-validate", *words, "--cross_validate.vary", "seeds", "--cross_validate.seeds", "[0,1]"]) == 0
    content = json.loads((tmp_path / "reports" / "digits" / "seeds" / "cross_validation.json").read_text())
    assert [item["run"] for item in content["runs"]] == ["seed-0", "seed-1"]
    assert content["pooled"]["image"]["n"] == 40
    assert content["pooled"]["image"]["groups"] == 20
    values = [item["levels"]["image"]["accuracy"]["value"] for item in content["runs"]]
    assert content["pooled"]["image"]["metrics"]["accuracy"]["value"] == pytest.approx(sum(values) / 2)


def test_several_devices_and_empty_or_repeated_seeds_are_refused(tiny_workspace, capsys):
    workspace = tiny_workspace
    assert run(workspace, *WORDS, "--train.devices", "2") == 2
    assert "cross-validate: found 2 devices, allowed is one" in capsys.readouterr().err
    assert run(workspace, *WORDS, "--cross_validate.vary", "seeds") == 2
    assert "cross_validate.seeds: found []" in capsys.readouterr().err
    assert run(workspace, *WORDS, "--cross_validate.seeds", "[1,1]") == 2
    assert "each once" in capsys.readouterr().err
