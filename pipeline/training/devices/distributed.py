"""Several processes that train one model: the check of their launcher, the lock of a folder, and sharding."""

import atexit
import contextlib
import gc
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from perceiver.layers import LatentLayer
from pipeline.config.training import TrainConfig
from pipeline.core.errors import UserError
from pipeline.core.locks import lock_folder


def is_first_process() -> bool:
    """Return whether this is the first of the processes of torchrun, srun or this program, or the only one."""
    ranks = [os.environ[name] for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if name in os.environ]
    return not ranks or ranks[0] == "0"


def check_launcher(config: TrainConfig) -> None:
    """Refuse a torchrun that started another number of processes than the options name.

    Each process would otherwise train alone.

    Args:
        config: The options of training; ``devices`` and ``num_nodes`` are read here.

    Raises:
        UserError: the numbers differ.
    """
    started, wanted = os.environ.get("WORLD_SIZE"), config.devices * config.num_nodes
    if "TORCHELASTIC_RUN_ID" in os.environ and started is not None and int(started) != wanted:
        raise UserError(
            f"train.devices: torchrun started {started} processes, but train.devices x train.num_nodes is {wanted}. "
            "Set train.devices to its --nproc_per_node and train.num_nodes to its --nnodes."
        )


def leave_in_order() -> None:
    """Disconnect from the other processes before this one ends.

    Lightning does so for GPUs alone. A thread of gloo that outlives the interpreter aborts a process whose work is done
    (12 of 30 small ones), and torchrun then counts the run as failed.
    """
    atexit.register(_leave)


def _leave() -> None:
    gc.collect()  # a wrapped model in a cycle would keep the group's threads alive
    if distributed.is_initialized():
        distributed.destroy_process_group()


@contextlib.contextmanager
def hold_together(fabric: Fabric, folder: Path) -> Iterator[None]:
    """Hold a folder in the first process; where it is refused, end all of them.

    Args:
        fabric: The devices, launched.
        folder: The folder, see :func:`pipeline.core.locks.lock_folder`.

    Raises:
        UserError: another program holds the folder.
    """
    problem = ""
    with contextlib.ExitStack() as held:
        if fabric.global_rank == 0:
            try:
                held.enter_context(lock_folder(folder))
            except UserError as error:
                problem = str(error)
        problem = fabric.broadcast(problem)
        if problem:
            raise UserError(problem)
        yield


@contextlib.contextmanager
def fail_together(fabric: Fabric) -> Iterator[None]:
    """Let the first process do what it alone does, and end all processes where it fails.

    All processes enter the context at the same place; the others have nothing to do in it and wait for the first one.
    Without it they would wait for its next gradients until a timeout of half an hour.

    Args:
        fabric: The devices, launched.

    Raises:
        UserError: the first process failed; in that process itself its own error passes.
    """
    try:
        yield
    except Exception as error:
        fabric.broadcast(str(error) or type(error).__name__)
        raise
    problem = fabric.broadcast("")
    if problem:
        raise UserError(f"training: the first process failed: {problem}")


def shard_model(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard a model: each layer of latents by itself, the rest together.

    Args:
        model: The model, which is changed; the names of its tensors stay. Running averages of batch norms stay whole.
        mesh: The processes, in the form that Lightning's ``ModelParallelStrategy`` gives.
    """
    processes = mesh["data_parallel"]
    # Torch shards no tensor that lies channel by channel in memory.
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
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
        value: The tensor of a model or an optimizer; one that is not sharded is returned as it is.

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


def shard_as(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Keep this process's shard of an optimizer's state of a parameter.

    Args:
        value: The whole tensor, in every process; one of another shape than the parameter, such as a counter, stays
            whole.
        parameter: The parameter, sharded or not.
    """
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    local = value.to(parameter.device)
    return distribute_tensor(local, parameter.device_mesh, parameter.placements, src_data_rank=None)
