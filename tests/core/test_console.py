import builtins
import errno
import io
import itertools
import re
import sys
import threading

import pytest
from rich.console import Console

from pipeline.core import console as console_module
from pipeline.core.console import StageConsole, Work, progress, warn, working, working_in_parts


class Log(io.StringIO):
    """A log that says when a line comes."""

    def __init__(self):
        super().__init__()
        self.came = threading.Event()

    def write(self, text):
        super().write(text)
        self.came.set()
        return len(text)


def test_a_warning_has_plain_blanks_before_a_percent_sign_and_shows_those_of_names():
    output = io.StringIO()
    warn(Console(file=output, width=200), "right for 63.2\u00a0% (95\u00a0% interval) of P\u00a01")
    assert output.getvalue() == "warning: right for 63.2 % (95 % interval) of P\\xa01\n"


def test_what_a_stage_prints_has_plain_blanks_before_a_percent_sign(capsys):
    StageConsole().print("accuracy 50.0\u00a0% (95\u00a0% interval) -> P\u00a01", highlight=False)
    assert capsys.readouterr().out == "accuracy 50.0 % (95 % interval) -> P\u00a01\n"


class FullDisk(io.StringIO):
    """A log that takes nothing."""

    def __init__(self):
        super().__init__()
        self.was_tried = threading.Event()

    def write(self, text):
        self.was_tried.set()
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_line_about_work_that_cannot_be_written_ends_in_no_traceback(monkeypatch):
    monkeypatch.setattr(console_module, "FIRST_LINE_S", 0.0)
    log = FullDisk()
    with console_module.log_lines(lambda: "training ...", Console(file=log)):
        assert log.was_tried.wait(10)


@pytest.mark.parametrize("columns", ["0", "1", "-3", "abc", ""])
def test_all_is_printed_whatever_width_the_terminal_claims(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    console = StageConsole()
    console.print("6 scans of 3 patients", highlight=False)
    warn(console, "a scan was refused")
    with working("searching", console):
        pass
    assert capsys.readouterr().out == "6 scans of 3 patients\nwarning: a scan was refused\n"


def test_a_notebook_gets_plain_text_and_no_bars(monkeypatch, capsys):
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    console = StageConsole()
    console.print("done in [1] 3 steps")
    assert capsys.readouterr().out == "done in [1] 3 steps\n"
    assert not console.is_terminal, "bars are drawn on terminals alone"


@pytest.fixture
def log(monkeypatch):
    monkeypatch.setattr(console_module, "FIRST_LINE_S", 0.0)
    return Log()


@pytest.mark.parametrize("begin", ["nothing", "part", "item"])
def test_work_that_is_quiet_is_named_in_a_log_and_only_once_in_half_a_minute(begin, log):
    console = Console(file=log, width=200)
    if begin == "nothing":
        with working("searching for copies", console):
            assert log.came.wait(60)
    elif begin == "part":
        with working_in_parts("evaluating", 7, console) as move:
            move("baselines", 0)
            assert log.came.wait(60)
    else:
        for _ in progress([1], "slicing", 1, console):
            assert log.came.wait(60)
    assert log.getvalue() in (
        "searching for copies ...\n",
        "evaluating ...\n",
        "evaluating: 0 of 7 ...\n",
        "evaluating: baselines ...\n",
        "slicing: 0 of 1 ...\n",
    )


def test_a_later_line_about_the_same_work_says_how_long_it_has_taken(log, monkeypatch):
    monkeypatch.setattr(console_module, "LATER_LINES_S", 0.0)
    now = itertools.count(0, 32)
    monkeypatch.setattr(console_module.time, "monotonic", lambda: float(next(now)))
    with console_module.log_lines(lambda: "searching for copies ...", Console(file=log, width=200)):
        while log.getvalue().count("\n") < 4:
            assert log.came.wait(60)
    lines = log.getvalue().splitlines()
    assert lines[0] == "searching for copies ..."
    assert re.fullmatch(r"searching for copies \.\.\. \(\d+ s so far\)", lines[1])
    assert len(set(lines[:4])) == 4


@pytest.mark.parametrize("console", [StageConsole(is_silent=True), Console(force_terminal=True, file=io.StringIO())])
def test_a_quiet_console_and_a_terminal_get_no_lines_for_a_log(console, monkeypatch):
    monkeypatch.setattr(console_module, "FIRST_LINE_S", 0.0)
    before = threading.active_count()
    with console_module.log_lines(lambda: "no line is due", console):
        assert threading.active_count() == before


def test_fast_work_leaves_nothing_in_a_log():
    log = Log()
    with working("reading the store", Console(file=log)):
        pass
    assert log.getvalue() == ""


def test_the_time_that_is_left_is_that_of_the_parts_of_this_process(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(console_module.time, "monotonic", lambda: now[0])
    work = Work("training", 8, 2)
    assert work.describe() == "training: 2 of 8 ..."
    now[0] = 120.0
    work.done = 4
    assert work.describe() == "training: 4 of 8, 40 s left", "2 in 20 s, and 4 are left"
    now[0] = 125.0
    assert work.describe() == "training: 4 of 8, 35 s left", "a part that has begun makes none look slower"
    now[0] = 220.0
    assert work.describe() == "training: 4 of 8, 30 s left", "it is late, and three follow"
    work.done, work.detail, now[0] = 5, "epoch 6 of 8", 240.0
    assert work.describe() == "training: epoch 6 of 8, 2 min left", "20 s of 40, and two of 40"
