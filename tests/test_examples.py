"""The notebook runs from its first to its last cell, and what it shows was printed by its own code."""

import ast
import gzip
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "perceiver_and_perceiver_io_on_mnist.ipynb"


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, dtype=">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.tobytes()))


def write_digits(folder: Path) -> None:
    """Write MNIST's four files with easy digits: a bright square whose place says which digit it is."""
    generator = np.random.default_rng(0)
    for prefix, count in (("train", 1200), ("t10k", 300)):
        labels = generator.integers(0, 10, count).astype(np.uint8)
        images = generator.integers(0, 60, (count, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = divmod(int(label), 4)
            image[8 * row + 2 : 8 * row + 8, 6 * column + 2 : 6 * column + 8] = 220
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)


def read_printed(notebook: nbformat.NotebookNode) -> str:
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))


def read_test_accuracies(notebook: nbformat.NotebookNode) -> dict[str, float]:
    return {
        name: float(value) for name, value in re.findall(r"^(.+): ([\d.]+) of", read_printed(notebook), re.MULTILINE)
    }


@pytest.mark.slow
def test_the_notebook_learns_digits_with_both_models(tmp_path, monkeypatch):
    write_digits(tmp_path)
    monkeypatch.setenv("MNIST_FOLDER", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    accuracies = read_test_accuracies(notebook)
    assert set(accuracies) == {"Perceiver", "Perceiver IO"}
    # One in ten by guessing; the squares do not overlap, so nearly all can be told.
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
