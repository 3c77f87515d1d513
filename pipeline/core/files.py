"""Writing files so that a reader finds the old one or the new one, never half of one."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from pipeline.core.errors import UserError


def describe_absence(path: Path, wanted: str = "file") -> str:
    """Say in two or three words why a file, or a folder, is not there.

    Args:
        path: The path, where a look found no such thing.
        wanted: What should be there, ``file`` or ``folder``.
    """
    # Those of pathlib fail for a name that is too long for any file.
    if os.path.islink(path) and not os.path.exists(path):  # noqa: PTH110, PTH114
        return "a link that leads nowhere"
    if wanted == "file" and os.path.isdir(path):  # noqa: PTH112
        return "a folder and no file"
    return "a file and no folder" if wanted == "folder" and os.path.exists(path) else f"no such {wanted}"  # noqa: PTH110


def build_file_uri(path: Path) -> str:
    """Return the address of a path, its letters in UTF-8 as MLflow reads them; ``Path.as_uri`` has those of the locale.

    Args:
        path: The path, from here if it is relative.
    """
    return "file://" + quote(str(path.resolve()), errors="surrogateescape")


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears under its name only when the block ends without an error.

    Args:
        path: The file to write; its folder is made where absent.

    Yields:
        A binary file open for writing, next to ``path`` under a temporary name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a failed write does not name the file
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    with open_atomically(path) as file:
        file.write(content)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, whole or not at all; NaN is refused because JSON has none."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}). Delete it and run its stage again.") from error


def write_checksummed_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object with a checksum of itself, whole or not at all.

    Args:
        path: The file to write.
        content: The object; its keys are text, and ``seal`` is reserved for the checksum.
    """
    write_json(path, content | {"seal": _compute_checksum(content)})


def read_checksummed_json(path: Path) -> dict[str, Any]:
    """Read what :func:`write_checksummed_json` wrote.

    Raises:
        UserError: the file is not JSON, or not what was written.
    """
    content = read_json(path)
    seal = content.pop("seal", None) if isinstance(content, dict) else None
    if seal != _compute_checksum(content):
        raise UserError(f"{path}: damaged or edited, it does not fit its own checksum. Run the stage that writes it.")
    assert isinstance(content, dict)
    return content


def _compute_checksum(content: Any) -> str:
    # Through JSON and back, because there a key is text and a tuple a list.
    plain = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
