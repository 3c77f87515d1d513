"""All stages on volumes of MedMNIST, each one example, from the file to a report and to new volumes."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from pipeline.cli import main
from pipeline.core.data_kinds import VOXEL_VOLUMES, WHOLE_VOLUMES
from pipeline.data.store import read_store
from pipeline.datasets.medmnist import Variant
from pipeline.datasets.published_scores import PUBLISHED_SCORES
from pipeline.training.checkpoint import read_checkpoint
from tests.builders.published_sets import write_medmnist

CONFIG = {
    "name": "set",
    "model": {
        "stem": "patches",
        "patch_size": 4,
        "perceiver": {"num_latents": 4, "latent_dim": 16, "num_cross_attends": 1, "self_attends_per_cross": 1},
    },
    "train": {"epochs": 1, "batch_size": 16, "precision": "32-true"},
    "evaluate": {"num_bootstrap_resamples": 200},
    "tracking": {"enabled": False},
}


def run(folder, stage, *words):
    return main([stage, "--config", str(folder / "set.yaml"), "--workspace", str(folder), *words])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    write_medmnist(folder / "given", Variant("adrenalmnist3d", 28))
    data = {"dataset": "medmnist3d", "variant": "adrenalmnist3d", "allow_partial": True}
    config = CONFIG | {"data": data | {"raw_folder": str(folder / "given")}}
    (folder / "set.yaml").write_text(yaml.safe_dump(config))
    for stage in ("fetch", "preprocess", "split", "train", "evaluate"):
        assert run(folder, stage) == 0, stage
    return folder


@pytest.mark.slow
def test_each_volume_is_tested_once_on_the_published_rows(workspace):
    store = read_store(workspace / "data" / "set" / "prepared")
    assert store.kind == WHOLE_VOLUMES
    assert store.examples.shape == (64, 28, 28, 28)
    splits = pd.read_csv(workspace / "data" / "set" / "splits.csv")
    assert (splits["group_id"].str.rpartition("-")[0] == splits["split"]).all()
    report = workspace / "reports" / "set"
    metrics = json.loads((report / "metrics.json").read_text())
    assert list(metrics["levels"]) == ["volume"]
    assert metrics["levels"]["volume"]["n"] == metrics["levels"]["volume"]["groups"] == 12
    assert "Validation and test rows are the publisher" in (report / "model_card.md").read_text()


def test_all_slices_have_one_scale_and_may_be_black(workspace):
    store = read_store(workspace / "data" / "set" / "prepared")
    pixels = store.examples[:40] / 255
    assert not pixels[:, -1].any()
    checkpoint = read_checkpoint(workspace / "runs" / "set" / "best.safetensors")
    assert checkpoint.mean == pytest.approx([pixels.mean()] * 28, rel=1e-9)
    assert checkpoint.std == pytest.approx([pixels.std()] * 28, rel=1e-9)


def test_accuracy_and_auc_are_those_of_the_published_evaluation(workspace):
    report = workspace / "reports" / "set"
    table = pd.read_csv(report / "predictions.csv")
    test = table[table["split"] == "test"]
    found = json.loads((report / "metrics.json").read_text())["levels"]["volume"]["metrics"]
    # MedMNIST's evaluator: the second class where its probability is above one half, and the rank of it.
    is_positive, scores = test["label"] == "hyperplasia", test["probability_hyperplasia"]
    assert found["accuracy"]["value"] == pytest.approx(((scores > 0.5) == is_positive).mean())
    assert found["auroc"]["value"] == pytest.approx(roc_auc_score(is_positive, scores))


def test_the_report_has_the_published_scores_and_says_that_the_file_is_another_one(workspace):
    page = (workspace / "reports" / "set" / "report.html").read_text()
    assert "Compared with published scores" in page
    assert all(score.model in page for score in PUBLISHED_SCORES["adrenalmnist3d"])
    assert "adrenalmnist3d.npz is not the published file bit for bit" in page


def test_volumes_are_compared_bit_for_bit_and_no_slices_are_averaged(workspace):
    certificate = json.loads((workspace / "data" / "set" / "leak_certificate.json").read_text())
    assert certificate["copies"]["num_sources"] == 0
    page = (workspace / "reports" / "set" / "report.html").read_text()
    assert "means over its slices" not in page


def test_predict_gives_the_numbers_of_evaluate_and_refuses_other_volumes(workspace, tmp_path, capsys):
    store = read_store(workspace / "data" / "set" / "prepared")
    (tmp_path / "new").mkdir()
    for row in range(60, 64):
        np.save(tmp_path / "new" / f"{store.index['example_id'][row]}.npy", store.examples[row])
    output = tmp_path / "new.csv"
    assert run(workspace, "predict", str(tmp_path / "new"), "--predict.output", str(output)) == 0
    new = pd.read_csv(output)
    scored = pd.read_csv(workspace / "reports" / "set" / "predictions.csv").set_index("example_id")
    expected = scored.loc[[path.rpartition("/")[2].removesuffix(".npy") for path in new["path"]]]
    np.testing.assert_allclose(new["probability_normal"], expected["probability_normal"], atol=1e-5)
    np.save(tmp_path / "large.npy", np.zeros((28, 28, 29), np.uint8))
    np.save(tmp_path / "real.npy", np.zeros((28, 28, 28), np.float32))
    (tmp_path / "bad.npy").write_bytes(b"no")
    for name, reason in (("large", "(28, 28, 29) of uint8"), ("real", "of float32"), ("bad", "no .npy array")):
        assert run(workspace, "predict", str(tmp_path / f"{name}.npy"), "--predict.output", str(output)) == 2
        assert reason in capsys.readouterr().err


def test_another_set_that_is_fetched_into_the_folder_changes_nothing(workspace, capsys):
    write_medmnist(workspace / "given", Variant("nodulemnist3d", 28))
    assert run(workspace, "preprocess") == 0
    assert "up to date; nothing to do" in capsys.readouterr().out


AS_SCANS = ("--name", "scans", "--preprocess.unit", "volume")


def test_volumes_as_scans_have_slices_at_places_in_voxels_and_another_store(workspace):
    assert run(workspace, "preprocess", *AS_SCANS) == 0
    store, channels = (read_store(workspace / "data" / name / "prepared") for name in ("scans", "set"))
    assert store.kind is VOXEL_VOLUMES
    np.testing.assert_array_equal(store.examples, channels.examples)
    assert store.fingerprint != channels.fingerprint
    assert store.places_mm.shape == (64, 28, 3)
    assert store.places_mm[5, :, 0].tolist() == [index - 13.5 for index in range(28)]
    assert (store.places_mm[..., 1:] == 28).all()
    spec = store.input_spec(40)
    assert (spec.num_channels, spec.num_slices, spec.field_of_view_mm, spec.is_sagittal) == (1, 28, 35, False)
    assert spec.stored_shape == (28, 28, 28)


@pytest.mark.slow
def test_one_perceiver_reads_the_slices_of_a_volume_and_predict_gives_its_answers(workspace, tmp_path):
    for stage in ("preprocess", "split", "train", "evaluate", "attention"):
        assert run(workspace, stage, *AS_SCANS) == 0, stage
    store = read_store(workspace / "data" / "scans" / "prepared")
    pixels = store.examples[:40] / 255
    checkpoint = read_checkpoint(workspace / "runs" / "scans" / "best.safetensors")
    assert checkpoint.mean == pytest.approx([pixels.mean()])
    assert "placed in voxels" in (workspace / "reports" / "scans" / "model_card.md").read_text()
    certificate = json.loads((workspace / "data" / "scans" / "leak_certificate.json").read_text())
    assert certificate["copies"]["num_sources"] == 0
    path = tmp_path / f"{store.index['example_id'][63]}.npy"
    np.save(path, store.examples[63])
    output = tmp_path / "new.csv"
    assert run(workspace, "predict", str(path), "--predict.output", str(output), *AS_SCANS) == 0
    scored = pd.read_csv(workspace / "reports" / "scans" / "predictions.csv").set_index("example_id")
    expected = scored.loc[path.stem, "probability_normal"]
    assert pd.read_csv(output)["probability_normal"].tolist() == pytest.approx([expected], abs=1e-5)
