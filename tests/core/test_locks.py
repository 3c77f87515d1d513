"""A folder or a file has one writer at a time, and a dead writer is none."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.core.errors import UserError
from pipeline.core.locks import lock_folder, lock_output
from pipeline.stages import STAGES

# Holds a folder or an output, prints a line, and waits for its standard input to end.
HOLDER = """
import sys
from pathlib import Path
from pipeline.core import locks

with getattr(locks, sys.argv[1])(Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder():
    processes = []

    def start(path, lock=lock_folder):
        command = [sys.executable, "-c", HOLDER, lock.__name__, str(path)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.communicate()


def test_a_second_process_is_refused_by_name_until_the_first_has_ended(tmp_path, holder):
    process = holder(tmp_path)
    refusal = rf"{tmp_path}: in use by another process \({process.pid} on .+\)\. Wait"
    with pytest.raises(UserError, match=refusal), lock_folder(tmp_path):
        pytest.fail("two processes hold the folder")
    process.communicate()
    with lock_folder(tmp_path):
        assert (tmp_path / ".lock.json").is_file()
    assert not (tmp_path / ".lock.json").exists()


def test_a_process_that_was_killed_holds_nothing(tmp_path, holder):
    process = holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / ".lock.json").is_file(), "it could not clean up"
    with lock_folder(tmp_path):
        pass


def test_what_a_killed_process_left_half_written_is_removed(tmp_path, holder):
    (tmp_path / ".metrics.json.1234.tmp").write_text("{")
    (tmp_path / "metrics.json").write_text("{}")
    process = holder(tmp_path)
    process.communicate()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "metrics.json"]


def test_an_error_in_the_block_lets_go(tmp_path):
    with pytest.raises(ZeroDivisionError), lock_folder(tmp_path):
        raise ZeroDivisionError
    with lock_folder(tmp_path):
        pass


def test_an_output_is_locked_alone_so_that_others_may_be_written_next_to_it(tmp_path, holder):
    process = holder(tmp_path / "first.csv", lock_output)
    refusal = rf"first\.csv: in use by another process \({process.pid} on .+\)\. Wait .* another output"
    with pytest.raises(UserError, match=refusal), lock_output(tmp_path / "first.csv"):
        pytest.fail("two processes write one file")
    with lock_output(tmp_path / "second.csv"):
        pass
    process.communicate()
    with lock_output(tmp_path / "first.csv"):
        pass
    assert not list(tmp_path.glob(".*.json"))


WRITTEN = {
    "fetch": ("data/tiny/raw", lock_folder),
    "preprocess": ("data/tiny/prepared", lock_folder),
    "split": ("data/tiny", lock_folder),
    "pretrain": ("runs/tiny/other-pretraining", lock_folder),
    "train": ("runs/tiny/other", lock_folder),
    "evaluate": ("reports/tiny", lock_folder),
    "attention": ("reports/tiny", lock_folder),
    "cases": ("reports/tiny", lock_folder),
    "predict": ("reports/tiny/predictions_new.csv", lock_output),
    "export": ("runs/tiny/export", lock_output),
    "compare": ("reports/tiny/comparison.html", lock_output),
    "leak-study": ("reports/tiny/leak_study", lock_folder),
    "cross-validate": ("reports/tiny/cross_validation", lock_folder),
    "learning-curve": ("reports/tiny/learning_curve", lock_folder),
}


# Several processes take part in one search.
@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "tune"])
def test_a_stage_does_not_write_where_another_process_does(tmp_path, holder, tiny_workspace, capsys, stage):
    workspace = Path(shutil.copytree(tiny_workspace, tmp_path / "workspace"))
    if stage == "fetch":
        shutil.rmtree(workspace / "data" / "tiny" / "raw")
    words = ["--run", "other"] if stage in ("pretrain", "train") else []
    path, lock = WRITTEN[stage]
    holder(workspace / path, lock)
    before = sorted(workspace.rglob("*"))
    assert main([stage, "--config", str(workspace / "tiny.yaml"), "--workspace", str(workspace), *words]) == 2
    assert f"{workspace / path}: in use by another process" in capsys.readouterr().err
    assert sorted(workspace.rglob("*")) == before
