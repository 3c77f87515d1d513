"""Trainings that start from another checkpoint, and runs that are extended to more epochs."""

import dataclasses
import io
import shutil

import pandas as pd
import pytest
from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.config.model import CnnConfig, ModelConfig
from pipeline.core.errors import UserError
from pipeline.core.files import read_json
from pipeline.data.store import read_store, write_store
from pipeline.reporting.documents.model_facts import describe_model
from pipeline.reporting.evaluation.notes import describe_unknown_patients
from pipeline.stages.split import split
from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.run_state import EXTENDED
from pipeline.training.seen_patients import KNOWN, SAME, START_PATIENTS, UNKNOWN
from tests.builders.training_runs import Cut, make_experiment, read_weights, run, with_train

HEAD = "network.perceiver.head."


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Experiment:
    experiment = with_train(make_experiment(tmp_path_factory.mktemp("first")), epochs=2)
    run(experiment)
    return experiment


def name_run(experiment: Experiment, name: str, **options) -> Experiment:
    return with_train(dataclasses.replace(experiment, run=name), **options)


def split_again(experiment: Experiment) -> Experiment:
    """Assign the patients to splits by another seed."""
    experiment.paths.splits.unlink()
    other = dataclasses.replace(experiment, split=dataclasses.replace(experiment.split, seed=5))
    split(other, Console(file=io.StringIO()))
    return other


def test_a_linear_probe_keeps_all_weights_but_those_of_the_last_layer(first):
    start = str(first.paths.best_checkpoint)
    probe = name_run(first, "probe", start_from=start, freeze="backbone")
    assert "tensors taken" in run(probe)
    before, after = read_weights(first.paths.best_checkpoint), read_weights(probe.paths.last_checkpoint)
    assert {name for name, value in after.items() if value != before[name]} == {HEAD + "weight", HEAD + "bias"}
    settings = read_checkpoint(probe.paths.best_checkpoint).settings
    assert settings["train.start_from"].startswith("checkpoint ")
    assert settings[START_PATIENTS] == SAME
    assert describe_unknown_patients(settings) == []
    record = read_json(probe.paths.training_record)
    assert settings["start"] in record["start"]
    facts = describe_model(read_checkpoint(probe.paths.best_checkpoint), 10)
    assert "Initial weights of another model" in facts["initialisation"]
    assert "All but the last layer kept them" in facts["initialisation"]


def test_an_interrupted_fine_tuning_ends_with_the_same_bytes(first):
    options = {"start_from": str(first.paths.best_checkpoint), "epochs": 3}
    whole, cut = name_run(first, "whole", **options), name_run(first, "cut", **options)
    run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(cut, Cut("epoch 1/3"))
    assert "resuming after epoch 1" in run(cut)
    assert read_weights(cut.paths.last_checkpoint) == read_weights(whole.paths.last_checkpoint)
    drawn = name_run(first, "drawn", epochs=3)
    run(drawn)
    assert read_weights(drawn.paths.last_checkpoint) != read_weights(whole.paths.last_checkpoint)


def test_a_checkpoint_that_saw_patients_who_are_tested_here_is_refused(first, tmp_path):
    other = split_again(make_experiment(tmp_path))
    with pytest.raises(UserError, match=r"train\.start_from: .* saw \d of those who validate or are tested here"):
        run(with_train(other, start_from=str(first.paths.best_checkpoint)))
    assert not other.paths.training_record.is_file()


def test_a_checkpoint_whose_patients_are_unknown_is_taken_and_the_report_says_so(first, tmp_path):
    foreign = tmp_path / "foreign.safetensors"
    shutil.copy(first.paths.best_checkpoint, foreign)
    other = split_again(make_experiment(tmp_path / "other"))
    run(with_train(other, start_from=str(foreign), epochs=1))
    settings = read_checkpoint(other.paths.best_checkpoint).settings
    assert settings[START_PATIENTS] == UNKNOWN
    assert "started from the weights of another" in describe_unknown_patients(settings)[0]


@pytest.mark.slow
def test_a_chain_over_other_patients_does_not_hide_those_of_its_first_link(first, tmp_path):
    """Of three trainings the third tests patients of the first, and starts from the second, which had others."""
    store = read_store(first.paths.prepared)
    others = make_experiment(tmp_path, name="others")
    others.paths.prepared.mkdir(parents=True)
    index = store.index.assign(group_id="other-" + store.index["group_id"])
    write_store(others.paths.prepared, [store.examples], index, store.settings)
    split(others, Console(file=io.StringIO()))
    second = with_train(others, start_from=str(first.paths.best_checkpoint), epochs=1)
    run(second)
    assert read_checkpoint(second.paths.best_checkpoint).settings[START_PATIENTS] == KNOWN
    third = with_train(split_again(make_experiment(tmp_path / "third")), epochs=1)
    run(with_train(third, start_from=str(second.paths.best_checkpoint)))
    settings = read_checkpoint(third.paths.best_checkpoint).settings
    assert settings[START_PATIENTS] == UNKNOWN
    assert "training patients are not known" in describe_unknown_patients(settings)[0]


def test_another_architecture_and_other_widths_are_refused_by_name(first):
    start = {"start_from": str(first.paths.best_checkpoint)}
    cnn = dataclasses.replace(first, model=ModelConfig(architecture="cnn", cnn=CnnConfig(channels=(4,))))
    with pytest.raises(UserError, match=r"train\.start_from: .* architecture perceiver, this experiment cnn"):
        run(name_run(cnn, "refused", **start))
    wide = dataclasses.replace(first.model.perceiver, latent_dim=12)
    wider = dataclasses.replace(first, model=dataclasses.replace(first.model, perceiver=wide))
    with pytest.raises(UserError, match=r"model\.perceiver\.latent_dim was 8, is 12"):
        run(name_run(wider, "refused", **start))


def test_a_frozen_backbone_without_a_start_is_refused(first):
    with pytest.raises(UserError, match=r"train\.freeze: .*train\.start_from"):
        with_train(first, freeze="backbone")


def test_a_finished_run_that_is_extended_ends_with_the_bytes_of_one_that_was_longer_from_the_start(tmp_path):
    """With a constant learning rate, whether or not the second half was interrupted; and it is recorded."""
    longer = with_train(make_experiment(tmp_path / "longer"), schedule="constant", average_decay=0.5)
    run(longer)
    short = with_train(make_experiment(tmp_path / "short"), schedule="constant", average_decay=0.5, epochs=2)
    run(short)
    extended = with_train(short, epochs=4)
    cut = Cut("epoch 3/4")
    with pytest.raises(KeyboardInterrupt):
        run(extended, cut)
    words = "extended after epoch 2 from 2 to 4 epochs"
    assert f"{words}; the learning rate goes from 2.00e-02 to 2.00e-02" in cut.getvalue()
    run(extended)
    for name in ("best_checkpoint", "last_checkpoint"):
        assert read_weights(getattr(extended.paths, name)) == read_weights(getattr(longer.paths, name))
    histories = [pd.read_csv(experiment.paths.history)["val_loss"].tolist() for experiment in (extended, longer)]
    assert histories[0] == histories[1]
    record = read_json(extended.paths.training_record)
    assert record["extended"] == words
    assert read_checkpoint(extended.paths.best_checkpoint).settings[EXTENDED] == [[2, 2, 4]]
    assert words in describe_model(read_checkpoint(extended.paths.best_checkpoint), 10)["training"]
    assert "already trained; nothing to do" in run(extended)
    with pytest.raises(UserError, match=r"train\.epochs was 4, is 2"):
        run(short)


def test_the_jump_of_a_cosine_is_stated_when_a_run_is_extended(tmp_path):
    short = with_train(make_experiment(tmp_path), epochs=1)
    run(short)
    before = read_checkpoint(short.paths.last_checkpoint).history[-1].learning_rate
    extended = with_train(short, epochs=2)
    said = run(extended)
    assert f"from 1 to 2 epochs; the learning rate goes from {before:.2e} to" in said
    # The best epoch may be an old one; its checkpoint says all the same that more were trained.
    assert read_checkpoint(extended.paths.best_checkpoint).settings[EXTENDED] == [[1, 1, 2]]
