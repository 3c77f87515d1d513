"""The devices that training runs on, as Fabric holds them, and the number format that it computes in."""

import os

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import ModelParallelStrategy

from pipeline.config.training import TrainConfig
from pipeline.core.errors import UserError
from pipeline.training.devices.arithmetic import fix_arithmetic
from pipeline.training.devices.distributed import check_launcher, leave_in_order, shard_model


def choose_accelerator(accelerator: str) -> str:
    """Return ``cuda``, ``mps`` or ``cpu``.

    Args:
        accelerator: One of these names, or ``auto`` for the first that this machine has.

    Raises:
        UserError: the machine has none of that kind.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "auto":
        return next(name for name, is_there in available.items() if is_there)
    if not available[accelerator]:
        there = ", ".join(name for name, is_there in available.items() if is_there)
        raise UserError(
            f"train.accelerator: found '{accelerator}', but this machine has {there}. Use one of them or auto."
        )
    return accelerator


def choose_device(accelerator: str) -> torch.device:
    """Return the device that scores, with its arithmetic fixed; arguments and errors are ``choose_accelerator``'s."""
    fix_arithmetic()
    return torch.device(choose_accelerator(accelerator))


def choose_precision(precision: str, accelerator: str) -> str:
    """Return the number format, as Fabric calls it.

    ``auto`` takes bf16 only where the processor multiplies matrices in it: there it is faster than
    float32, elsewhere it is emulated and slower.

    Args:
        precision: The option ``train.precision``.
        accelerator: The kind of device that training runs on.
    """
    if precision != "auto":
        return precision
    if accelerator == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # x86 processors with matrix tiles (AMX), the only ones where bf16 was measured to be faster
        has_bf16 = accelerator == "cpu" and bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    return "bf16-mixed" if has_bf16 else "32-true"


def build_fabric(config: TrainConfig) -> Fabric:
    """Build the object that holds devices, processes and precision.

    Args:
        config: The options of training; accelerator, devices, machines, strategy and precision are read here.

    Raises:
        UserError: the machine does not have them, or torchrun started another number of processes.
    """
    check_launcher(config)
    fix_arithmetic()
    accelerator = choose_accelerator(config.accelerator)
    num_present = torch.cuda.device_count() if accelerator == "cuda" else 1 if accelerator == "mps" else os.cpu_count()
    if num_present is not None and config.devices > num_present:
        raise UserError(
            f"train.devices: found {config.devices}, but this machine has {num_present} ({accelerator}). Use fewer."
        )
    num_processes = config.devices * config.num_nodes
    if num_processes > 1:
        leave_in_order()
    strategy: str | ModelParallelStrategy = "auto"
    if config.strategy == "fsdp" and num_processes > 1:
        # Lightning's own FSDPStrategy wraps the older FSDP, which it refuses on processors.
        strategy = ModelParallelStrategy(shard_model, data_parallel_size=num_processes, tensor_parallel_size=1)
    return Fabric(
        accelerator=accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        precision=choose_precision(config.precision, accelerator),
        strategy=strategy,
    )
