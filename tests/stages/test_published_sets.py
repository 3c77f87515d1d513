"""All stages from the files of a published set to a report and to new images, on the command line alone."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from pipeline.cli import main
from pipeline.core.data_kinds import IMAGES
from pipeline.data.store import read_store

MODEL = {
    "stem": "patches",
    "patch_size": 4,
    "perceiver": {"num_latents": 4, "latent_dim": 16, "num_cross_attends": 1, "self_attends_per_cross": 1},
}
CONFIG = {
    "split": {"val_count": 20},
    "model": MODEL,
    "train": {"epochs": 2, "batch_size": 16, "precision": "32-true"},
    "evaluate": {"num_bootstrap_resamples": 200, "logistic_regression_examples": 30},
    "tracking": {"enabled": False},
}


def run(folder, stage, *words):
    return main([stage, "--config", str(folder / "set.yaml"), "--workspace", str(folder), *words])


@pytest.fixture(scope="module", params=["mnist", pytest.param("cifar100", marks=pytest.mark.slow)])
def workspace(request, tmp_path_factory, write_mnist, write_cifar):
    folder = tmp_path_factory.mktemp(request.param)
    raw = folder / "given"
    if request.param == "mnist":
        write_mnist(raw)
    else:
        write_cifar(raw, num_classes=100, num_train=300, num_test=40)
    data = {"dataset": request.param, "raw_folder": str(raw), "allow_partial": True}
    config = {"name": "set", "data": data} | CONFIG
    if request.param == "cifar100":
        config["split"] = {"val_count": 100}
    (folder / "set.yaml").write_text(yaml.safe_dump(config))
    for stage in ("fetch", "preprocess", "split", "train", "evaluate"):
        assert run(folder, stage) == 0, stage
    return folder


def test_there_is_one_level_and_it_is_named_after_what_was_tested(workspace):
    report = workspace / "reports" / "set"
    metrics = json.loads((report / "metrics.json").read_text())
    assert list(metrics["levels"]) == ["image"]
    level = metrics["levels"]["image"]
    table = pd.read_csv(report / "predictions.csv", dtype={"label": str, "predicted": str})
    test = table[table["split"] == "test"]
    assert level["n"] == level["groups"] == len(test)
    assert test["group_id"].str.startswith("test-").all()
    assert not table.loc[table["split"] == "val", "group_id"].str.startswith("test-").any()
    accuracy = (test["label"] == test["predicted"]).mean()
    assert level["metrics"]["accuracy"]["value"] == pytest.approx(accuracy)
    assert set(metrics["baselines"]) == {"majority", "logistic_regression"}


def test_the_report_speaks_of_images_and_says_what_is_missing(workspace):
    page = (workspace / "reports" / "set" / "report.html").read_text()
    for word in ("patient", "slice of", "slices of", "volume", "diagnosis", "scan"):
        assert word not in page.split("<h3>Configuration</h3>")[0].split("<style>")[1].split("</style>")[1], word
    assert "This is a part of the published set" in page
    assert "The logistic regression was fitted on 30 of" in page


@pytest.mark.slow
def test_the_baseline_is_fitted_on_as_many_images_as_the_config_says(workspace):
    checkpoint = str(workspace / "runs" / "set" / "best.safetensors")
    words = ("--run", "whole", "--evaluate.checkpoint", checkpoint, "--evaluate.logistic_regression_examples", "2000")
    assert run(workspace, "evaluate", *words) == 0
    folders = (workspace / "reports" / "set", workspace / "reports" / "set" / "whole")
    part, whole = (json.loads((folder / "metrics.json").read_text()) for folder in folders)
    assert part["levels"] == whole["levels"]
    losses = [metrics["baselines"]["logistic_regression"]["nll"]["value"] for metrics in (part, whole)]
    assert losses[0] != losses[1]
    assert "was fitted on" not in (folders[1] / "report.html").read_text()


def test_a_set_whose_folder_moved_is_not_read_again(workspace, capsys):
    given, moved = workspace / "given", workspace / "moved"
    given.rename(moved)
    assert run(workspace, "preprocess", "--data.raw_folder", str(moved)) == 0
    moved.rename(given)
    assert "up to date; nothing to do" in capsys.readouterr().out


def test_statistics_come_from_the_train_rows_alone(workspace):
    from pipeline.training.checkpoint import read_checkpoint

    store = read_store(workspace / "data" / "set" / "prepared")
    splits = pd.read_csv(workspace / "data" / "set" / "splits.csv").set_index("group_id")["split"]
    rows = (store.index["group_id"].map(splits) == "train").to_numpy()
    pixels = store.examples[rows] / 255
    axes = (0, 1, 2) if pixels.ndim == 3 else (0, 2, 3)
    checkpoint = read_checkpoint(workspace / "runs" / "set" / "best.safetensors")
    assert checkpoint.spec.kind == IMAGES
    assert checkpoint.mean == pytest.approx(np.atleast_1d(pixels.mean(axis=axes)), rel=1e-9)
    assert checkpoint.std == pytest.approx(np.atleast_1d(pixels.std(axis=axes)), rel=1e-9)


def save(path, image):
    png = Image.fromarray(image if image.ndim == 2 else image.transpose(1, 2, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    png.save(path)
    return path


def test_predict_gives_the_numbers_of_evaluate(workspace, tmp_path):
    store = read_store(workspace / "data" / "set" / "prepared")
    names = store.index["example_id"]
    for row in np.flatnonzero(names.str.startswith("test-"))[:7]:
        save(tmp_path / "new" / f"{names[row]}.png", np.array(store.examples[row]))
    output = tmp_path / "new.csv"
    # Batches of three: the last one holds a single image.
    words = ("--predict.output", str(output), "--evaluate.batch_size", "3")
    assert run(workspace, "predict", str(tmp_path / "new"), *words) == 0
    new = pd.read_csv(output, dtype={"predicted": str})
    scored = pd.read_csv(workspace / "reports" / "set" / "predictions.csv", dtype={"predicted": str})
    scored = scored.set_index("example_id")
    assert len(new) == 7
    assert new["reason"].isna().all()
    for _, row in new.iterrows():
        expected = scored.loc[row["path"].rpartition("/")[2].removesuffix(".png")]
        assert row["predicted"] == expected["predicted"]
        for name in store.class_names:
            # Batches of other sizes may add in another order; nothing else differs.
            assert row[f"probability_{name}"] == pytest.approx(expected[f"probability_{name}"], abs=1e-5)


def test_images_that_the_model_cannot_read_are_refused_and_the_others_scored(workspace, tmp_path, capsys):
    store = read_store(workspace / "data" / "set" / "prepared")
    image = np.array(store.examples[0])
    side = image.shape[-1]
    good = save(tmp_path / "good.png", image)
    large = save(tmp_path / "large.png", np.zeros((side + 1, side), np.uint8))
    deep = tmp_path / "deep.png"
    Image.fromarray(np.zeros((side, side), np.uint16)).save(deep)
    clear = tmp_path / "clear.png"
    Image.fromarray(np.zeros((side, side, 4), np.uint8)).save(clear)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no")
    output = tmp_path / "new.csv"
    files = [str(path) for path in (large, good, deep, clear, bad)]
    assert run(workspace, "predict", *files, "--predict.output", str(output)) == 2
    assert "3 images were refused" in capsys.readouterr().err
    table = pd.read_csv(output)
    assert table["path"].tolist() == files
    assert table["reason"].isna().tolist() == [False, True, False, True, False]  # what is clear is over black
    reasons = table["reason"].tolist()
    assert f"{side + 1} x {side} pixels, the model was trained on {side} x {side}" in reasons[0]
    assert "more than 8 bits" in reasons[2]
    assert "not readable" in reasons[4]
    assert run(workspace, "predict") == 2
    assert "predict: no input. Name files (.png, .jpg, " in capsys.readouterr().err
    assert run(workspace, "predict", str(workspace / "runs")) == 2
    assert "no file that the model reads (.png, .jpg, " in capsys.readouterr().err


def test_colour_is_refused_where_the_model_knows_grey_alone(workspace, tmp_path, capsys):
    store = read_store(workspace / "data" / "set" / "prepared")
    side = store.examples.shape[-1]
    colour = np.zeros((3, side, side), np.uint8)
    colour[0] = 9
    grey = save(tmp_path / "grey.png", np.repeat(colour[:1], 3, axis=0))
    assert run(workspace, "predict", str(grey)) == 0
    save(tmp_path / "colour.png", colour)
    if store.examples.ndim == 3:
        assert run(workspace, "predict", str(tmp_path / "colour.png")) == 2
        assert "in colour, the model was trained on grey images" in capsys.readouterr().err
    else:
        assert run(workspace, "predict", str(tmp_path / "colour.png")) == 0


def test_a_second_run_of_each_stage_does_nothing_and_reports_it(workspace, capsys):
    for stage, sentence in (("fetch", "taken as it is"), ("preprocess", "nothing to do"), ("split", "nothing to do")):
        assert run(workspace, stage) == 0
        assert sentence in capsys.readouterr().out
