"""Osteoarthritis of the schematic knee: a narrower joint space and osteophytes, by Kellgren-Lawrence grade.

Grade 1 is a small osteophyte, 2 a definite one, 3 a narrower joint space, 4 bone on bone with large osteophytes
(Kellgren and Lawrence 1957, in short). The sizes are chosen to be seen in voxels of 2 mm; they are no measurements.
"""

import numpy as np

from pipeline.core.array_types import Array

# Of each grade from 0 to 4: how far each of two bones reaches into the joint, and what is left of the cartilage.
NARROWING_MM = (0.0, 0.0, 1.0, 2.2, 3.5)
CARTILAGE_LEFT = (1.0, 1.0, 0.85, 0.5, 0.1)
OSTEOPHYTE_MM = (0.0, 2.0, 3.8, 5.0, 6.5)
UPPER, LOWER = ("medial condyle", "lateral condyle"), ("medial plateau", "lateral plateau")
# The lateral compartment is narrowed less than the medial one.
LATERAL_FRACTION = 0.5
HEIGHT, LATERAL, ANTERIOR, HALF_WIDTH, HALF_DEPTH = range(5)


def narrow_joint(name: str, rows: Array, grade: int) -> Array:
    """Move the end of a bone into the joint.

    Args:
        name: The name of the bone's part.
        rows: ``(sections, 6)``, its sections from the lowest, as ``vary_shape`` gives them.
        grade: The Kellgren-Lawrence grade.

    Returns:
        The sections, of which the one at the joint is lower for a condyle and higher for a plateau; others as they are.
    """
    if name not in UPPER + LOWER or grade == 0:
        return rows
    rows = rows.copy()
    distance_mm = NARROWING_MM[grade] * (LATERAL_FRACTION if name.startswith("lateral") else 1.0)
    if name in UPPER:
        rows[0, HEIGHT] -= distance_mm
    else:
        rows[-1, HEIGHT] += distance_mm
    return rows


def grow_osteophytes(name: str, rows: Array, grade: int) -> list[Array]:
    """Return the osteophyte at the outer margin of a condyle or plateau, as a tube; none at grade 0 or other parts.

    Args:
        name: The name of the bone's part.
        rows: ``(sections, 6)``, its sections from the lowest.
        grade: The Kellgren-Lawrence grade.
    """
    size_mm = OSTEOPHYTE_MM[grade]
    if name not in UPPER + LOWER or size_mm == 0:
        return []
    section = rows[1] if name in UPPER else rows[-1]
    outwards = -1.0 if name.startswith("medial") else 1.0
    height = section[HEIGHT] if name in UPPER else section[HEIGHT] - size_mm
    margin = section[LATERAL] + outwards * section[HALF_WIDTH]
    spur = [height, margin, section[ANTERIOR], size_mm, 2.5 * size_mm, 0.0]
    return [np.array([[height - size_mm, *spur[1:]], [height + size_mm, *spur[1:]]])]
