"""Small inputs that people met in the field: each has the behaviour that its README says is right.

A case is a folder with files and a README of one line, ``COMMANDS -> right: BEHAVIOUR; found: ...``. The commands are
taken from it, with the names that options have today. All with ``pytest --slow tests/faults/test_field_cases.py``.
"""

import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli import main
from pipeline.config.renames import RENAMED_OPTIONS
from pipeline.core.tables import MANIFEST_COLUMNS, SPLIT_COLUMNS, read_table
from pipeline.data.store import read_store
from pipeline.reporting.figures import fonts
from tests.builders.field_cases import CASES

pytestmark = pytest.mark.field_cases


@dataclass(frozen=True)
class Ended:
    """A stage that ended: its exit code and all that it printed."""

    code: int
    printed: str


def read_commands(case):
    """Return the commands of a case, each as its words."""
    text = (CASES / case / "README").read_text().partition(" -> right: ")[0]
    other = re.search(r"as in ([\w-]+)", text)
    if other is not None:
        return read_commands(other[1])
    commands = [shlex.split(part) for part in re.split(r"; |, then |, ", re.sub(r"\(.*?\)", "", text))]
    return [command for command in commands if command[0] != "cd"]


def complete(commands):
    """Return words for the command line: an environment, ``perceiver`` and what a later stage leaves out taken away."""
    first: list[str] = []
    for words in commands:
        stage = next(place for place, word in enumerate(words) if "=" not in word and word != "perceiver")
        options = [
            f"--{RENAMED_OPTIONS.get(word[2:], word[2:])}" if word[:2] == "--" else word for word in words[stage:]
        ]
        if "--config" in options:
            first = options[1 : 5 if "--workspace" in options else 3]
            yield options
        else:
            yield [options[0], *first, *options[1:]]


def rename_keys(path):
    """Give the options of a YAML file the names of today; the file is not read, as some cannot be."""
    content = path.read_bytes()
    for old, new in RENAMED_OPTIONS.items():
        key, now = (name.rpartition(".")[2].encode() for name in (old, new))
        content = re.sub(rb"(?m)^(\s+)" + key + b":", rb"\1" + now + b":", content)
    path.write_bytes(content)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, caplog, request):
    """Run all commands of a case in a copy of its folder, up to one that fails."""

    def run_case(case, has_database=False):
        here = Path(shutil.copytree(CASES / case, tmp_path / case))
        monkeypatch.chdir(here)
        monkeypatch.setenv("HOME", str(here / "home"))
        for path in here.glob("*.yaml"):
            rename_keys(path)
        if has_database:
            Path("ws").mkdir()
            shutil.copy(request.getfixturevalue("empty_tracking_database"), "ws/mlflow.db")
        commands = read_commands(case)
        if commands[0][0] == "python":
            subprocess.run([sys.executable, *commands.pop(0)[1:]], check=True)
        ended = []
        for words in complete(commands):
            fonts._warn_of_boxes.cache_clear()
            fonts.find_fonts.cache_clear()
            code = main(words)
            printed = capsys.readouterr()
            ended.append(Ended(code, printed.out + printed.err + caplog.text))
            caplog.clear()
            if code != 0:
                break
        return ended

    return run_case


def read_manifest(workspace="ws"):
    return read_table(Path(workspace) / "data" / "tiny" / "prepared" / "manifest.csv", MANIFEST_COLUMNS)


def read_examples():
    return read_store(Path("ws") / "data" / "tiny" / "prepared", verify=True).examples


def check_refused(ended, *found):
    (only,) = ended
    assert only.code == 2
    (line,) = (line for line in only.printed.splitlines() if line.startswith("error: "))
    assert "Traceback" not in only.printed
    assert all(re.search(text, only.printed) for text in found), only.printed
    return line


def test_every_case_has_a_test():
    tested = {name for name in globals() if name.startswith("test_case_")}
    assert {f"test_case_{path.name.replace('-', '_')}" for path in CASES.iterdir() if path.is_dir()} == tested


def test_case_absolute_path_inside(run):
    (ended,) = run("absolute-path-inside")
    assert ended.code == 0
    assert (read_manifest()["status"] == "accepted").sum() == 6


def test_case_label_trailing_space(run):
    ended = run("label-trailing-space")
    assert [each.code for each in ended] == [0, 0]
    assert set(read_manifest()["label"]) == {"left", "right"}
    assert "3 of 16 cells of label" in ended[0].printed


def check_eight_patients(run, case):
    ended = run(case)
    assert [each.code for each in ended] == [0, 0]
    assert "8 of 16 cells of patient" in ended[0].printed
    assert len(read_table(Path("ws/data/tiny/splits.csv"), SPLIT_COLUMNS)) == 8


def test_case_patient_nfc_nfd(run):
    check_eight_patients(run, "patient-nfc-nfd")


def test_case_patient_trailing_space(run):
    check_eight_patients(run, "patient-trailing-space")


def test_case_png_12_bit(run):
    (ended,) = run("png-12-bit")
    assert ended.code == 0
    examples = read_examples()
    assert np.mean(examples == 255) < 0.1, "it was 0.59"
    assert len(np.unique(examples)) > 100


def test_case_png_slice_missing(run):
    check_refused(run("png-slice-missing"), "RIGHT.*: slice 1 of this scan is missing", "1 of 3 scans was refused")


def test_case_section_twice(run):
    line = check_refused(run("section-twice"))
    assert line == "error: twice.yaml: preprocess is there twice, in lines 4 and 11. Keep one."


def test_case_sform_qform_mirrored(run):
    check_refused(run("sform-qform-mirrored"), "sform and qform name different sides", "none of 2 scans")


def test_case_units_metre(run):
    (ended,) = run("units-metre")
    assert ended.code == 0
    sizes = [[float(size) for size in text.split("x")] for text in read_manifest()["spacing_mm"]]
    assert np.min(sizes) > 1, "they were 0.005"
    assert read_examples().std() > 10, "all images were black"


def test_case_workspace_tilde(run):
    (ended,) = run("workspace-tilde")
    assert ended.code == 0
    assert not Path("~").exists()
    assert (read_manifest("home/knees")["status"] == "accepted").sum() == 6


def test_case_yaml_latin1(run):
    assert check_refused(run("yaml-latin1")) == "error: latin1.yaml: byte 3 is not UTF-8. Save the file as UTF-8."


@pytest.mark.slow
def test_case_stdout_not_utf8(tmp_path):
    here = Path(shutil.copytree(CASES / "stdout-not-utf8", tmp_path / "case"))
    rename_keys(here / "tiny.yaml")
    (words,) = complete(read_commands("stdout-not-utf8"))
    environment = os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *words], cwd=here, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert rb"6 scans of 3 patients (3 \u5065\u5e38, 3 \u95a2\u7bc0\u708e)" in done.stdout
    assert b"Traceback" not in done.stderr


@pytest.mark.slow
def test_case_labels_cjk(run):
    ended = run("labels-cjk", has_database=True)
    assert [each.code for each in ended] == [0, 0, 0, 0]
    has_font = bool(fonts.find_fonts(frozenset("健")))
    named = [each.printed.count("no font of this machine has Chinese, Japanese or Korean") for each in ended]
    assert named[3] == (not has_font), named
    assert max(named) <= 1
    assert Path("ws/reports/tiny/confusion_volume.svg").read_bytes().startswith(b"<?xml")


@pytest.mark.slow
def test_case_warning_no_break_space(run):
    ended = run("warning-no-break-space", has_database=True)
    assert [each.code for each in ended] == [0, 0, 0, 0]
    assert re.search(r"\d %", ended[3].printed)
    assert not any("\xa0" in each.printed or r"\xa0" in each.printed for each in ended)


@pytest.mark.slow
def test_case_workspace_percent(run):
    ended = run("workspace-percent")
    assert [each.code for each in ended] == [0, 0, 0]
    assert not any("does not take records" in each.printed for each in ended)
    with sqlite3.connect(Path("My%20Knees/mlflow.db")) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (1,)
