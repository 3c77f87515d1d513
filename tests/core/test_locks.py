"""A folder has one writer at a time, and a dead writer is none."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.core.errors import UserError
from pipeline.core.locks import lock_folder

# Holds a folder, prints a line, and waits for its standard input to end.
HOLDER = """
import sys
from pathlib import Path
from pipeline.core.locks import lock_folder

with lock_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder():
    processes = []

    def start(folder):
        command = [sys.executable, "-c", HOLDER, str(folder)]
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


@pytest.mark.parametrize(
    ("stage", "folder"),
    [
        ("fetch", "data/tiny/raw"),
        ("preprocess", "data/tiny/prepared"),
        ("split", "data/tiny"),
        ("train", "runs/tiny/other"),
        ("evaluate", "reports/tiny"),
    ],
)
def test_a_stage_does_not_write_where_another_process_does(tmp_path, holder, tiny_workspace, capsys, stage, folder):
    workspace = Path(shutil.copytree(tiny_workspace, tmp_path / "workspace"))
    if stage == "fetch":
        shutil.rmtree(workspace / "data" / "tiny" / "raw")
    words = ["--run", "other"] if stage == "train" else []
    holder(workspace / folder)
    before = sorted(workspace.rglob("*"))
    assert main([stage, "--config", str(workspace / "tiny.yaml"), "--workspace", str(workspace), *words]) == 2
    assert f"{workspace / folder}: in use by another process" in capsys.readouterr().err
    assert sorted(workspace.rglob("*")) == before
