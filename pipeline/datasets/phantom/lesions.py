"""Bone-marrow lesions of the schematic knee: a bright spot under the cartilage, in three grades of size.

Each lesion is a ball in the marrow of a condyle or a plateau, bright in a fat-suppressed image and with a soft edge.
Its radius is 3.5, 5 or 6.5 mm by grade, so that it shows in two to five slices at a distance of 2.9 mm. Place, size and
grade belong to a knee and are the same at all its visits. The numbers were chosen by what can be seen, before any model
was trained on them; they are no measurements.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.config.phantom import PhantomConfig
from pipeline.core.array_types import Array
from pipeline.core.tables import write_table
from pipeline.datasets.phantom.geometry import Coordinates, place_knee

RADIUS_MM = (3.5, 5.0, 6.5)
# What a lesion is brighter than the marrow around it, where fat is about 0.5.
RISE = 0.4
# The edge is this part of the radius wide.
SOFTNESS = 0.4
# The centre of each site in the right knee's frame (lateral, anterior, superior), and how far a lesion may be from it.
SITES_MM = {
    "medial condyle": (-23.0, -8.0, 12.0),
    "lateral condyle": (22.0, -2.0, 13.0),
    "medial plateau": (-18.0, -2.0, -12.0),
    "lateral plateau": (19.0, -1.0, -12.0),
}
JITTER_MM = (4.0, 8.0, 3.0)
TABLE_NAME = "lesions.csv"
COLUMNS = (
    "path", "patient", "label", "side", "grade", "site", "radius_mm", "right_mm", "anterior_mm", "superior_mm",
)  # fmt: skip
SIDES = ("left", "right")


@dataclass(frozen=True)
class Lesion:
    """One lesion in the right knee's own frame.

    Args:
        site: The part of the bone.
        grade: 1, 2 or 3.
        centre_mm: Lateral, anterior and superior.
    """

    site: str
    grade: int
    centre_mm: tuple[float, float, float]

    @property
    def radius_mm(self) -> float:
        return RADIUS_MM[self.grade - 1]


def plan_lesions(config: PhantomConfig) -> dict[tuple[int, str], Lesion]:
    """Draw the knees that have a lesion, ``phantom.lesion_fraction`` of all, and their lesions.

    Args:
        config: The options of the knees.

    Returns:
        From patient index and side to the lesion.
    """
    knees = [(patient, side) for patient in range(config.num_patients) for side in SIDES]
    chooser = np.random.default_rng((config.seed, config.num_patients, 0, 0, 1))
    chosen = chooser.permutation(len(knees))[: round(config.lesion_fraction * len(knees))]
    lesions = {}
    for place in sorted(chosen.tolist()):
        patient, side = knees[place]
        # No scan has these numbers: their third one is 1 or more.
        generator = np.random.default_rng((config.seed, patient, 0, SIDES.index(side) + 1))
        site = list(SITES_MM)[generator.integers(len(SITES_MM))]
        grade = int(generator.integers(1, len(RADIUS_MM) + 1))
        offset = generator.uniform(-1, 1, 3) * JITTER_MM
        centre = tuple(float(value) for value in np.add(SITES_MM[site], offset))
        lesions[patient, side] = Lesion(site, grade, centre)  # type: ignore[arg-type]  # three of them
    return lesions


def measure_distance(coordinates: Coordinates, lesion: Lesion) -> Array:
    """Return the distance of each voxel from a lesion's centre, ``(superior, anterior, lateral)`` in mm."""
    lateral, anterior, superior = lesion.centre_mm
    distance: Array = np.sqrt(
        (coordinates.lateral_mm - np.float32(lateral)) ** 2
        + (coordinates.anterior_mm - np.float32(anterior)) ** 2
        + (coordinates.superior_mm[:, None, None].astype(np.float32) - np.float32(superior)) ** 2
    )
    return distance


def compute_rise(coordinates: Coordinates, lesion: Lesion) -> Array:
    """Return how much brighter a lesion makes each voxel of marrow, ``(superior, anterior, lateral)``."""
    edge_mm = SOFTNESS * lesion.radius_mm
    rise: Array = RISE * np.clip((lesion.radius_mm - measure_distance(coordinates, lesion)) / edge_mm, 0, 1)
    return rise


def write_lesion_table(
    path: Path, config: PhantomConfig, scans: list[tuple[str, int, str, np.random.Generator, np.random.Generator]]
) -> None:
    """Write the table of labels: a row for each scan, with the place of the lesion in millimetres from its centre.

    Args:
        path: The file to write.
        config: The options of the knees.
        scans: The file name, patient index, side, and the generators of patient and scan of each scan, as they are
            before it is painted.
    """
    lesions, rows = plan_lesions(config), []
    for file_name, patient, side, patient_generator, scan_generator in scans:
        row: dict[str, object] = {"path": file_name, "patient": f"{patient + 1:07d}", "label": "none", "side": side}
        lesion = lesions.get((patient, side))
        if lesion is not None:
            coordinates = place_knee(config, patient_generator, scan_generator)
            distance = measure_distance(coordinates, lesion)
            nearest = np.unravel_index(int(distance.argmin()), distance.shape)[::-1]
            right, anterior, superior = (
                (index - (count - 1) / 2) * spacing
                for index, count, spacing in zip(nearest, config.shape, config.spacing_mm, strict=True)
            )
            row |= {"label": "lesion", "grade": lesion.grade, "site": lesion.site, "radius_mm": lesion.radius_mm}
            # A left knee is painted as the mirror image of a right one.
            row |= {"right_mm": -right if side == "left" else right, "anterior_mm": anterior, "superior_mm": superior}
        rows.append(row)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table["grade"] = table["grade"].fillna(0).astype(int)
    write_table(path, table, COLUMNS)
