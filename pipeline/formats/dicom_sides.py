"""The side of the body by a name, or by the tags of a DICOM series, and the maker of the scanner."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.formats.archives import is_archive, read_files
from pipeline.formats.dicom import has_magic, list_series, silence_pydicom

SIDE_TAGS = ("ImageLaterality", "Laterality")
SIDE_CODES = {"R": "right", "L": "left"}  # DICOM PS3.3, C.7.3.1: B and U are both sides, or neither
MAKERS = ("Siemens", "Philips", "GE")
# A side as a word of its own anywhere in a name; of "bright" or "leftover" nothing follows.
SIDE_WORD = re.compile(r"(?<![a-z])(R_?I_?G_?H_?T|L_?E_?F_?T)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class SideTags:
    """The sides that a header names.

    Args:
        sides: ``left`` or ``right`` by the name of the tag, for those that name one.
        maker: The maker of the scanner, one of ``MAKERS``; empty where it is another, or unknown.
    """

    sides: dict[str, str] = field(default_factory=dict)
    maker: str = ""


def find_side(name: str) -> str:
    """Return the side that a file's or folder's name holds, in any spelling: ``left``, ``right``, or nothing."""
    sides = {"right" if found[0].upper() == "R" else "left" for found in SIDE_WORD.findall(name)}
    return sides.pop() if len(sides) == 1 else ""


def read_side_tags(path: Path, max_bytes: int) -> SideTags:
    """Read the sides in the header of a series' first file.

    Args:
        path: The folder or archive of the series; another file has none.
        max_bytes: The largest number of bytes that the archive may unpack to.

    Raises:
        VolumeError: unreadable.
    """
    contents: Iterator[bytes] = iter(())
    if is_archive(path):
        contents = (content for content in read_files(path, max_bytes) if has_magic(content))
    elif path.is_dir():
        contents = (file.read_bytes() for file in list_series(path))
    content = next(contents, None)
    if content is None:
        return SideTags()
    with silence_pydicom(str(path)):
        import pydicom

        header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
        sides = {tag: SIDE_CODES.get(str(header.get(tag, "")).strip().upper(), "") for tag in SIDE_TAGS}
        sides["SeriesDescription"] = find_side(str(header.get("SeriesDescription", "")))
        maker = str(header.get("Manufacturer", "")).strip().upper()
    named = next((name for name in MAKERS if maker.startswith(name.upper())), "")
    return SideTags({tag: side for tag, side in sides.items() if side}, named)
