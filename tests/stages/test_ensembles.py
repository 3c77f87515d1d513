"""Several runs evaluated, and predicted with, as one model."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from pipeline.cli import main
from pipeline.training.checkpoint import read_checkpoint, write_checkpoint
from pipeline.training.seen_patients import START_PATIENTS, UNKNOWN

PROBABILITIES = ["probability_left", "probability_right"]


def call(stage, folder, *words):
    place = ["--config", str(folder / "tiny.yaml"), "--workspace", str(folder), "--tracking.enabled", "false"]
    return main([stage, *words, *place, "--evaluate.logistic_regression", "false"])


@pytest.fixture(scope="module")
def workspace(tiny_workspace, tmp_path_factory):
    """Two seeds on the single split, and a run on folds of a table that has the same test and another validation."""
    folder = tmp_path_factory.mktemp("ensembles") / "workspace"
    shutil.copytree(tiny_workspace, folder)
    for seed in ("1", "2"):
        assert call("train", folder, "--run", f"seed-{seed}", "--train.seed", seed, "--train.epochs", "1") == 0
    splits = pd.read_csv(folder / "data/tiny/splits.csv", dtype=str)
    trained = splits.index[splits["split"] == "train"]
    splits["split"] = splits["split"].map({"test": "0", "val": "2", "train": "2"})
    splits.loc[trained[:2], "split"] = "1"
    splits.to_csv(folder / "folds.csv", index=False)
    folds = ("--split.num_folds", "3", "--split.split_table", str(folder / "folds.csv"))
    assert call("split", folder, *folds) == 0
    assert call("train", folder, *folds, "--run", "table", "--train.epochs", "1") == 0
    return folder


def read_report(folder, *words):
    assert call("evaluate", folder, *words) == 0
    report = folder / "reports/tiny/ensemble"
    return pd.read_csv(report / "predictions.csv"), json.loads((report / "metrics.json").read_text()), report


def read_single(folder, seed):
    assert call("evaluate", folder, "--run", f"seed-{seed}") == 0
    return pd.read_csv(folder / f"reports/tiny/seed-{seed}/predictions.csv")


@pytest.mark.slow
def test_an_ensemble_of_seeds_has_the_mean_probabilities_and_a_report_of_its_own(workspace):
    before = (workspace / "reports/tiny/metrics.json").read_bytes()
    table, metrics, report = read_report(workspace, "--evaluate.ensemble", "[seed-*]")
    singles = [read_single(workspace, seed)[PROBABILITIES].to_numpy() for seed in (1, 2)]
    np.testing.assert_allclose(table[PROBABILITIES].to_numpy(), np.mean(singles, axis=0), atol=1e-6)
    assert [member["name"] for member in metrics["ensemble"]["members"]] == ["seed-1", "seed-2"]
    assert metrics["ensemble"]["not_fitted"] == ""
    assert metrics["decision"]["calibration"]["slice"]["temperature"] > 0
    assert "Members of the ensemble" in (report / "report.html").read_text()
    assert "2 models: seed-1, seed-2" in (report / "model_card.md").read_text()
    assert (workspace / "reports/tiny/metrics.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("order", [("seed-1", "foreign"), ("foreign", "seed-1")])
def test_a_member_that_may_have_seen_test_patients_is_named_wherever_it_stands(workspace, capsys, order):
    checkpoint = read_checkpoint(workspace / "runs/tiny/seed-2/best.safetensors")
    settings = checkpoint.settings | {START_PATIENTS: UNKNOWN}
    (workspace / "runs/tiny/foreign").mkdir(exist_ok=True)
    write_checkpoint(
        workspace / "runs/tiny/foreign/best.safetensors", dataclasses.replace(checkpoint, settings=settings)
    )
    _, _, report = read_report(workspace, "--evaluate.ensemble", f"[{','.join(order)}]")
    captured = capsys.readouterr()
    words = "Member foreign of the ensemble started from the weights of another one whose training patients are not"
    assert words in " ".join((captured.out + captured.err).split())
    page = (report / "report.html").read_text()
    assert words in page
    assert "Member seed-1" not in page


@pytest.mark.slow
def test_nothing_is_fitted_where_members_validated_on_other_patients(workspace):
    table, metrics, report = read_report(workspace, "--evaluate.ensemble", "[seed-1,table-fold-0]")
    assert set(table["split"]) == {"test"}
    assert "table-fold-0 has others" in metrics["ensemble"]["not_fitted"]
    assert metrics["decision"]["calibration"] == {}
    assert "no validation rows were scored" in (report / "report.html").read_text()


@pytest.mark.slow
def test_folds_answer_together_for_new_scans_and_not_for_patients_that_one_knows(workspace, capsys):
    scan = str(sorted((workspace / "data/tiny/raw").glob("*.nii.gz"))[0])
    answers = []
    for words in (["[seed-1,table-fold-0]"], None, None):
        option = ["--predict.ensemble", *words] if words else ["--predict.checkpoint", ""]
        if words is None:
            run = ("seed-1", "table-fold-0")[len(answers) - 1]
            option[1] = str(workspace / f"runs/tiny/{run}/best.safetensors")
        assert call("predict", workspace, scan, *option) == 0
        answers.append(pd.read_csv(workspace / "reports/tiny/predictions_new.csv")[PROBABILITIES].to_numpy())
    np.testing.assert_allclose(answers[0], (answers[1] + answers[2]) / 2, atol=1e-6)
    capsys.readouterr()
    folds = ("--split.num_folds", "3", "--split.test_fold", "1")
    assert call("evaluate", workspace, *folds, "--evaluate.ensemble", "[seed-1,table-fold-0]") == 2
    assert "of this test, such as" in capsys.readouterr().err
    checkpoint = str(workspace / "runs/tiny/table-fold-0/best.safetensors")
    assert call("evaluate", workspace, *folds, "--evaluate.checkpoint", checkpoint) == 2
    assert "trained with fold 0 left out for its test" in capsys.readouterr().err
