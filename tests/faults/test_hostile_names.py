"""Patients, labels and files whose names are commands to a page, a spreadsheet, a console, a plot or a path."""

import shutil
from html.parser import HTMLParser

import pandas as pd
import pytest
import yaml

from pipeline.cli import main
from tests.builders.tiny_workspace import TINY_CONFIG

PATIENTS = (
    *("NA", "007", "../x", "=1+1", "@SUM(A1)", "-2", "Ω\nñ", "a\rb", "<script>alert(1)</script>", "$\\bad{$", "[/red]"),
    *("/etc/passwd", '"; DROP TABLE runs; --', "\x1b[31mred", " lead", "None", "1e5", "{{ 7*7 }}"),
)
LABELS = ("<img src=x onerror=alert(1)>", "=cmd|$\\frac$[/x]")
STAGES = ("preprocess", "split", "train", "evaluate", "attention", "compare")


class ActiveContent(HTMLParser):
    """Collects what a browser would run or fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attributes):
        handlers = [name for name, value in attributes if name.startswith("on")]
        sources = [
            value for name, value in attributes if name in ("src", "href") and not value.startswith(("data:", "#"))
        ]
        self.found += [f"<{tag}>"] * (tag in ("script", "iframe", "object")) + handlers
        self.found += [value for value in sources if "://" in value or value == "x"]


def list_active_content(page):
    parser = ActiveContent()
    parser.feed(page.read_text())
    return parser.found


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, write_knee, empty_tracking_database):
    """All stages on knees of patients with such names."""
    place = tmp_path_factory.mktemp("names")
    workspace = place / "inside"
    raw = workspace / "scans"
    rows = []
    for number, patient in enumerate(PATIENTS):
        for label in LABELS:
            name = f"<b>[/x]${number}/=x{LABELS.index(label)} \n.nii.gz"
            write_knee(raw / name, ("left", "right")[LABELS.index(label)], seed=len(rows))
            rows.append({"path": name, "patient": patient, "label": label})
    pd.DataFrame(rows).to_csv(place / "scans.csv", index=False, quoting=1)
    config = TINY_CONFIG | {
        "name": "hostile",
        "data": {"raw_folder": str(raw), "label_table": str(place / "scans.csv")},
    }
    config |= {"augment": {}, "preprocess": {**TINY_CONFIG["preprocess"], "export_png": True}}
    config |= {"leak_study": {"num_steps": 2}, "train": {**TINY_CONFIG["train"], "epochs": 1}}
    shutil.copyfile(empty_tracking_database, workspace / "mlflow.db")
    (place / "hostile.yaml").write_text(yaml.safe_dump(config))
    before = {path for path in place.rglob("*") if not path.is_relative_to(workspace)}
    for stage in STAGES:
        words = ["--config", str(place / "hostile.yaml"), "--workspace", str(workspace)]
        assert main([stage, *words]) == 0, stage
    assert {path for path in place.rglob("*") if not path.is_relative_to(workspace)} == before, "written elsewhere"
    return workspace


@pytest.mark.slow
def test_ids_and_labels_are_the_same_in_every_table(workspace):
    def read(path):
        return pd.read_csv(path, dtype=str, keep_default_na=False)

    patients = {patient.strip() for patient in PATIENTS}  # blanks at the ends do not tell two patients apart
    data = workspace / "data" / "hostile"
    manifest = read(data / "prepared" / "manifest.csv")
    assert set(manifest["group_id"]) == patients
    assert set(manifest["label"]) == set(LABELS)
    splits = read(data / "splits.csv")
    assert sorted(splits["group_id"]) == sorted(patients)
    predictions = read(workspace / "reports" / "hostile" / "predictions.csv")
    assert set(predictions["group_id"]) <= patients
    assert set(predictions["label"]) == set(LABELS)


def test_pages_show_names_and_run_nothing_of_them(workspace):
    pages = sorted((workspace / "reports").rglob("*.html"))
    assert {page.name for page in pages} >= {"report.html", "index.html", "comparison.html"}
    for page in pages:
        assert list_active_content(page) == [], page
    assert "&lt;img src=x onerror=alert(1)&gt;" in (workspace / "reports" / "hostile" / "report.html").read_text()


def test_documents_show_names_as_text(workspace):
    for path in (workspace / "reports" / "hostile").glob("*.md"):
        assert "<img" not in path.read_text().replace("\\<", ""), path


@pytest.mark.slow
def test_the_page_of_the_leak_study_runs_nothing_of_them_either(workspace):
    words = ["--config", str(workspace.parent / "hostile.yaml"), "--workspace", str(workspace)]
    assert main(["leak-study", *words]) == 0
    (page,) = (workspace / "reports").rglob("leak_study.html")
    assert list_active_content(page) == []
