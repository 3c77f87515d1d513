"""The parts of a schematic right knee, each a tube whose axial section is an ellipse.

Millimetres in the knee's own frame: lateral, anterior and superior are positive, the joint
line is at superior 0, the middle of the tibial plateau at lateral 0, anterior 0. A left knee
is the same table with lateral turned over. The figures are round ones, drawn to look like an
adult's axial sections; they are no atlas.

The medial and the lateral side differ, so that a section has a side at all:
the medial condyle is longer and reaches lower, the lateral ridge of the trochlea and the lateral
facet of the patella are larger, the medial plateau is deeper, the fibula and the biceps are
lateral, the medial gastrocnemius, the sartorius, gracilis and semimembranosus and the great
saphenous vein are medial, and the tibia's medial face lies under the skin.

The table is ``anatomy.csv``, a row for each section.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd


class Section(NamedTuple):
    """An ellipse across the limb.

    Args:
        superior_mm: The height above the joint line.
        lateral_mm: The centre, towards the side of the fibula.
        anterior_mm: The centre, towards the patella.
        half_width_mm: The half axis that is lateral before the turn.
        half_depth_mm: The half axis that is anterior before the turn.
        turn_degrees: Rotation from lateral towards anterior.
    """

    superior_mm: float
    lateral_mm: float
    anterior_mm: float
    half_width_mm: float
    half_depth_mm: float
    turn_degrees: float = 0.0


@dataclass(frozen=True)
class Tube:
    """A part of the knee: sections from the lowest to the highest, interpolated, with rounded ends.

    Args:
        name: The name of the part in an atlas.
        tissue: The tissue that it is made of, a key of the tissue intensities.
        sections: At least two sections, ``superior_mm`` growing.
        cartilage_mm: The thickness of the cartilage at the front and the back; 0 means none.
    """

    name: str
    tissue: str
    sections: tuple[Section, ...]
    cartilage_mm: float = 0.0


@cache
def read_anatomy() -> dict[str, list[Tube]]:
    """Read the parts of the knee, in the order in which they are painted.

    Returns:
        ``limb``: the outline under the skin, and what is inside the deep fascia. ``soft_tissues``: muscles, tendons,
        fat pads and vessels. ``bones``: femur, patella, tibia and fibula; each is painted as a dark shell filled with
        marrow. ``joint``: what lies between the bones, the notch with its ligaments.
    """
    columns = list(Section._fields)
    parts: dict[str, list[Tube]] = {}
    table = pd.read_csv(Path(__file__).with_name("anatomy.csv"))
    for (group, name, tissue, cartilage_mm), rows in table.groupby(list(table.columns[:4]), sort=False):
        sections = tuple(Section(*row) for row in rows[columns].itertuples(index=False))
        parts.setdefault(group, []).append(Tube(name, tissue, sections, cartilage_mm))
    return parts
