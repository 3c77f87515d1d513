"""Provenance of a result: fingerprints of data and options, versions, commit, hardware."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from pipeline.core.serialization import encode_plain

PACKAGES = ("torch", "lightning", "monai", "nibabel", "numpy", "pandas", "scikit-learn", "einops", "mlflow")


def compute_fingerprint(*parts: Any) -> str:
    """Return 16 hexadecimal digits that change when any of ``parts`` changes.

    Args:
        parts: Dataclasses, or values that JSON can hold; paths count by their text.
    """
    text = json.dumps(parts, default=encode_plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that shape a result."""
    return {"python": platform.python_version()} | {package: read_version(package) for package in PACKAGES}


def read_version(package: str, absent: str = "absent") -> str:
    """Return the version of a package, or ``absent`` where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return absent


def read_commit() -> str:
    """Return the commit that this source tree is at, with ``+changes`` where it was edited, or ``unknown``."""
    folder = Path(__file__).resolve().parent
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+changes"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return answer.stdout.strip() if answer.returncode == 0 else "unknown"


def read_hardware(accelerator: str = "") -> str:
    """Return the names of what computes, such as "NVIDIA H200; AMD EPYC 9454, 16 cores".

    Args:
        accelerator: The name of the GPUs that take part, as
            :func:`pipeline.training.devices.arithmetic.name_accelerator` returns it; empty for none.

    Returns:
        The GPUs, the processor, and the number of cores that this process may use.
    """
    name = platform.processor() or platform.machine()
    cpu_facts = Path("/proc/cpuinfo")
    if cpu_facts.is_file():
        models = [line.split(":", 1)[1].strip() for line in cpu_facts.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    processor = f"{name}, {count_cores()} cores"
    return f"{accelerator}; {processor}" if accelerator else processor


def count_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
