"""All stages from raw data to a report, on a few tiny knees, on the command line alone."""

import json
import shutil

import mlflow
import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.cli import main
from pipeline.core.tables import prediction_columns, read_table
from pipeline.evaluation.decisions.temperature_scaling import fit_on_predictions
from pipeline.evaluation.predictions import aggregate


@pytest.fixture
def workspace(tiny_workspace):
    return tiny_workspace


def run(folder, stage, *words):
    return main([stage, *words, "--config", str(folder / "tiny.yaml"), "--workspace", str(folder)])


def test_metrics_count_the_test_rows(workspace):
    metrics = json.loads((workspace / "reports" / "tiny" / "metrics.json").read_text())
    assert metrics["scoring"] == {"precision": "32-true", "accelerator": ""}
    assert metrics["split"] == "test"
    assert set(metrics["levels"]) == {"slice", "volume", "knee"}, "a laterality patient has both labels"
    assert metrics["levels"]["slice"]["n"] == 3 * 2 * 4
    assert metrics["levels"]["slice"]["groups"] == 3
    assert set(metrics["baselines"]) == {"majority", "logistic_regression"}
    assert metrics["baselines"]["majority"]["accuracy"]["value"] == 0.5


def test_metrics_hold_probes_and_decision_support(workspace):
    metrics = json.loads((workspace / "reports" / "tiny" / "metrics.json").read_text())
    probes, decision = metrics["probes"], metrics["decision"]
    assert set(probes) == {
        *("slice_index", "visit", "intensity_quartile", "border_only", "border_is_background", "index_only", "mirror"),
        "within_class",
    }
    assert {probe["auroc"]["reason"] for probe in probes["within_class"]} == {
        "fewer than two values of visit with 5 patients or more"
    }
    assert [part["slice_index"] for part in probes["slice_index"]] == [0, 1, 2, 3]
    for name in ("slice_index", "visit", "intensity_quartile"):
        assert sum(part["n"] for part in probes[name]) == metrics["levels"]["slice"]["n"], name
        weighed = sum(part["n"] * part["accuracy"]["value"] for part in probes[name]) / metrics["levels"]["slice"]["n"]
        assert weighed == pytest.approx(metrics["levels"]["slice"]["metrics"]["accuracy"]["value"]), name
    assert probes["index_only"]["accuracy"]["value"] == 0.5, "every volume has every index"
    assert set(decision["coverage"]) == set(decision["calibration"]) == {"slice", "volume", "knee"}


def test_the_temperature_is_that_of_the_unscaled_validation_rows_in_predictions(workspace):
    folder = workspace / "reports" / "tiny"
    table = pd.read_csv(folder / "predictions.csv", dtype={"group_id": str})
    decision = json.loads((folder / "metrics.json").read_text())["decision"]
    val = table[table["split"] == "val"]
    for level in ("slice", "volume", "knee"):
        rows = aggregate(val, level)
        found = decision["calibration"][level]
        assert found["temperature"] == pytest.approx(fit_on_predictions(rows, ("left", "right")).value)
        assert found["fitted_on"] == {"num_rows": len(rows), "num_groups": 2}


@pytest.mark.slow
def test_with_tta_answers_flip_by_construction_and_the_network_alone_is_listed_too(workspace, tmp_path):
    other = tmp_path / "averaged"
    shutil.copytree(workspace, other, ignore=shutil.ignore_patterns("mlflow.db", "mlartifacts"))
    words = ("--model.mirror_tta", "true", "--run", "averaged", "--tracking.enabled", "false")
    for stage in ("train", "evaluate"):
        assert run(other, stage, *words) == 0
    folder = other / "reports" / "tiny" / "averaged"
    mirror = json.loads((folder / "metrics.json").read_text())["probes"]["mirror"]
    assert mirror["is_by_construction"]
    assert mirror["flipped"]["value"] == 1.0
    assert 0 <= mirror["flipped_without_averaging"]["value"] <= 1
    assert "flips by construction" in (folder / "report.html").read_text()


def test_predictions_and_metrics_agree(workspace):
    folder = workspace / "reports" / "tiny"
    table = read_table(folder / "predictions.csv", prediction_columns(("left", "right")))
    test = table[table["split"] == "test"]
    metrics = json.loads((folder / "metrics.json").read_text())
    accuracy = (test["label"] == test["predicted"]).mean()
    assert metrics["levels"]["slice"]["metrics"]["accuracy"]["value"] == pytest.approx(accuracy)
    assert set(table["split"]) == {"val", "test"}, "training rows are not scored"


def test_the_report_is_one_file_that_needs_nothing_else(workspace):
    page = (workspace / "reports" / "tiny" / "report.html").read_text()
    assert "synthetic" in page
    for title in ("Shortcut probes", "Decision support"):
        assert f">{title}</h2>" in page
    for outside in ("<script", "http://", 'src="/', "<link"):
        assert outside not in page


def test_the_report_counts_its_files_and_lists_what_its_authors_have_to_add(workspace):
    folder = workspace / "reports" / "tiny"
    page = (folder / "report.html").read_text()
    manifest = pd.read_csv(workspace / "data" / "tiny" / "prepared" / "manifest.csv", dtype=str)
    assert f"<li>{len(manifest)} files</li>" in page
    claim, card = ((folder / f"{name}.md").read_text() for name in ("claim_checklist", "model_card"))
    assert "seed 0" in claim
    assert f"{(manifest['status'] == 'accepted').sum()} scans" in claim
    assert "**To be filled in by the authors:**" in claim
    assert "Research software" in card
    assert page.count("Funding and role of the funders") == 2, "in the list, and as text to copy"


def test_predict_gives_the_numbers_of_evaluate_from_the_checkpoint_alone(workspace, tmp_path):
    checkpoint = shutil.copy(workspace / "runs" / "tiny" / "best.safetensors", tmp_path / "model.safetensors")
    output = tmp_path / "new.csv"
    raw = workspace / "data" / "tiny" / "raw"
    words = ("--predict.checkpoint", str(checkpoint), "--predict.output", str(output))
    assert main(["predict", str(raw), *words, "--workspace", str(tmp_path)]) == 0
    new = pd.read_csv(output)
    assert len(new) == 20
    scored = pd.read_csv(workspace / "reports" / "tiny" / "predictions.csv", dtype={"group_id": str})
    manifest = pd.read_csv(workspace / "data" / "tiny" / "prepared" / "manifest.csv", dtype=str)
    by_volume = scored.groupby("source_id")["probability_right"].mean()
    path_of = manifest.set_index("source_id")["path"]
    for source_id, probability in by_volume.items():
        row = new[new["path"].str.endswith(path_of[source_id])]
        # Batches of other sizes may add in another order; nothing else differs.
        assert row["probability_right"].item() == pytest.approx(probability, abs=1e-5)


def test_predict_writes_what_it_can_and_names_what_it_cannot(workspace, tmp_path, capsys):
    raw = workspace / "data" / "tiny" / "raw"
    good = next(path for path in sorted(raw.iterdir()) if path.suffix == ".gz")
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no")
    output = tmp_path / "new.csv"
    assert run(workspace, "predict", str(good), str(bad), "--predict.output", str(output)) == 2
    assert "1 volume was refused" in capsys.readouterr().err
    table = pd.read_csv(output)
    assert table["reason"].notna().tolist() == [False, True]
    assert np.isfinite(table["probability_left"][0])
    assert run(workspace, "predict") == 2
    assert "predict: no input" in capsys.readouterr().err


def test_everything_is_in_one_mlflow_run(workspace):
    client = mlflow.MlflowClient(f"sqlite:///{workspace / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    (record,) = client.search_runs([experiment.experiment_id])
    assert record.info.status == "FINISHED"
    assert record.data.params["train.epochs"] == "2"
    assert [point.step for point in client.get_metric_history(record.info.run_id, "val_loss")] == [1, 2]
    metrics = json.loads((workspace / "reports" / "tiny" / "metrics.json").read_text())
    slices = metrics["levels"]["slice"]["metrics"]["accuracy"]
    assert record.data.metrics["test_slice_accuracy"] == pytest.approx(slices["value"])
    assert record.data.metrics["test_slice_accuracy_low"] == pytest.approx(slices["low"])
    probes = metrics["probes"]
    for name in ("border_only", "index_only"):
        assert record.data.metrics[f"test_{name}_accuracy"] == pytest.approx(probes[name]["accuracy"]["value"])
    flipped = probes["mirror"]["flipped_without_averaging"]["value"]
    assert record.data.metrics["test_mirror_flip_share"] == pytest.approx(flipped)
    assert record.data.metrics["temperature_volume"] == pytest.approx(
        metrics["decision"]["calibration"]["volume"]["temperature"]
    )
    names = {item.path for item in client.list_artifacts(record.info.run_id, "evaluation")}
    own = [item for item in (workspace / "reports" / "tiny").iterdir() if item.is_file() and item.name[0] != "."]
    assert names == {f"evaluation/{item.name}" for item in own}
    assert {"evaluation/report.html", "evaluation/confusion_slice.svg", "evaluation/metrics.json"} <= names
    datasets = {item.tags[0].value: item.dataset.digest for item in record.inputs.dataset_inputs}
    assert set(datasets) == {"train", "val", "test"}
    assert len(set(datasets.values())) == 3


@pytest.mark.slow
def test_a_trained_model_is_a_version_in_the_registry_unless_that_is_off(workspace, tmp_path):
    client = mlflow.MlflowClient(f"sqlite:///{workspace / 'mlflow.db'}")
    (version,) = client.search_model_versions("name = 'tiny'")
    history = pd.read_csv(workspace / "runs" / "tiny" / "history.csv").set_index("epoch")
    assert version.tags["class_names"] == "left, right"
    assert float(version.tags["val_accuracy"]) == pytest.approx(history["val_accuracy"][int(version.tags["epoch"])])
    other = tmp_path / "other"
    shutil.copytree(workspace, other)
    assert run(other, "train", "--run", "quiet", "--train.epochs", "1", "--tracking.register", "false") == 0
    client = mlflow.MlflowClient(f"sqlite:///{other / 'mlflow.db'}")
    assert len(client.search_runs([client.get_experiment_by_name("tiny").experiment_id])) == 2
    assert len(client.search_model_versions("name = 'tiny'")) == 1


def test_tensorboard_shows_the_epochs_and_the_figures_of_the_evaluation(workspace):
    events = EventAccumulator(str(workspace / "runs" / "tiny" / "tensorboard"))
    events.Reload()
    history = pd.read_csv(workspace / "runs" / "tiny" / "history.csv")
    assert [item.step for item in events.Scalars("val_loss")] == [1, 2]
    assert [item.value for item in events.Scalars("val_loss")] == pytest.approx(history["val_loss"].tolist())
    metrics = json.loads((workspace / "reports" / "tiny" / "metrics.json").read_text())
    for level, content in metrics["levels"].items():
        (accuracy,) = events.Scalars(f"test_{level}_accuracy")
        assert accuracy.value == pytest.approx(content["metrics"]["accuracy"]["value"])


def test_a_second_run_of_each_stage_does_nothing_and_reports_it(workspace, capsys):
    for stage, sentence in (("fetch", "are there"), ("preprocess", "nothing to do"), ("split", "nothing to do")):
        assert run(workspace, stage) == 0
        assert sentence in capsys.readouterr().out
    before = (workspace / "runs" / "tiny" / "best.safetensors").stat().st_mtime_ns
    assert run(workspace, "train") == 0
    assert (workspace / "runs" / "tiny" / "best.safetensors").stat().st_mtime_ns == before


def test_evaluate_refuses_a_model_of_other_splits(workspace, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(workspace, other)
    record = other / "runs" / "tiny" / "training.json"
    record.rename(other / "away.json")  # of a run that is not finished the splits are not kept
    assert run(other, "split", "--split.seed", "5") == 0
    (other / "away.json").rename(record)
    assert run(other, "evaluate", "--split.seed", "5") == 2
    assert "trained on other" in capsys.readouterr().err


@pytest.mark.slow
def test_folds_train_and_evaluate_in_folders_of_their_own(workspace, tmp_path):
    other = tmp_path / "folds"
    shutil.copytree(workspace / "data", other / "data")
    shutil.copy(workspace / "tiny.yaml", other / "tiny.yaml")
    tested = []
    for fold in range(3):
        words = ("--split.num_folds", "3", "--split.test_fold", str(fold), "--train.epochs", "1")
        for stage in ("split", "train", "evaluate"):
            assert run(other, stage, *words, "--tracking.enabled", "false") == 0
        table = pd.read_csv(other / "reports" / "tiny" / f"fold-{fold}" / "predictions.csv", dtype=str)
        tested += sorted(set(table.loc[table["split"] == "test", "group_id"]))
    assert len(tested) == len(set(tested)) == 10, "every patient is tested once"


@pytest.mark.slow
def test_recording_the_load_of_the_machine_changes_no_number(workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    other = tmp_path / "watched"
    shutil.copytree(workspace, other)
    options = ("--tracking.tensorboard", "false")
    assert run(other, "train", "--run", "watched", *options) == 0
    assert run(other, "train", "--run", "alone", *options, "--tracking.system_metrics", "false") == 0
    watched, alone = (pd.read_csv(other / "runs" / "tiny" / name / "history.csv") for name in ("watched", "alone"))
    numbers = ["train_loss", "train_accuracy", "val_loss", "val_accuracy"]
    pd.testing.assert_frame_equal(watched[numbers], alone[numbers], check_exact=True)
    client = mlflow.MlflowClient(f"sqlite:///{other / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    kept = {record.info.run_name: record.data.metrics for record in client.search_runs([experiment.experiment_id])}
    assert "system/cpu_utilization_percentage" in kept["watched"]
    assert not [name for name in kept["alone"] if name.startswith("system/")]
