"""A model of a study is that of its best epoch, with the weights that were validated."""

import re

import pytest
import torch

from pipeline.data.certified_data import load_certified_data
from pipeline.studies.kept_models import train_best
from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.devices.fabric import build_fabric
from pipeline.training.loop.epochs import DivergenceError
from pipeline.training.setup import prepare_training
from tests.builders.training_runs import make_experiment, run, with_train


def test_the_weights_are_those_that_the_train_stage_keeps(tmp_path):
    experiment = with_train(make_experiment(tmp_path), epochs=3, average_decay=0.9)
    run(experiment)
    kept = read_checkpoint(experiment.paths.best_checkpoint)
    setup = prepare_training(experiment, build_fabric(experiment.train), load_certified_data(experiment))
    classifier, history = train_best(setup, lambda result: None)
    assert len(history) == 3
    found = classifier.model.state_dict()
    assert found.keys() == kept.weights.keys()
    for name, value in kept.weights.items():
        assert torch.equal(found[name], value), name


def test_a_loss_that_is_nan_in_memory_names_no_checkpoint(tmp_path):
    experiment = with_train(make_experiment(tmp_path), learning_rate=1e30, epochs=2)
    setup = prepare_training(experiment, build_fabric(experiment.train), load_certified_data(experiment))
    with pytest.raises(DivergenceError) as error:
        train_best(setup, lambda result: None)
    assert re.fullmatch(
        r"training: the loss became \S+ at epoch 1, (step \d+|validation)\. "
        r"Lower train\.learning_rate \(now 1e\+30\), .*",
        str(error.value),
    )
