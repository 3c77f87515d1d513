"""Kinds of data (volumes, images, point clouds) with all in which code for them differs, and the shape of examples."""

from collections.abc import Sequence
from dataclasses import dataclass, replace


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
        reads_scans: Whether the files are scans, whose slices have places in millimetres.
        is_image: Whether an example is made of pixels.
        has_places: Whether an example is all slices of a volume, each with its place.
    """

    name: str
    example: str
    source: str
    group: str
    file: str
    file_suffixes: tuple[str, ...]
    has_slices: bool
    is_image: bool
    reads_scans: bool = False
    has_places: bool = False

    @property
    def has_patients(self) -> bool:
        """True where a group can hold several sources and examples; otherwise there is one level of rows alone."""
        return self.group != self.example


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
SCAN_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".tar.gz", ".tgz", ".tar", ".zip")
VOLUMES = DataKind(
    "volumes",
    example="slice",
    source="scan",
    group="patient",
    file="volume",
    file_suffixes=SCAN_SUFFIXES,
    has_slices=True,
    is_image=True,
    reads_scans=True,
)
# Scans of patients whose slices together are one example (``preprocess.unit: volume``).
SCANS = DataKind(
    "scans",
    example="volume",
    source="scan",
    group="patient",
    file="volume",
    file_suffixes=SCAN_SUFFIXES,
    has_slices=False,
    is_image=True,
    reads_scans=True,
    has_places=True,
)
# Images of patients, such as radiographs: whole patients are drawn, and each image is an example.
PATIENT_IMAGES = DataKind(
    "patient_images",
    example="image",
    source="image",
    group="patient",
    file="image",
    file_suffixes=IMAGE_SUFFIXES,
    has_slices=False,
    is_image=True,
)
# Images of a published set with test rows of its own, each independent of all others.
IMAGES = DataKind("images", "image", "image", "image", "image", IMAGE_SUFFIXES, has_slices=False, is_image=True)
POINTS = DataKind("points", "object", "object", "object", "object", (".off", ".npy"), has_slices=False, is_image=False)
# Volumes of a published set, each one example: its slices are the channels of one image.
WHOLE_VOLUMES = DataKind(
    "whole_volumes",
    example="volume",
    source="volume",
    group="volume",
    file="volume",
    file_suffixes=(".npy",),
    has_slices=False,
    is_image=True,
)
# The same volumes as stacks of slices that have places, in voxels (``preprocess.unit: volume``).
VOXEL_VOLUMES = replace(WHOLE_VOLUMES, name="voxel_volumes", has_places=True)
DATA_KINDS = {
    kind.name: kind for kind in (VOLUMES, SCANS, PATIENT_IMAGES, IMAGES, WHOLE_VOLUMES, VOXEL_VOLUMES, POINTS)
}


def are_sides(class_names: Sequence[str]) -> bool:
    """Return whether the classes are left and right, in upper or lower case."""
    return sorted(name.casefold() for name in class_names) == ["left", "right"]


@dataclass(frozen=True)
class InputSpec:
    """The examples that a network reads, and the classes that it distinguishes.

    Args:
        kind: The kind of data.
        num_channels: The channels of an image; 1 for point clouds.
        image_size: Height and width in pixels; of point clouds the number of stored points, and 3.
        num_slices: The slices of a volume, the resolution of a slice's position.
        class_names: The meaning of the logits, in their order.
        field_of_view_mm: The length of each axis that a network of whole scans reads, of volumes of a published set
            in voxels; 0 for other kinds.
        is_sagittal: Whether the slices of a scan follow each other from left to right, so that its mirror image has
            them in reverse order; known for scans alone.
    """

    kind: DataKind
    num_channels: int
    image_size: tuple[int, int]
    num_slices: int
    class_names: tuple[str, ...]
    field_of_view_mm: float = 0.0
    is_sagittal: bool = False

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of one example in a store, where grey images and point clouds have no axis of channels.

        Of whole scans it is that of the one with the most slices.
        """
        if self.kind.has_places:
            return (self.num_slices, *self.image_size)
        return self.image_size if self.num_channels == 1 else (self.num_channels, *self.image_size)
