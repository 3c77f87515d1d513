"""Whole scans through the stages: slices that are one example from the store to a row of predict."""

import json

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from pipeline import load_model
from pipeline.cli import main
from pipeline.data.store import read_store
from pipeline.training.checkpoint import read_checkpoint
from tests.builders.tiny_workspace import TINY_CONFIG

NAME = "tiny_scans"


def call(stage, folder, *options):
    config = ["--config", str(folder / f"{NAME}.yaml"), "--workspace", str(folder)]
    return main([stage, *config, *map(str, options)])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A workspace of tiny synthetic knees that are stored as slices and as scans, and trained on as scans."""
    folder = tmp_path_factory.mktemp("scans")
    preprocess = TINY_CONFIG["preprocess"] | {"unit": "volume", "plane": "sagittal", "num_slices": 6}
    config = TINY_CONFIG | {
        "name": NAME,
        "data": {"dataset": "phantom", "raw_folder": str(folder / "raw")},
        "preprocess": preprocess,
        "model": TINY_CONFIG["model"] | {"mirror_tta": True},
        "augment": {"horizontal_flip": "swap_label", "slice_dropping_fraction": 0.3},
        "train": TINY_CONFIG["train"] | {"epochs": 1},
        "tracking": {"enabled": False},
    }
    (folder / f"{NAME}.yaml").write_text(yaml.safe_dump(config))
    assert call("fetch", folder) == 0
    assert call("preprocess", folder, "--name", "tiny", "--preprocess.unit", "slice") == 0
    for stage in ("preprocess", "split", "train", "evaluate"):
        assert call(stage, folder) == 0, stage
    return folder


def test_a_scan_is_one_example_next_to_the_store_of_its_slices(workspace):
    volumes = read_store(workspace / "data" / NAME / "prepared", verify=True)
    slices = read_store(workspace / "data" / "tiny" / "prepared", verify=True)
    assert volumes.kind.name == "scans"
    assert slices.kind.name == "volumes"
    assert volumes.index["example_id"].tolist() == slices.index["source_id"].unique().tolist()
    assert volumes.examples.shape == (20, 6, 16, 16)
    np.testing.assert_array_equal(volumes.as_slices().examples, slices.examples)
    assert volumes.as_slices().index["example_id"].tolist() == slices.index["example_id"].tolist()
    manifest = pd.read_csv(workspace / "data" / NAME / "prepared" / "manifest.csv")
    assert set(manifest.loc[manifest["status"] == "accepted", "num_examples"]) == {1}


def test_levels_are_volume_knee_and_patient_without_slices(workspace):
    metrics = json.loads((workspace / "reports" / NAME / "metrics.json").read_text())
    assert list(metrics["levels"]) == ["volume", "knee"]
    assert "mirror" in metrics["probes"], "a sagittal scan has a mirror image"
    certificate = json.loads((workspace / "data" / NAME / "leak_certificate.json").read_text())
    assert certificate["passed"]
    assert certificate["splits"]["test"]["examples"] == 6


def test_the_report_shows_the_slices_that_carry_uncertain_and_wrong_answers(workspace):
    folder = workspace / "reports" / NAME
    page = " ".join((folder / "report.html").read_text().split())
    table = pd.read_csv(folder / "predictions.csv")
    test = table[table["split"] == "test"]
    num_wrong = min(2, int((test["label"] != test["predicted"]).sum()))
    strips = sorted(folder.glob("slices_*.png"))
    assert len(strips) == num_wrong + 2
    assert page.count("<strong>Wrong with the highest confidence") == num_wrong
    assert "The slices that carry an answer" in page
    assert "the scans' own pixels" in page.replace("&#39;", "'")
    uncertain = test.assign(confidence=test[["probability_left", "probability_right"]].max(axis=1))
    shown = uncertain[[f"{name}: true" in page for name in uncertain["example_id"]]]
    assert len(shown) == num_wrong + 2
    assert uncertain["confidence"].min() == shown["confidence"].min()


def test_predict_answers_a_scan_as_evaluate_does_and_refuses_a_larger_one(workspace, write_knee, tmp_path, capsys):
    large = write_knee(tmp_path / "large.nii.gz", spacing_mm=(40.0, 40.0, 40.0))
    table = pd.read_csv(workspace / "reports" / NAME / "predictions.csv")
    raw, out = workspace / "raw", tmp_path / "rows.csv"
    manifest = pd.read_csv(workspace / "data" / NAME / "prepared" / "manifest.csv").set_index("source_id")
    first = table.iloc[0]
    path = raw / manifest.loc[first["source_id"], "path"]
    assert call("predict", workspace, path, large, "--predict.output", out) == 2
    rows = pd.read_csv(out)
    assert rows["num_slices"].iloc[0] == 6
    assert rows["probability_left"].iloc[0] == pytest.approx(first["probability_left"], abs=1e-5)
    assert "field of view" in rows["reason"].iloc[1]
    assert "large.nii.gz" in rows["reason"].iloc[1]


def test_attention_shows_the_slices_that_carry_an_answer_in_the_scans_own_pixels(workspace):
    assert call("attention", workspace, "--attention.num_examples", 2, "--attention.native_resolution", "true") == 0
    folder = workspace / "reports" / NAME / "attention"
    table = pd.read_csv(folder / "slices.csv")
    assert table.groupby("example_id")["slice_index"].count().tolist() == [6, 6]
    np.testing.assert_allclose(table.groupby("example_id")["attention"].sum(), 1, atol=1e-5)
    page = (folder / "index.html").read_text()
    assert all(name in page for name in table["example_id"])
    assert len(list(folder.glob("filmstrip_*.png"))) == 2
    overlays = sorted(folder.glob("overlays/*_attention.nii.gz"))
    assert len(overlays) == len(list(folder.glob("overlays/*_lost.nii.gz"))) == 2
    manifest = pd.read_csv(workspace / "data" / NAME / "prepared" / "manifest.csv").set_index("source_id")
    for name in table["example_id"].unique():
        scan = nibabel.load(workspace / "raw" / manifest.loc[name, "path"])
        overlay = nibabel.load(folder / "overlays" / f"{name}_attention.nii.gz")
        assert overlay.shape == scan.shape
        np.testing.assert_allclose(overlay.affine, scan.affine, atol=1e-4)
        assert overlay.get_fdata().max() > 0
    found = {path.name: path.read_bytes() for path in (*overlays, *folder.glob("filmstrip_*.png"))}
    changed = ("--preprocess.plane", "axial", "--preprocess.num_slices", 2, "--preprocess.slice_range", "[0.4, 0.6]")
    shown = ("--attention.num_examples", 2, "--attention.native_resolution", "true")
    assert call("attention", workspace, *shown, *changed) == 0
    again = (*folder.glob("overlays/*_attention.nii.gz"), *folder.glob("filmstrip_*.png"))
    assert {path.name: path.read_bytes() for path in again} == found, "scans are cut as they were for the store"


def copy_test_scans(workspace, site, scale=1.0):
    """Write the test scans under other names and patients, in voxels of so many times the size; return the table."""
    table = pd.read_csv(workspace / "reports" / NAME / "predictions.csv")
    manifest = pd.read_csv(workspace / "data" / NAME / "prepared" / "manifest.csv").set_index("source_id")
    rows = ["path,patient,label"]
    for row in table[table["split"] == "test"].itertuples():
        image = nibabel.load(workspace / "raw" / manifest.loc[row.source_id, "path"])
        affine = np.diag([scale, scale, scale, 1.0]) @ image.affine
        path = site / f"{row.source_id}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), path)
        rows.append(f"{path.name},other-{row.group_id},{row.label}")
    (site / "knees.csv").write_text("\n".join(rows))
    return site / "knees.csv"


@pytest.mark.slow
def test_whole_scans_of_another_site_are_scored_as_the_test_and_larger_ones_refused(workspace, tmp_path, capsys):
    plain = ("--evaluate.logistic_regression", "false", "--evaluate.external")
    assert call("evaluate", workspace, *plain, copy_test_scans(workspace, tmp_path / "large", scale=20.0)) == 2
    assert "field of view" in capsys.readouterr().err
    assert call("evaluate", workspace, *plain, copy_test_scans(workspace, tmp_path / "site")) == 0
    metrics = json.loads((workspace / "reports" / NAME / "metrics.json").read_text())
    assert metrics["external"]["levels"] == metrics["levels"]
    assert metrics["external"]["drift"]["distance"] == metrics["external"]["drift"]["test_distance"]
    assert "6 scans also are in the run's test" in metrics["external"]["search"]


@pytest.mark.slow
def test_the_leak_study_splits_whole_scans_by_scan_and_by_patient(workspace):
    options = ("--leak_study.num_steps", 2, "--leak_study.seeds", "[0]", "--evaluate.num_bootstrap_resamples", 100)
    assert call("leak-study", workspace, *options) == 0
    table = pd.read_csv(workspace / "reports" / NAME / "leak_study" / "leak_study.csv")
    assert set(table["division"]) == {"volume", "patient"}
    page = (workspace / "reports" / NAME / "leak_study" / "leak_study.html").read_text()
    assert "two ways to split, by the same fractions: by scan, and by patient" in " ".join(page.split())


@pytest.mark.slow
def test_an_exported_program_takes_scans_of_any_number_of_slices_and_a_hub_folder_answers_a_file(workspace, tmp_path):
    output = tmp_path / "model"
    assert call("export", workspace, "--export.output", output, "--export.formats", "[torch,hub]") == 0
    table = pd.read_csv(workspace / "reports" / NAME / "predictions.csv").set_index("example_id")
    store = read_store(workspace / "data" / NAME / "prepared")
    row = int(np.flatnonzero(store.index["example_id"] == table.index[0])[0])
    expected = pytest.approx(table["probability_left"].iloc[0], abs=1e-5)
    program = torch.export.load(output / "model.pt2").module()
    scan, places = torch.tensor(store.examples[row]), torch.tensor(store.places_mm[row])
    assert float(program(scan[None], places[None])[0, 0].detach()) == expected
    filled = (
        torch.nn.functional.pad(scan, (0, 0, 0, 0, 0, 3)),
        torch.nn.functional.pad(places, (0, 0, 0, 3), value=torch.nan),
    )
    assert float(program(filled[0][None], filled[1][None])[0, 0].detach()) == expected
    record = json.loads((output / "model.json").read_text())
    assert [item["shape"] for item in record["inputs"]] == [["batch", "slices", 16, 16], ["batch", "slices", 3]]
    manifest = pd.read_csv(workspace / "data" / NAME / "prepared" / "manifest.csv").set_index("source_id")
    path = workspace / "raw" / manifest.loc[table["source_id"].iloc[0], "path"]
    assert load_model(output / "hub").predict(path).probabilities["left"] == expected


def test_the_field_of_view_is_kept_in_the_checkpoint_and_holds_every_scan(workspace):
    spec = read_checkpoint(workspace / "runs" / NAME / "best.safetensors").spec
    store = read_store(workspace / "data" / NAME / "prepared")
    assert spec.field_of_view_mm >= 2 * np.nanmax(np.abs(store.places_mm[..., 0]))
    assert spec.field_of_view_mm >= np.nanmax(store.places_mm[..., 1:])
    assert spec.is_sagittal


@pytest.mark.parametrize(
    ("stage", "options", "message"),
    [
        ("attention", ["--attention.layers", "[0]"], "attention.layers"),
        ("pretrain", ["--run", "hidden", "--model.slices", "mean"], "model.slices"),
        ("train", ["--run", "mixed", "--augment.mixup_alpha", "0.2"], "preprocess.unit is volume"),
        ("train", ["--run", "kept", "--train.keep_attention_every_epochs", "1"], "preprocess.unit is volume"),
        ("train", ["--run", "place", "--model.slice_position", "true"], "model.slice_position"),
    ],
)
def test_stages_refuse_in_one_line_what_whole_scans_do_not_have(stage, options, message, workspace, capsys):
    assert call(stage, workspace, *options) == 2
    error = capsys.readouterr().err.strip()
    assert message in " ".join(error.split())
    assert "Traceback" not in error


def test_scans_without_labels_may_have_other_numbers_of_slices_and_no_larger_field_of_view(
    workspace, write_knee, tmp_path, capsys
):
    raw, table = workspace / "raw", tmp_path / "more.csv"
    write_knee(raw / "short.nii.gz", shape=(3, 24, 20), spacing_mm=(6.0, 6.0, 6.0), seed=5)
    write_knee(raw / "large.nii.gz", shape=(20, 24, 20), spacing_mm=(40.0, 40.0, 40.0), seed=6)
    options = ("--run", "more", "--pretrain.unlabelled_table", table, "--pretrain.epochs", 1)
    plain = ("--train.warmup_epochs", 0, "--pretrain.mask_fraction", 0.5)
    table.write_text("path,patient,label\nlarge.nii.gz,new,unknown\n")
    assert call("pretrain", workspace, *options, *plain) == 2
    assert "field of view" in capsys.readouterr().err
    table.write_text("path,patient,label\nshort.nii.gz,new,unknown\n")
    assert call("pretrain", workspace, *options, *plain) == 0
    store = read_store(workspace / "data" / NAME / "prepared")
    roles = pd.read_csv(workspace / "data" / NAME / "splits.csv", dtype=str).set_index("group_id")["split"]
    num_train = int((store.index["group_id"].map(roles) == "train").sum())
    assert f"{num_train + 1} volumes to learn from" in capsys.readouterr().out


def test_scans_of_several_sizes_and_turns_are_one_store_and_images_without_positions_are_refused(
    write_knee, tmp_path, capsys
):
    raw = tmp_path / "raw"
    rows = []
    for patient, (shape, spacing, axes) in enumerate(
        [
            ((5, 12, 12), (8.0, 4.0, 4.0), "RAS"),
            ((1, 12, 12), (8.0, 4.0, 4.0), "RAS"),
            ((9, 12, 10), (3.0, 5.0, 6.0), "PIR"),
        ]
    ):
        path = write_knee(
            raw / f"knee{patient}.nii.gz", shape=shape, spacing_mm=spacing, stored_axes=axes, seed=patient
        )
        rows.append(f"{path.name},{patient},left")
    (tmp_path / "labels.csv").write_text("path,patient,label\n" + "\n".join(rows) + "\n")
    options = {
        "data": {"raw_folder": str(raw), "label_table": str(tmp_path / "labels.csv")},
        "preprocess": {"unit": "volume", "plane": "sagittal", "slice_range": [0.0, 1.0], "image_size": [8, 8]},
    }
    (tmp_path / f"{NAME}.yaml").write_text(yaml.safe_dump({"name": NAME, **options}))
    assert call("preprocess", tmp_path, "--preprocess.num_workers", 1) == 0
    store = read_store(tmp_path / "data" / NAME / "prepared")
    assert (~np.isnan(store.places_mm[..., 0])).sum(axis=1).tolist() == [5, 1, 9]
    assert store.places_mm[0, :5, 0].tolist() == [-16, -8, 0, 8, 16]
    assert store.places_mm[1, 0].tolist() == [0, 48, 48]
    assert store.places_mm[2, :, 0].tolist() == pytest.approx(np.arange(-12, 13, 3))
    assert store.places_mm[2, 0, 1:].tolist() == [60, 60]
    assert store.examples[0, 5:].max() == 0
    assert store.as_slices().index["example_id"].tolist()[4:7] == [
        f"knee{scan}.nii.gz_{index}" for scan, index in ((0, 4), (1, 0), (2, 0))
    ]
    np.testing.assert_array_equal(store.as_slices().examples[6:], store.examples[2])
