"""External validation: a finished run on a table of another site, in the evaluate stage."""

import dataclasses
import json
import shutil

import nibabel
import numpy as np
import pandas as pd
import pytest

from pipeline.cli import main
from pipeline.core.data_kinds import VOLUMES
from pipeline.core.tables import prediction_columns, read_table
from pipeline.core.workspace import Workspace
from pipeline.formats.nifti import read_volume
from pipeline.reporting.evaluation.external_section import build_external_section
from pipeline.stages.external import list_not_compared
from pipeline.tracking.records import describe_external, flatten_metrics
from pipeline.training.checkpoint import read_checkpoint, write_checkpoint
from pipeline.training.seen_patients import KNOWN, SAME, START_PATIENTS, TEACHER_PATIENTS, UNKNOWN
from tests.builders.dicom import write_series
from tests.builders.volumes import compute_intensity

REPORT = ("reports", "tiny")


@pytest.fixture(scope="module")
def workspace(tiny_workspace, tmp_path_factory):
    """The tiny run, and next to it the scans of its test patients under other names, with a table."""
    folder = tmp_path_factory.mktemp("external") / "workspace"
    shutil.copytree(tiny_workspace, folder)
    write_site(folder / "site")
    return folder


def write_site(site, change=lambda values: values, split="test", columns=""):
    """Write scans of one split of the workspace around a folder, with other patients, and the table of their labels."""
    workspace = site.parent
    splits = pd.read_csv(workspace / "data" / "tiny" / "splits.csv", dtype=str)
    manifest = pd.read_csv(workspace / "data" / "tiny" / "prepared" / "manifest.csv", dtype=str)
    chosen = splits.loc[splits["split"] == split, "group_id"].tolist()
    rows = [f"file,patient,label,split{columns}"]
    for row in manifest[manifest["group_id"].isin(chosen)].itertuples():
        path = site / "scans" / f"{row.source_id}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nibabel.load(workspace / "data" / "tiny" / "raw" / row.path)
        values = np.asarray(image.dataobj)
        nibabel.save(nibabel.Nifti1Image(change(values).astype(values.dtype), image.affine), path)
        sex = ["F", "M"][chosen.index(row.group_id) % 2]
        rows.append(f"scans/{path.name},site2-{row.group_id},{row.label},train" + (f",{sex},Rome" if columns else ""))
    (site / "knees.csv").write_text("\n".join(rows))


def run(folder, *words, stage="evaluate"):
    plain = ("--tracking.enabled", "false", "--tracking.tensorboard", "false")
    return main([stage, "--config", str(folder / "tiny.yaml"), "--workspace", str(folder), *plain, *words])


def validate(folder, site="site", *words):
    table = str(folder / site / "knees.csv")
    columns = ("--data.columns.path", "file", "--evaluate.logistic_regression", "false")
    return run(folder, "--evaluate.external", table, *columns, *words)


def read_metrics(folder):
    return json.loads(folder.joinpath(*REPORT, "metrics.json").read_text())


@pytest.fixture(scope="module")
def validated(workspace):
    """The same workspace, validated on its own test patients."""
    assert validate(workspace) == 0
    return workspace


def test_test_patients_under_other_names_have_the_scores_of_the_test_bit_for_bit(validated):
    metrics = read_metrics(validated)
    external = metrics["external"]
    for name in ("levels", "classes", "decision"):
        assert external[name] == metrics[name], name
    assert external["participants"]["external"] == external["participants"]["test"]
    assert external["drift"]["distance"] == external["drift"]["test_distance"]
    assert "6 scans also are in the run's test" in external["search"]


@pytest.mark.slow
def test_patients_of_a_teacher_or_of_initial_weights_of_other_splits_are_named_as_not_looked_for(workspace, tmp_path):
    folder = shutil.copytree(workspace, tmp_path / "workspace")
    path = Workspace(folder, "tiny").best_checkpoint
    checkpoint = read_checkpoint(path)
    facts = {TEACHER_PATIENTS: UNKNOWN, START_PATIENTS: SAME}
    write_checkpoint(path, dataclasses.replace(checkpoint, settings=checkpoint.settings | facts))
    assert validate(folder) == 0
    assert [
        item["question"] for item in read_metrics(folder)["external"]["missing"] if "learned" in item["question"]
    ] == ["Patients of this table among those whom the teacher learned from"]
    assert len(list_not_compared({TEACHER_PATIENTS: KNOWN, START_PATIENTS: UNKNOWN})) == 2


@pytest.mark.slow
def test_whole_scans_under_other_names_have_the_scores_of_the_test_bit_for_bit(tiny_workspace, tmp_path):
    whole = ("--preprocess.unit", "volume", "--train.epochs", "1")
    for name in ("tiny.yaml", "data/tiny/raw"):
        copy = shutil.copytree if (tiny_workspace / name).is_dir() else shutil.copy
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy(tiny_workspace / name, tmp_path / name)
    for stage in ("preprocess", "split", "train"):
        assert run(tmp_path, *whole, stage=stage) == 0
    write_site(tmp_path / "site")
    assert validate(tmp_path, "site", *whole) == 0
    metrics = read_metrics(tmp_path)
    external = metrics["external"]
    assert set(external["levels"]) == {"volume", "knee"}
    for name in ("levels", "classes", "decision"):
        assert external[name] == metrics[name], name
    assert external["drift"]["distance"] == external["drift"]["test_distance"]
    assert "6 scans also are in the run's test" in external["search"]


def test_the_section_has_levels_of_255_and_keeps_reasons_out_of_its_cells(validated):
    metrics = read_metrics(validated)
    (section,) = build_external_section(metrics, VOLUMES)
    tables = {table.caption: table for table in section.tables}
    drift, mean = tables["Drift of grey levels"], metrics["external"]["drift"]["numbers"][0]["external"]
    median, low, high = (round(255 * mean[name]) for name in ("median", "low", "high"))
    assert drift.rows[0][3] == f"{median} ({low} to {high})"
    assert drift.rows[0][-1].endswith("\u00a0%")
    calibration = tables["Calibration of the external rows and of the test rows"]
    assert not [cell for row in calibration.rows for cell in row if "no interval" in cell]
    assert "too narrow" in calibration.note
    assert "External classes, each against the rest: slices" in tables


def test_mlflow_gets_the_external_scores_under_names_of_their_own(validated):
    metrics = read_metrics(validated)
    external, flat = metrics["external"], flatten_metrics(metrics, VOLUMES)
    accuracy = external["levels"]["slice"]["metrics"]["accuracy"]
    assert flat["external_slice_accuracy"] == accuracy["value"]
    assert flat["external_slice_accuracy_low"] == accuracy["low"]
    assert flat["external_slice_patients"] == external["participants"]["external"]["groups"]
    assert flat["external_grey_level_distance"] == external["drift"]["distance"]
    (found,) = external["decision"]["calibration"]["slice"]["before"]["recalibration"].values()
    assert flat["external_slice_calibration_in_the_large"] == found["in_the_large"]["value"]
    tags = {"external_table": "knees.csv", "external_made_from": external["made_from"]}
    assert describe_external(metrics) == tags
    del metrics["external"]
    assert set(describe_external(metrics).values()) == {"none"}
    assert not [name for name in flatten_metrics(metrics, VOLUMES) if name.startswith("external")]


@pytest.mark.slow
def test_an_evaluation_without_the_table_keeps_the_result_and_no_figure_that_it_does_not_draw(validated, capsys):
    before, report = read_metrics(validated)["external"], validated.joinpath(*REPORT)
    names = {path.name for path in report.glob("*.??g")}
    (report / "attention_99.png").write_bytes(b"drawn from other weights")
    capsys.readouterr()
    assert run(validated, "--evaluate.logistic_regression", "false") == 0
    assert "The external validation on knees.csv is kept." in capsys.readouterr().out
    assert read_metrics(validated)["external"] == before
    assert ">External validation</h2>" in (report / "report.html").read_text()
    assert {path.name for path in report.glob("*.??g")} == names


@pytest.mark.slow
def test_dicom_series_of_test_patients_have_the_scores_of_their_nifti_files_bit_for_bit(workspace, monkeypatch):
    monkeypatch.setattr("tests.builders.dicom.SPACING", dict.fromkeys(range(3), 6.0))
    site = workspace / "series"
    write_site(site)
    for path in sorted((site / "scans").iterdir()):
        volume = read_volume(path)
        folder = path.with_name(path.name.removesuffix(".nii.gz"))
        write_series(folder, compute_intensity(volume), centre=volume.centre_mm)
        path.unlink()
    table = site / "knees.csv"
    table.write_text(table.read_text().replace(".nii.gz", ""))
    assert validate(workspace, "series") == 0
    metrics = read_metrics(workspace)
    for name in ("levels", "classes", "decision"):
        assert metrics["external"][name] == metrics[name], name
    written = workspace.joinpath(*REPORT)
    texts = [path.read_text() for path in written.iterdir() if path.suffix in (".csv", ".json", ".md", ".html")]
    assert not [text for text in texts if "Secret" in text], "names of persons stay in the headers"


@pytest.mark.slow
def test_predictions_are_a_table_of_their_own_with_covariates(workspace):
    site = workspace / "other"
    write_site(site, lambda values: values.max() * (values / values.max()).clip(0) ** 0.4, columns=",sex,site")
    words = ("--data.covariates", "[sex, age]", "--evaluate.subgroups", "[visit, side]")
    assert validate(workspace, "other", *words) == 0
    table = read_table(workspace.joinpath(*REPORT, "predictions_external.csv"), prediction_columns(("left", "right")))
    assert set(table["split"]) == {"external"}
    assert set(table["sex"]) == {"F", "M"}
    assert set(table["site"]) == {"Rome"}
    assert (table["age"] == "").all(), "the other site does not know it"
    external = read_metrics(workspace)["external"]
    assert [table["fact"] for table in external["subgroups"]] == ["side"]
    assert {"question": "Subgroups by visit", "reason": "the table has no visit"} in external["missing"]
    drift = external["drift"]
    assert drift["distance"] > 2 * drift["test_distance"], "dark levels were made brighter"
    assert drift["numbers"][0]["difference"] > abs(drift["numbers"][0]["test_difference"])
    page = workspace.joinpath(*REPORT, "report.html").read_text()
    assert ">External validation</h2>" in page
    assert "Scans from another source" not in page
    claim = workspace.joinpath(*REPORT, "claim_checklist.md").read_text()
    assert "Nothing was refitted" in next(line for line in claim.splitlines() if "Evaluation on external data" in line)


@pytest.mark.slow
def test_a_result_of_other_weights_is_removed(workspace, capsys):
    assert validate(workspace) == 0
    plain = ("--evaluate.logistic_regression", "false")
    other = workspace / "runs" / "tiny" / "last.safetensors"
    assert run(workspace, *plain, "--evaluate.checkpoint", str(other)) == 0
    assert "is removed" in " ".join(capsys.readouterr().out.split())
    assert "external" not in read_metrics(workspace)
    assert not workspace.joinpath(*REPORT, "predictions_external.csv").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("site2-", "00"), "is in test"),
        (("left", "Left"), "line 2: the label 'Left' is no class of the run; allowed are left, right. 'Left' differs"),
        (("scans/", "../"), "is outside"),
    ],
)
def test_a_table_that_does_not_fit_the_run_is_refused(change, message, workspace, capsys):
    site = workspace / "refused"
    write_site(site)
    text = (site / "knees.csv").read_text()
    (site / "knees.csv").write_text(text.replace(*change))
    assert validate(workspace, "refused") == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("split", ["train", "val"])
def test_scans_of_training_and_validation_are_refused_under_any_name(split, workspace, capsys):
    write_site(workspace / split, split=split)
    assert validate(workspace, split) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "has the pixels of" in message
    assert f"({split})" in message
