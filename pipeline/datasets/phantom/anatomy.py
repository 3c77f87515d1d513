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
"""

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Section:
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


def tube(name: str, tissue: str, *rows: tuple[float, ...], cartilage_mm: float = 0.0) -> Tube:
    """Build a tube.

    Args:
        name: The name of the part in an atlas.
        tissue: The tissue that it is made of.
        rows: The sections, each a row in the order of ``Section``'s fields.
        cartilage_mm: The thickness of the cartilage at the front and the back; 0 means none.
    """
    return Tube(name, tissue, tuple(Section(*row) for row in rows), cartilage_mm)


@cache
def build_limb() -> tuple[Tube, ...]:
    """The outline of the limb under the skin, and what is inside the deep fascia."""
    return (
        tube("limb", "fat", (-90, 0, -4, 52, 54), (-25, 0, -3, 53, 55), (5, 0, -3, 55, 57), (90, 0, -4, 62, 64)),
        tube(
            "compartments",
            "deep_fat",
            (-90, 0, -5, 45, 48),
            (-25, 1, -2, 47, 48),
            (5, 1, -1, 49, 50),
            (90, 1, -4, 54, 57),
        ),
    )


@cache
def build_soft_tissues() -> tuple[Tube, ...]:
    """Muscles, tendons, fat pads and vessels, in the order in which they are painted."""
    return (
        tube("vastus intermedius", "muscle", (34, 2, 14, 20, 15), (50, 2, 16, 25, 18), (90, 2, 16, 27, 22)),
        tube(
            "vastus medialis",
            "muscle",
            (14, -38, 10, 6, 12, 8),
            (34, -34, 12, 13, 21, 10),
            (60, -30, 12, 19, 26, 10),
            (90, -28, 12, 20, 28, 10),
        ),
        tube(
            "vastus lateralis", "muscle", (30, 36, 14, 6, 13, -10), (48, 34, 14, 13, 22, -10), (90, 31, 14, 19, 28, -10)
        ),
        tube(
            "semimembranosus",
            "muscle",
            (2, -27, -30, 7, 6, -20),
            (25, -22, -34, 14, 9, -20),
            (90, -20, -34, 17, 14, -15),
        ),
        tube("semitendinosus", "tendon", (-20, -35, -24, 3, 3), (20, -27, -46, 3.5, 3.5), (45, -20, -49, 6, 5)),
        tube("semitendinosus belly", "muscle", (40, -15, -49, 9, 6), (90, -8, -48, 14, 8)),
        tube("gracilis", "tendon", (-20, -38, -18, 3, 3), (20, -39, -38, 3.5, 3.5), (50, -35, -40, 5, 5)),
        tube("sartorius", "muscle", (-14, -42, -14, 3, 9, 10), (20, -45, -24, 5, 12, 20), (90, -42, -24, 8, 14, 25)),
        tube(
            "biceps femoris",
            "muscle",
            (-6, 36, -24, 5, 6),
            (12, 36, -30, 8, 9, 25),
            (35, 32, -34, 13, 10, 30),
            (90, 24, -36, 18, 15, 25),
        ),
        tube(
            "medial gastrocnemius",
            "muscle",
            (-90, -21, -36, 24, 14, -20),
            (-20, -21, -38, 20, 13, -18),
            (8, -19, -36, 15, 9, -12),
            (32, -17, -32, 7, 6),
        ),
        tube(
            "lateral gastrocnemius",
            "muscle",
            (-90, 16, -40, 19, 10, 12),
            (-20, 17, -39, 16, 10, 14),
            (8, 17, -35, 12, 8, 12),
            (26, 18, -32, 7, 5),
        ),
        tube("popliteus", "muscle", (-45, -9, -16, 14, 6, -8), (-22, -2, -24, 20, 6, -5), (-4, 20, -26, 7, 4, 10)),
        tube("soleus", "muscle", (-90, 8, -24, 30, 12, 5), (-50, 12, -26, 26, 9, 5), (-30, 20, -28, 14, 6, 10)),
        tube(
            "tibialis anterior", "muscle", (-90, 22, 16, 13, 17, 30), (-40, 24, 12, 11, 14, 35), (-14, 28, 8, 5, 7, 40)
        ),
        tube("peroneus longus", "muscle", (-90, 38, -6, 8, 14, 5), (-40, 39, -10, 6, 11, 5), (-22, 38, -12, 4, 6)),
        tube(
            "infrapatellar fat pad",
            "pad",
            (-20, 3, 25, 12, 6),
            (-5, 1, 27, 22, 11),
            (12, 0, 27, 22, 10),
            (22, 1, 28, 12, 5),
        ),
        tube("medial meniscus", "tendon", (-4, -20, -3, 19, 24), (6, -20, -4, 18, 23)),
        tube("inside the medial meniscus", "pad", (-5, -14, -2, 12, 15), (7, -14, -2, 13, 15)),
        tube("lateral meniscus", "tendon", (-4, 20, -2, 18, 18), (6, 20, -2, 17, 17)),
        tube("inside the lateral meniscus", "pad", (-5, 17, -2, 11, 9), (7, 17, -2, 12, 10)),
        tube("patellar tendon", "tendon", (-32, 6, 27, 11, 3, 3), (0, 5, 38, 13, 3, 3), (16, 4, 42, 13, 4)),
        tube("quadriceps tendon", "tendon", (38, 2, 42, 15, 5), (60, 2, 41, 13, 4), (90, 2, 42, 10, 3)),
        tube("iliotibial band", "tendon", (-14, 36, 14, 2.5, 9, 10), (15, 44, 8, 2, 12, 5), (90, 50, 2, 2, 16)),
        tube(
            "medial collateral ligament",
            "tendon",
            (-40, -28, 2, 2.5, 8, -10),
            (0, -41, 2, 2.5, 8),
            (24, -40, 0, 2.5, 6),
        ),
        tube("popliteal artery", "vessel", (-90, 6, -30, 3, 3), (0, 3, -31, 3.6, 3.6), (90, -10, -24, 4, 4)),
        tube("popliteal vein", "vessel", (-90, 9, -35, 3.5, 3), (0, 7, -37, 4.5, 4), (90, -6, -31, 5, 4.5)),
        tube("tibial nerve", "tendon", (-90, 5, -37, 3, 3), (90, 8, -40, 3.5, 3.5)),
        tube("great saphenous vein", "vessel", (-90, -46, 2, 2.8, 2.8), (0, -50, -22, 3, 3), (90, -55, -14, 3.2, 3.2)),
        tube("small saphenous vein", "vessel", (-90, 3, -53, 2.4, 2.4), (10, 3, -50, 2.2, 2.2)),
    )


@cache
def build_bones() -> tuple[Tube, ...]:
    """Femur, patella, tibia and fibula; each is painted as a dark shell filled with marrow."""
    return (
        tube(
            "femoral shaft",
            "bone",
            (10, 0, 4, 24, 10),
            (22, 0, 6, 32, 17),
            (34, 0, 8, 28, 16),
            (46, 1, 10, 20, 14),
            (90, 2, 12, 14, 14),
        ),
        tube(
            "medial condyle",
            "bone",
            (-1, -21, -5, 9, 14, -8),
            (5, -23, -7, 13, 24, -10),
            (14, -24, -8, 14, 30, -10),
            (24, -25, -5, 14, 25, -8),
            (36, -22, 0, 10, 14),
            cartilage_mm=3,
        ),
        tube(
            "lateral condyle",
            "bone",
            (1, 21, -2, 9, 12, 3),
            (7, 22, -3, 14, 21, 4),
            (14, 22, -2, 15, 25, 4),
            (24, 23, 1, 15, 21, 4),
            (36, 20, 4, 10, 12),
            cartilage_mm=3,
        ),
        tube(
            "medial trochlea", "bone", (10, -14, 16, 10, 8), (24, -14, 18, 11, 9), (38, -11, 18, 8, 6), cartilage_mm=3
        ),
        tube("lateral trochlea", "bone", (8, 16, 18, 11, 9), (24, 16, 23, 12, 10), (42, 12, 20, 9, 8), cartilage_mm=3),
        tube(
            "medial facet of the patella",
            "bone",
            (16, -4, 37, 8, 5, 28),
            (30, -7, 38, 11, 6, 28),
            (44, -3, 39, 9, 5, 20),
            cartilage_mm=3,
        ),
        tube(
            "lateral facet of the patella",
            "bone",
            (12, 7, 39, 11, 5, -16),
            (30, 11, 39, 18, 7, -18),
            (48, 6, 40, 12, 6, -12),
            cartilage_mm=3,
        ),
        tube("medial plateau", "bone", (-26, -14, -2, 16, 17), (-12, -18, -2, 20, 24), (-2, -19, -2, 20, 25)),
        tube("lateral plateau", "bone", (-26, 12, -2, 15, 15), (-12, 19, -1, 19, 20), (-2, 20, -1, 19, 20)),
        tube(
            "tibia",
            "bone",
            (-90, -6, 6, 12, 16, 25),
            (-50, -5, 5, 15, 18, 25),
            (-30, -2, 3, 23, 20, 10),
            (-14, 0, 4, 30, 22),
            (-1, 0, 3, 28, 20),
        ),
        tube("tibial tubercle", "bone", (-52, 1, 18, 6, 7, 20), (-30, 6, 20, 9, 7), (-14, 5, 16, 10, 7)),
        tube(
            "fibula",
            "bone",
            (-90, 30, -16, 7, 7, 20),
            (-42, 32, -18, 6.5, 7),
            (-24, 34, -19, 10, 11),
            (-10, 34, -20, 8, 9),
        ),
    )


@cache
def build_joint() -> tuple[Tube, ...]:
    """The parts between the bones: the notch with its ligaments, the menisci."""
    return (
        tube("intercondylar notch", "pad", (-2, 0, -10, 8, 16), (10, -1, -18, 9, 15), (26, 0, -24, 8, 9)),
        tube("anterior cruciate ligament", "tendon", (-2, 1, 4, 4, 4), (18, 6, -16, 3, 5)),
        tube("posterior cruciate ligament", "tendon", (-6, 1, -24, 4, 4), (14, -5, -8, 4, 5)),
    )
