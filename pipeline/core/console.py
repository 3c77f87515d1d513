"""The console: printing, warnings and progress bars."""

import contextlib
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


def progress(items: Iterable[Item], description: str, total: int, console: Console) -> Iterator[Item]:
    """Yield ``items`` under a bar with the count and the time left; nothing is drawn where there is no terminal.

    Args:
        items: The items to pass on.
        description: The text in front of the bar.
        total: The number of items.
        console: The console that the bar is drawn on.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield from bar.track(items, total=total, description=description)


@contextlib.contextmanager
def byte_progress(name: str, start: int, total: int | None, console: Console) -> Iterator[Callable[[int], None]]:
    """Show a bar of bytes with speed and time left; nothing is drawn where there is no terminal.

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
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=total, completed=start)
        yield lambda number: bar.advance(task, number)
