"""The console: printing, warnings and the progress of long work.

On a terminal a bar or a spinner shows what is done. Elsewhere, as in a log, nothing can be drawn over: work that prints
nothing for two seconds is named in a line, and again every half minute, with the time left where it is known.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from pipeline.core.text import join_by_blanks, make_printable

Item = TypeVar("Item")

# The seconds of silence before the first line about work in a log, and between later ones.
FIRST_LINE_S, LATER_LINES_S = 2.0, 30.0
USUAL_WIDTH = 80


class StageConsole(Console):
    """A console that prints plain blanks between numbers and their %; reports need others.

    Printed text is never read as markup, however a file is named.

    Args:
        is_silent: Whether nothing is printed, and what would be is kept in ``messages`` and ``warnings``.
    """

    def __init__(self, is_silent: bool = False) -> None:
        # A notebook gets plain text, as a pipe does: neither a piece of HTML for each line nor a bar of many lines.
        is_terminal = False if Console().is_jupyter else None
        super().__init__(
            soft_wrap=True, markup=False, emoji=False, quiet=is_silent, force_jupyter=False, force_terminal=is_terminal
        )
        if self.width < 1:  # COLUMNS=0, as some shells have it; rich would print nothing at all
            self.width = USUAL_WIDTH
        self.messages: list[str] = []
        self.warnings: list[str] = []

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, as the base class does; keep it instead where nothing is printed."""
        plain = [join_by_blanks(item) if isinstance(item, str) else item for item in objects]
        if self.quiet:
            self.messages.append(" ".join(map(str, plain)))
        super().print(*plain, **options)


def warn(console: Console, text: str) -> None:
    """Print a warning; what is no visible character is shown as its code."""
    shown = make_printable(join_by_blanks(text))
    if isinstance(console, StageConsole) and console.quiet:
        console.warnings.append(shown)
        return
    console.print(Text.assemble(("warning:", "yellow"), " ", shown), highlight=False)


def warn_all(console: Console, notes: Iterable[str]) -> None:
    """Print what was guessed about a table of the user, a warning each."""
    for note in notes:
        warn(console, note)


class Work:
    """Long work: what is done now, how many parts of it are done, and of how many.

    Args:
        text: The work.
        total: The number of its parts; None where it has none, or nobody knows it.
        done: The number of parts that an earlier process did.
    """

    def __init__(self, text: str, total: float | None = None, done: float = 0.0) -> None:
        self.text, self.total, self.detail = text, total, ""
        self._done, self._done_before = done, done
        self._started = self._part_ended = time.monotonic()

    @property
    def done(self) -> float:
        """The number of parts that are done."""
        return self._done

    @done.setter
    def done(self, done: float) -> None:
        self._done, self._part_ended = done, time.monotonic()

    def describe(self) -> str:
        """Describe the work in a line, with the time left where a part of it is done."""
        line = f"{self.text}: {self.detail}" if self.detail else self.text
        if self.total is None:
            return f"{line} ..."
        counted = "" if self.detail else f": {self.done:,.0f} of {self.total:,.0f}"
        num_done = self.done - self._done_before
        if num_done <= 0:
            return f"{line}{counted} ..."
        # The part that has begun must not make those before it look slow: its own time left is never below zero.
        part_s = (self._part_ended - self._started) / num_done
        running_s = time.monotonic() - self._part_ended
        left_s = max(0.0, part_s - running_s) + part_s * max(0.0, self.total - self.done - 1)
        return f"{line}{counted}, {f'{left_s:.0f} s' if left_s < 90 else f'{left_s / 60:.0f} min'} left"


@contextlib.contextmanager
def log_lines(describe: Callable[[], str], console: Console) -> Iterator[Callable[[], None]]:
    """Print a line about work now and then, where there is no terminal; of several processes the first does.

    No line is printed twice: where nothing else changed, it says how long the work has taken.

    Args:
        describe: Describes how far it is.
        console: The console to print on.

    Yields:
        A function to call where the work has printed a line of its own, after which it is silent for half a minute
        before it is named again.
    """
    is_first = all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK"))
    if console.is_terminal or console.quiet or not is_first:
        yield lambda: None
        return
    ended, spoken = threading.Event(), threading.Event()

    def watch() -> None:
        wait_s, shown, started = FIRST_LINE_S, "", time.monotonic()
        while not ended.is_set():
            if not spoken.wait(wait_s):
                line = describe()
                since = f" ({time.monotonic() - started:.0f} s so far)" if line == shown else ""
                try:
                    console.print(f"{line}{since}", highlight=False, markup=False)
                except OSError:  # the log's disk is full or its reader gone: the stage's own next line says so
                    return
                shown = line
            spoken.clear()
            wait_s = LATER_LINES_S

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield spoken.set
    finally:
        ended.set()
        spoken.set()
        watcher.join()


@contextlib.contextmanager
def working(text: str, console: Console) -> Iterator[None]:
    """Say what is done by a call that says nothing itself.

    Args:
        text: The work.
        console: The console that a spinner is drawn on.
    """
    with log_lines(Work(text).describe, console), console.status(text):
        yield


@contextlib.contextmanager
def working_in_parts(text: str, total: float, console: Console) -> Iterator[Callable[[str, float], None]]:
    """Say what is done by work of many parts, with the time left.

    Args:
        text: The work.
        total: The number of its parts.
        console: The console that a bar is drawn on.

    Yields:
        A function that takes the name of the next part, or nothing, and how many parts were completed since its last
        call.
    """
    work = Work(text, total)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with (
        log_lines(work.describe, console),
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task(text, total=total)

        def move(detail: str = "", completed: float = 1.0) -> None:
            work.detail, work.done = detail, work.done + completed
            bar.update(task, advance=completed, description=f"{text}: {detail}" if detail else text)

        yield move


def progress(items: Iterable[Item], description: str, total: int, console: Console) -> Iterator[Item]:
    """Yield ``items`` under a bar with the count and the time left.

    Args:
        items: The items to pass on.
        description: The text in front of the bar.
        total: The number of items.
        console: The console that the bar is drawn on.
    """
    work = Work(description, total)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        log_lines(work.describe, console),
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        for item in bar.track(items, total=total, description=description):
            yield item
            work.done += 1


@contextlib.contextmanager
def byte_progress(name: str, start: int, total: int | None, console: Console) -> Iterator[Callable[[int], None]]:
    """Show a bar of bytes with speed and time left.

    Args:
        name: The name of the file.
        start: The number of bytes that are there already.
        total: The size of the whole file in bytes, None where it is unknown.
        console: The console that the bar is drawn on.

    Yields:
        A function that takes the number of bytes that have arrived since its last call.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    work = Work(f"{name}, megabytes", None if total is None else total / 1e6, start / 1e6)
    with (
        log_lines(work.describe, console),
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task(name, total=total, completed=start)

        def move(number: int) -> None:
            work.done += number / 1e6
            bar.advance(task, number)

        yield move
