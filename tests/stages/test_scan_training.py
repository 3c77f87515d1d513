"""Trainings on whole scans of 1 to 6 slices: interrupted, compiled, taught, and started from other weights."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.config.model import CnnConfig
from pipeline.core.errors import UserError
from pipeline.core.files import read_json
from pipeline.data.batches import read_batches
from pipeline.data.certified_data import load_certified_data
from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.devices.fabric import build_fabric
from pipeline.training.seen_patients import SAME, START_PATIENTS, TEACHER_PATIENTS
from pipeline.training.setup import prepare_training
from tests.builders.bright_halves import STILL
from tests.builders.scan_runs import MOST_SLICES, SCAN_MODELS, make_scans
from tests.builders.several_processes import read_history
from tests.builders.training_runs import Cut, check_same, read_weights, run, run_pretraining, with_train

SOME_ARE_SLOW = [name if name == "joint" else pytest.param(name, marks=pytest.mark.slow) for name in SCAN_MODELS]


def name_run(experiment, name, **options):
    return with_train(dataclasses.replace(experiment, run=name), **options)


@pytest.mark.parametrize("name", SOME_ARE_SLOW)
def test_a_training_on_scans_that_was_interrupted_ends_with_the_same_bytes(name, tmp_path):
    whole = make_scans(tmp_path, name, input_fraction=0.5)
    cut = name_run(whole, "cut")
    run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(cut, Cut("epoch 2/3"))
    assert "after epoch 2" in run(cut)
    for path in ("best_checkpoint", "last_checkpoint"):
        assert read_weights(getattr(cut.paths, path)) == read_weights(getattr(whole.paths, path))
    assert read_history(cut).equals(read_history(whole))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "how"), [("joint", "default"), ("joint", "graphs"), ("slices of a cnn", "graphs"), ("3-d cnn", "default")]
)
def test_a_compiled_model_of_scans_learns_what_the_other_one_learns(name, how, tmp_path):
    """A compiler fuses sums, which changes float32 rounding; with graphs all batches have one number of slices."""
    # Of a part of the slices a processor names no more than there are, so that each batch would be another graph.
    fraction = 1.0 if how == "graphs" else 0.5
    plain = make_scans(tmp_path, name, epochs=2, input_fraction=fraction, learning_rate=0.002)
    torch.compiler.reset()  # it refuses to compile a method for more than eight models
    compiled = name_run(plain, "compiled", compile=how)
    run(plain)
    run(compiled)
    found, expected = read_history(compiled), read_history(plain)
    np.testing.assert_allclose(found.to_numpy(), expected.to_numpy(), rtol=1e-3)


def test_batches_of_graphs_have_the_slices_of_the_largest_scan(tmp_path):
    def count_slices(how):
        experiment = make_scans(tmp_path / how, compile=how)
        setup = prepare_training(experiment, build_fabric(experiment.train), load_certified_data(experiment))
        examples = setup.train_examples
        shortest = (~examples.slice_position[..., 0].isnan()).sum(dim=1).argsort()[:1]
        batch = next(read_batches(examples, [shortest]))
        assert batch.images.shape[:2] == batch.slice_position.shape[:2]
        return batch.images.shape[1]

    assert count_slices("graphs") == MOST_SLICES
    assert count_slices("default") == 1


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A Perceiver of scans, with what a 3-D CNN taught it."""
    experiment = make_scans(tmp_path_factory.mktemp("taught"), epochs=2, teacher="cnn", guidance_weight=0.0)
    experiment = dataclasses.replace(
        experiment, model=dataclasses.replace(experiment.model, cnn=CnnConfig(channels=(2, 3)))
    )
    run(experiment)
    return experiment


@pytest.mark.slow
def test_a_cnn_of_scans_teaches_a_perceiver_of_scans(taught):
    assert read_json(taught.paths.training_record)["teacher_seconds"] > 0
    teacher = dataclasses.replace(taught, run="teacher").paths.best_checkpoint
    assert read_checkpoint(teacher).model.architecture == "cnn"
    plain = name_run(taught, "plain", teacher=None)
    silent = name_run(taught, "silent", teacher=str(teacher), distillation_weight=0.0)
    by_path = name_run(taught, "by-path", teacher=str(teacher))
    for each in (plain, silent, by_path):
        run(each)
    weights = {each.run: read_weights(each.paths.best_checkpoint) for each in (taught, plain, silent, by_path)}
    assert weights["silent"] == weights["plain"]
    assert weights["by-path"] == weights[taught.run] != weights["plain"]
    assert read_checkpoint(by_path.paths.best_checkpoint).settings[TEACHER_PATIENTS] == SAME


def test_features_of_a_teacher_of_scans_and_graphs_of_a_3_d_cnn_are_refused(taught):
    with pytest.raises(UserError, match=r"train\.guidance_weight: found 1\.0, allowed is 0: .* images or slices"):
        run(name_run(taught, "guided", guidance_weight=1.0))
    three_d = dataclasses.replace(taught.model, architecture="cnn")
    with pytest.raises(UserError, match=r"train\.compile: found 'graphs', allowed is default or none for a 3-D cnn"):
        run(name_run(dataclasses.replace(taught, model=three_d), "graphs", teacher=None, compile="graphs"))


def test_weights_of_scans_are_the_start_of_another_training_and_a_frozen_backbone_keeps_them(taught):
    start = taught.paths.best_checkpoint
    probe = name_run(taught, "probe", teacher=None, start_from=str(start), freeze="backbone")
    run(probe)
    before, after = read_weights(start), read_weights(probe.paths.last_checkpoint)
    head = "network.perceiver.head."
    assert {name for name, value in after.items() if value != before[name]} == {head + "weight", head + "bias"}
    settings = read_checkpoint(probe.paths.best_checkpoint).settings
    assert settings[START_PATIENTS] == SAME
    assert "field of view" not in settings["start"]
    pooled = dataclasses.replace(name_run(probe, "other"), model=SCAN_MODELS["slices of a cnn"])
    with pytest.raises(UserError, match=r"train\.start_from: .* has the architecture perceiver, this experiment cnn"):
        run(pooled)


def name_pretraining(experiment, name):
    return dataclasses.replace(experiment, run=name), dataclasses.replace(experiment, run=f"{name}-pretraining").paths


@pytest.mark.parametrize("name", ["joint", "joined"])
def test_a_pretraining_on_scans_that_was_interrupted_ends_with_the_same_bytes_and_is_a_start(name, tmp_path):
    experiment = make_scans(tmp_path, name, epochs=1, auxiliary_weight=0.5)
    options = dataclasses.replace(experiment.pretrain, epochs=2, mask_fraction=0.5)
    experiment = dataclasses.replace(experiment, pretrain=options)
    (whole, paths), (cut, others) = (name_pretraining(experiment, run_name) for run_name in ("whole", "cut"))
    run_pretraining(whole)
    with pytest.raises(KeyboardInterrupt):
        run_pretraining(cut, Cut("epoch 1/2"))
    assert "12 volumes to learn from; resuming after epoch 1" in run_pretraining(cut)
    check_same(others, paths)
    started = name_run(experiment, "started", start_from=str(paths.best_checkpoint), learning_rate=1e-30)
    run(started)
    settings = read_checkpoint(started.paths.best_checkpoint).settings
    assert "the last layer is new" in settings["start"]
    before = read_checkpoint(paths.best_checkpoint, is_start=True).weights["network.perceiver.latents"]
    after = read_checkpoint(started.paths.best_checkpoint).weights["network.perceiver.latents"]
    assert (after - before).abs().max() < 1e-6


@pytest.mark.slow
def test_a_training_on_scans_with_hidden_squares_that_was_interrupted_ends_with_the_same_bytes(tmp_path):
    whole = make_scans(tmp_path, epochs=2, auxiliary_weight=0.5, input_fraction=0.5)
    cut, plain = name_run(whole, "cut"), name_run(whole, "plain", auxiliary_weight=0.0)
    run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(cut, Cut("epoch 1/2"))
    run(cut)
    check_same(cut.paths, whole.paths)
    run(plain)
    assert read_weights(plain.paths.last_checkpoint) != read_weights(whole.paths.last_checkpoint)


@pytest.mark.slow
def test_pretraining_learns_what_hidden_squares_of_scans_show(tmp_path):
    """The bright half of a slice is the same in all slices: an untrained decoder is off by about 1."""
    experiment = make_scans(tmp_path, epochs=1, batch_size=4, warmup_epochs=0)
    options = dataclasses.replace(experiment.pretrain, epochs=30, mask_fraction=0.5, learning_rate=0.01)
    experiment = dataclasses.replace(experiment, pretrain=options, augment=STILL)
    run_pretraining(experiment)
    losses = pd.read_csv(dataclasses.replace(experiment, run="pretraining").paths.history)["loss"]
    assert losses.iloc[-5:].mean() < 0.9 * losses.iloc[0]
