"""The Makefile passes names on as they are."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def make(tmp_path):
    """Run a target with an interpreter that only writes its words, one a line."""
    recorder = tmp_path / "recorder"
    recorder.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    recorder.chmod(0o755)

    def run(*words):
        command = ["make", "--silent", f"PYTHON={recorder}", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def test_predict_takes_one_file_with_blanks_or_several_without(make, tmp_path):
    scan = tmp_path / "Knie 00 R's %20#.nii.gz"
    scan.touch()
    config = ["--config", "configs/phantom.yaml"]
    assert make("predict", f"INPUT={scan}") == ["-m", "pipeline", "predict", str(scan), *config]
    assert make("predict", "INPUT=a.nii b.nii") == ["-m", "pipeline", "predict", "a.nii", "b.nii", *config]
    quoted = make("predict", "INPUT='Knie a.nii' b.nii", "CONFIG=my knees.yaml")
    assert quoted == ["-m", "pipeline", "predict", "Knie a.nii", "b.nii", "--config", "my knees.yaml"]


def test_names_with_quotes_are_passed_on_too(make, tmp_path):
    absent, config, data = str(tmp_path / 'R\'s "knee".nii'), 'my "own" R\'s `#`.yaml', 'R\'s "raw" data'
    words = make("predict", f"INPUT={absent}", f"CONFIG={config}", f"DATA={data}")
    assert words == ["-m", "pipeline", "predict", absent, "--config", config, "--data.raw_folder", data]
    words = make("mnist", f"CONFIG={config}", "SET=--run 'a \"b\"'")
    assert [word for word in words if ".yaml" in word or '"b"' in word] == [config, 'a "b"'] * 5
    words = make("medmnist", "NAME=retinamnist", f"DATA={data}", "SET=--run 'a \"b\"'")
    assert [word for word in words if word in ("configs/medmnist.yaml", data, 'a "b"', "ordinal")] == [
        *("configs/medmnist.yaml", data, "ordinal", 'a "b"') * 5
    ]


@pytest.mark.parametrize("target", ["train", "ui", "bench"])
def test_the_command_that_make_prints_has_the_names_and_can_be_copied(make, target):
    config, data = 'my "own" R\'s $HOME `#`.yaml', 'R\'s, "raw" data'
    words = (target, f"CONFIG={config.replace('$', '$$')}", f"DATA={data}")
    printed = make("--dry-run", *words)
    assert all("GIVEN" not in line for line in printed)
    copied = subprocess.check_output("\n".join(printed), shell=True, text=True, cwd=ROOT)
    assert copied.splitlines() == make(*words)
    assert data in copied.splitlines()
    if target == "train":
        expected = ["--config", config, "--data.raw_folder", data]
        assert shlex.split(printed[-1])[1:] == ["-m", "pipeline", "train", *expected]


def test_tests_keep_their_bytecode_where_other_programs_do_not(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    recorder = tmp_path / "recorder"
    recorder.write_text('#!/bin/sh\necho "<$PYTHONDONTWRITEBYTECODE>"\n')
    recorder.chmod(0o755)
    for target, kept in (("test", "<>"), ("train", "<1>")):
        command = ["make", "--silent", f"PYTHON={recorder}", target]
        assert set(subprocess.check_output(command, text=True, cwd=ROOT).split()) == {kept}


def test_the_pages_of_the_records_are_those_of_the_experiment(make):
    shown = make("ui", "SET=--workspace ws")
    address = ["-m", "pipeline.tracking.mlflow_database", "--config", "configs/phantom.yaml", "--workspace", "ws"]
    assert shown == ["-m", "mlflow", "ui", "--backend-store-uri", *address, "--host", "127.0.0.1", "--port", "5000"]
