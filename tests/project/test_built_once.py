import multiprocessing
from pathlib import Path

import pytest

from tests.builders.built_once import build_once


def count_a_build(folder: Path) -> None:
    with (folder.parent / "builds").open("a") as file:
        file.write("x")
    (folder / "result").write_text("done")


def test_processes_that_start_together_build_once(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=build_once, args=(tmp_path / "built", count_a_build)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "builds").read_text() == "x"
    assert (tmp_path / "built" / "result").read_text() == "done"


def test_what_a_failed_build_left_is_removed_by_the_next(tmp_path):
    def fail(folder):
        (folder / "half").touch()
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        build_once(tmp_path / "built", fail)
    build_once(tmp_path / "built", count_a_build)
    assert [path.name for path in (tmp_path / "built").iterdir()] == ["result"]
