"""What a person sees while a stage works."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

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

from pipeline.core.text import make_printable

Item = TypeVar("Item")


def open_console() -> Console:
    """Open standard output; nothing that is printed there is a command to the console, however a file is named."""
    return Console(soft_wrap=True, markup=False, emoji=False)


def warn(console: Console, text: str) -> None:
    """Print a warning."""
    console.print(Text.assemble(("warning:", "yellow"), " ", make_printable(text)), highlight=False)


def progress(items: Iterable[Item], description: str, total: int, console: Console) -> Iterator[Item]:
    """Yield ``items`` under a bar with the count and the time left; nothing is drawn where there is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield from bar.track(items, total=total, description=description)


@contextlib.contextmanager
def byte_progress(name: str, start: int, total: int | None, console: Console) -> Iterator[Callable[[int], None]]:
    """Show a bar of bytes with speed and time left; nothing is drawn where there is no terminal.

    Args:
        name: of the file.
        start: bytes that are there already.
        total: bytes of the whole file, None where nobody says.
        console: where to.

    Yields:
        A function that is told how many bytes came.
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
