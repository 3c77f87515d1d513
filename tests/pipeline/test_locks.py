"""A folder has one writer at a time, and a dead writer is none."""

import signal
import subprocess
import sys

import pytest
import yaml

from pipeline.cli import main
from pipeline.errors import UserError
from pipeline.locks import hold
from tests.conftest import TINY_CONFIG

# Holds a folder, says so, and waits for its standard input to end.
HOLDER = """
import sys
from pathlib import Path
from pipeline.locks import hold

with hold(Path(sys.argv[1])):
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
    with pytest.raises(UserError, match=refusal), hold(tmp_path):
        pytest.fail("two processes hold the folder")
    process.communicate()
    with hold(tmp_path):
        assert (tmp_path / ".lock.json").is_file()
    assert not (tmp_path / ".lock.json").exists()


def test_a_process_that_was_killed_holds_nothing(tmp_path, holder):
    process = holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / ".lock.json").is_file(), "it could not clean up"
    with hold(tmp_path):
        pass


def test_what_a_killed_process_left_half_written_is_removed(tmp_path, holder):
    (tmp_path / ".metrics.json.1234.tmp").write_text("{")
    (tmp_path / "metrics.json").write_text("{}")
    process = holder(tmp_path)
    process.communicate()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "metrics.json"]


def test_an_error_in_the_block_lets_go(tmp_path):
    with pytest.raises(ZeroDivisionError), hold(tmp_path):
        raise ZeroDivisionError
    with hold(tmp_path):
        pass


@pytest.mark.parametrize(
    ("stage", "folder"),
    [("preprocess", "data/tiny/prepared"), ("split", "data/tiny"), ("fetch", "data/tiny/raw")],
)
def test_a_stage_does_not_write_where_another_process_does(tmp_path, holder, capsys, stage, folder):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY_CONFIG))
    holder(tmp_path / folder)
    before = sorted(tmp_path.rglob("*"))
    assert main([stage, "--config", str(path), "--workspace", str(tmp_path)]) == 2
    assert f"{tmp_path / folder}: in use by another process" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
