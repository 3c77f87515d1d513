"""Kinds of data (volumes, images, point clouds), with all facts in which the code for them differs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataKind:
    """One kind of data.

    Args:
        name: The name that store.json, checkpoints and messages hold.
        example: The name of one row of the store, in the singular, as all names here.
        source: The name of one row of the manifest.
        group: The name of one row of the splits: what is drawn, assigned and counted as independent.
        file: The name of one file that ``predict`` reads.
        file_suffixes: The endings of the names of such files, in lower case.
        has_slices: Whether an example is one slice of a volume.
        is_image: Whether an example is made of pixels.
    """

    name: str
    example: str
    source: str
    group: str
    file: str
    file_suffixes: tuple[str, ...]
    has_slices: bool
    is_image: bool

    @property
    def has_patients(self) -> bool:
        """Whether a group can hold several sources and examples; otherwise there is one level of rows alone."""
        return self.group != self.example


VOLUMES = DataKind(
    "volumes",
    example="slice",
    source="scan",
    group="patient",
    file="volume",
    file_suffixes=(".nii", ".nii.gz", ".hdr", ".hdr.gz"),
    has_slices=True,
    is_image=True,
)
IMAGES = DataKind("images", "image", "image", "image", "image", (".png",), has_slices=False, is_image=True)
POINTS = DataKind("points", "object", "object", "object", "object", (".off", ".npy"), has_slices=False, is_image=False)
DATA_KINDS = {kind.name: kind for kind in (VOLUMES, IMAGES, POINTS)}

LATERALITY = ("left", "right")
