"""The report of one evaluated run: one self-contained page, no network, no script, all text escaped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config.experiment import Experiment, dump_experiment
from pipeline.core.data_kinds import DATA_KINDS, VOLUMES, DataKind
from pipeline.core.files import write_bytes, write_json
from pipeline.core.tables import prediction_columns, write_table
from pipeline.core.text import plural
from pipeline.core.workspace import Workspace
from pipeline.data.leak_certificate import Certificate, describe_pair
from pipeline.datasets import find_dataset
from pipeline.evaluation.evaluation import Evaluation
from pipeline.evaluation.schema import Metrics
from pipeline.models.networks import count_parameters
from pipeline.reporting.documents.data_facts import DataEvidence
from pipeline.reporting.documents.facts import Evidence, fill_documents, write_documents
from pipeline.reporting.documents.forms import Document, tabulate_document
from pipeline.reporting.elements import Section, Table, find_suffix, tabulate_facts
from pipeline.reporting.evaluation.decision_section import build_decision_section
from pipeline.reporting.evaluation.external_section import build_external_section, summarise_external
from pipeline.reporting.evaluation.figures import draw_attention, draw_curves, draw_figures
from pipeline.reporting.evaluation.flow_diagram import Flow, build_flow
from pipeline.reporting.evaluation.grade_section import build_grade_section
from pipeline.reporting.evaluation.notes import (
    describe_baselines,
    describe_making,
    describe_provenance,
    list_warnings,
    tabulate_splits,
)
from pipeline.reporting.evaluation.origin_section import build_ensemble_section
from pipeline.reporting.evaluation.published_section import build_published_section
from pipeline.reporting.evaluation.scores import (
    ATTENTION_TEXT,
    build_classes,
    build_level,
    build_limits_section,
    describe_question,
    describe_visits,
    distinct_levels,
    group_figures,
    order_figures,
    summarise_in_words,
    tabulate_baselines,
)
from pipeline.reporting.evaluation.shortcut_section import build_probe_sections
from pipeline.reporting.evaluation.slice_section import build_slice_section
from pipeline.reporting.evaluation.subgroup_section import build_subgroup_section
from pipeline.reporting.formatting import flatten, humanise, show
from pipeline.reporting.html import write_page
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.run_state import TrainedRun

MAX_FINDINGS = 50  # the certificate itself holds them all


@dataclass(frozen=True)
class Report:
    """Everything that the page shows.

    Args:
        title: The name of the experiment and of the run.
        metrics: The content of metrics.json.
        figures: Files under "answer", "confusion_slice", "confusion_volume", "confusion_knee", "confusion_patient",
            "confusion_image", "confusion_object", "roc", "calibration", "worst_mistakes" and "training_curves"; those
            that are absent are left out, and those with other names follow at the end.
        split_counts: A row a split, any columns.
        certificate: What ``summarise_certificate`` returns: "passed", "counts" and "findings".
        provenance: Versions, commit, fingerprints, hardware; may be nested.
        config_text: The configuration as YAML.
        warnings: The warnings for a reader of the numbers, shown on top.
        kind: The kind of data, which names rows and groups.
        baseline_notes: The notes on the baselines.
        sections: Further sections, shown in their order after the figures and before the split.
        flow: The counts from the files that were found to the rows that were tested; None leaves them out.
        documents: The filled forms, by name.
        asked: What was asked, and of whom, in sentences.
        made: How the model and the report were made, in sentences.
    """

    title: str
    metrics: Metrics
    figures: Mapping[str, bytes]
    split_counts: pd.DataFrame
    certificate: Mapping[str, Any]
    provenance: Mapping[str, Any]
    config_text: str
    warnings: tuple[str, ...] = ()
    kind: DataKind = VOLUMES
    baseline_notes: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()
    flow: Flow | None = None
    documents: Mapping[str, Document] = field(default_factory=dict)
    asked: tuple[str, ...] = ()
    made: tuple[str, ...] = ()

    @property
    def all_figures(self) -> dict[str, bytes]:
        """The files of the figures, with those of the sections."""
        return {**self.figures, **{item.name: item.content for section in self.sections for item in section.figures}}


def build_report(
    experiment: Experiment,
    run: TrainedRun,
    evaluation: Evaluation,
    manifest: pd.DataFrame,
    unknown: Sequence[str],
    models: Sequence[tuple[str, Checkpoint]],
) -> Report:
    """Draw the figures of an evaluation and describe its results; nothing is written.

    Args:
        experiment: All options.
        run: The trained model, of an ensemble the first, and its data.
        evaluation: The predictions and the metrics.
        manifest: A row a scan.
        unknown: The warnings of patients that a model may have seen, of an ensemble those of all members.
        models: The name and the checkpoint of each model that answers.
    """
    data, checkpoint, metrics = run.data, run.checkpoint, evaluation.metrics
    store, plane, kind = data.store, checkpoint.preprocess.plane, data.store.kind
    figures = draw_figures(store, evaluation.test, metrics)
    figures |= draw_attention(run.classifier, data, experiment.attention.num_examples, checkpoint.epoch)
    is_own = experiment.evaluate.checkpoint is None and not experiment.evaluate.ensemble
    history = pd.read_csv(experiment.paths.history) if is_own else None
    figures["training_curves"] = draw_curves(checkpoint, history)
    sections = build_ensemble_section(metrics, kind)
    examined = len(sections)
    sections += build_published_section(metrics, find_dataset(experiment.data)[1])
    sections += build_external_section(metrics, kind)
    sections += build_grade_section(metrics, kind)
    sections += build_subgroup_section(metrics, kind)
    sections += build_probe_sections(metrics["probes"], metrics, kind, plane)
    titles = [section.title for section in sections[examined:]]
    sections += build_slice_section(experiment, run, evaluation.test, manifest)
    sections += [build_decision_section(metrics, store.class_names, kind), build_limits_section(metrics)]
    flow = build_flow(manifest, store.index, data.split_of, kind, store.missing)
    evidence = DataEvidence(manifest, flow, data.certificate, store.missing)
    num_parameters = count_parameters(run.classifier.model)
    documents = fill_documents(
        Evidence(experiment, checkpoint, num_parameters, evidence, metrics, models),
        has_attention=any(name.startswith("attention") for name in figures),
        section_titles=titles,
    )
    return Report(
        title=experiment.paths.title,
        metrics=metrics,
        figures=figures,
        split_counts=tabulate_splits(store, data.split_of),
        certificate=summarise_certificate(data.certificate),
        provenance=describe_provenance(checkpoint, run.device),
        config_text=dump_experiment(experiment),
        warnings=(*list_warnings(metrics, data), *unknown),
        kind=kind,
        baseline_notes=tuple(
            describe_baselines(experiment.evaluate.logistic_regression_examples, metrics, len(data.rows["train"]), kind)
        ),
        sections=tuple(sections),
        flow=flow,
        documents=documents,
        asked=(
            *describe_question(metrics, kind, _name_source(experiment), store.index["group_id"].nunique()),
            *describe_visits(manifest.loc[manifest["status"] == "accepted", "visit"], kind),
        ),
        made=tuple(describe_making(checkpoint, num_parameters, run.device)),
    )


def _name_source(experiment: Experiment) -> str:
    """Return the source of the data in words: the table of labels, or the data set."""
    table, dataset = experiment.data.label_table, experiment.data.variant or experiment.data.dataset
    return f"the table {table.name}" if table is not None else f"the data set {dataset}"


def write_evaluation(paths: Workspace, evaluation: Evaluation, report: Report) -> None:
    """Write predictions, metrics, figures and documents, and the page last.

    Args:
        paths: The folders and files of the run.
        evaluation: The predictions and the metrics.
        report: The content of the page, with its figures and documents.
    """
    columns = prediction_columns(tuple(report.metrics["class_names"]))
    tables = {paths.predictions: evaluation.predictions, paths.external_predictions: evaluation.external}
    for path, table in tables.items():
        if table is not None:
            known = [name for name in table.columns if name not in columns]  # side and covariates
            write_table(path, table, (*columns, *known))
    if "external" not in evaluation.metrics:
        paths.external_predictions.unlink(missing_ok=True)
    write_json(paths.metrics, evaluation.metrics)
    folder = paths.report_folder
    figures = {folder / f"{name}.{find_suffix(content)}": content for name, content in report.all_figures.items()}
    for path, content in figures.items():
        write_bytes(path, content)
    for leftover in {*folder.glob("*.png"), *folder.glob("*.svg")} - figures.keys():
        leftover.unlink()  # of an earlier evaluation with mistakes, or epochs, that this one does not have
    write_documents(paths.report_folder, report.documents)
    write_report(paths.report_folder / "report.html", report)


def write_report(path: Path, report: Report) -> None:
    """Write report.html, whole or not at all."""
    metrics = report.metrics
    class_names, findings = metrics["class_names"], list(report.certificate.get("findings", []))
    shown = {
        "synthetic_note": metrics["synthetic_note"] or None,
        "sentences": [*summarise_in_words(metrics, report.kind), *summarise_external(metrics, report.kind)],
        "split": metrics["split"],
        "positive_class": class_names[-1] if len(class_names) == 2 else None,
        "levels": [build_level(name, level, report.kind) for name, level in distinct_levels(metrics["levels"]).items()],
        "classes": build_classes(metrics, report.kind),
        "baselines": tabulate_baselines(metrics),
        "figures": group_figures(order_figures(report.figures, metrics)),
        "attention_text": ATTENTION_TEXT,
        "documents": [(document, tabulate_document(document)) for document in report.documents.values()],
        "splits": _tabulate_frame("Rows of each split", report.split_counts),
        "certificate_passed": bool(report.certificate["passed"]),
        "certificate_counts": tabulate_facts(
            "Counts of the leak certificate",
            {humanise(name): value for name, value in flatten(report.certificate.get("counts", {}))},
        ),
        "findings": [show(finding) for finding in findings[:MAX_FINDINGS]],
        "num_more_findings": max(0, len(findings) - MAX_FINDINGS),
        "provenance": tabulate_facts("Versions, fingerprints and hardware", dict(flatten(report.provenance))),
    }
    write_page(path, "report.html", **(vars(report) | shown))


def _tabulate_frame(caption: str, frame: pd.DataFrame) -> Table:
    rows = tuple(tuple(show(cell) for cell in row) for row in frame.itertuples(index=False))
    return Table(caption, tuple(humanise(column) for column in frame.columns), rows)


def summarise_certificate(certificate: Certificate) -> dict[str, Any]:
    """Summarise the leak certificate of the split stage for ``write_report``.

    Returns:
        ``passed``, ``counts`` of leaks and duplicates across splits, and ``findings`` in words.
    """
    kind = DATA_KINDS[certificate["kind"]]
    identical, doubles, copies = (
        certificate["identical_images"],
        certificate["published_doubles"],
        certificate["copies"],
    )
    what, scans = "images" if kind.is_image else "objects", plural(kind.source)
    counts = {
        f"{plural(kind.group)}_in_two_splits": len(certificate["patients_in_two_splits"]),
        f"{plural(kind.group)}_without_a_split": len(certificate["patients_without_split"]),
    }
    if kind.has_patients:
        counts[f"identical_{what}_across_splits"] = identical["count"]
    else:
        counts[f"identical_{what}_across_the_published_splits"] = doubles["count"]
    # Among point clouds and whole volumes no copies are searched for.
    if copies["num_sources"] > 0:
        counts |= {
            f"copied_{scans}_across_splits": copies["across_splits"]["count"],
            f"accepted_copies_of_{scans}_across_splits": copies["accepted"]["count"],
            f"copied_{scans}_{f'of_{plural(kind.group)}_' if kind.has_patients else ''}in_one_split": copies[
                "within_split"
            ]["count"],
            f"{scans}_that_look_alike_and_are_not_verified": copies["unverified"]["count"],
            f"copied_{scans}_with_different_labels": copies["labels_disagree"]["count"],
        }
        if kind.has_patients:
            counts[f"copied_{scans}_of_one_{kind.group}"] = copies["within_patient"]["count"]
    pairs = (*identical["pairs"], *doubles["pairs"])
    return {
        "passed": certificate["passed"],
        "counts": counts,
        "findings": [
            *(f"{kind.group.capitalize()} {name} is in two splits." for name in certificate["patients_in_two_splits"]),
            *(f"{kind.group.capitalize()} {name} has no split." for name in certificate["patients_without_split"]),
            *(f"{pair['first']} and {pair['second']} are identical." for pair in pairs),
            *(f"{describe_pair(pair, kind.name)}." for pair in copies["across_splits"]["pairs"]),
            *(f"Accepted: {describe_pair(pair, kind.name)}." for pair in copies["accepted"]["pairs"]),
            *(f"In one split: {describe_pair(pair, kind.name)}." for pair in copies["within_split"]["pairs"]),
            *(
                f"Different labels, {pair['first']['label']} and {pair['second']['label']}: "
                f"{describe_pair(pair, kind.name)}."
                for pair in copies["labels_disagree"]["pairs"]
            ),
            *(f"Not verified: {describe_pair(pair, kind.name)}." for pair in copies["unverified"]["pairs"]),
        ],
    }
