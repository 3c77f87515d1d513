"""Muon for the matrices inside a network and AdamW for the rest, as one optimizer."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


class MuonWithAdamW(Optimizer):
    """Muon and AdamW over the parameters of one model, with the groups and the state of one optimizer.

    Muon replaces the mean gradient of a matrix by the nearest matrix whose singular values are all about 1, so that a
    step moves all directions by the same amount. Such an update is larger than AdamW's; multiplied by
    0.2 sqrt(max(rows, columns)) it has AdamW's root mean square, and both optimizers then have one learning rate and
    one weight decay. A convolution's kernel counts as the matrix (outputs, all the rest).

    Args:
        groups: The parameters in groups, with their options. Those of a group that has ``muon`` true are matrices and
            kernels; the others are for AdamW.
        learning_rate: The learning rate of all groups, until it is changed.
        betas: The fractions of the mean gradient and of the mean squared gradient that a step keeps; of Muon the first.

    Source:
        Jordan and others 2024, https://kellerjordan.github.io/posts/muon, kernels as matrices included; the learning
        rate: Liu and others 2025, "Muon is scalable for LLM training", arXiv 2502.16982, equation 4.
    """

    def __init__(self, groups: list[dict[str, Any]], learning_rate: float, betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": learning_rate, "betas": betas})
        # torch.optim.Muon takes matrices alone: these are views of the kernels, in the same memory.
        self._matrices = {
            parameter: nn.Parameter(_flatten_kernel(parameter.detach(), parameter))
            for group in self.param_groups
            if group["muon"]
            for parameter in group["params"]
        }
        matrices = list(self._matrices.values())
        self._muon = torch.optim.Muon(matrices, momentum=betas[0], adjust_lr_fn="match_rms_adamw") if matrices else None
        self._adamw = torch.optim.AdamW([group for group in self.param_groups if not group["muon"]], fused=True)
        self._connect()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient.

        Args:
            closure: None; the loss is not computed again.
        """
        assert closure is None
        self._adamw.step()
        if self._muon is None:
            return
        for group in self.param_groups:
            if group["muon"]:
                self._muon.param_groups[0].update(lr=group["lr"], weight_decay=group["weight_decay"])
        for parameter, matrix in self._matrices.items():
            matrix.grad = None if parameter.grad is None else _flatten_kernel(parameter.grad, parameter)
        self._muon.step()  # type: ignore[no-untyped-call]
        for matrix in self._matrices.values():
            matrix.grad = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` of another one over the same parameters returned."""
        super().load_state_dict(state_dict)
        self._connect()

    def _connect(self) -> None:
        """Let both optimizers work on the groups and the state that this one shows."""
        self._adamw.param_groups = [group for group in self.param_groups if not group["muon"]]
        self._adamw.state = self.state
        if self._muon is not None:
            for parameter, matrix in self._matrices.items():
                self._muon.state[matrix] = self.state[parameter]


def _flatten_kernel(values: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Turn a kernel or its gradient into a matrix, with columns in the order in which memory holds the parameter.

    Only then is the parameter's own matrix a view of it. The order of the columns does not change a step.
    """
    return (values if parameter.is_contiguous() else values.movedim(1, -1)).flatten(1)
