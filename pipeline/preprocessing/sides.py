"""The side of a knee by all that names it: file name or table, tags of the header, and its place in the scanner.

The place was compared with the tag Laterality in 24,371 series of 4,407 studies (headers of the RSNA Knee Abnormality
Detection 2026): at 20 mm or more from the middle it is right in 98.5 %, in
Siemens' series in 98.9 % at least, in Philips' in 97.0 %.
GE's series have no tag there, so nobody has checked them. How often names, tables and tags are right was measured
nowhere; their figures are assumptions.
"""

import math
from dataclasses import dataclass

from pipeline.formats.dicom_sides import SideTags

WRITTEN_CONFIDENCE = 0.999
TAG_CONFIDENCES = {"ImageLaterality": 0.995, "Laterality": 0.99, "SeriesDescription": 0.995}
POSITION_CONFIDENCE = 0.985
POSITION_CONFIDENCES = {"Siemens": 0.989, "Philips": 0.97}


@dataclass(frozen=True)
class Evidence:
    """One thing that names a side.

    Args:
        name: What it is.
        side: ``left`` or ``right``.
        confidence: How often it is right, above one half.
        is_written: Whether somebody wrote it; a place is computed.
    """

    name: str
    side: str
    confidence: float
    is_written: bool = True


def list_evidence(named: str, tags: SideTags, by_position: str) -> list[Evidence]:
    """List all that names a knee's side.

    Args:
        named: The side by name or table; empty where there is none.
        tags: What the header has.
        by_position: The side by the place in the scanner; empty where it lies near the middle.
    """
    found = [Evidence("name or table", named, WRITTEN_CONFIDENCE)] if named else []
    found += [Evidence(tag, side, TAG_CONFIDENCES[tag]) for tag, side in tags.sides.items()]
    if by_position:
        confidence = POSITION_CONFIDENCES.get(tags.maker, POSITION_CONFIDENCE)
        name = "place in the scanner" + (" (unchecked for GE)" if tags.maker == "GE" else "")
        found.append(Evidence(name, by_position, confidence, is_written=False))
    return found


def fuse_sides(evidence: list[Evidence]) -> tuple[str, float]:
    """Return the more probable side and its probability, as if all were wrong independently of each other.

    Args:
        evidence: What names a side; of nothing the side is empty and the probability one half.
    """
    log_odds = sum(
        math.log(each.confidence / (1 - each.confidence)) * (1 if each.side == "right" else -1) for each in evidence
    )
    if log_odds == 0:
        return "", 0.5
    return "right" if log_odds > 0 else "left", 1 / (1 + math.exp(-abs(log_odds)))


def describe_contradiction(evidence: list[Evidence]) -> str:
    """Return all evidence in one line where it names two sides; nothing where it agrees."""
    if len({each.side for each in evidence}) < 2:
        return ""
    side, probability = fuse_sides(evidence)
    listed = ", ".join(f"{each.name} {each.side} ({each.confidence:.1%})" for each in evidence)
    return f"{listed}; together {side or 'undecided'}, {probability:.1%}"
