"""Optimizers and learning-rate schedules."""

import math
from typing import Any

import torch
from torch import nn

from pipeline.config.training import TrainConfig
from pipeline.training.checkpoint import OptimizerState
from pipeline.training.devices.distributed import gather, shard_as
from pipeline.training.optimization.muon import MuonWithAdamW

MULTIPLYING_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention)


def pack_optimizer(optimizer: torch.optim.Optimizer, scaler: dict[str, Any]) -> OptimizerState:
    """Take an optimizer's state apart; all processes of a sharded model must call it."""
    state = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, Any] = {}
    for parameter_index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{parameter_index}.{name}"] = gather(value)
            else:
                numbers[f"{parameter_index}.{name}"] = value
    groups = [{key: value for key, value in group.items() if key != "params"} for group in state["param_groups"]]
    return OptimizerState(tensors, numbers, groups, scaler)


def restore_optimizer(optimizer: torch.optim.Optimizer, packed: OptimizerState) -> None:
    """Put a packed state into an optimizer over the same parameters."""
    state: dict[int, dict[str, Any]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, value in (packed.tensors | packed.numbers).items():
        parameter_index, name = key.split(".", 1)
        parameter = parameters[int(parameter_index)]
        restored = _lay_out(value, parameter) if isinstance(value, torch.Tensor) else value
        state.setdefault(int(parameter_index), {})[name] = restored
    members = [group["params"] for group in optimizer.state_dict()["param_groups"]]
    groups = [group | {"params": params} for group, params in zip(packed.groups, members, strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _lay_out(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Lay out a tensor of an optimizer's state in memory as its parameter is, and keep this process's shard of it.

    A fused optimizer goes through parameter and state in the order of memory, whatever their strides.
    """
    sharded = shard_as(value, parameter)
    if sharded is not value or value.shape != parameter.shape:
        return sharded
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)


def assign_parameter_kinds(model: nn.Module) -> dict[str, str]:
    """Assign each parameter to the kind that decides how an optimizer treats it.

    Weight decay pulls weights towards zero, which is sensible for matrices that multiply their
    input and for nothing else.

    Args:
        model: The model.

    Returns:
        The parameter's name -> ``matrix`` (of a linear layer or a convolution: decayed), ``input`` (latents,
        learned positions, queries, embeddings: not decayed) or ``vector`` (biases and the gains and shifts
        of norms: not decayed). Parameters that need no gradient are left out.
    """
    kinds = {}
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            is_matrix = isinstance(module, MULTIPLYING_LAYERS)
            kind = "vector" if parameter.ndim < 2 else "matrix" if is_matrix else "input"
            kinds[f"{module_name}.{name}" if module_name else name] = kind
    return kinds


def build_optimizer(model: nn.Module, config: TrainConfig, *, fused: bool = True) -> torch.optim.Optimizer:
    """Build the optimizer that ``train.optimizer`` names.

    Args:
        model: The model whose parameters are updated; their device must be the final one.
        config: The options of training; optimizer, learning rate and weight decay are read here.
        fused: Whether one kernel does the whole update of Adam and AdamW; float16 training with a
            gradient scaler cannot have it together with clipping.

    Returns:
        An optimizer whose groups leave biases, norms, latents, positions and embeddings undecayed.

    Source:
        Adam arXiv 1412.6980; AdamW arXiv 1711.05101; LAMB arXiv 1904.00962 algorithm 2, without bias
        correction: the decay is part of the update that the trust ratio scales. Biases and norms have
        no trust ratio, as in the authors' own code: a bias of zero could hardly leave it. Muon see
        :class:`pipeline.training.optimization.muon.MuonWithAdamW`: the first convolution, which reads the image, the
        last linear layer, which gives the logits, those of further heads, and all that is no matrix are left to AdamW.
    """
    kinds = assign_parameter_kinds(model)
    parameters = dict(model.named_parameters())
    groups: list[dict[str, Any]] = []
    for kind in ("matrix", "input", "vector"):
        members = [parameters[name] for name, found in kinds.items() if found == kind]
        if members:
            weight_decay = config.weight_decay if kind == "matrix" else 0.0
            groups.append({"params": members, "weight_decay": weight_decay, "kind": kind})
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, lr=config.learning_rate, betas=config.betas, fused=fused)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=fused)
    if config.optimizer == "muon":
        return MuonWithAdamW(_separate_hidden(model, groups), config.learning_rate, config.betas)
    from pytorch_optimizer import Lamb  # takes a second to import, and only LAMB needs it

    for group in groups:
        group["adam"] = group["kind"] == "vector"
    # Its default divides the learning rate by 1 - 0.9^step, ten times the step at first; adam_debias leaves that out.
    lamb: torch.optim.Optimizer = Lamb(
        groups, lr=config.learning_rate, betas=config.betas, weight_decouple=False, adam_debias=True
    )
    return lamb


def _separate_hidden(model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Separate the matrices inside the network, which Muon updates, from those at its ends."""
    linear = {name: module.weight for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    heads = [weight for name, weight in linear.items() if name.split(".")[-1] == "head"]
    kernels = [module.weight for module in model.modules() if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    ends = {id(weight) for weight in heads + list(linear.values())[-1:] + kernels[:1]}
    separated = []
    for group in groups:
        is_matrix = group["kind"] == "matrix"
        for muon in (True, False):
            members = [value for value in group["params"] if (is_matrix and id(value) not in ends) == muon]
            if members:
                separated.append(group | {"params": members, "muon": muon})
    return separated


def compute_learning_rate_fraction(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Compute the learning rate of one step as a fraction of ``train.learning_rate``.

    Warm-up and schedule are multiplied. Warm-up grows by the same amount each step and reaches 1 at its
    last step. ``step``, ``multistep`` and ``exponential`` change between epochs only, counted from the
    start of training; ``cosine`` changes with each step, begins to fall from the last step of warm-up, the
    only one at 1, and reaches ``final_lr_fraction`` at the last step. With two steps of warm-up and six in all, the
    fractions are 0.5, 1, and then four below 1.

    Args:
        config: The options of training; those of the schedule are read here.
        step: The number of steps done so far, over all epochs.
        steps_per_epoch: The number of steps in an epoch.

    Returns:
        A factor between 0 and 1.
    """
    epoch = step // steps_per_epoch
    warmup_steps = config.warmup_epochs * steps_per_epoch
    warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps > 0 else 1.0
    if config.schedule == "step":
        return warmup * config.lr_gamma ** (epoch // config.lr_step_epochs)
    if config.schedule == "multistep":
        return warmup * config.lr_gamma ** sum(epoch >= milestone for milestone in config.lr_milestones)
    if config.schedule == "exponential":
        return warmup * config.lr_gamma**epoch
    if config.schedule == "cosine":
        last_step = config.epochs * steps_per_epoch - 1
        peak_step = max(0, math.ceil(warmup_steps) - 1)
        progress = (step - peak_step) / max(1, last_step - peak_step)
        progress = min(1.0, max(0.0, progress))
        falling = (1 + math.cos(math.pi * progress)) / 2
        return warmup * (config.final_lr_fraction + (1 - config.final_lr_fraction) * falling)
    return warmup


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give all of the optimizer's groups the learning rate of the coming step."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
