"""Locks of folders: one process at a time writes into a folder, a second one is refused with the holder's number."""

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
    holder = folder / ".lock.json"
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise UserError(
            f"{folder}: in use by another process{_describe(holder)}. Wait until it has ended, or choose another name "
            "(name: or run:)."
        ) from error
    try:
        for leftover in folder.glob(".*.tmp"):  # half-written, by a process that was killed
            leftover.unlink()
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
