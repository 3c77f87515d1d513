"""Folders that take seconds to build, built once for all processes of a test run."""

import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


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
