"""Hostile files: valid ones that are changed at random, and what a reader makes of them."""

import json
import multiprocessing
import random
import resource
import struct
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import UserError

# What reading may take beyond what the process had before; each file here is below 100 kB.
MAX_EXTRA_BYTES = 1 << 30
MAX_CPU_S = 2.0
NUMBERS = {
    "h": (-1, 0, 1, 2, 0x7FFF),
    "i": (-1, 0, 1, 0x7FFFFFFF),
    "q": (-1, 1 << 40, 0x7FFFFFFFFFFFFFFF),
    "f": (float("nan"), float("inf"), 3e38, 1e30, 1e-38, 0.0, -1.0),
    "d": (float("nan"), 1e308, 5e-324, -1.0),
}
# What programs stumble over: ends of the ranges of integers, sizes that are huge, floats that are none.
HARD_NUMBERS = tuple(
    struct.pack(order + kind, value) for order in "<>" for kind, values in NUMBERS.items() for value in values
)
HARD_TEXTS = (
    *(b"\x00", b"\xff", b"\x80", b"\n", b"-", b"1_0", b"1e400", b"nan", b"#", b"{", b"[" * 2000, b'"'),
    *(b"PK\x03\x04", b"\x1f\x8b", b"\x80\x04"),
)
KINDS = ("replace", "replace", "flip", "insert", "cut", "end")

Edit = tuple[str, float, bytes]


@dataclass(frozen=True)
class Reader:
    """One reader of files from outside.

    Args:
        name: The name of the file that it reads, with its suffix.
        seeds: Makes valid files of its kind in a folder of its own.
        read: Reads one; gives a value or refuses it.
        refusal: The only error that it may end with.
        words: The words of texts of its kind; empty for binary files.
    """

    name: str
    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path], Any]
    refusal: type[Exception] = UserError
    words: Sequence[bytes] = ()


def edit(content: bytes, edits: Sequence[Edit]) -> bytes:
    """Change a file.

    Args:
        content: The file.
        edits: The changes, each one of ``KINDS``, a place from 0 to 1, and what is put there.
    """
    changed = bytearray(content)
    for kind, fraction, value in edits:
        place = int(fraction * len(changed))
        if kind == "replace":
            changed[place : place + len(value)] = value
        elif kind == "insert":
            changed[place:place] = value
        elif kind == "cut":
            del changed[place : place + len(value)]
        elif kind == "end":
            del changed[place:]
        elif changed:
            changed[min(place, len(changed) - 1)] ^= 1 << value[0] % 8
    return bytes(changed)


def draw_file(reader: Reader, seeds: Sequence[bytes], number: int) -> bytes:
    """Make the so manieth hostile file: a valid one that was changed, or one in twenty from nothing."""
    chance = random.Random(number)
    if chance.random() < 0.05:
        if reader.words:
            return b"".join(chance.choices((*reader.words, *HARD_TEXTS), k=chance.randrange(30)))
        return chance.randbytes(chance.randrange(600))
    edits = []
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        values = chance.choice((HARD_NUMBERS, HARD_TEXTS, reader.words or HARD_NUMBERS))
        value = chance.choice(values) if chance.random() < 0.7 else chance.randbytes(chance.randrange(1, 9))
        # Headers stand at the start, and most of what can go wrong with them.
        fraction = chance.random() ** chance.choice((1, 3, 6))
        edits.append((chance.choice(KINDS), fraction, value))
    return edit(chance.choice(seeds), edits)


def find_fault(reader: Reader, content: bytes, folder: Path) -> str:
    """Read a hostile file; return what went wrong, nothing where it was read or refused as it should be."""
    path = folder / reader.name
    path.write_bytes(content)
    started = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    try:
        with np.errstate(all="ignore"):
            reader.read(path)
    except reader.refusal as error:
        # Libraries raise ValueErrors too; those of the project are exactly the class.
        is_ours = isinstance(error, UserError) or type(error) is reader.refusal
        if not is_ours or "\n" in str(error):
            return f"{type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001 (the law is that there is no other)
        return f"{type(error).__name__}: {error}"
    seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime - started
    return f"{seconds:.1f} seconds" if seconds > MAX_CPU_S else ""


def fuzz(reader: Reader, first: int, after: int, most: int = 10) -> tuple[int, list[tuple[int, str]]]:
    """Read the files numbered ``first`` to ``after`` in this process, with bounded memory.

    Returns:
        How many were read, and number and fault of those that went wrong, at most ``most``.
    """
    faults: list[tuple[int, str]] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        seeds = reader.seeds(folder)
        for seed in seeds:  # also loads what the reader loads when it first works
            assert reader.read(_put(folder / reader.name, seed)) is not None
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (now + MAX_EXTRA_BYTES, limits[1]))
        try:
            for number in range(first, after):
                fault = find_fault(reader, draw_file(reader, seeds, number), folder)
                if fault:
                    faults.append((number, fault))
                if len(faults) == most:
                    return number + 1 - first, faults
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
    return after - first, faults


def fuzz_apart(name: str, first: int, after: int) -> tuple[int, list[tuple[int, str]]]:
    """Do so in a process of its own, which a reader may tear down."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, name, first, after))
    process.start()
    sender.close()
    try:
        found: tuple[int, list[tuple[int, str]]] = receiver.recv()
    except EOFError:
        found = (0, [(-1, "the process died")])
    process.join()
    return found


def _send(sender: Any, name: str, first: int, after: int) -> None:
    from tests.faults.readers import READERS

    sender.send(fuzz(READERS[name], first, after))


def _put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


if __name__ == "__main__":
    # python -m tests.faults.fuzz NIfTI 0 100000
    sys.stdout.write(json.dumps([sys.argv[1], fuzz_apart(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))]) + "\n")
