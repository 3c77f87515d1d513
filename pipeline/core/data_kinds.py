"""What data sets are made of, and the words that tables and reports use for it."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["volumes", "images", "points"]


@dataclass(frozen=True)
class Words:
    """What one row of each table is called, in the singular.

    Args:
        example: a row of the store.
        source: a row of the manifest.
        group: a row of the splits; what is drawn, divided and counted as independent.
    """

    example: str
    source: str
    group: str

    @property
    def is_single(self) -> bool:
        """Whether a group is its only source and its only example, so that there is one level alone."""
        return self.example == self.group


WORDS: dict[Kind, Words] = {
    "volumes": Words("slice", "scan", "patient"),
    "images": Words("image", "image", "image"),
    "points": Words("object", "object", "object"),
}

LATERALITY = ("left", "right")
