"""One self-contained page that says what a model is worth: no network, no script, all text escaped."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas

from pipeline.core.data_kinds import DATA_KINDS, VOLUMES, DataKind
from pipeline.core.text import plural
from pipeline.reporting.documents.forms import Document, tabulate_document
from pipeline.reporting.elements import Section, Table
from pipeline.reporting.evaluation.flow_diagram import Flow
from pipeline.reporting.evaluation.scores import (
    build_level,
    distinct_levels,
    order_figures,
    summarise_in_words,
    tabulate_baselines,
)
from pipeline.reporting.formatting import flatten, humanise, show
from pipeline.reporting.html import write_page

MAX_FINDINGS = 50  # the certificate itself holds them all


def write_report(
    path: Path,
    *,
    title: str,
    synthetic_note: str | None,
    metrics: Mapping[str, Any],
    class_names: Sequence[str],
    figures: Mapping[str, bytes],
    split_counts: pandas.DataFrame,
    certificate: Mapping[str, Any],
    provenance: Mapping[str, Any],
    config_text: str,
    warnings: Sequence[str],
    kind: DataKind = VOLUMES,
    baseline_notes: Sequence[str] = (),
    sections: Sequence[Section] = (),
    flow: Flow | None = None,
    documents: Mapping[str, Document] | None = None,
) -> None:
    """Write report.html, whole or not at all.

    Args:
        path: the file to write.
        title: the experiment's name.
        synthetic_note: shown on top where the data are not of people; None for real data.
        metrics: the content of metrics.json.
        class_names: all classes; of two, the last one is the positive class.
        figures: PNG bytes under "confusion_slice", "confusion_volume", "confusion_patient",
            "confusion_image", "confusion_object", "roc", "calibration", "worst_mistakes" and
            "training_curves"; those that are absent are left out, and those with other names follow at the end.
        split_counts: a row a split, any columns.
        certificate: "passed", "counts" and "findings", what ``summarise_certificate`` returns.
        provenance: versions, commit, fingerprints, hardware; may be nested.
        config_text: the configuration as YAML.
        warnings: what a reader has to know before believing the numbers.
        kind: The kind of data, which names rows and groups.
        baseline_notes: what a reader has to know of the baselines.
        sections: further parts, shown in their order behind the pictures and before the split.
        flow: The scans from the files that were found to the rows that were tested; None leaves it out.
        documents: The filled forms, by name.
    """
    findings = list(certificate.get("findings", []))
    write_page(
        path,
        "report.html",
        title=title,
        synthetic_note=synthetic_note,
        sentences=summarise_in_words(metrics, kind),
        kind=kind,
        baseline_notes=list(baseline_notes),
        split=metrics["split"],
        positive_class=class_names[-1] if len(class_names) == 2 else None,
        levels=[build_level(name, level, kind) for name, level in distinct_levels(metrics["levels"]).items()],
        baselines=tabulate_baselines(metrics),
        figures=order_figures(figures, metrics),
        sections=sections,
        flow=flow,
        documents=[(document, tabulate_document(document)) for document in (documents or {}).values()],
        splits=_tabulate_frame("Rows of each split", split_counts),
        certificate_passed=bool(certificate["passed"]),
        certificate_counts=_tabulate_pairs(
            "Counts of the leak certificate",
            [(humanise(name), value) for name, value in flatten(certificate.get("counts", {}))],
        ),
        findings=[show(finding) for finding in findings[:MAX_FINDINGS]],
        num_more_findings=max(0, len(findings) - MAX_FINDINGS),
        provenance=_tabulate_pairs("Versions, fingerprints and hardware", flatten(provenance)),
        config_text=config_text,
        warnings=list(warnings),
    )


def _tabulate_frame(caption: str, frame: pandas.DataFrame) -> Table:
    rows = tuple(tuple(show(cell) for cell in row) for row in frame.itertuples(index=False))
    return Table(caption, tuple(humanise(column) for column in frame.columns), rows)


def _tabulate_pairs(caption: str, pairs: Sequence[tuple[str, str]]) -> Table:
    return Table(caption, ("What", "Value"), tuple(pairs))


def summarise_certificate(certificate: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the leak certificate of the split stage into what ``write_report`` shows.

    Returns:
        ``passed``, ``counts`` of what was looked for across splits, and ``findings`` in words.
    """
    kind = DATA_KINDS[certificate.get("kind", "volumes")]
    identical, near = certificate["identical_images"], certificate["near_identical_images"]
    doubles = certificate.get("published_doubles", {"count": 0, "pairs": []})
    what = "images" if kind.is_image else "objects"
    pairs = [("identical", pair) for pair in (*identical["pairs"], *doubles["pairs"])]
    pairs += [(f"near-identical, {pair['bits']} bits apart", pair) for pair in near["pairs"]]
    return {
        "passed": certificate["passed"],
        "counts": {
            f"{plural(kind.group)}_in_two_splits": len(certificate["patients_in_two_splits"]),
            f"{plural(kind.group)}_without_a_split": len(certificate["patients_without_split"]),
            f"identical_{what}_across_splits": identical["count"],
            **(
                {f"identical_{what}_across_the_published_test_split": doubles["count"]} if not kind.has_patients else {}
            ),
            **({f"near_identical_{what}_across_splits": near["count"]} if kind.is_image else {}),
        },
        "findings": [
            *(f"{kind.group.capitalize()} {name} is in two splits." for name in certificate["patients_in_two_splits"]),
            *(f"{kind.group.capitalize()} {name} has no split." for name in certificate["patients_without_split"]),
            *(f"{pair['first']} and {pair['second']} are {likeness}." for likeness, pair in pairs),
        ],
    }
