"""Independent jobs on the machines of a cluster, which share a folder with this one. The only module that imports dask.

The package is an extra: only ``preprocess.dask_scheduler`` needs it. Work goes through dask's own client and not
through joblib's dask backend, which waits for ever where a job was given up (a worker that dies each time) or no worker
is left.
"""

import functools
import hashlib
import importlib.util
import logging
import pickle
import platform
import queue
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, NoReturn

import pipeline
from pipeline.core.errors import UserError

# What joblib's ``delayed`` makes: a function, its arguments and its named arguments.
Job = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

OPTION = "preprocess.dask_scheduler"
CONNECT_TIMEOUT_S = 10
# A cluster without a worker for so long is given up.
PATIENCE_S = 30
# Their versions shape images; the two digits of Python's, whether work can be sent at all.
PACKAGES = ("numpy", "nibabel", "pillow")


def run_on_cluster(address: str, jobs: Sequence[tuple[str, Job]], folder: Path, sample: Path | None) -> Iterator[Any]:
    """Do each job once on some worker of a cluster; dask gives the jobs of a worker that dies to others.

    Args:
        address: The address of dask's scheduler, ``tcp://host:port``.
        jobs: The jobs, each with a name for messages. Paths among the arguments are made absolute, because workers
            do not start where this process did.
        folder: The folder that is written to; every worker must have it at the same place.
        sample: A file that is read, which every worker must see alike; None where there is none.

    Yields:
        The result of each job, in the order in which they end.

    Raises:
        UserError: no answer at the address, no worker, a worker with other versions or without the folders, a job that
            ended its worker each time, or dask is not installed.
    """
    if importlib.util.find_spec("distributed") is None:
        raise UserError(
            f"{OPTION}: {address} needs the package dask, which is not installed. "
            "Install it (pip install 'dask[distributed]'), or set the option to null."
        )
    import distributed  # only where the option is set

    # Its report of many lines is replaced by one line, below.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    witness = folder.absolute() / f".{uuid.uuid4().hex}.tmp"  # a name of which no machine has old news
    witness.write_text(witness.name)
    try:
        sizes = {str(path): path.stat().st_size for path in (witness, sample and sample.absolute()) if path}
        with _connect(distributed, address) as client:
            waiting = Jobs(client, address, jobs, _make_task(describe_program(), sizes))
            for _ in jobs:
                yield waiting.wait_for_next()
    finally:
        witness.unlink(missing_ok=True)


@functools.cache
def describe_program() -> dict[str, str]:
    """Return what must be alike on two machines that make the same images: from name to version."""
    sources = hashlib.sha256()
    for path in sorted(Path(pipeline.__file__).parent.rglob("*.py")):
        sources.update(path.read_bytes())
    versions = {"python": ".".join(platform.python_version_tuple()[:2])}
    versions |= {name: importlib.metadata.version(name) for name in PACKAGES}
    return versions | {"this program": sources.hexdigest()[:12]}


def refuse_differences(worker: str, program: Mapping[str, str], sizes: Mapping[str, int]) -> None:
    """Refuse to work on this machine for a stage that would have got something else.

    Args:
        worker: This machine's address.
        program: The result of :func:`describe_program` where the stage runs.
        sizes: From the path of a file to the number of bytes that the stage sees there.

    Raises:
        UserError: another version, or a file that is not the same here.
    """
    for name, version in describe_program().items():
        if program.get(name) != version:
            raise UserError(
                f"{OPTION}: the worker {worker} has {name} {version}, the stage {program.get(name, 'none')}. "
                "Install the same on all machines (constraints.txt)."
            )
    for name, size in sizes.items():
        path = Path(name)
        if not path.is_file() or path.stat().st_size != size:
            raise UserError(
                f"{OPTION}: the worker {worker} does not see the stage's files in {path.parent}. "
                "Share the folder with all machines, at the same place."
            )


def _connect(distributed: Any, address: str) -> Any:
    try:
        return distributed.Client(address, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{OPTION}: no dask scheduler answers at {address} ({error}). Start one (dask scheduler), or set the "
            "option to null."
        ) from error


def _make_task(program: dict[str, str], sizes: dict[str, int]) -> Callable[[bytes], Any]:
    """Make the function that workers run; it travels as code, so that a worker without this program can report that."""

    def work(packed: bytes) -> Any:
        from distributed import get_worker

        from pipeline.preprocessing.dask_jobs import refuse_differences

        refuse_differences(get_worker().address, program, sizes)
        function, arguments, named = pickle.loads(packed)  # noqa: S301 (sent by the stage, as this code is)
        return function(*arguments, **named)

    return work


class Jobs:
    """The jobs of a cluster whose results are not here yet.

    A job leaves the cluster in one of four ways:

    ==========================  ===========================================  ========================================
    dask reports                meaning                                      what follows
    ==========================  ===========================================  ========================================
    finished, with a result     the job is done                              the result is returned
    finished, result overdue    its worker died before it sent the result;   it is waited for again, as long as there
                                another one has to do the job again          are workers
    error                       KilledWorker: the job ended every worker     UserError that names the job; any other
                                that took it; else the job's own error       error as the job raised it
    cancelled, or broken off    the scheduler went away                      UserError
    ==========================  ===========================================  ========================================

    Args:
        client: The connection to the cluster.
        address: The scheduler's address, for messages.
        jobs: The jobs, each with a name for messages.
        task: The function that workers run; it takes a packed job.
    """

    def __init__(
        self, client: Any, address: str, jobs: Sequence[tuple[str, Job]], task: Callable[[bytes], Any]
    ) -> None:
        self.client, self.address = client, address
        packed = [
            pickle.dumps((function, [item.absolute() if isinstance(item, Path) else item for item in arguments], named))
            for _, (function, arguments, named) in jobs
        ]
        futures = client.map(task, packed, pure=False, batch_size=1000)
        # What is done is removed from here, or dask would do it again where its worker dies later.
        self.waiting = {future.key: (name, future) for (name, _), future in zip(jobs, futures, strict=True)}
        self.ended: queue.Queue[Any] = queue.Queue()
        for future in futures:
            future.add_done_callback(self.ended.put)

    def wait_for_next(self) -> Any:
        """Return the result of the next job that is done.

        Raises:
            UserError: a job ended every worker that took it, no worker is left, or the scheduler went away.
        """
        import distributed

        while True:
            try:
                future = self.ended.get(timeout=PATIENCE_S)
            except queue.Empty:
                self._check_workers()
                continue
            name, _ = self.waiting[future.key]
            if future.status == "error":
                _raise(future.exception(), name)
            if future.status == "cancelled":
                raise self._describe_loss()
            try:
                result = future.result(timeout=PATIENCE_S)
            except TimeoutError:
                self._check_workers()
                self.ended.put(future)
                continue
            except distributed.KilledWorker as error:
                _raise(error, name)
            except (CancelledError, distributed.comm.CommClosedError) as error:
                raise self._describe_loss() from error  # while the result was on its way
            del self.waiting[future.key]
            return result

    def _describe_loss(self) -> UserError:
        return UserError(
            f"{OPTION}: the dask scheduler at {self.address} went away. What was done is kept: start it and run the "
            "stage again."
        )

    def _check_workers(self) -> None:
        """Refuse to wait any longer where no worker is left."""
        if not self.client.ncores():
            raise UserError(
                f"{OPTION}: the dask scheduler at {self.address} has no worker. What was done is kept: start some "
                f"(dask worker {self.address}) and run the stage again."
            )


def _raise(error: BaseException, name: str) -> NoReturn:
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        raise UserError(
            f"{OPTION}: {name} ended every worker that took it, killed or out of memory. What was done is kept: give "
            "workers more memory and run the stage again."
        ) from error
    if isinstance(error, ImportError):
        raise UserError(f"{OPTION}: a worker lacks this program ({error}). Install it on all machines.") from error
    raise error
