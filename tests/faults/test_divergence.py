"""A loss that is no number ends training with its step, its examples and the last good checkpoint."""

import contextlib
import dataclasses
import io
import re

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from pipeline.core.errors import UserError
from pipeline.core.files import read_json
from pipeline.data.store import read_store, write_store
from pipeline.models.networks import SliceModel
from pipeline.stages.split import split
from pipeline.studies.leak_study import NO_CHANGES
from pipeline.training.checkpoint import read_checkpoint
from tests.builders import training_runs as training
from tests.builders.several_processes import make, run_processes, run_train_stage, with_devices


@contextlib.contextmanager
def spoil(epoch: int):
    """Make the loss of a step NaN: that in which the model sees the one white image for so many a time."""
    seen = 0

    def spoil_logits(module, arguments, logits):
        nonlocal seen
        if not isinstance(module, SliceModel) or not module.training:
            return None
        if (arguments[0].flatten(1).std(dim=1) == 0).any():
            seen += 1
            return logits * torch.nan if seen == epoch else None
        return None

    handle = torch.nn.modules.module.register_module_forward_hook(spoil_logits)
    try:
        yield
    finally:
        handle.remove()


def train_spoiled(experiment) -> str:
    with spoil(epoch=3):
        return run_train_stage(experiment)


def make_white(experiment):
    """Make one training image white, and leave images as they are, so that it can be recognised."""
    paths = experiment.paths
    store = read_store(paths.prepared)
    roles = pd.read_csv(paths.splits, dtype=str).set_index("group_id")["split"]
    row = np.flatnonzero((store.index["group_id"].map(roles) == "train").to_numpy())[5]
    images = np.array(store.examples)
    images[row] = 255
    write_store(paths.prepared, [images], store.index, store.settings)
    split(experiment, Console(file=io.StringIO()))
    return dataclasses.replace(experiment, augment=NO_CHANGES), store.index["example_id"][row]


def check_end(experiment, message: str, white: str, batch_size: int) -> None:
    paths = experiment.paths
    found = re.fullmatch(
        r"training: the loss became nan at epoch 3, step (\d+)\. The checkpoint of epoch 2 is kept\. .* Its (\d+) "
        rf"examples, such as knee\S+, are listed in {paths.divergence}\.",
        message,
    )
    assert found, message
    example_ids = read_json(paths.divergence)["example_ids"]
    assert white in example_ids
    assert len(set(example_ids)) == len(example_ids) == int(found[2]) <= batch_size
    assert read_checkpoint(paths.last_checkpoint).epoch == 2


def test_a_loss_that_is_nan_names_step_and_examples_and_keeps_the_last_good_checkpoint(tmp_path):
    whole, _ = make_white(training.make_experiment(tmp_path / "whole"))
    training.run(whole)
    experiment, white = make_white(training.make_experiment(tmp_path / "spoiled"))
    with spoil(epoch=3), pytest.raises(UserError) as error:
        training.run(experiment)
    check_end(experiment, str(error.value), white, experiment.train.batch_size)
    assert "after epoch 2" in training.run(experiment)
    assert not experiment.paths.divergence.exists()
    for name in ("best_checkpoint", "last_checkpoint"):
        assert training.read_weights(getattr(experiment.paths, name)) == training.read_weights(
            getattr(whole.paths, name)
        )


@pytest.mark.slow
def test_several_processes_tell_the_same_of_a_loss_that_is_nan_in_one(tmp_path):
    experiment, white = make_white(make(tmp_path))
    messages = run_processes(2, train_spoiled, with_devices(experiment, 2))
    assert messages[0] == messages[1]
    check_end(experiment, messages[0].removeprefix("error: "), white, experiment.train.batch_size)
