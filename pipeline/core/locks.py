"""Locks: one process at a time writes into a folder or to a file; a second one is refused with the holder's number."""

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.core.errors import UserError
from pipeline.core.files import write_json


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder until the block ends; the system lets go where a process dies.

    Args:
        folder: The folder; it gets a hidden lock file, and next to it the holder's process number and machine. Files
            that a killed process left half-written in it are removed.

    Raises:
        UserError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _hold(folder / ".lock", folder, "name (name: or run:)"):
        for leftover in folder.glob(".*.tmp"):  # half-written, by a process that was killed
            leftover.unlink()
        yield


@contextlib.contextmanager
def lock_output(path: Path) -> Iterator[None]:
    """Keep other processes from writing one file, or from replacing one folder, until the block ends.

    Args:
        path: The file or folder; the hidden lock file stands next to it, so that what is next to it stays free.

    Raises:
        UserError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _hold(path.with_name(f".{path.name}.lock"), path, "output"):
        yield


@contextlib.contextmanager
def _hold(lock_file: Path, written: Path, alternative: str) -> Iterator[None]:
    """Hold a lock file, and say next to it who does."""
    holder = lock_file.with_name(f"{lock_file.name}.json")
    lock = FileLock(lock_file)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise UserError(
            f"{written}: in use by another process{_describe(holder)}. Wait until it has ended, or choose another "
            f"{alternative}."
        ) from error
    try:
        write_json(holder, {"process": os.getpid(), "machine": socket.gethostname()})
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _describe(holder: Path) -> str:
    """Describe who holds a folder, as far as is known: the file may not be written yet."""
    with contextlib.suppress(OSError, json.JSONDecodeError, KeyError, TypeError):
        known = json.loads(holder.read_text(encoding="utf-8"))
        return f" ({known['process']} on {known['machine']})"
    return ""
