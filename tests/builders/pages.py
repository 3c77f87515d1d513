"""Each page that a stage writes, with names that no line can hold and tables that no phone can show."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.attention.slices import SliceWeights
from pipeline.config.experiment import Experiment
from pipeline.config.sources import DataConfig
from pipeline.core.data_kinds import VOLUMES
from pipeline.core.workspace import Workspace
from pipeline.data.certified_data import CertifiedData
from pipeline.data.store import Store
from pipeline.reporting.attention.filmstrips import draw_filmstrip, write_slice_page
from pipeline.reporting.cases.choose import Case
from pipeline.reporting.cases.page import write_cases
from pipeline.reporting.cases.volumes import SmallVolume
from pipeline.reporting.comparison.index_page import write_index
from pipeline.reporting.copies_page import write_copies
from pipeline.reporting.coverage_page import write_coverage
from pipeline.reporting.documents.forms import fill_form, read_form
from pipeline.reporting.elements import Figure, Section, Table
from pipeline.reporting.evaluation.flow_diagram import Box, Flow, Step
from pipeline.reporting.evaluation.page import Report, write_report
from pipeline.reporting.html import render_page
from pipeline.reporting.studies.cross_validation_page import write_cross_validation
from pipeline.reporting.studies.leak_study_page import write_leak_study
from pipeline.reporting.studies.learning_curve_page import write_learning_curve
from pipeline.reporting.studies.tuning_page import write_search
from pipeline.studies.cross_validation import UNPOOLED, CrossValidation, EvaluatedRun
from pipeline.studies.label_doubts import DOUBT_COLUMNS, LabelDoubts
from pipeline.studies.leak_study import LeakOutcome, LeakStudy
from pipeline.studies.leaky_splits import LABELLINGS, SPLIT_UNITS
from pipeline.studies.learning_curve import CurvePoint, LearningCurve
from pipeline.studies.power_law import Comparison, Forecast
from pipeline.studies.tuning import Search, TrialResult
from tests.builders.certificates import build_certificate, build_copy
from tests.builders.checkpoints import make_checkpoint
from tests.builders.reports import build_metric, build_metrics, build_png, build_svg

LONG = "a_name_without_a_break_" * 8
TABLE = Table("Wide", ("Name", *(f"Column {n}" for n in range(12))), ((LONG, *("0.123",) * 11, LONG),), "A note.")
NAMES = ("left", "right")
EXPERIMENT = Experiment(name=LONG[:100], data=DataConfig(dataset="phantom"))
ESTIMATE = build_metric(0.9714, 0.95, 0.9861)
FIGURE = Figure("map", "Map", "Brightest in the middle.", build_png(600, 300))


def build_report(folder: Path) -> str:
    flow = Flow(
        (Step(Box("Files found", ("9 files",)), Box("Refused: 1 scan", (f"1: {LONG}",))),), (Box("Test", ("1",)),)
    )
    documents = {
        "model_card": fill_form(read_form("model_card"), {"model": LONG}),
        "claim": fill_form(read_form("claim_checklist"), {"flow": LONG}),
    }
    report = Report(
        title=LONG,
        metrics=build_metrics() | {"synthetic_note": "Made up."},
        figures={
            "roc": build_svg(),
            "confusion_slice": build_svg(540, 270),
            "worst_mistakes": build_png(),
            "attention_1": build_png(1200),
        },
        split_counts=pd.DataFrame({"split": ["train", "test"], "patients": [1234, 20]}),
        certificate={"passed": False, "counts": {"patients_in_two_splits": 1}, "findings": [LONG] * 60},
        provenance={"fingerprint": "f" * 300, "versions": {"torch": "2.13.0"}},
        config_text=f"name: {LONG}\n",
        warnings=(LONG,),
        sections=(
            Section("By visit", (LONG,), (TABLE,), (Figure("p", "Probe", "Below one half.", build_svg(495, 200)),)),
        ),
        flow=flow,
        documents=documents,
    )
    write_report(folder / "report.html", report)
    return (folder / "report.html").read_text()


def build_attention(folder: Path) -> str:
    page = render_page(
        "attention.html",
        title=LONG,
        synthetic_note="Made up.",
        sentences=[LONG],
        examples=[{"title": LONG, "figures": [FIGURE, FIGURE]}],
        sheets=[FIGURE],
        summary=TABLE,
        facts=TABLE,
    )
    return page.decode()


def build_comparison(folder: Path) -> str:
    page = render_page(
        "comparison.html",
        title=LONG,
        synthetic_notes=["Made up."],
        warnings=[LONG],
        runs=TABLE,
        settings=TABLE,
        reference=LONG,
        num_resamples="2,000",
        primary=LONG,
        differences=TABLE,
        figures=[FIGURE],
    )
    return page.decode()


def build_slices(folder: Path) -> str:
    places, lost = np.zeros((9, 3)), np.linspace(-0.1, 0.5, 9)
    places[:, 0] = np.arange(9)
    weights = SliceWeights(LONG, "left", np.array([0.2, 0.8]), places, lost, np.full((9, 1, 1), 1 / 9))
    strip = draw_filmstrip(np.zeros((9, 16, 16), np.uint8), weights)
    write_slice_page(folder / "index.html", EXPERIMENT, make_checkpoint(), [weights], [strip])
    return (folder / "index.html").read_text()


def list_cases() -> list[Case]:
    return [Case(f"{number}_{LONG}", LONG, "left", "right", (0.25, 0.75), "worst") for number in range(3)]


def build_cases(folder: Path) -> str:
    volume = SmallVolume(np.zeros((4, 4, 4), np.uint8), (1.0, 1.0, 1.0))
    shown = {case.source_id: volume for case in list_cases()}
    write_cases(folder / "cases.html", LONG, NAMES, list_cases(), shown, "Made up.")
    return (folder / "cases.html").read_text()


def build_image_cases(folder: Path) -> str:
    shown = {case.source_id: build_png(600, 300) for case in list_cases()}
    write_cases(folder / "cases.html", LONG, NAMES, list_cases(), shown, "Made up.")
    return (folder / "cases.html").read_text()


def build_index(folder: Path) -> str:
    for run in ("seed-1", LONG[:100]):
        (folder / LONG[:100] / run).mkdir(parents=True)
        (folder / LONG[:100] / run / "metrics.json").write_text(json.dumps(build_metrics() | {"decision": {}}))
    write_index(folder)
    page = (folder / "index.html").read_text()
    assert page.count("report.html") == 2, "a run whose metrics cannot be read is not on the page"
    return page


def build_store() -> Store:
    index = pd.DataFrame({"source_id": [LONG, "b"], "group_id": ["p", "q"], "label": NAMES})
    return Store(np.zeros((2, 16, 16), np.uint8), index, NAMES, {}, "f" * 16, VOLUMES)


def build_copies(folder: Path) -> str:
    kinds = ("across_splits", "accepted", "within_split", "unverified", "labels_disagree", "within_patient")
    found = {"count": 30, "pairs": [build_copy(LONG, LONG)] * 9}
    write_copies(folder / "copies.html", build_store(), build_certificate(**dict.fromkeys(kinds, found)))
    return (folder / "copies.html").read_text()


def build_delivery(folder: Path) -> str:
    numbers = range(12)
    coverage = pd.DataFrame({"path": [f"{number}_{LONG}" for number in numbers]})
    facts = {"release": "0.C.2", "visit": "V00", "series": "SAG_3D_DESS_RIGHT", "side": "right", "patient": "9000099"}
    coverage = coverage.assign(**facts, label=LONG, reason=["", "", *[f"{LONG}: not so"] * 10])
    manifest = coverage[["path"]].assign(status=["accepted", "refused", *["ignored"] * 10])
    write_coverage(folder, coverage, manifest, "Made up.")
    return (folder / "delivery.html").read_text()


def build_cross_validation(folder: Path) -> str:
    levels, unpooled = build_metrics()["levels"], dict.fromkeys(UNPOOLED, 0.5)
    of_run = {
        name: {"n": level["n"], "groups": level["groups"], "accuracy": ESTIMATE, "unpooled": unpooled}
        for name, level in levels.items()
    }
    runs = [EvaluatedRun(f"{LONG[:90]}fold-{fold}", 0, fold, pd.DataFrame(), of_run) for fold in range(3)]
    spread = {name: {"runs": {"mean": 0.97, "deviation": 0.01}} for name in levels}
    means = {name: {key: {"mean": 0.5, "std": 0.1, "runs": 3} for key in UNPOOLED} for name in levels}
    study = CrossValidation(NAMES, 200, tuple(runs), levels, spread, means)
    doubts = pd.DataFrame([(LONG, "p", "left", "right", 0.01, 0.99)], columns=list(DOUBT_COLUMNS))
    paths = Workspace(folder, LONG[:90], "cross_validation")
    write_cross_validation(paths, study, build_store(), LabelDoubts(doubts, 40), "Made up.")
    return (paths.report_folder / "cross_validation.html").read_text()


def build_leak_study(folder: Path) -> str:
    outcomes = [LeakOutcome(unit, labels, 3, 1200, 16, ESTIMATE) for unit in SPLIT_UNITS for labels in LABELLINGS]
    record = {"num_train": 1200, "num_steps": 1200, "seconds": 90.0, "hardware": LONG}
    study = LeakStudy(tuple(outcomes), (record,), {"options": LONG})
    write_leak_study(folder, EXPERIMENT, build_store(), study)
    return (folder / "leak_study.html").read_text()


def build_learning_curve(folder: Path) -> str:
    models, sizes = ("perceiver", "distilled", "cnn", "logistic_regression"), (4, 64, 2048)
    points = [CurvePoint(one, size, (0.9, 0.95), ESTIMATE, ESTIMATE, 1200, 16) for one in models for size in sizes]
    comparisons = [Comparison(size, (0.01, 0.02), ESTIMATE, (-0.01, 0.03), "draws") for size in sizes]
    forecasts = [Forecast(one, 0.99, "extrapolated", 4000.0, 2100.0, None, 8192, 0.995, 0.5) for one in models]
    record = {"model": "perceiver", "num_steps": 1200, "seconds": 90.0, "hardware": LONG, "seed": 0}
    curve = LearningCurve(tuple(points), tuple(comparisons), tuple(forecasts), (record,))
    write_learning_curve(folder, EXPERIMENT, build_store(), curve)
    return (folder / "learning_curve.html").read_text()


def build_search(folder: Path) -> str:
    params = {"train.learning_rate": 0.00123456, "model.perceiver.num_latents": 64, f"augment.{LONG}": 0.1}
    trials = tuple(TrialResult(number, "complete", params, 0.1, 0.97, 12, 90.0) for number in range(4))
    data = CertifiedData(build_store(), {"p": "train", "q": "val"}, build_certificate(), folder / "manifest.csv")
    write_search(folder, EXPERIMENT, data, Search(trials, trials[0]))
    return (folder / "tune.html").read_text()


# By the function that writes the page, and what it shows where a function writes two sorts.
BUILDERS = {
    "write_report": build_report,
    "write_attention_page": build_attention,
    "write_comparison": build_comparison,
    "write_slice_page": build_slices,
    "write_cases": build_cases,
    "write_cases, images": build_image_cases,
    "write_index": build_index,
    "write_copies": build_copies,
    "write_coverage": build_delivery,
    "write_cross_validation": build_cross_validation,
    "write_leak_study": build_leak_study,
    "write_learning_curve": build_learning_curve,
    "write_search": build_search,
}
# Those that have all that a page can have: the others are made of the same parts.
FULL_PAGES = ("write_report", "write_attention_page", "write_comparison")
