import pytest
import torch
from torch import nn

from pipeline.training.optimization.weight_average import WeightAverage


def set_weights(model, value):
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.fill_(value)


def test_the_average_is_the_one_computed_by_hand():
    """Weights 1, 2, 4 after a start at 0: decays 1/10, 2/11 and the 1/5 that the third may not exceed."""
    layer = nn.Linear(1, 1)
    set_weights(layer, 0.0)
    average = WeightAverage(layer, decay=0.2)
    expected = 0.0
    for num_steps, (weight, decay) in enumerate(((1.0, 1 / 10), (2.0, 2 / 11), (4.0, 1 / 5))):
        set_weights(layer, weight)
        average.update(num_steps)
        expected = decay * expected + (1 - decay) * weight
        assert average.values["weight"].item() == pytest.approx(expected, rel=1e-6)
        assert average.values["bias"].item() == pytest.approx(expected, rel=1e-6)


def test_running_averages_of_batch_norms_are_averaged_and_counters_are_copied():
    norm = nn.BatchNorm1d(1)
    average = WeightAverage(norm, decay=0.9)
    with torch.no_grad():
        norm.running_mean.fill_(10.0)
        norm.num_batches_tracked.fill_(7)
    average.update(0)
    assert average.values["running_mean"].item() == pytest.approx(0.9 * 10)
    assert average.values["running_var"].item() == 1.0
    assert average.values["num_batches_tracked"].item() == 7


def test_a_model_computes_with_the_average_inside_of_the_context_alone():
    layer = nn.Linear(1, 1, bias=False)
    set_weights(layer, 2.0)
    average = WeightAverage(layer, 0.9, {"weight": torch.full((1, 1), 5.0)})
    one = torch.ones(1, 1)
    with average.applied():
        assert layer(one).item() == 5.0
    assert layer(one).item() == 2.0
    assert average.values["weight"].item() == 5.0
