"""Batch normalisation over the whole batch, where several processes hold a part of it each.

Otherwise each process would normalise by its own part, and the number of processes would change what is learned.
PyTorch's own ``SyncBatchNorm`` does the same on GPUs and refuses CPUs.
"""

from typing import Any

import torch
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def sum_over_processes(values: torch.Tensor) -> torch.Tensor:
    """Add up a tensor over all processes, so that gradients flow through."""
    total: torch.Tensor = SumOverProcesses.apply(values)  # type: ignore[no-untyped-call]
    return total


class SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is summed too, because every loss depends on it."""

    @staticmethod
    def forward(_context: Any, values: torch.Tensor) -> torch.Tensor:
        """Add up."""
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, gradient: torch.Tensor) -> torch.Tensor:
        """Add up the gradients."""
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


class SynchronisedBatchNorm(_BatchNorm):
    """Batch normalisation whose mean and variance are those of all processes' images together.

    ``perceiver.volumes.count_images``, for scans, of which padding does not count, calls ``add_up``.
    """

    add_up = staticmethod(sum_over_processes)

    def _check_input_dim(self, input: torch.Tensor) -> None:  # noqa: A002 (PyTorch calls it so)
        assert input.ndim >= 2, input.shape

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002
        """Normalise (batch, channels, ...); each process may hold another number of images."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None, "affine and with running averages, as synchronise_batch_norms takes them"
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        values = input.float()
        axes = [0, *range(2, values.ndim)]
        number = values.new_full((1,), values.numel() / values.shape[1])
        sums = sum_over_processes(torch.cat([values.sum(axes), number]))
        mean = sums[:-1] / sums[-1]
        shape = (1, -1) + (1,) * (values.ndim - 2)
        centred = values - mean.view(shape)
        # A second exchange: from sums of squares the variance of bright images would lose its digits.
        variance = sum_over_processes(centred.square().sum(axes)) / sums[-1]
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (sums[-1] / (sums[-1] - 1)), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(input.dtype)


def synchronise_batch_norms(model: nn.Module) -> None:
    """Put a :class:`SynchronisedBatchNorm` in the place of each batch norm, with its weights; nothing with one process.

    Args:
        model: is changed; the names of its tensors stay.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, PLAIN) and child.affine and child.track_running_stats:
                assert child.momentum is not None, name
                shared = SynchronisedBatchNorm(child.num_features, child.eps, child.momentum)
                shared.weight, shared.bias = child.weight, child.bias
                shared.running_mean, shared.running_var = child.running_mean, child.running_var
                shared.num_batches_tracked = child.num_batches_tracked
                setattr(parent, name, shared)
