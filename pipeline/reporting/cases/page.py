"""The page of single scans: a viewer of three planes, or of images a grid; one file that loads nothing."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.core.files import write_bytes
from pipeline.reporting.cases.choose import Case
from pipeline.reporting.cases.volumes import SmallVolume
from pipeline.reporting.elements import Figure
from pipeline.reporting.formatting import show_goal
from pipeline.reporting.html import render_page

REASONS = {
    "worst": "wrong, of the highest confidence",
    "uncertain": "among the least certain answers",
    "random": "drawn at random",
}


def write_cases(
    path: Path,
    title: str,
    class_names: Sequence[str],
    cases: Sequence[Case],
    shown: Mapping[str, SmallVolume] | Mapping[str, bytes],
    synthetic_note: str,
) -> None:
    """Write the page, whole or not at all.

    Args:
        path: The file.
        title: The name of the experiment and of the run.
        class_names: The classes, in the order of the cases' probabilities.
        cases: The scans in their order; those that are not in ``shown`` are left out.
        shown: The volume of each scan by its ``source_id``; or a PNG file of each image.
        synthetic_note: The sentence that a made-up set carries; empty for a real one.
    """
    cases = [case for case in cases if case.source_id in shown]
    volumes, figures = [], []
    for case in cases:
        content = shown[case.source_id]
        if isinstance(content, SmallVolume):
            volumes.append(_describe(case, class_names) | content.encode())
        else:
            answer = (
                f"{case.source_id}: true {case.label}, answer {case.predicted} ({show_goal(max(case.probabilities))})"
            )
            figures.append(Figure(case.source_id, answer, REASONS[case.reason], content))
    # A name with </script> would end the script; JSON may write any letter as its number.
    data = json.dumps(volumes, allow_nan=False).replace("<", "\\u003c")
    values: dict[str, Any] = {"title": f"{title}: single cases", "data": data, "figures": figures}
    write_bytes(path, render_page("cases.html", **values, synthetic_note=synthetic_note, reasons=REASONS))


def _describe(case: Case, class_names: Sequence[str]) -> dict[str, Any]:
    probabilities = {name: round(value, 4) for name, value in zip(class_names, case.probabilities, strict=True)}
    facts = {"scan": case.source_id, "patient": case.group_id, "label": case.label, "predicted": case.predicted}
    return facts | {"probabilities": probabilities, "reason": REASONS[case.reason]}
