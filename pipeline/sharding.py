"""Models that are divided over all processes: each keeps a part of every weight and of what the optimizer knows of it.

PyTorch's ``fully_shard`` (FSDP2) puts a layer together before it computes and takes it apart afterwards. Checkpoints
hold whole tensors, put together on the first process, so that any number of processes can go on from them.
"""

from collections.abc import Mapping

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from perceiver.layers import LatentLayer


def shard_model(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Divide a model: each layer of latents by itself, the rest together.

    Args:
        model: is changed; the names of its tensors stay. Batch norms' running averages are not divided.
        mesh: the processes, in the form that Lightning's ``ModelParallelStrategy`` gives.
    """
    processes = mesh["data_parallel"]
    for module in model.modules():
        # Most weights are in these, and they are always called as a whole. A cross-attend's parts are called one by
        # one (its keys are shared by repetitions), which would go past what puts its weights together.
        if isinstance(module, LatentLayer):
            fully_shard(module, mesh=processes)
    fully_shard(model, mesh=processes)
    return model


def gather(value: torch.Tensor) -> torch.Tensor:
    """Put a tensor together; all processes must call it, in one order.

    Args:
        value: of a model or an optimizer; what is not divided is given back as it is.

    Returns:
        The whole on the processor in the first process, nothing in the others.
    """
    if not isinstance(value, DTensor):
        return value
    whole = value.full_tensor()
    return whole.cpu() if distributed.get_rank() == 0 else whole.new_empty(0)


def gather_all(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Put all tensors together, see :func:`gather`."""
    return {name: gather(value) for name, value in tensors.items()}


def divide_as(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Keep this process's part of what an optimizer knows of a parameter.

    Args:
        value: the whole, in every process; what has another shape than the parameter, such as a counter, stays whole.
        parameter: divided or not.
    """
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    local = value.to(parameter.device)
    return distribute_tensor(local, parameter.device_mesh, parameter.placements, src_data_rank=None)
