"""A dask cluster on this machine, of processes as a user starts them."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from distributed import Client

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60


def find_address() -> str:
    """Return an address of this machine where no server listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{free.getsockname()[1]}"


@dataclass
class Cluster:
    """A scheduler and its workers.

    Args:
        address: The address of the scheduler.
        folder: The folder that the processes start in; the program is not in it.
        processes: All that were started, the scheduler first.
    """

    address: str
    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *words: str, path: tuple[Path, ...] = (ROOT,)) -> subprocess.Popen[bytes]:
        """Start one of dask's programs; ``path`` is where its Python finds packages next to the installed ones."""
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", *words, "--host", "127.0.0.1", "--no-dashboard"]
        silent = subprocess.DEVNULL
        process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=silent, stderr=silent)
        self.processes.append(process)
        return process

    def add_worker(self, path: tuple[Path, ...] = (ROOT,)) -> subprocess.Popen[bytes]:
        """Start a worker, which is not started again when it dies."""
        words = ("distributed.cli.dask_worker", self.address, "--nthreads", "1", "--no-nanny")
        return self.start(*words, path=path)

    def wait_for(self, number: int) -> None:
        """Wait until so many workers are there."""
        with Client(self.address, timeout=TIMEOUT_S, set_as_default=False) as client:
            client.wait_for_workers(number, timeout=TIMEOUT_S)


@contextlib.contextmanager
def start_cluster(folder: Path, num_workers: int, path: tuple[Path, ...] = (ROOT,)) -> Iterator[Cluster]:
    """Start a scheduler and workers; all of them end with the block."""
    cluster = Cluster(find_address(), folder)
    try:
        cluster.start("distributed.cli.dask_scheduler", "--port", cluster.address.rpartition(":")[2], path=())
        for _ in range(num_workers):
            cluster.add_worker(path)
        cluster.wait_for(num_workers)
        yield cluster
    finally:
        for process in cluster.processes:
            process.kill()
            process.wait()
