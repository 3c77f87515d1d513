"""Stages in processes that die without a word at a chosen moment, and what such a process left."""

import contextlib
import ctypes
import io
import json
import multiprocessing
import os
import resource
import shutil
import signal
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.cli import main
from pipeline.training.checkpoint import read_checkpoint

STAGES = ("fetch", "preprocess", "split", "train", "evaluate")
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
# Records of when and where, which no two runs have in common.
IGNORED = (
    *(".lock", ".lock.json", "mlflow.db", "mlflow.db.lock", "mlflow.json"),
    *("config.yaml", "report.html", "comparison.html"),
)
CLOCK_COLUMNS = ("seconds", "images_per_second")


@dataclass(frozen=True)
class Moment:
    """The moment at which a process dies.

    Args:
        change: Right before its so manieth change of a file, counted from 1: an opening for writing, a renaming, ...
        cpu_s: After so many seconds of its own processor time, wherever it is.
    """

    change: int | None = None
    cpu_s: float | None = None


@dataclass(frozen=True)
class Ended:
    """The end of a process.

    Args:
        code: Its exit code, below 0 for a signal.
        num_changes: The number of changed files, where it came to its end.
        cpu_s: The processor time of its work, where it came to its end.
        complaint: The text that it wrote to standard error.
    """

    code: int
    num_changes: int = 0
    cpu_s: float = 0.0
    complaint: str = ""


def run_stage(
    words: list[str], moment: Moment | None = None, max_file_bytes: int | None = None, is_ordinary: bool = False
) -> Ended:
    """Run a stage in a process of its own, which inherits nothing but imported modules.

    Args:
        words: The words of the command line.
        moment: When it dies; None lets it end.
        max_file_bytes: No file can grow beyond, as on a full disk.
        is_ordinary: Permissions hold for it, also where it belongs to the superuser.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["pipeline.cli", "mlflow", "monai.networks", "sklearn.linear_model", "matplotlib.figure"]
    )
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(words, moment, max_file_bytes, is_ordinary, sender))
    process.start()
    sender.close()
    try:
        ended = Ended(*receiver.recv())
    except EOFError:
        ended = None
    process.join()
    return ended if ended is not None else Ended(process.exitcode)


def _work(words: list[str], moment: Moment | None, max_file_bytes: int | None, is_ordinary: bool, sender: Any) -> None:
    torch.set_num_threads(1)
    if is_ordinary and os.geteuid() == 0:
        _give_up_powers()
    if max_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    num_changes = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal num_changes
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in CHANGES or writes:
            num_changes += 1
            if moment is not None and num_changes == moment.change:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    if moment is not None and moment.cpu_s is not None:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process as SIGKILL does, without any clean-up
        signal.setitimer(signal.ITIMER_PROF, moment.cpu_s)
    started = resource.getrusage(resource.RUSAGE_SELF)
    complaint = io.StringIO()
    with contextlib.redirect_stderr(complaint):
        code = main(words)
    ended = resource.getrusage(resource.RUSAGE_SELF)
    signal.setitimer(signal.ITIMER_PROF, 0)
    cpu_s = ended.ru_utime + ended.ru_stime - started.ru_utime - started.ru_stime
    sender.send((code, num_changes, cpu_s, complaint.getvalue()))


def _give_up_powers() -> None:
    """Give up all that Linux lets the superuser do beyond the permissions of a file, which it then owns as others do.

    Source:
        capset(2), version 3 of the capabilities, all sets empty.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if library.capset(struct.pack("=Ii", 0x20080522, 0), bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def make_words(stage: str, workspace: Path) -> list[str]:
    return [stage, "--config", str(workspace / "tiny.yaml"), "--workspace", str(workspace)]


def copy_workspace(source: Path, target: Path) -> Path:
    """Copy a workspace with the times of its files, by which stages recognise them."""
    shutil.copytree(source, target)
    return target


def describe(workspace: Path) -> dict[str, Any]:
    """Return what a workspace holds, file by file, without the readings of a clock.

    Args:
        workspace: The folder.

    Returns:
        File name -> its bytes, or of records with times in them the rest.
    """
    found: dict[str, Any] = {}
    for path in sorted(workspace.rglob("*")):
        name = path.relative_to(workspace).as_posix()
        if not path.is_file() or path.name in IGNORED or "mlartifacts/" in name or "tensorboard/" in name:
            continue
        if path.suffix == ".safetensors":
            found[name] = _describe_checkpoint(path)
        elif path.name == "history.csv":
            rows = [line.split(",") for line in path.read_text().splitlines()]
            kept = [place for place, column in enumerate(rows[0]) if column not in CLOCK_COLUMNS]
            found[name] = [[row[place] for place in kept] for row in rows]
        elif path.name == "training.json":
            record = json.loads(path.read_text())
            found[name] = record | {"seconds": None, "tracking_run": None}
            if "best" in record:  # of a pretraining the last epoch is kept
                best = {name: value for name, value in record["best"].items() if name not in CLOCK_COLUMNS}
                found[name] |= {"best": best}
        elif path.name == "started.json":
            found[name] = json.loads(path.read_text())["settings"]
        else:
            found[name] = path.read_bytes()
    return found


def _describe_checkpoint(path: Path) -> dict[str, Any]:
    checkpoint = read_checkpoint(path, is_start=True)  # pretrained weights too, which know no class
    tensors = dict(checkpoint.weights)
    if checkpoint.optimizer is not None:
        tensors |= {f"optimizer.{name}": value for name, value in checkpoint.optimizer.tensors.items()}
    facts = {name: value.reshape(-1).view(torch.uint8).numpy().tobytes() for name, value in tensors.items()}
    return facts | {"epoch": checkpoint.epoch, "mean": checkpoint.mean, "std": checkpoint.std}


def find_differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Return the names of the files that are not the same in both."""
    return [name for name in sorted(first.keys() | second.keys()) if first.get(name) != second.get(name)]
