"""Where published files are to be had, and how they are known."""

from dataclasses import dataclass

# Written into a folder before the first download: the folder may be half complete, and is not a user's own.
MARK_NAME = "download.json"


@dataclass(frozen=True)
class RemoteFile:
    """A published file.

    Args:
        name: what it is called here.
        urls: where it is to be had; the first that works is taken.
        checksum: ``md5:`` or ``sha256:`` and the digest.
        gives: the files that are wanted of it: of an archive its members, by their bare names, or none for all;
            of another file a spelling that a user may have put there in its place.
    """

    name: str
    urls: tuple[str, ...]
    checksum: str
    gives: tuple[str, ...] = ()

    @property
    def is_archive(self) -> bool:
        return self.name.endswith((".tar.gz", ".tgz", ".zip"))

    @property
    def unpacked_name(self) -> str:
        """Name of the file that says that all members of an archive are there."""
        return f"{self.name}.unpacked"
