"""Pretraining on hidden squares, trainings that start from it, and scans without labels."""

import dataclasses
import io
import shutil

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from pipeline.cli import main
from pipeline.config.experiment import Experiment
from pipeline.core.errors import UserError
from pipeline.core.files import read_json
from pipeline.data.store import read_store, write_store
from pipeline.stages.split import split
from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.seen_patients import UNLABELLED
from tests.builders.training_runs import (
    Cut,
    check_same,
    list_weights,
    make_experiment,
    run,
    run_pretraining,
    with_train,
)


def make_pretrained(workspace, **options) -> Experiment:
    experiment = with_train(make_experiment(workspace), epochs=2)
    pretraining = dataclasses.replace(experiment.pretrain, epochs=2, mask_fraction=0.5, **options)
    return dataclasses.replace(experiment, pretrain=pretraining)


def find_paths(experiment: Experiment):
    return dataclasses.replace(experiment, run="pretraining").paths


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Experiment:
    experiment = make_pretrained(tmp_path_factory.mktemp("pretrained"))
    run_pretraining(experiment)
    return experiment


def test_a_pretraining_has_its_losses_and_is_not_done_twice(pretrained):
    paths = find_paths(pretrained)
    losses = pd.read_csv(paths.history)
    assert list(losses["epoch"]) == [1, 2]
    assert read_json(paths.training_record)["seconds"] == pytest.approx(losses["seconds"].sum())
    assert "already pretrained; nothing to do" in run_pretraining(pretrained)
    # Options of training that pretraining does not read may change.
    assert "already pretrained" in run_pretraining(with_train(pretrained, epochs=9, label_smoothing=0.1))
    longer = dataclasses.replace(pretrained.pretrain, epochs=3)
    with pytest.raises(UserError, match=r"pretrain\.epochs was 2, is 3"):
        run_pretraining(dataclasses.replace(pretrained, pretrain=longer))


def test_an_interrupted_pretraining_ends_with_the_same_bytes(pretrained, tmp_path):
    experiment = make_pretrained(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_pretraining(experiment, Cut("epoch 1/2"))
    assert "resuming after epoch 1" in run_pretraining(experiment)
    check_same(find_paths(experiment), find_paths(pretrained))
    first, second = (pd.read_csv(find_paths(each).history)["loss"] for each in (experiment, pretrained))
    assert list(first) == list(second)


def test_images_of_validation_and_test_leave_no_trace(pretrained, tmp_path):
    experiment = make_pretrained(tmp_path)
    paths = experiment.paths
    store = read_store(paths.prepared)
    roles = pd.read_csv(paths.splits, dtype=str).set_index("group_id")["split"]
    is_held_out = (store.index["group_id"].map(roles) != "train").to_numpy()
    images = np.array(store.examples)
    images[is_held_out] = 255 - images[is_held_out]
    write_store(paths.prepared, [images], store.index, store.settings)
    split(experiment, Console(file=io.StringIO()))
    run_pretraining(experiment)
    best = find_paths(experiment).best_checkpoint
    assert list_weights(best) == list_weights(find_paths(pretrained).best_checkpoint)


def test_pretrained_weights_answer_nothing(pretrained):
    path = find_paths(pretrained).best_checkpoint
    with pytest.raises(UserError, match=r"pretrained weights, which know no class yet"):
        read_checkpoint(path)
    assert read_checkpoint(path, is_start=True).heads == {}


def test_training_starts_from_pretrained_weights_with_a_new_last_layer(pretrained):
    path = find_paths(pretrained).best_checkpoint
    started = dataclasses.replace(pretrained, run="started")
    run(with_train(started, start_from=str(path), learning_rate=1e-30))
    checkpoint, before = read_checkpoint(started.paths.best_checkpoint), read_checkpoint(path, is_start=True).weights
    assert "the last layer is new" in checkpoint.settings["start"]
    for name in ("network.perceiver.latents", "network.perceiver.cross_layers.0.attention.to_query.weight"):
        assert (checkpoint.weights[name] - before[name]).abs().max() < 1e-6
    new = run(with_train(dataclasses.replace(pretrained, run="new"), learning_rate=1e-30))
    assert "best epoch" in new
    drawn = read_checkpoint(dataclasses.replace(pretrained, run="new").paths.best_checkpoint).weights
    assert (drawn["network.perceiver.latents"] - before["network.perceiver.latents"]).abs().max() > 1e-4


def test_a_training_with_hidden_squares_that_was_interrupted_ends_with_the_same_bytes(tmp_path):
    experiments = [make_pretrained(tmp_path / name) for name in ("whole", "interrupted")]
    whole, interrupted = (with_train(experiment, auxiliary_weight=0.5) for experiment in experiments)
    run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(interrupted, Cut("epoch 1/2"))
    run(interrupted)
    check_same(interrupted.paths, whole.paths)
    settings = read_checkpoint(whole.paths.best_checkpoint).settings
    assert (settings["train.auxiliary_weight"], settings["pretrain.mask_fraction"]) == (0.5, 0.5)
    assert read_checkpoint(whole.paths.best_checkpoint).heads == {}


def test_scans_without_labels_are_read_but_for_those_of_validation_and_test(tiny_workspace, tmp_path, capsys):
    tiny_workspace = shutil.copytree(tiny_workspace, tmp_path / "workspace")
    manifest = pd.read_csv(tiny_workspace / "data/tiny/prepared/manifest.csv", dtype=str)
    roles = pd.read_csv(tiny_workspace / "data/tiny/splits.csv", dtype=str).set_index("group_id")["split"]
    rows = manifest.assign(split=manifest["group_id"].map(roles)).drop_duplicates("group_id").set_index("split")
    table = tmp_path / "more.csv"
    words = ["--config", str(tiny_workspace / "tiny.yaml"), "--workspace", str(tiny_workspace), "--pretrain.epochs=1"]
    words += ["--pretrain.unlabelled_table", str(table), "--pretrain.mask_fraction=0.5", "--train.warmup_epochs=0"]

    def pretrain_with(split_name: str, patient: str | None) -> tuple[int, str]:
        row = rows.loc[[split_name]].iloc[0]
        table.write_text(f"path,patient,label\n{row['path']},{patient or row['group_id']},unknown\n")
        code = main(["pretrain", *words])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    code, text = pretrain_with("test", None)
    assert code == 2
    assert "1 patient of validation or test" in text
    tested = rows.loc[["test"]].iloc[0]["group_id"]
    code, text = pretrain_with("train", f"0{tested}")
    assert code == 2
    assert f"such as 0{tested}, who may be {tested}, which differs only in leading zeros (test)" in text
    code, text = pretrain_with("val", "new name")
    assert code == 2
    assert "are copies of scans of validation or test" in text
    code, text = pretrain_with("train", "new name")
    assert code == 0, text
    num_train = (read_store(tiny_workspace / "data/tiny/prepared").index["group_id"].map(roles) == "train").sum()
    assert f"{num_train + 4} slices to learn from" in text
    assert UNLABELLED in read_checkpoint(tiny_workspace / "runs/tiny/pretraining/best.safetensors", True).settings
