"""The records of an epoch: their means, their first infinite loss, and their cost."""

import math

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.training.devices.fabric import build_fabric
from pipeline.training.loop.monitor import LossMonitor
from tests.builders.bright_halves import CONFIG


class CountReads(TorchDispatchMode):
    """The numbers that operators read, those of views not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.num_read = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if not function.is_view:
            tensors = [value for value in tree_leaves(arguments) if isinstance(value, torch.Tensor)]
            self.num_read += sum(tensor.numel() for tensor in tensors)
        return function(*arguments, **(options or {}))


def monitor_losses(losses, on_step):
    monitor = LossMonitor(build_fabric(CONFIG), 1, len(losses))
    wrong = []
    for loss in losses:
        monitor.add(torch.tensor(loss), torch.tensor(1), 2)
        if monitor.is_check_due:
            wrong.append(monitor.find_not_finite())
        monitor.report(on_step)
    return monitor, wrong


def test_the_records_of_an_epoch_of_twice_the_steps_cost_twice_as_much(monkeypatch):
    """Reported after every step and checked after every fiftieth."""
    monkeypatch.setattr("pipeline.training.loop.monitor.SECONDS_BETWEEN_REPORTS", 0)
    num_read = []
    for num_steps in (400, 800):
        with CountReads() as counted:
            monitor_losses([0.5] * num_steps, lambda result: None)
        num_read.append(counted.num_read)
    assert num_read[1] < 2.05 * num_read[0]


def test_progress_reports_the_mean_so_far_and_the_epoch_its_mean(monkeypatch):
    monkeypatch.setattr("pipeline.training.loop.monitor.SECONDS_BETWEEN_REPORTS", 0)
    losses = [float(number) for number in range(120)]
    reported = []
    monitor, wrong = monitor_losses(losses, reported.append)
    assert [(result.step, result.num_steps) for result in reported] == [(step, 120) for step in range(1, 121)]
    assert [result.loss for result in reported] == [sum(losses[:step]) / (2 * step) for step in range(1, 121)]
    assert {result.accuracy for result in reported} == {0.5}
    assert monitor.average() == (sum(losses) / 240, 0.5)
    assert wrong == [None, None, None]


def test_the_first_step_with_an_infinite_loss_is_found_in_any_check():
    losses = [1.0] * 120
    losses[7] = losses[9] = losses[73] = math.inf
    _, wrong = monitor_losses(losses, lambda result: None)
    assert wrong == [(7, math.inf), (73, math.inf), None]
