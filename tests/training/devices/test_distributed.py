"""Sharding: a model over several processes learns the same as in one, and leaves the same kind of checkpoint."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from perceiver import PerceiverConfig
from pipeline.config.experiment import Experiment
from pipeline.config.training import TrainConfig
from pipeline.core.console import StageConsole
from pipeline.core.errors import UserError
from pipeline.models.networks import build_model
from pipeline.stages.train import train
from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.devices.distributed import gather
from pipeline.training.devices.fabric import build_fabric
from tests.builders.models import build_spec
from tests.builders.scan_runs import make_scans
from tests.builders.several_processes import (
    CONFIG,
    NUM_VAL,
    TOLERANCE,
    descend,
    make,
    read_history,
    run_processes,
    run_train_stage,
    watch_training,
)

# Layers that share weights, so that one is called several times; batch norms in the stem; nothing drawn by processes.
SHARED = PerceiverConfig(
    num_latents=4,
    latent_dim=16,
    num_cross_attends=3,
    self_attends_per_cross=2,
    num_bands=2,
    weight_sharing="all_but_first",
)


def make_divided(folder, number: int, strategy: str = "fsdp") -> Experiment:
    experiment = make(folder)
    model = dataclasses.replace(experiment.model, stem="conv", num_conv_layers=2, conv_channels=8, perceiver=SHARED)
    train_options = dataclasses.replace(experiment.train, learning_rate=0.002, devices=number, strategy=strategy)
    return dataclasses.replace(experiment, model=model, train=train_options)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Experiment:
    """One process, which shards nothing."""
    experiment = make_divided(tmp_path_factory.mktemp("alone"), 1)
    run_train_stage(experiment)
    return experiment


def compare(found: Experiment, expected: Experiment) -> None:
    """Up to sums in another order; Adam divides by gradients, so where these are near 0 a weight moves otherwise."""
    pd.testing.assert_frame_equal(read_history(found), read_history(expected), rtol=1e-4, atol=1e-6)
    for name in ("best_checkpoint", "last_checkpoint"):
        one, other = (read_checkpoint(getattr(experiment.paths, name)) for experiment in (found, expected))
        assert list(one.weights) == list(other.weights)
        for key, value in other.weights.items():
            assert one.weights[key].dtype == value.dtype
            np.testing.assert_allclose(one.weights[key], value, rtol=1e-3, atol=5e-5, err_msg=key)
    assert one.optimizer.groups == other.optimizer.groups
    assert list(one.optimizer.tensors) == list(other.optimizer.tensors)
    for key, value in other.optimizer.tensors.items():
        scale = float(value.abs().max())
        np.testing.assert_allclose(one.optimizer.tensors[key], value, rtol=1e-3, atol=2e-3 * scale, err_msg=key)


def test_two_processes_with_a_shard_each_learn_what_one_does_though_one_has_fewer_validation_batches():
    """By plain gradient descent: Adam and clipping would hide gradients that are too large or too small."""
    config = dataclasses.replace(CONFIG, batch_size=4, max_grad_norm=None)
    (alone,) = run_processes(1, watch_training, config)
    first, second = run_processes(2, watch_training, dataclasses.replace(config, devices=2, strategy="fsdp"))
    assert -(-(NUM_VAL - NUM_VAL // 2) // 4) == 2, "validation batches of the first process"
    assert -(-(NUM_VAL // 2) // 4) == 1, "validation batches of the second one"
    for part in (first, second):
        for found, wanted in zip(part.numbers, alone.numbers, strict=True):
            assert found == pytest.approx(wanted, **TOLERANCE)
    for name, value in alone.weights.items():
        np.testing.assert_allclose(first.weights[name], value, rtol=2e-4, atol=2e-6, err_msg=name)


@pytest.mark.slow
def test_two_processes_with_a_shard_each_learn_from_whole_scans_what_one_does(tmp_path):
    experiment = make_scans(tmp_path, max_grad_norm=None)
    numbers, weights = descend(experiment)
    sharded = dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, devices=2, strategy="fsdp"))
    parts = run_processes(2, descend, sharded)
    for found, _ in parts:
        for row, wanted in zip(found, numbers, strict=True):
            assert row == pytest.approx(wanted, **TOLERANCE)
    for key, value in weights.items():
        np.testing.assert_allclose(parts[0][1][key], value, rtol=2e-4, atol=2e-6, err_msg=key)


@pytest.mark.slow
def test_two_processes_with_a_shard_each_write_what_one_does(alone, tmp_path):
    experiment = make_divided(tmp_path, 2)
    assert "2 x cpu" in run_processes(2, run_train_stage, experiment)[0]
    compare(experiment, alone)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(("fsdp", 2), ("ddp", 1)), (("ddp", 2), ("fsdp", 2))])
def test_a_run_resumes_sharded_or_whole_with_any_number_of_processes(alone, tmp_path, before, after):
    first, then = (make_divided(tmp_path, number, strategy) for strategy, number in (before, after))
    assert run_processes(before[1], run_train_stage, first, "epoch 2/3") == [None] * before[1]
    assert "after epoch 2" in run_processes(after[1], run_train_stage, then)[0]
    compare(then, alone)


def count_own(experiment: Experiment) -> tuple[int, int, int]:
    """Return how many weights the model has, how many of them this process keeps, and a tensor's size put together."""
    fabric = build_fabric(experiment.train)
    fabric.launch()
    model = build_model(experiment.model, build_spec(num_slices=4), seed=0)
    total = sum(parameter.numel() for parameter in model.parameters())
    fabric.setup_module(model)
    own = sum(parameter.to_local().numel() for parameter in model.parameters())
    return total, own, gather(next(model.parameters())).numel() + gather(torch.ones(3)).numel()


def test_each_process_keeps_its_shard_and_the_first_gets_the_whole(tmp_path):
    (total, first, whole), (_, second, nothing) = run_processes(2, count_own, make_divided(tmp_path, 2))
    assert first + second == total
    assert 0.4 * total < second <= first  # a tensor with an odd number of rows is divided unevenly
    assert whole > 3 == nothing, "what is not divided is left as it is"


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "lamb"},
        {"optimizer": "muon"},
        {"average_decay": 0.9},
        {"precision": "16-mixed"},
        {"compile": "default"},
    ],
)
def test_options_that_cannot_be_sharded_are_refused(options):
    name = next(iter(options))
    TrainConfig(**options)
    with pytest.raises(UserError, match=f"train.{name}: .*train.strategy ddp"):
        TrainConfig(strategy="fsdp", **options)


def test_maps_while_a_sharded_model_is_trained_are_refused(tmp_path):
    experiment = make_divided(tmp_path, 2)
    experiment = dataclasses.replace(
        experiment, train=dataclasses.replace(experiment.train, keep_attention_every_epochs=1)
    )
    with pytest.raises(
        UserError, match=r"train\.keep_attention_every_epochs: found 1, allowed is 0 with train\.strategy fsdp"
    ):
        train(experiment, StageConsole(is_silent=True))
