"""The devices that training runs on, as Fabric holds them."""

import os

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import ModelParallelStrategy

from pipeline.config.training import TrainConfig
from pipeline.core.errors import UserError
from pipeline.training.devices.arithmetic import fix_arithmetic
from pipeline.training.devices.distributed import check_launcher, leave_in_order, shard_model
from pipeline.training.devices.selection import choose_accelerator, choose_precision


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
