"""Several processes that train one model: how they were started, and a folder that the first holds for all."""

import atexit
import contextlib
import gc
import os
from collections.abc import Iterator
from pathlib import Path

from lightning.fabric import Fabric
from torch import distributed

from pipeline.config import TrainConfig
from pipeline.errors import UserError
from pipeline.locks import hold


def is_first_process() -> bool:
    """Say whether this is the first of the processes that torchrun, srun or this program started, or the only one."""
    ranks = [os.environ[name] for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if name in os.environ]
    return not ranks or ranks[0] == "0"


def check_launcher(config: TrainConfig) -> None:
    """Refuse a torchrun that started another number of processes than the options name.

    Each process would otherwise take itself for the only one and train alone.

    Args:
        config: its ``devices`` and ``num_nodes``.

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
    """Take leave of the other processes before this one ends.

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
        fabric: launched.
        folder: see :func:`pipeline.locks.hold`.

    Raises:
        UserError: another program holds the folder.
    """
    problem = ""
    with contextlib.ExitStack() as held:
        if fabric.global_rank == 0:
            try:
                held.enter_context(hold(folder))
            except UserError as error:
                problem = str(error)
        problem = fabric.broadcast(problem)
        if problem:
            raise UserError(problem)
        yield
