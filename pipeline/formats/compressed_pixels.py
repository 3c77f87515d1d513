"""Compressed pixels of DICOM, decoded by a process of its own, which ends when it takes too long.

A damaged frame of a kilobyte keeps the decoder of JPEG-LS busy for nine seconds, and no thread of Python can stop code
in C. The process is started for the first frame and serves all later ones. It limits its own processor time, so that a
busy machine refuses no good file; Windows has no such limit. A decoder that crashes ends that process alone.

The process runs this file as a script, and it imports nothing of the pipeline.
"""

import atexit
import functools
import io
import json
import math
import os
import struct
import subprocess
import sys
import threading
import time
from typing import IO, Any

import numpy as np

# Good frames take a tenth of this: the decoder of JPEG 2000, the slowest, does several million values a second.
BASE_S, VALUES_A_SECOND = 1, 500_000
LENGTH = struct.Struct(">Q")
LOCK = threading.Lock()


def decode_frame(content: bytes, num_values: int) -> Any:
    """Decode the pixels of a DICOM file.

    Args:
        content: All bytes of the file.
        num_values: The number of pixels and channels by its header, which bounds the time.

    Returns:
        The array as pydicom gives it.

    Raises:
        TimeoutError: decoding takes too long.
        RuntimeError: it is refused by the decoder, which is named by its error's type alone, or the decoder crashes.
    """
    limit_s = BASE_S + num_values // VALUES_A_SECOND
    with LOCK:
        process = _start(os.getpid())  # a fork has one of its own
        try:
            _send(process.stdin, limit_s.to_bytes(4, "big") + content)
            head, values = json.loads(_receive(process.stdout)), _receive(process.stdout)
        except (EOFError, OSError) as error:
            _start.cache_clear()
            _stop(process)
            if process.returncode == -_find_time_signal():
                raise TimeoutError(f"more than {limit_s} s") from error
            raise RuntimeError("the decoder crashes") from error
    if "error" in head:
        raise RuntimeError(head["error"])
    return np.frombuffer(values, head["dtype"]).reshape(head["shape"])


@functools.lru_cache(maxsize=1)
def _start(parent: int) -> "subprocess.Popen[bytes]":  # noqa: ARG001 (what it is kept for)
    """Start the process that decodes for the process with this number."""
    # -P: nothing of this folder is taken for a module of the same name.
    words = [sys.executable, "-P", __file__]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    atexit.register(_stop, process)
    return process


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:  # what it had not read
                continue


def _find_time_signal() -> int:
    import signal

    return int(getattr(signal, "SIGXCPU", 0))


def _send(pipe: IO[bytes] | None, content: bytes) -> None:
    assert pipe is not None, "both ends were asked for"
    pipe.write(LENGTH.pack(len(content)))
    pipe.write(content)
    pipe.flush()


def _receive(pipe: IO[bytes] | None) -> bytes:
    """Read one message.

    Raises:
        EOFError: the other end is gone.
    """
    assert pipe is not None, "both ends were asked for"
    head = pipe.read(LENGTH.size)
    content = pipe.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else b""
    if len(head) < LENGTH.size or len(content) < LENGTH.unpack(head)[0]:
        raise EOFError
    return content


def _limit_time(seconds: int) -> None:
    """End this process when it has used so much more processor time."""
    try:
        import resource
    except ImportError:  # Windows
        return
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time()) + seconds, hard))


def _serve() -> None:
    """Decode what comes, until the other end is closed."""
    import pydicom

    given, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints is no answer
    while True:
        try:
            message = _receive(given)
        except EOFError:
            return
        _limit_time(int.from_bytes(message[:4], "big"))
        try:
            values = np.ascontiguousarray(pydicom.dcmread(io.BytesIO(message[4:])).pixel_array)
            head = {"dtype": values.dtype.str, "shape": values.shape}
        except Exception as error:  # noqa: BLE001 (the other end refuses the file, by the name of the type)
            values, head = np.zeros(0, np.uint8), {"error": type(error).__name__}
        _send(answers, json.dumps(head).encode())
        _send(answers, values.tobytes())


if __name__ == "__main__":
    _serve()
