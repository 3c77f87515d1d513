"""Archives: the files in a tar, tar.gz or zip, one after the other, unpacked in memory and never to disk.

Whoever made the archive decides nothing here: names that lead out of a folder, links, devices and files that unpack to
more than is allowed are refused. tarfile's own filters guard what is extracted to disk; here its headers are bounded
too, because it would read one that claims gigabytes whole.
"""

import io
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from isal import igzip, isal_zlib

from pipeline.core.errors import UserError, VolumeError
from pipeline.core.files import describe_absence

SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")
MAX_MEMBERS = 20_000  # of a series a few hundred
MAX_HEADER_BYTES = 1 << 20  # of one file: long names and remarks
MAX_DIRECTORY_BYTES = 1 << 23  # of a zip
SKIPPED_AT_ONCE = 1 << 20
# A chain of headers ends in a RecursionError, which is a RuntimeError.
READ_ERRORS = (
    tarfile.TarError, zipfile.BadZipFile, isal_zlib.error, zlib.error, OSError, EOFError, ValueError, RuntimeError,
)  # fmt: skip


def is_archive(path: Path) -> bool:
    """Return whether a file is an archive by its name."""
    return path.name.lower().endswith(SUFFIXES)


def read_files(path: Path, max_bytes: int) -> Iterator[bytes]:
    """Yield the content of each file of an archive, in the order in which they stand there.

    A tar is read once, as a stream.

    Args:
        path: A file whose name ends in one of ``SUFFIXES``.
        max_bytes: The largest number of bytes that all files together may unpack to.

    Raises:
        VolumeError: damaged; a link, a device or a name that leads out of the folder; more bytes or files than allowed.
    """
    read = _read_zip if path.name.lower().endswith(".zip") else _read_tar
    try:
        yield from read(path, max_bytes)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise VolumeError(f"{path}: {describe_absence(path)}.") from error
    except READ_ERRORS as error:  # type: ignore[misc]  # isal's stub lacks the base class
        raise VolumeError(f"{path}: a damaged archive ({type(error).__name__}). Copy it again.") from error


class _Forward:
    """A stream that is read forwards alone, and gives only as many bytes at once as are allowed."""

    def __init__(self, path: Path, stream: IO[bytes], max_bytes: int) -> None:
        self.path, self.stream, self.max_bytes = path, stream, max_bytes
        self.place, self.most = 0, MAX_HEADER_BYTES

    def read(self, size: int) -> bytes:
        """Read; refuse more than ``most`` bytes at once, and more than ``max_bytes`` in all."""
        if not 0 <= size <= self.most:
            raise VolumeError(f"{self.path}: an archive with a header of {size:,} bytes. Pack the files again.")
        if self.place + size > self.max_bytes:
            raise _describe_size(self.path, self.max_bytes)
        content = self.stream.read(size)
        self.place += len(content)
        return content

    def seek(self, place: int) -> int:
        """Read up to a place."""
        if place < self.place:
            raise tarfile.ReadError("backwards")
        while self.place < place:
            if not self.read(min(SKIPPED_AT_ONCE, place - self.place)):
                raise EOFError
        return self.place

    def tell(self) -> int:
        """Return the place."""
        return self.place

    def close(self) -> None:
        """Leave the stream to whoever opened it."""


def _read_tar(path: Path, max_bytes: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream: IO[bytes] = igzip.IGzipFile(fileobj=file) if is_packed else file
        # Headers and padding are a part of the stream: half a kilobyte a file at least, and never much more.
        forward = _Forward(path, stream, max_bytes + MAX_MEMBERS * 4096)
        with tarfile.TarFile(fileobj=forward, mode="r") as archive:  # type: ignore[arg-type]  # all that it calls
            left = max_bytes
            for number in range(MAX_MEMBERS + 1):
                member = archive.next()
                if member is None:
                    return
                archive.members.clear()  # type: ignore[attr-defined]  # it keeps every header
                _check_name(path, member.name)
                if not (member.isfile() or member.isdir()) or member.issparse():
                    raise VolumeError(f"{path}: an archive with a link or a device in it. Pack the files themselves.")
                if number == MAX_MEMBERS:
                    raise _describe_number(path)
                if not member.isfile():
                    continue
                if member.size > left:
                    raise _describe_size(path, max_bytes)
                left -= member.size
                forward.most = max(member.size, MAX_HEADER_BYTES)
                forward.seek(member.offset_data)
                content = forward.read(member.size)
                forward.most = MAX_HEADER_BYTES
                if len(content) < member.size:
                    raise EOFError
                yield content


def _read_zip(path: Path, max_bytes: int) -> Iterator[bytes]:
    _check_directory(path)
    with zipfile.ZipFile(path) as archive:
        left = max_bytes
        for member in archive.infolist():
            _check_name(path, member.filename)
            if stat.S_ISLNK(member.external_attr >> 16):
                raise VolumeError(f"{path}: an archive with a link or a device in it. Pack the files themselves.")
            if member.is_dir():
                continue
            if member.flag_bits & 1:
                raise VolumeError(f"{path}: an archive with a password. Unpack it.")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise VolumeError(f"{path}: a zip of another method than deflate. Pack the files again.")
            with archive.open(member) as file:
                content = file.read(min(left, member.file_size) + 1)  # what it claims may be a lie
            left -= len(content)
            if left < 0:
                raise _describe_size(path, max_bytes)
            yield content


def _check_directory(path: Path) -> None:
    """Refuse a zip whose directory is too large to be read, before zipfile reads all of it."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - (1 << 16) - 64))
        end = file.read()
    place = end.rfind(b"PK\x05\x06")
    if place < 0 or len(end) < place + 22:
        raise zipfile.BadZipFile("no end of a directory")
    num_files = int.from_bytes(end[place + 10 : place + 12], "little")
    num_bytes = int.from_bytes(end[place + 12 : place + 16], "little")
    is_long = end[max(0, place - 20) : place].startswith(b"PK\x06\x07")  # sizes of 64 bits, in another place
    if is_long or num_files > MAX_MEMBERS or num_bytes > MAX_DIRECTORY_BYTES:
        raise _describe_number(path)


def _check_name(path: Path, name: str) -> None:
    """Refuse a name that is absolute or climbs, in the way of any system; nothing is written, but it is a bad sign."""
    is_absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or name.startswith("\\")
    if is_absolute or ".." in name.replace("\\", "/").split("/"):
        raise VolumeError(f"{path}: an archive with a name that leads out of its folder. Pack the files again.")


def _describe_size(path: Path, max_bytes: int) -> VolumeError:
    return VolumeError(
        f"{path}: an archive of more than {max_bytes / 2**30:.1f} GiB of files, as many are read. "
        "Raise preprocess.max_volume_gib if that is meant."
    )


def _describe_number(path: Path) -> VolumeError:
    return VolumeError(f"{path}: an archive of more than {MAX_MEMBERS:,} files. Pack each series by itself.")
