"""The losses of an epoch, kept on the device and read rarely: reading one makes the processor wait for a GPU."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from lightning.fabric import Fabric

# Reading a loss makes a GPU wait, so it is done every so many steps.
STEPS_BETWEEN_CHECKS = 50
SECONDS_BETWEEN_REPORTS = 0.25


@dataclass(frozen=True)
class StepResult:
    """The progress of an epoch: means over its examples so far, on this device."""

    epoch: int
    step: int
    num_steps: int
    loss: float
    accuracy: float
    images_per_second: float


class LossMonitor:
    """The losses of an epoch so far, on this device.

    Args:
        fabric: The devices.
        epoch: The number of the epoch, from 1.
        num_steps: The steps of the epoch.
    """

    def __init__(self, fabric: Fabric, epoch: int, num_steps: int) -> None:
        self.fabric, self.epoch, self.num_steps = fabric, epoch, num_steps
        self.losses = torch.zeros(num_steps, device=fabric.device)
        self.num_steps_done = self.num_steps_checked = 0
        self.checked_loss = torch.zeros((), device=fabric.device)
        self.num_correct = torch.zeros((), device=fabric.device)
        self.num_seen = 0
        self.started = self.last_report = time.perf_counter()

    def add(self, loss_sum: torch.Tensor, num_correct: torch.Tensor, num_examples: int) -> None:
        """Add a step.

        Args:
            loss_sum: The loss added up over the examples.
            num_correct: The number of examples that were right.
            num_examples: The number of examples.
        """
        self.losses[self.num_steps_done] = loss_sum
        self.num_steps_done += 1
        self.num_correct += num_correct
        self.num_seen += num_examples

    @property
    def is_check_due(self) -> bool:
        """True when enough steps were done since losses were read, or all of them."""
        return self.num_steps_done % STEPS_BETWEEN_CHECKS == 0 or self.num_steps_done == self.num_steps

    def find_not_finite(self) -> tuple[int, float] | None:
        """Return the first step in which a loss of any device is not finite, and their sum; the same on all.

        Only the steps since the last call are looked at, so that an epoch of n steps costs n and not its square.
        """
        first = self.num_steps_checked
        unchecked = self.losses[first : self.num_steps_done]
        self.checked_loss += unchecked.sum()
        self.num_steps_checked = self.num_steps_done
        summed = self.fabric.all_reduce(unchecked.clone(), reduce_op="sum")
        wrong = torch.nonzero(~torch.isfinite(summed)).flatten()
        return (first + int(wrong[0]), float(summed[wrong[0]])) if len(wrong) > 0 else None

    def report(self, on_step: Callable[[StepResult], None]) -> None:
        """Report the means so far, a few times a second."""
        now = time.perf_counter()
        if now - self.last_report < SECONDS_BETWEEN_REPORTS:
            return
        self.last_report = now
        unchecked = self.losses[self.num_steps_checked : self.num_steps_done]
        on_step(
            StepResult(
                epoch=self.epoch,
                step=self.num_steps_done,
                num_steps=self.num_steps,
                loss=float(self.checked_loss + unchecked.sum()) / self.num_seen,
                accuracy=float(self.num_correct) / self.num_seen,
                images_per_second=self.num_seen * self.fabric.world_size / (now - self.started),
            )
        )

    def average(self) -> tuple[float, float]:
        """Return the mean loss and the accuracy over all devices."""
        return average_over_devices(self.fabric, self.losses.sum(), self.num_correct, self.num_seen)


def average_over_devices(
    fabric: Fabric, loss_sum: torch.Tensor, correct: torch.Tensor, number: int
) -> tuple[float, float]:
    """Return the mean loss and the accuracy over all devices.

    Float64 holds every count; Apple's GPUs have none, so one device's numbers are divided in Python.
    """
    sums = [float(loss_sum), float(correct), float(number)]
    if fabric.world_size > 1:
        exact = torch.tensor(sums, dtype=torch.float64, device=fabric.device)
        sums = fabric.all_reduce(exact, reduce_op="sum").tolist()
    return sums[0] / sums[2], sums[1] / sums[2]
