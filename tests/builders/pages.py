"""Each page that a stage writes, with names that no line can hold and tables that no phone can show."""

from pathlib import Path

import pandas as pd

from pipeline.reporting.documents.forms import fill_form, read_form
from pipeline.reporting.elements import Figure, Section, Table
from pipeline.reporting.evaluation.flow_diagram import Box, Flow, Step
from pipeline.reporting.evaluation.page import Report, write_report
from pipeline.reporting.html import render_page
from tests.builders.reports import build_metrics, build_png

LONG = "a_name_without_a_break_" * 8
TABLE = Table("Wide", ("Name", *(f"Column {n}" for n in range(12))), ((LONG, *("0.123",) * 11, LONG),), "A note.")
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
            "roc": build_png(),
            "confusion_slice": build_png(1200),
            "worst_mistakes": build_png(),
            "attention_1": build_png(1200),
        },
        split_counts=pd.DataFrame({"split": ["train", "test"], "patients": [1234, 20]}),
        certificate={"passed": False, "counts": {"patients_in_two_splits": 1}, "findings": [LONG] * 60},
        provenance={"fingerprint": "f" * 300, "versions": {"torch": "2.13.0"}},
        config_text=f"name: {LONG}\n",
        warnings=(LONG,),
        sections=(Section("By visit", (LONG,), (TABLE,), (Figure("p", "Probe", "Below one half.", build_png(1100)),)),),
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


BUILDERS = {"report": build_report, "attention": build_attention, "comparison": build_comparison}
