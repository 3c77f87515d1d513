"""One self-contained page that says what a model is worth: no network, no script, all text escaped."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas

from pipeline.documents import tabulate_document
from pipeline.kinds import WORDS, Words
from pipeline.pages import write_page
from pipeline.report_parts import build_level, distinct_levels, order_pictures, summarise_in_words, tabulate_baselines
from pipeline.sections import Section, Table
from pipeline.study import Study
from pipeline.wording import flatten, humanise, show

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
    words: Words = WORDS["volumes"],
    baseline_notes: Sequence[str] = (),
    sections: Sequence[Section] = (),
    study: Study | None = None,
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
        words: what a row and a group are called.
        baseline_notes: what a reader has to know of the baselines.
        sections: further parts, shown in their order behind the pictures and before the split.
        study: the flow of scans, model card and check-list; None leaves them out.
    """
    findings = list(certificate.get("findings", []))
    write_page(
        path,
        "report.html",
        title=title,
        synthetic_note=synthetic_note,
        sentences=summarise_in_words(metrics, words),
        words=words,
        baseline_notes=list(baseline_notes),
        split=metrics["split"],
        positive_class=class_names[-1] if len(class_names) == 2 else None,
        levels=[build_level(name, level, words) for name, level in distinct_levels(metrics["levels"]).items()],
        baselines=tabulate_baselines(metrics),
        pictures=order_pictures(figures, metrics),
        sections=sections,
        flow=None if study is None else study.flow,
        documents=[]
        if study is None
        else [(document, tabulate_document(document)) for document in study.documents.values()],
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
