"""The notebook runs from its first to its last cell, and what it shows was printed by its own code."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "perceiver_and_perceiver_io_on_mnist.ipynb"


def read_printed(notebook: nbformat.NotebookNode) -> str:
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


def read_test_accuracies(notebook: nbformat.NotebookNode) -> dict[str, float]:
    return {
        name: float(value) for name, value in re.findall(r"^(.+): ([\d.]+) of", read_printed(notebook), re.MULTILINE)
    }


@pytest.mark.slow
def test_the_notebook_learns_digits_with_both_models(write_mnist, tmp_path, monkeypatch):
    write_mnist(tmp_path, num_train=1200, num_test=300)
    monkeypatch.setenv("MNIST_FOLDER", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    accuracies = read_test_accuracies(notebook)
    assert set(accuracies) == {"Perceiver", "Perceiver IO"}
    # One in ten by guessing; one bright row marks the class, so nearly all can be right.
    assert min(accuracies.values()) > 0.9


def test_the_notebook_shows_real_outputs_as_text_and_of_the_code_that_it_holds():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run from top to bottom, once"
    for cell in cells:
        ast.parse(cell.source)
        assert all(output.output_type == "stream" and output.name == "stdout" for output in cell.outputs)
    accuracies = read_test_accuracies(notebook)
    assert set(accuracies) == {"Perceiver", "Perceiver IO"}
    assert min(accuracies.values()) > 0.8
    assert NOTEBOOK.stat().st_size < 60_000
