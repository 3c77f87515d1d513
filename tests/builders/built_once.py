"""Folders that take seconds to build, built once for all processes of a test run."""

import io
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.stages.split import split

_PLACED: dict[Callable[[Experiment], None], tempfile.TemporaryDirectory] = {}


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Build a folder unless another process of this test run did; wait for one that is at it.

    Tests read the result and leave it as it is: what a test changes, it copies.

    Args:
        folder: The folder to build; the processes have its parent in common.
        build: Writes into the folder, which is empty.

    Returns:
        The folder.
    """
    done = folder.with_name(f"{folder.name}.done")
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
            folder.mkdir()
            build(folder)
            done.touch()
    return folder


def place_data(experiment: Experiment, write: Callable[[Experiment], None]) -> None:
    """Write a store into a workspace and split it; a process does so once, and copies the result from then on.

    The search for copies takes as long as a training of some epochs.

    Args:
        experiment: Of the same data in every call with the same ``write``.
        write: Writes the store of an experiment.
    """
    data = experiment.paths.data
    if write not in _PLACED:
        write(experiment)
        split(experiment, Console(file=io.StringIO()))
        _PLACED[write] = tempfile.TemporaryDirectory()
        shutil.copytree(data, _PLACED[write].name, dirs_exist_ok=True)
        return
    shutil.copytree(_PLACED[write].name, data, dirs_exist_ok=True)
