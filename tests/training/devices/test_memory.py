"""The estimate of a GPU's memory: by hand for a linear layer, and for a config that is to fit into 24 GiB."""

from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.cli import parse_experiment
from pipeline.config.training import TrainConfig
from pipeline.core.errors import UserError
from pipeline.models.networks import SliceModel, build_model
from pipeline.training.devices.memory import GIBIBYTE, MemoryNeed, check_memory, estimate_scoring, estimate_training
from tests.builders.models import build_config_spec, build_spec


def test_the_need_of_a_linear_layer_is_that_computed_by_hand():
    """Of 64 pixels and 10 outputs: 650 weights in four copies; an example keeps 64 pixels for the backward pass."""
    model = SliceModel(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), reads_slice_position=False)
    need = estimate_training(model, build_spec(), TrainConfig(), "32-true")
    assert need.fixed == 4 * 650 * 4
    assert need.per_example == 64 * 4 + 3 * 64 * 4 + 4 * 64 * 4
    assert estimate_training(model, build_spec(), TrainConfig(average_decay=0.9), "32-true").fixed == 5 * 650 * 4
    scoring = estimate_scoring(model, build_spec())
    assert (scoring.fixed, scoring.per_example) == (650 * 4, 7 * 64 * 4)
    assert type(next(model.parameters()).data) is torch.Tensor, "the model itself keeps its memory"


def test_a_batch_that_does_not_fit_is_refused_with_the_largest_that_does():
    need = MemoryNeed(fixed=GIBIBYTE, per_example=GIBIBYTE // 4)
    assert need.total(8) == 3 * GIBIBYTE
    assert check_memory(need, "train.batch_size", 8, 3 * GIBIBYTE) == "about 3.0 of 3.0 GiB"
    with pytest.raises(
        UserError, match=r"train.batch_size: batches of 64 need about 17.0 of 3.0 GiB .*; 8 would fit\."
    ):
        check_memory(need, "train.batch_size", 64, 3 * GIBIBYTE)
    with pytest.raises(UserError, match="not even one"):
        check_memory(need, "train.batch_size", 64, GIBIBYTE)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_largest_config_is_trained_and_evaluated_on_24_gib(precision):
    path = Path(__file__).parents[3] / "configs" / "akoa_seed.yaml"
    experiment = parse_experiment("train", ["--config", str(path)])
    spec = build_config_spec(experiment)
    model = build_model(experiment.model, spec, seed=0)
    need = estimate_training(model, spec, experiment.train, precision)
    assert need.total(experiment.train.batch_size) < 24 * GIBIBYTE
    assert estimate_scoring(model, spec).total(experiment.evaluate.batch_size) < 24 * GIBIBYTE
