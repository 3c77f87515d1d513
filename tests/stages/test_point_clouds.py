"""Point clouds go from files to a report by the command line, in both forms that ModelNet40 has."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from pipeline.attention.storage import read_maps
from pipeline.cli import main
from pipeline.data.store import read_store
from pipeline.datasets.modelnet40 import turn_z_up
from pipeline.datasets.primitives import SOLIDS, build_solid, make_primitives, write_off
from pipeline.formats.point_clouds import read_off_points
from pipeline.inference.probabilities import compute_probabilities
from pipeline.training.checkpoint import build_from_checkpoint, read_checkpoint

CLASSES = ("box", "torus")
CONFIG = {
    "name": "tiny_points",
    "split": {"val_fraction": 0.25},
    "model": {
        "num_points": 64,
        "perceiver": {
            "num_latents": 4,
            "latent_dim": 16,
            "num_cross_attends": 1,
            "self_attends_per_cross": 1,
            "num_bands": 4,
            "max_freq": [8.0, 8.0, 8.0],
        },
    },
    "augment": {
        "points": {
            "rotation_degrees": 180.0,
            "jitter_std": 0.01,
            "shift": 0.05,
            "stretch_fraction": 0.1,
            "dropout_fraction": 0.2,
        }
    },
    "train": {"epochs": 2, "batch_size": 6, "precision": "32-true"},
    "evaluate": {"num_bootstrap_resamples": 200},
    "tracking": {"enabled": False},
}


def run(folder, stage, *words):
    return main([stage, *words, "--config", str(folder / "tiny_points.yaml"), "--workspace", str(folder)])


def write_meshes(folder, num_objects):
    for label in CLASSES:
        for split, number in num_objects.items():
            for row in range(number):
                path = folder / label / split / f"{label}_{row:04d}.off"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(write_off(*build_solid(label, split, row), glued=row % 2 == 0))


def write_clouds(folder, meshes):
    """Write the same objects as HDF5 files: points of the surfaces, with y up."""
    folder.mkdir(parents=True)
    (folder / "shape_names.txt").write_text("\n".join(CLASSES))
    for split in ("train", "test"):
        (folder / f"{split}_files.txt").write_text(f"data/ply_data_{split}0.h5\n")
        paths = sorted(meshes.glob(f"*/{split}/*.off"))
        points = np.stack([read_off_points(path, 2048) for path in paths])
        y_up = turn_z_up(turn_z_up(turn_z_up(points)))  # three quarter turns on are one back
        with h5py.File(folder / f"ply_data_{split}0.h5", "w") as file:
            file["data"] = y_up
            file["label"] = np.array([[CLASSES.index(path.parts[-3])] for path in paths], np.uint8)


@pytest.fixture(scope="session", params=["meshes", pytest.param("clouds", marks=pytest.mark.slow)])
def workspace(request, tmp_path_factory):
    """All stages on a few solids, as OFF meshes and as HDF5 files; tests read it and leave it as it is."""
    folder = tmp_path_factory.mktemp(request.param)
    raw = folder / "given"
    config = CONFIG | {"data": {"dataset": "modelnet40", "allow_partial": True, "raw_folder": str(raw)}}
    (folder / "tiny_points.yaml").write_text(yaml.safe_dump(config))
    meshes = raw / "ModelNet40" if request.param == "meshes" else folder / "ModelNet40"
    write_meshes(meshes, {"train": 8, "test": 3})
    if request.param == "clouds":
        write_clouds(raw / "modelnet40_ply_hdf5_2048", meshes)
    for stage in ("fetch", "preprocess", "split", "train", "evaluate"):
        assert run(folder, stage) == 0, stage
    return folder


def test_the_store_holds_the_points_of_the_surfaces_with_z_up(workspace):
    store = read_store(workspace / "data" / "tiny_points" / "prepared")
    assert (store.kind.name, store.examples.dtype, store.examples.shape) == ("points", np.float32, (22, 2048, 3))
    manifest = pd.read_csv(workspace / "data" / "tiny_points" / "prepared" / "manifest.csv")
    for label in CLASSES:
        for split, number in (("train", 8), ("test", 3)):
            paths = sorted(workspace.rglob(f"{label}/{split}/*.off"))
            rows = np.flatnonzero((manifest["label"] == label) & manifest["source_id"].str.startswith(split))
            assert len(rows) == number
            for row, path in zip(rows, paths, strict=True):
                # Turned to y up and back: signs and places change, digits do not.
                np.testing.assert_array_equal(store.examples[row], read_off_points(path, 2048))


def test_test_objects_are_those_of_the_publisher(workspace):
    predictions = pd.read_csv(workspace / "reports" / "tiny_points" / "predictions.csv")
    test = predictions[predictions["split"] == "test"]
    assert set(test["group_id"]) == {f"test-{number:05d}" for number in range(6)}
    assert predictions["split"].value_counts().to_dict() == {"test": 6, "val": 4}
    metrics = json.loads((workspace / "reports" / "tiny_points" / "metrics.json").read_text())
    assert list(metrics["levels"]) == ["object"]
    level = metrics["levels"]["object"]
    assert level["n"] == level["groups"] == 6
    assert level["metrics"]["accuracy"]["value"] == pytest.approx((test["label"] == test["predicted"]).mean())
    assert list(metrics["baselines"]) == ["majority"], "there are no pixels to regress on"


def test_the_report_speaks_of_objects_and_shows_the_wrong_answers(workspace):
    folder = workspace / "reports" / "tiny_points"
    page = (folder / "report.html").read_text()
    assert "This is a part of the published set: 16 of 9,84" in page
    predictions = pd.read_csv(folder / "predictions.csv")
    test = predictions[predictions["split"] == "test"]
    assert (folder / "worst_mistakes.png").is_file() == (test["label"] != test["predicted"]).any()


def test_the_contact_sheet_shows_the_objects(workspace):
    with Image.open(workspace / "data" / "tiny_points" / "prepared" / "contact_sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("L"))
    assert (pixels == 0).sum() > 22 * 10_000  # 22 tiles of 264 x 264 pixels, for the greater part black
    assert (pixels > 200).sum() > 22 * 500


def test_a_second_scoring_gives_the_same_digits(workspace):
    """Test points are the first ones of the store, without any draw."""
    checkpoint = read_checkpoint(workspace / "runs" / "tiny_points" / "best.safetensors")
    classifier = build_from_checkpoint(checkpoint)
    store = read_store(workspace / "data" / "tiny_points" / "prepared")
    arguments = (store.index["slice_position"].to_numpy(), torch.device("cpu"), 5)
    first = compute_probabilities(classifier, store.examples, *arguments)
    torch.manual_seed(1)
    np.testing.assert_array_equal(first, compute_probabilities(classifier, store.examples, *arguments))
    shortened = np.concatenate([store.examples[:, :64], store.examples[:, :1984] + 9], axis=1)
    np.testing.assert_array_equal(first, compute_probabilities(classifier, shortened, *arguments))


def test_predict_gives_the_numbers_of_evaluate_for_meshes_and_arrays(workspace, tmp_path):
    """Whatever form the model was trained on: an OFF file's own points are those of the store."""
    new = tmp_path / "new"
    paths = sorted(workspace.rglob("test/*.off"))
    for path in paths:
        (new / "meshes").mkdir(parents=True, exist_ok=True)
        (new / "meshes" / path.name).write_bytes(path.read_bytes())
        np.save(new / f"{path.stem}.npy", read_off_points(path, 2048) * 40 + 7)
    output = tmp_path / "new.csv"
    assert run(workspace, "predict", str(new), "--predict.output", str(output)) == 0
    table = pd.read_csv(output)
    assert len(table) == 12
    predictions = pd.read_csv(workspace / "reports" / "tiny_points" / "predictions.csv")
    test = predictions[predictions["split"] == "test"].set_index("group_id")
    manifest = pd.read_csv(workspace / "data" / "tiny_points" / "prepared" / "manifest.csv")
    test_rows = manifest[manifest["source_id"].str.startswith("test")].sort_values(["label", "source_id"])
    for source_id, path in zip(test_rows["source_id"], paths, strict=True):
        expected = test.loc[source_id, ["probability_box", "probability_torus"]].to_numpy(float)
        found = table[table["path"].str.contains(path.stem)][["probability_box", "probability_torus"]].to_numpy()
        assert found.shape == (2, 2)
        # Other batch sizes add in another order; the array was scaled and displaced in float32.
        np.testing.assert_allclose(found, np.stack([expected, expected]), atol=1e-4)


def test_predict_names_what_it_cannot_read(workspace, tmp_path, capsys):
    good = next(iter(sorted(workspace.rglob("test/*.off"))))
    (tmp_path / "bad.off").write_text("OFF\n3 1 0\n0 0 0\n")
    np.save(tmp_path / "few.npy", np.zeros((63, 3)))
    np.save(tmp_path / "flat.npy", np.zeros((64, 2)))
    np.save(tmp_path / "nan.npy", np.full((64, 3), np.nan))
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    (tmp_path / "two.npz").rename(tmp_path / "two.npy")
    bad = sorted(str(path) for path in tmp_path.glob("*.*"))
    output = tmp_path / "out" / "new.csv"
    assert run(workspace, "predict", str(good), *bad, "--predict.output", str(output)) == 2
    assert "6 objects were refused" in capsys.readouterr().err
    reasons = pd.read_csv(output)["reason"]
    assert reasons.isna().tolist() == [True, *[False] * 6]
    for reason, expected in zip(
        reasons[1:],
        (
            "bad.off, line 2: 3 corners and 1 faces are announced, more than 16 bytes can hold",
            "few.npy: found (63, 3) of float64, allowed is (points, 3) of numbers with 64 points or more",
            "flat.npy: found (64, 2)",
            "nan.npy: a coordinate is not finite",
            "object.npy: neither an OFF file nor a .npy array of numbers",
            "two.npy: neither an OFF file nor a .npy array of numbers",
        ),
        strict=True,
    ):
        assert expected in reason
    assert run(workspace, "predict", str(workspace / "reports")) == 2
    assert "no file that the model reads (.off, .npy) in this folder" in capsys.readouterr().err


def test_a_resumed_run_draws_what_an_undisturbed_one_draws(workspace, tmp_path):
    histories = []
    for parts in ((3,), (1, 3)):
        for epochs in parts:
            words = ("--run", f"parts-{len(parts)}", "--train.epochs", str(epochs), "--train.schedule", "constant")
            assert run(workspace, "train", *words) == 0
        checkpoint = read_checkpoint(workspace / "runs" / "tiny_points" / f"parts-{len(parts)}" / "last.safetensors")
        histories.append([(result.train_loss, result.val_loss) for result in checkpoint.history])
    assert histories[0] == histories[1]


@pytest.mark.slow
def test_the_solids_are_learned(tmp_path):
    """From nothing, with the config as it is: minutes on two cores."""
    config = Path(__file__).parents[2] / "configs" / "primitives.yaml"
    for stage in ("fetch", "preprocess", "split", "train", "evaluate"):
        assert main([stage, "--config", str(config), "--workspace", str(tmp_path), "--tracking.enabled", "false"]) == 0
    metrics = json.loads((tmp_path / "reports" / "primitives" / "metrics.json").read_text())
    assert metrics["levels"]["object"]["n"] == 500
    assert metrics["levels"]["object"]["metrics"]["accuracy"]["value"] >= 0.95
    assert "synthetic" in (tmp_path / "reports" / "primitives" / "report.html").read_text()


@pytest.mark.slow
def test_solids_are_read_as_a_data_set_of_their_own(tmp_path):
    make_primitives(tmp_path / "given", Console(quiet=True), {"train": 2, "test": 1})
    data = {"dataset": "primitives", "raw_folder": str(tmp_path / "given")}
    (tmp_path / "tiny_points.yaml").write_text(yaml.safe_dump(CONFIG | {"data": data}))
    assert run(tmp_path, "preprocess") == 0
    store = read_store(tmp_path / "data" / "tiny_points" / "prepared")
    assert store.class_names == tuple(SOLIDS)
    assert store.examples.shape == (3 * len(SOLIDS), 2048, 3)
    assert store.missing == ""


def test_attention_is_drawn_over_the_points_that_are_read(workspace, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(workspace, folder)
    assert run(folder, "attention", "--attention.num_examples", "2") == 0
    maps = read_maps(folder / "reports" / "tiny_points" / "attention" / "maps.npz")
    assert maps.examples.shape == (2, 64, 3)
    assert maps.weights.shape == (2, 1, 1, 1, 64)
    np.testing.assert_allclose(maps.weights.sum(axis=-1), 1, rtol=1e-5)
    assert run(folder, "compare") == 0
    page = (folder / "reports" / "tiny_points" / "comparison.html").read_text()
    assert "Test inputs" in page
    assert "Only 6 objects tested" in page
