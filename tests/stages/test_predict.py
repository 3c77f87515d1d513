"""Predictions of new scans on the command line: the same in every form of a scan, with warnings and refusals."""

import json
import os
import shutil
import signal
import struct
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.cli import main
from pipeline.formats.nifti import read_volume
from pipeline.preprocessing.slicing import cut_stack
from pipeline.training.checkpoint import read_checkpoint
from tests.builders.dicom import write_series
from tests.builders.volumes import compute_intensity


@pytest.fixture
def predict(tiny_workspace, tmp_path):
    """Score inputs with the tiny model; return the exit code and the rows."""

    def run(*inputs, name="new.csv", options=()):
        output = tmp_path / "out" / name
        words = ("--config", str(tiny_workspace / "tiny.yaml"), "--workspace", str(tiny_workspace))
        code = main(["predict", *map(str, inputs), *words, "--predict.output", str(output), *options])
        if not output.exists():
            return code, None
        read = pd.read_csv(output, dtype=str, keep_default_na=False).to_dict("records")
        return code, json.loads(output.read_text()) if name.endswith("json") else read

    return run


@pytest.fixture
def knees(tiny_workspace):
    return sorted((tiny_workspace / "data" / "tiny" / "raw").glob("*.nii.gz"))


def without_orientation(source, target):
    content = bytearray(nibabel.load(source).to_bytes())
    content[252:256] = struct.pack("<hh", 0, 0)
    target.write_bytes(content)
    return target


def test_a_dicom_series_gets_the_probabilities_of_its_nifti_file(predict, knees, tmp_path):
    volume = read_volume(knees[0])
    intensity = compute_intensity(volume).astype(np.int16)  # DICOM holds whole numbers
    affine = np.diag([4.0, 5.0, 6.0, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(intensity.shape) - 1) / 2
    nibabel.save(nibabel.Nifti1Image(intensity, affine), tmp_path / "knee.nii.gz")
    folder = write_series(tmp_path / "series" / "knee", intensity, centre=(0, 0, 0))
    code, (nifti, series) = predict(tmp_path / "knee.nii.gz", tmp_path / "series")
    assert code == 0
    assert series["path"] == str(folder)
    assert 0 < float(nifti["probability_left"]) < 1
    assert {**series, "path": ""} == {**nifti, "path": ""}
    written = "".join(path.read_text() for path in (tmp_path / "out").iterdir())
    assert "Secret" not in written


def test_slices_that_were_cut_before_get_the_volumes_probabilities(predict, knees, tiny_workspace, tmp_path, capsys):
    options = read_checkpoint(tiny_workspace / "runs" / "tiny" / "best.safetensors").preprocess
    stack = cut_stack(read_volume(knees[0]), options, "")
    folder = tmp_path / "png"
    folder.mkdir()
    for number, image in enumerate(stack.images):
        Image.fromarray(image).save(folder / f"{knees[0].name}_{number}.png")
    (folder / "notes.txt").touch()
    code, (volume, slices) = predict(knees[0], folder)
    assert code == 0
    assert "1 file passed over, such as" in capsys.readouterr().out
    assert slices["path"] == str(folder / f"{knees[0].name}_*.png")
    assert {**slices, "path": ""} == {**volume, "path": ""}


def test_a_table_gives_the_rows_of_its_files_in_both_forms(predict, knees, tmp_path, capsys):
    text = f"name;path\nJürgen;{knees[1]}\nx;gone.nii\ny;{knees[0]}\n"
    (tmp_path / "scans.csv").write_text(text, encoding="cp1252")
    code, table = predict(tmp_path / "scans.csv")
    said = " ".join(capsys.readouterr().out.split())
    assert "warning: " in said
    assert "read as Windows-1252, a guess" in said
    assert "read with semicolons between cells, a guess" in said
    assert code == 2
    assert [row["path"] for row in table] == [str(knees[1]), str(tmp_path / "gone.nii"), str(knees[0])]
    assert "no such file" in table[1]["reason"]
    assert "replaced" not in said
    code, rows = predict(tmp_path / "scans.csv", name="new.json")
    assert code == 2
    assert [row["probability_left"] for row in rows] == [
        float(row["probability_left"]) if row["probability_left"] else None for row in table
    ]
    assert (rows[0]["reason"], rows[0]["num_slices"], rows[0]["abstained"]) == (None, 4, False)


def test_columns_that_are_kept_stand_in_each_row_of_the_table_the_refused_too(predict, knees, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    copies = [shutil.copy(knee, tmp_path / "folder") for knee in knees[:2]]
    text = f"Patient,born,note,path\n007,1950,,{knees[2]}\n8,1951,x,gone.nii\n9,1952,y,folder\n"
    (tmp_path / "scans.csv").write_text(text)
    keep = ("--predict.keep_columns", "[patient, note]")
    code, rows = predict(tmp_path / "scans.csv", options=keep)
    assert code == 2
    assert list(rows[0])[:4] == ["path", "patient", "note", "predicted"]
    kept = [("007", ""), ("8", "x"), *[("9", "y")] * len(copies)]
    assert [(row["patient"], row["note"]) for row in rows] == kept, "a folder's scans have the cells of its row"
    assert "1950" not in (tmp_path / "out" / "new.csv").read_text()
    for inputs, options, message in (
        (tmp_path / "scans.csv", ("--predict.keep_columns", "[age]"), "columns age are missing"),
        (knees[0], keep, "no input is a table"),
        (tmp_path / "scans.csv", ("--predict.keep_columns", "[reason]"), "predict.keep_columns"),
    ):
        assert predict(inputs, options=options)[0] == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_the_rows_of_a_volumes_slices_have_its_mean_and_are_there_after_an_interruption(predict, knees, tmp_path):
    (tmp_path / "scans.csv").write_text(f"patient,path\n7,{knees[0]}\n8,gone.nii\n9,{knees[1]}\n")
    slices = tmp_path / "tables" / "slices.csv"
    options = ("--predict.slice_output", str(slices), "--predict.keep_columns", "[patient]")
    code, rows = predict(tmp_path / "scans.csv", options=options)
    assert code == 2
    table = pd.read_csv(slices, dtype={"patient": str})
    assert list(table) == ["path", "patient", "slice_index", "probability_left", "probability_right"]
    num_slices = int(rows[0]["num_slices"])
    assert table["slice_index"].tolist() == [*range(num_slices)] * 2
    assert table["patient"].tolist() == ["7"] * num_slices + ["9"] * num_slices
    means = table.groupby("path")["probability_left"].mean()
    assert means[str(knees[1])] == pytest.approx(float(rows[2]["probability_left"]), abs=1e-12)
    assert table["probability_left"].std() > 0
    assert "slices" not in rows[0]


def test_a_file_that_the_disk_refuses_costs_the_others_nothing(predict, knees, tmp_path):
    """A link to itself stands for what the operating system cannot read."""
    (tmp_path / "loop.nii").symlink_to(tmp_path / "loop.nii")
    code, rows = predict(tmp_path / "loop.nii", knees[0])
    assert code == 2
    assert "symbolic links" in rows[0]["reason"]
    assert rows[1]["reason"] == ""


def test_the_model_abstains_below_the_minimum_confidence_and_an_earlier_table_is_not_lost_silently(
    predict, knees, capsys
):
    _, rows = predict(*knees)
    assert "replaced" not in capsys.readouterr().out
    confidences = [max(float(row["probability_left"]), float(row["probability_right"])) for row in rows]
    assert {row["abstained"] for row in rows} == {"false"}
    threshold = float(np.median(confidences))
    _, rows = predict(*knees, options=("--predict.min_confidence", repr(threshold)))
    assert "new.csv: an earlier table, which is replaced." in capsys.readouterr().out
    assert [row["abstained"] for row in rows] == [str(value < threshold).lower() for value in confidences]
    assert {row["abstained"] for row in rows} == {"false", "true"}


def test_an_unknown_orientation_is_scored_with_a_warning_and_abstained_from(predict, knees, tmp_path):
    path = without_orientation(knees[0], tmp_path / "knee.nii")
    code, (row,) = predict(path)
    assert code == 0
    assert "orientation unknown" in row["warnings"]
    assert row["abstained"] == "true"
    assert row["predicted"] in ("left", "right")


def test_voxel_sizes_that_a_header_states_in_two_ways_are_a_warning(predict, knees, tmp_path):
    content = bytearray(nibabel.load(knees[0]).to_bytes())
    content[80:84] = struct.pack("<f", 1.0)  # pixdim of the first axis
    (tmp_path / "knee.nii").write_bytes(content)
    code, (row,) = predict(tmp_path / "knee.nii")
    assert code == 0
    assert "by the sform and 1x" in row["warnings"]


def test_a_scan_turned_between_two_planes_gets_a_warning(predict, knees, tmp_path):
    image = nibabel.load(knees[0])
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]]
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), turn @ image.affine), tmp_path / "turned.nii.gz")
    _, (row,) = predict(tmp_path / "turned.nii.gz")
    assert "between two planes" in row["warnings"]


def test_a_name_with_the_other_side_gets_a_warning(predict, knees, tmp_path):
    _, (row,) = predict(knees[0])
    predicted, other = row["predicted"], {"left": "right", "right": "left"}[row["predicted"]]
    _, (row,) = predict(Path(shutil.copy(knees[0], tmp_path / f"knee_{predicted}.nii.gz")))
    assert row["warnings"] == ""
    _, (row,) = predict(Path(shutil.copy(knees[0], tmp_path / f"knee_{other.upper()}.nii.gz")))
    assert [word for word in row["warnings"].replace(",", "").split() if word in (predicted, other)] == [
        other,
        predicted,
    ]


def test_a_volume_unlike_those_of_training_gets_a_warning(predict, knees, write_knee, tmp_path):
    _, rows = predict(*knees)
    assert not [row for row in rows if "intensities" in row["warnings"]]
    noise = write_knee(tmp_path / "noise.nii", shape=(24, 24, 20), spacing_mm=(6.0, 6.0, 6.0))
    _, (row,) = predict(noise)
    assert "intensities" in row["warnings"]


def run_and_kill(words, scan):
    """Run a stage in a process that kills itself when it opens a scan."""

    def kill(event, arguments):
        if event == "open" and str(arguments[0]) == str(scan):
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            sys.addaudithook(kill)
            main(words)
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_a_killed_call_resumes_where_it_was(tiny_workspace, knees, tmp_path):
    """When the fourth scan is opened, three rows are on disk."""
    output = tmp_path / "new.csv"
    words = ["predict", *map(str, knees[:5]), "--config", str(tiny_workspace / "tiny.yaml")]
    words += ["--workspace", str(tiny_workspace), "--predict.output", str(output)]
    run_and_kill(words, knees[3])
    partial = output.with_name("new.csv.partial")
    kept = partial.read_text().splitlines()[1:]
    assert [json.loads(line)["path"] for line in kept] == list(map(str, knees[:3]))
    assert not output.exists()
    marked = [line.replace('"num_slices": 4', '"num_slices": 5') for line in kept]
    partial.write_text("\n".join([partial.read_text().splitlines()[0], *marked]) + "\n")
    assert main(words) == 0
    assert pd.read_csv(output)["num_slices"].tolist() == [5, 5, 5, 4, 4], "the first three were not scored again"
    assert not partial.exists()
    assert main(words) == 0
    assert pd.read_csv(output)["num_slices"].tolist() == [4] * 5, "a finished table is made again"


def test_a_killed_call_does_not_resume_with_other_cells_to_keep(tiny_workspace, knees, tmp_path):
    table, output = tmp_path / "scans.csv", tmp_path / "new.csv"
    table.write_text(f"patient,path\n7,{knees[0]}\n8,{knees[1]}\n")
    words = ["predict", str(table), "--config", str(tiny_workspace / "tiny.yaml"), "--workspace", str(tiny_workspace)]
    words += ["--predict.output", str(output), "--predict.keep_columns", "[patient]"]
    run_and_kill(words, knees[1])
    table.write_text(f"patient,path\n70,{knees[0]}\n8,{knees[1]}\n")
    assert main(words) == 0
    assert pd.read_csv(output)["patient"].tolist() == [70, 8]


@pytest.mark.parametrize(("option", "value"), [("output", "new.xlsx"), ("min_confidence", "1.5")])
def test_options_are_checked(option, value, predict, knees, capsys):
    code, _ = predict(knees[0], options=(f"--predict.{option}", value))
    assert code == 2
    assert f"predict.{option}" in capsys.readouterr().err
