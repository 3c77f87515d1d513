"""Downloads of published sets: checked, resumed, from more than one mirror. The only module that imports pooch.

pooch compares checksums and puts a file into its place in one move; it starts every transfer from scratch.
The downloader here resumes what an earlier transfer left.
"""

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pooch
import requests
from rich.console import Console

from pipeline.core.console import byte_progress, warn
from pipeline.core.errors import UserError
from pipeline.core.files import write_json
from pipeline.datasets.base import MARK_NAME, RemoteFile, find_raw_file

# Of a transfer that breaks off the chunk that was being read is lost.
CHUNK_BYTES = 1 << 12
TIMEOUT_S = 30.0


@dataclass
class ResumingDownloader:
    """A downloader for pooch that keeps what it got in a file next to the target and requests the rest.

    Args:
        partial: The file that collects the bytes; those that it holds already are not requested again.
        name: The name of the file, for the bar.
        console: The console that the bar is drawn on.
        has_resumed: Whether bytes of an earlier transfer were kept.
    """

    partial: Path
    name: str
    console: Console
    has_resumed: bool = False

    def __call__(self, url: str, output_file: Any, registry: Any = None) -> None:  # noqa: ARG002 (pooch gives it)
        """Bring the rest of the file and put the whole to ``output_file``.

        Args:
            url: The address of the file.
            output_file: The path that pooch then checks.
            registry: Not used.

        Raises:
            requests.exceptions.RequestException: the server cannot be reached, refuses, or breaks off.
        """
        start = self.partial.stat().st_size if self.partial.exists() else 0
        # Without encoding the bytes are those of the file, so that places in it mean something.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start > 0 else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
            if answer.status_code == requests.codes.requested_range_not_satisfiable:
                # All bytes are there, or more than there are: the checksum decides.
                shutil.move(self.partial, output_file)
                self.has_resumed = True
                return
            answer.raise_for_status()
            resumes = answer.status_code == requests.codes.partial_content
            self.has_resumed = self.has_resumed or resumes
            start = start if resumes else 0
            length = answer.headers.get("Content-Length")
            total = None if length is None else start + int(length)
            with (
                self.partial.open("ab" if resumes else "wb") as file,
                byte_progress(self.name, start, total, self.console) as advance,
            ):
                for chunk in answer.iter_content(CHUNK_BYTES):
                    file.write(chunk)
                    advance(len(chunk))
        found = self.partial.stat().st_size
        if total is not None and found < total:
            raise requests.exceptions.ConnectionError(f"only {found:,} of {total:,} bytes came")
        shutil.move(self.partial, output_file)


def fetch_files(folder: Path, files: Sequence[RemoteFile], console: Console) -> None:
    """Fill a folder with published files; what is there already stays.

    ``download.json`` is written first: a folder that has it was filled by this stage and may be half complete.

    Args:
        folder: The folder; it is made where absent.
        files: The files that it holds afterwards, archives unpacked.
        console: The console that prints the address of each file.

    Raises:
        UserError: no mirror gives a file with the right checksum, or an archive holds what does not belong into it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lacking = [remote for remote in files if not _is_there(folder, remote)]
    if not lacking:
        console.print(f"{folder}: all {len(files)} published files are there.")
        return
    write_json(folder / MARK_NAME, {"files": {remote.name: remote.checksum for remote in files}})
    for remote in lacking:
        path = fetch_file(folder, remote, console)
        if remote.is_archive:
            unpack(path, folder, remote.gives)
            if not remote.gives:
                write_json(folder / remote.unpacked_name, {"checksum": remote.checksum})
            path.unlink()
    console.print(f"{folder}: all {len(files)} published files are there.")


def fetch_file(folder: Path, remote: RemoteFile, console: Console) -> Path:
    """Bring one file, from the first mirror that has it.

    A transfer that breaks off is resumed as long as each try brings more. Where the checksum is wrong after a
    transfer that was resumed, the file is brought again from its beginning.

    Args:
        folder: The folder to write into.
        remote: The file.
        console: The console that prints each mirror that is tried, and the reason where it fails.

    Returns:
        The file's path.

    Raises:
        UserError: no mirror gave it; the message has each one's reason.
    """
    partial = folder / f".{remote.name}.part"
    reasons = []
    for url in remote.urls:
        console.print(f"{remote.name} from {url}", highlight=False)
        reason = _try_mirror(folder, remote, url, partial, console)
        if not reason:
            return folder / remote.name
        reasons.append(f"{url}: {reason}")
        warn(console, f"{url}: {reason}")
    raise UserError(
        f"{folder / remote.name}: no mirror gave it ({'; '.join(reasons)}). Look at the network, run the command again "
        "(the transfer is resumed), or bring the file yourself and name its folder with --data.raw_folder "
        "(make: DATA=folder)."
    )


def unpack(archive: Path, folder: Path, names: Sequence[str]) -> None:
    """Take files out of an archive and put them into a folder, each whole or not at all.

    Args:
        archive: A ``.tar.gz`` or ``.zip``.
        folder: The folder to write into; the folders inside the archive are kept.
        names: The wanted members, by their bare names; none for all.

    Raises:
        UserError: the archive cannot be read, a member would lie outside the folder, or a wanted one is not in it.
    """
    unpacked = folder / f".{archive.name}.unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir(parents=True)
    try:
        (_extract_zip if archive.suffix == ".zip" else _extract_tar)(archive, unpacked)
        files = sorted(path for path in unpacked.rglob("*") if path.is_file() and not path.is_symlink())
        found = {path.name: path for path in files}
        missing = [name for name in names if name not in found]
        if missing:
            raise UserError(f"{archive}: no {', '.join(missing)} in it. It is not the published file.")
        for path in [found[name] for name in names] if names else files:
            target = folder / path.relative_to(unpacked)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    except (_OutsideError, tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise UserError(f"{archive}: cannot be unpacked ({error}). Delete it and run the fetch stage again.") from error
    finally:
        shutil.rmtree(unpacked)


def _is_there(folder: Path, remote: RemoteFile) -> bool:
    """Return whether a file or what it gives is there; a file under its published name needs its checksum."""
    published = folder / remote.name
    if published.is_file() and not remote.is_archive:
        return bool(pooch.hashes.hash_matches(published, remote.checksum))
    if remote.is_archive and not remote.gives:
        return (folder / remote.unpacked_name).is_file()
    return bool(remote.gives) and all(find_raw_file(folder, [name]) is not None for name in remote.gives)


def _try_mirror(folder: Path, remote: RemoteFile, url: str, partial: Path, console: Console) -> str:
    """Try one mirror until it gives the file or a try brings nothing; return why not, empty where it did."""
    has_started_over = False
    while True:
        size_before = partial.stat().st_size if partial.exists() else 0
        downloader = ResumingDownloader(partial, remote.name, console)
        try:
            pooch.get_logger().setLevel("ERROR")  # the console prints what pooch would
            pooch.retrieve(url, remote.checksum, fname=remote.name, path=folder, downloader=downloader)
            return ""
        except requests.exceptions.RequestException as error:
            size = partial.stat().st_size if partial.exists() else 0
            if size <= size_before:
                return _first_words(error)
            console.print(f"  broken off after {size:,} bytes; resuming from there", highlight=False)
        except ValueError:  # what pooch raises for a wrong checksum; it deleted the file
            if not downloader.has_resumed or has_started_over:
                return f"what it gave has not the checksum {remote.checksum}"
            has_started_over = True
            console.print("  the checksum is wrong after resuming; again from the beginning", highlight=False)


class _OutsideError(Exception):
    """A member of an archive whose place is not in the folder that it is unpacked into."""


def _extract_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            _find_place(folder, name)
        file.extractall(folder)  # noqa: S202 (each name was looked at)


def _extract_tar(archive: Path, folder: Path) -> None:
    """Write the files of an archive, without links and devices; ``filter="data"`` is new in Python 3.11.4."""
    with tarfile.open(archive) as file:
        for member in file:
            target = _find_place(folder, member.name)
            content = file.extractfile(member) if member.isfile() else None
            if content is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as copy:
                    shutil.copyfileobj(content, copy)


def _find_place(folder: Path, name: str) -> Path:
    place = (folder / name).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise _OutsideError(f"{name!r} would lie outside the folder")
    return place


def _first_words(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else f"{text[:159]}…"
