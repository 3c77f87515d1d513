"""The notebooks run from their first to their last cell, and what they show was printed by their own code."""

import ast
import csv
import importlib
import os
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
DIGITS = EXAMPLES / "perceiver_and_perceiver_io_on_mnist.ipynb"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def read_printed(notebook: nbformat.NotebookNode) -> str:
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


def read_test_accuracies(notebook: nbformat.NotebookNode) -> dict[str, float]:
    return {
        name: float(value) for name, value in re.findall(r"^(.+): ([\d.]+) of", read_printed(notebook), re.MULTILINE)
    }


def execute(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook in a folder with the code of this repository, and return it with its new outputs."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}})
    client.execute(env=os.environ | {"PYTHONPATH": str(EXAMPLES.parent)})
    kinds = {output.output_type for cell in notebook.cells for output in cell.get("outputs", [])}
    assert kinds == {"stream"}, "text, no piece of HTML for each line"
    return notebook


@pytest.mark.slow
def test_the_notebook_learns_digits_with_both_models(write_mnist, tmp_path, monkeypatch):
    write_mnist(tmp_path, num_train=1200, num_test=300)
    monkeypatch.setenv("MNIST_FOLDER", str(tmp_path))
    accuracies = read_test_accuracies(execute(DIGITS, EXAMPLES))
    assert set(accuracies) == {"Perceiver", "Perceiver IO"}
    # One in ten by guessing; one bright row marks the class, so nearly all can be right.
    assert min(accuracies.values()) > 0.9


def draw_radiographs(folder: Path) -> None:
    """Write radiographs of 40 patients under the names that the notebook asks for: a bright disc on one side."""
    text = read_sources(EXAMPLES / "own_x_rays.ipynb")
    named = re.findall(r"knees/(images/\w+_(left|right)\.jpg)", text)
    assert len(named) == 2
    rows = [(path, "named", side) for path, side in named]
    rows += [(f"images/{n // 2}_{n % 2}.jpg", str(n // 2), ("left", "right")[n % 2]) for n in range(80)]
    (folder / "images").mkdir(parents=True)
    for number, (path, _, side) in enumerate(rows):
        values = np.random.default_rng(number).integers(0, 120, (24, 24), dtype=np.uint8)
        values[8:16, slice(2, 10) if side == "left" else slice(14, 22)] += 120
        Image.fromarray(values).save(folder / path)
    with (folder / "knees.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "patient", "side"), *rows])


def read_sources(path: Path) -> str:
    return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)


@pytest.mark.slow
def test_own_x_rays_lead_to_a_report_and_to_answers(tmp_path):
    draw_radiographs(tmp_path / "knees")
    printed = read_printed(execute(EXAMPLES / "own_x_rays.ipynb", tmp_path))
    assert "\x1b" not in printed, "no bar, which a terminal draws again and again"
    assert "-> reports/knees/report.html" in printed
    answers = re.findall(r"^knees/images/\S+_(left|right)\.jpg (left|right) ", printed, re.MULTILINE)
    assert answers == [("left", "left"), ("right", "right")]


@pytest.mark.slow
def test_the_phantom_leads_to_cases_and_its_metrics_are_read_with_pandas(tmp_path):
    names = ("phantom_from_nifti_to_cases.ipynb", "reading_metrics_with_pandas.ipynb")
    stored = [read_printed(nbformat.read(EXAMPLES / name, as_version=4)) for name in names]
    printed = [read_printed(execute(EXAMPLES / name, tmp_path)) for name in names]
    for folder in ("runs/phantom/best.safetensors", "reports/phantom/report.html", "reports/phantom/cases.html"):
        assert (tmp_path / folder).is_file()
    # The lines of the scans, the slices and the splits, which no rounding of another processor changes.
    known = [line for line in stored[0].splitlines() if "scans" in line or "test" in line]
    assert len(known) > 2
    assert [line for line in known if line not in printed[0]] == []
    assert printed[1].splitlines()[0] == stored[1].splitlines()[0], "the parts of metrics.json"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_real_outputs_as_text_and_of_the_code_that_it_holds(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run from top to bottom, once"
    for cell in cells:
        ast.parse(cell.source)
        assert all(output.output_type == "stream" and output.name == "stdout" for output in cell.outputs)
    assert path.stat().st_size < 60_000
    assert f"({path.name})" in (EXAMPLES / "README.md").read_text("utf-8"), "the list of notebooks"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_imports_of_the_project_is_there(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    nodes = [node for cell in cells for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.ImportFrom)]
    own = [node for node in nodes if node.module.partition(".")[0] in ("perceiver", "pipeline")]
    names = [(node.module, name.name) for node in own for name in node.names]
    assert [f"{module}.{name}" for module, name in names if not hasattr(importlib.import_module(module), name)] == []


def test_own_x_rays_take_ten_lines_of_code():
    cells = nbformat.read(EXAMPLES / "own_x_rays.ipynb", as_version=4).cells
    lines = [line for cell in cells if cell.cell_type == "code" for line in cell.source.splitlines() if line.strip()]
    assert len(lines) <= 10


def test_the_stored_accuracies_are_those_of_both_models():
    accuracies = read_test_accuracies(nbformat.read(DIGITS, as_version=4))
    assert set(accuracies) == {"Perceiver", "Perceiver IO"}
    assert min(accuracies.values()) > 0.8
