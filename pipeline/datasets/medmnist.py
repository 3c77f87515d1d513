"""MedMNIST: eleven sets of medical images and six of small volumes, each one file with splits of its own.

A set comes in several sizes: ``breastmnist.npz`` holds 28 x 28 pixels, ``breastmnist_64.npz`` 64 x 64; images of 3-D
sets are cubes of 28 or 64 voxels a side. A file holds ``train_images``, ``train_labels``, and so for val and test. The
axes of a cube have no stated anatomical directions, so that it is not cut: its first axis becomes the channels of one
image, and the volume stays one example with one label, as the published scores count it.

Source:
    Yang 2023, "MedMNIST v2", Scientific Data 10.1038/s41597-022-01721-8, CC BY 4.0 (DermaMNIST CC BY-NC 4.0).
    Labels, counts, addresses and MD5 are those of the package medmnist 3.0.2, file medmnist/info.py; the files are at
    https://doi.org/10.5281/zenodo.10519652.
"""

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from einops import rearrange

from pipeline.config.sources import DataConfig
from pipeline.core.array_types import Array
from pipeline.core.errors import UserError
from pipeline.datasets.base import (
    OFFICIAL_SPLITS,
    Part,
    PublishedSet,
    RemoteFile,
    find_raw_file,
    join_parts,
)
from pipeline.formats.npz import ArrayLimits, read_npz

ADDRESS = "https://zenodo.org/records/10519652/files/{name}?download=1"
SMALLEST_SIDE = 28
ADVICE = "Take another copy of the published file."


@dataclass(frozen=True)
class MedicalSet:
    """The facts of one set.

    Args:
        class_names: The meaning of the labels 0, 1, ...
        num_examples: The numbers of the train, val and test examples.
        checksums: From the side in pixels to the MD5 of the published file.
        num_channels: 3 for colour.
        is_3d: Whether an example is a volume.
    """

    class_names: tuple[str, ...]
    num_examples: tuple[int, int, int]
    checksums: Mapping[int, str]
    num_channels: int = 1
    is_3d: bool = False

    @property
    def published(self) -> dict[str, int]:
        """From an official split to the number of its examples."""
        return dict(zip(OFFICIAL_SPLITS, self.num_examples, strict=True))

    def row_shape(self, side: int) -> tuple[int, ...]:
        """The shape of one example in the file."""
        return (side,) * 3 if self.is_3d else (side, side, 3) if self.num_channels == 3 else (side, side)


ORGANS = (
    "bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left", "lung-right",
    "pancreas", "spleen",
)  # fmt: skip
SETS: dict[str, MedicalSet] = {
    "pathmnist": MedicalSet(
        (
            "adipose",
            "background",
            "debris",
            "lymphocytes",
            "mucus",
            "smooth muscle",
            "normal colon mucosa",
            "cancer-associated stroma",
            "colorectal adenocarcinoma epithelium",
        ),
        (89996, 10004, 7180),
        {
            28: "a8b06965200029087d5bd730944a56c1",
            64: "55aa9c1e0525abe5a6b9d8343a507616",
            128: "ac42d08fb904d92c244187169d1fd1d9",
            224: "2c51a510bcdc9cf8ddb2af93af1eadec",
        },
        num_channels=3,
    ),
    "dermamnist": MedicalSet(
        (
            "actinic keratoses and intraepithelial carcinoma",
            "basal cell carcinoma",
            "benign keratosis-like lesions",
            "dermatofibroma",
            "melanoma",
            "melanocytic nevi",
            "vascular lesions",
        ),
        (7007, 1003, 2005),
        {
            28: "0744692d530f8e62ec473284d019b0c7",
            64: "b70a2f5635c6199aeaa28c31d7202e1f",
            128: "2defd784463fa5243564e855ed717de1",
            224: "8974907d8e169bef5f5b96bc506ae45d",
        },
        num_channels=3,
    ),
    "octmnist": MedicalSet(
        ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
        (97477, 10832, 1000),
        {
            28: "c68d92d5b585d8d81f7112f81e2d0842",
            64: "e229e9440236b774d9f0dfef9d07bdaf",
            128: "0a97e76651ace45c5d943ee3f65b63ae",
            224: "abc493b6d529d5de7569faaef2773ba3",
        },
    ),
    "pneumoniamnist": MedicalSet(
        ("normal", "pneumonia"),
        (4708, 524, 624),
        {
            28: "28209eda62fecd6e6a2d98b1501bb15f",
            64: "8f4eceb4ccffa70c672198ea285246c6",
            128: "05b46931834c231683c68f40c47b2971",
            224: "d6a3c71de1b945ea11211b03746c1fe1",
        },
    ),
    "retinamnist": MedicalSet(
        ("0", "1", "2", "3", "4"),
        (1080, 120, 400),
        {
            28: "bd4c0672f1bba3e3a89f0e4e876791e4",
            64: "afda852cc34dcda56f86ad2b2457dbcc",
            128: "e48e916a24454daf90583d4e6efb1a18",
            224: "eae7e3b6f3fcbda4ae613ebdcbe35348",
        },
        num_channels=3,
    ),
    "breastmnist": MedicalSet(
        ("malignant", "normal, benign"),
        (546, 78, 156),
        {
            28: "750601b1f35ba3300ea97c75c52ff8f6",
            64: "742edef2a1fd1524b2efff4bd7ba9364",
            128: "363e4b3f8d712e9b5de15470a2aaadf1",
            224: "b56378a6eefa9fed602bb16d192d4c8b",
        },
    ),
    "bloodmnist": MedicalSet(
        (
            "basophil",
            "eosinophil",
            "erythroblast",
            "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
            "lymphocyte",
            "monocyte",
            "neutrophil",
            "platelet",
        ),
        (11959, 1712, 3421),
        {
            28: "7053d0359d879ad8a5505303e11de1dc",
            64: "2b94928a2ae4916078ca51e05b6b800b",
            128: "adace1e0ed228fccda1f39692059dd4c",
            224: "b718ff6835fcbdb22ba9eacccd7b2601",
        },
        num_channels=3,
    ),
    "tissuemnist": MedicalSet(
        (
            "Collecting Duct, Connecting Tubule",
            "Distal Convoluted Tubule",
            "Glomerular endothelial cells",
            "Interstitial endothelial cells",
            "Leukocytes",
            "Podocytes",
            "Proximal Tubule Segments",
            "Thick Ascending Limb",
        ),
        (165466, 23640, 47280),
        {
            28: "ebe78ee8b05294063de985d821c1c34b",
            64: "123ece2eba09d0aa5d698fda57103344",
            128: "61b955355d7425a89687b06cca3ce0c2",
            224: "b077128c4a949f0a4eb01517f9037b9c",
        },
    ),
    "organamnist": MedicalSet(
        ORGANS,
        (34561, 6491, 17778),
        {
            28: "68e3f8846a6bd62f0c9bf841c0d9eacc",
            64: "2dcccc29b88e6da5a01161ef20cda288",
            128: "eeae80d0a227a8d099027e1b3cfd3b60",
            224: "50747347e05c87dd3aaf92c49f9f3170",
        },
    ),
    "organcmnist": MedicalSet(
        ORGANS,
        (12975, 2392, 8216),
        {
            28: "b9ceb9546e10131b32923c5bbeaea2b1",
            64: "3ce34a8724ea6f548e6db4744d03b6a9",
            128: "773c1f009daa3fe5d9a2a201b2a7ed94",
            224: "050f5e875dc056f6768abf94ec9995d1",
        },
    ),
    "organsmnist": MedicalSet(
        ORGANS,
        (13932, 2452, 8827),
        {
            28: "9ab87b696fb54e2a387ebe992d6ed5f1",
            64: "53a6d115339d874c25e309a994ff46d3",
            128: "ded0c5fa01a95dc4978b956f613e9b8e",
            224: "b354719e553fbbb2513d5533f52a4cb1",
        },
    ),
    "organmnist3d": MedicalSet(
        (
            "liver",
            "kidney-right",
            "kidney-left",
            "femur-right",
            "femur-left",
            "bladder",
            "heart",
            "lung-right",
            "lung-left",
            "spleen",
            "pancreas",
        ),
        (971, 161, 610),
        {28: "a0c5a1ff56af4f155c46d46fbb45a2fe", 64: "58a2205adf14a9d0a189cb06dc78bf10"},
        is_3d=True,
    ),
    "nodulemnist3d": MedicalSet(
        ("benign", "malignant"),
        (1158, 165, 310),
        {28: "8755a7e9e05a4d9ce80a24c3e7a256f3", 64: "c47c5b7d457bf6332200d2ea6d64ecd8"},
        is_3d=True,
    ),
    "adrenalmnist3d": MedicalSet(
        ("normal", "hyperplasia"),
        (1188, 98, 298),
        {28: "bbd3c5a5576322bc4cdfea780653b1ce", 64: "17721accfe9fb005146a47d33bc54b2f"},
        is_3d=True,
    ),
    "fracturemnist3d": MedicalSet(
        ("buckle rib fracture", "nondisplaced rib fracture", "displaced rib fracture"),
        (1027, 103, 240),
        {28: "6aa7b0143a6b42da40027a9dda61302f", 64: "f01d7e6316aedf4210da0da5b7437b42"},
        is_3d=True,
    ),
    "vesselmnist3d": MedicalSet(
        ("vessel", "aneurysm"),
        (1335, 191, 382),
        {28: "b41fd4f7e7e2feedddb201585ecafa1b", 64: "6bb274a8846e1097066dcd64e2c4520f"},
        is_3d=True,
    ),
    "synapsemnist3d": MedicalSet(
        ("inhibitory synapse", "excitatory synapse"),
        (1230, 177, 352),
        {28: "1235b78a3cd6280881dd7850a78eadb6", 64: "43bd14ebf3af9d3dd072446fedc14d5e"},
        is_3d=True,
    ),
}
IMAGE_SETS = tuple(name for name, facts in SETS.items() if not facts.is_3d)
VOLUME_SETS = tuple(name for name, facts in SETS.items() if facts.is_3d)


@dataclass(frozen=True)
class Variant:
    """One file of MedMNIST: a set in one size.

    Args:
        name: The name of the set.
        side: The side of an image or volume in pixels.
    """

    name: str
    side: int

    @property
    def facts(self) -> MedicalSet:
        return SETS[self.name]

    @property
    def file_name(self) -> str:
        size = "" if self.side == SMALLEST_SIDE else f"_{self.side}"
        return f"{self.name}{size}.npz"

    @property
    def remote(self) -> RemoteFile:
        checksum = f"md5:{self.facts.checksums[self.side]}"
        return RemoteFile(self.file_name, (ADDRESS.format(name=self.file_name),), checksum)


def find_variant(config: DataConfig) -> Variant:
    """Find the set and the size that ``data.variant`` names.

    Raises:
        UserError: no name, one that is not among the published ones, or of a set that is not for this reader.
    """
    names = VOLUME_SETS if config.dataset == "medmnist3d" else IMAGE_SETS
    variants = {
        variant.file_name.removesuffix(".npz"): variant
        for name in names
        for variant in (Variant(name, side) for side in SETS[name].checksums)
    }
    found = config.variant
    if found in variants:
        return variants[found]
    name, _, size = (found or "").partition("_")
    if name == "chestmnist":
        raise UserError(
            "data.variant: found 'chestmnist', whose images have several labels each (multi-label); models of one "
            f"label an image are built here. Allowed are {', '.join(names)}."
        )
    if name in SETS and name not in names:
        other = "medmnist3d" if name in VOLUME_SETS else "medmnist"
        raise UserError(f"data.variant: found {found!r}, which is read by data.dataset: {other}. Set that too.")
    if name in names:
        sides = ", ".join(f"{name}_{side}" for side in SETS[name].checksums if side != SMALLEST_SIDE)
        raise UserError(f"data.variant: found {found!r}, a size that is not published; allowed are {name}, {sides}.")
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]}{'_' if size else ''}{size}?" if near else ""
    raise UserError(
        f"data.variant: found {found!r}; allowed is the name of a set of MedMNIST: {', '.join(names)}, and for larger "
        f"images its size after it, such as {names[0]}_64.{hint}"
    )


def read_medmnist(raw: Path, config: DataConfig) -> PublishedSet:
    """Read the file of one set.

    Args:
        raw: The folder that holds it, or one above it.
        config: The name of the set, and whether a part of it is good enough.

    Returns:
        What is missing or differs, and the examples: grey images as they are, colour ones ``(examples, 3, side,
        side)``, volumes ``(examples, side, side, side)``; labels by their names.

    Raises:
        UserError: the file is absent, no archive of the six arrays, holds what is no label, or images and labels
            differ in number; or the set is not whole and the config does not allow it.
    """
    variant = find_variant(config)
    facts, published = variant.facts, variant.facts.published
    path = find_raw_file(raw, [variant.file_name])
    if path is None:
        raise UserError(
            f"{raw}: no {variant.file_name}. Run the fetch stage with an empty folder, or name the folder that holds "
            "it with --data.raw_folder (make: DATA=folder)."
        )
    limits = {}
    for split, most in published.items():
        limits[f"{split}_images"] = ArrayLimits(most, (facts.row_shape(variant.side),))
        limits[f"{split}_labels"] = ArrayLimits(most, ((1,), ()), max_item_bytes=8)
    arrays = read_npz(path, limits)
    parts = []
    for split in published:
        images, labels = arrays.pop(f"{split}_images"), arrays.pop(f"{split}_labels").reshape(-1)
        if len(images) != len(labels):
            raise UserError(f"{path}: {len(labels)} {split}_labels, but {len(images)} {split}_images. {ADVICE}")
        parts.append(Part(path, split, _order_axes(images, facts), _name_classes(labels, facts, f"{path}: {split}")))
    joined = join_parts(raw, parts, published, "volume" if facts.is_3d else "image", config.allow_partial)
    checksum = describe_checksum(path, facts.checksums[variant.side])
    return replace(joined, missing=f"{joined.missing} {checksum}".strip())


def describe_checksum(path: Path, expected: str) -> str:
    """Compare the MD5 of a file with the published one; a sentence where they differ, else nothing."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found == expected:
        return ""
    return (
        f"{path.name} is not the published file bit for bit (MD5 {found}, published {expected}): it was saved again, "
        "or its content was changed."
    )


def _order_axes(images: Array, facts: MedicalSet) -> Array:
    if facts.num_channels == 1:
        return images
    return rearrange(images, "image row column channel -> image channel row column")


def _name_classes(labels: Array, facts: MedicalSet, place: str) -> Array:
    wrong = np.flatnonzero((labels < 0) | (labels >= len(facts.class_names)))
    if len(wrong):
        raise UserError(
            f"{place}_labels: label {wrong[0]} is {labels[wrong[0]]}; allowed are 0 to {len(facts.class_names) - 1}. "
            f"{ADVICE}"
        )
    return np.array(facts.class_names)[labels.astype(np.int64)]
