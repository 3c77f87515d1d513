"""The one door to TensorBoard: a run's numbers as event files.

The package is an extra: only those who switch ``tracking.tensorboard`` on need it.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import UserError


def open_event_log(folder: Path) -> "EventLog":
    """Open the event files of a run, which may have some from before it was cut off.

    Args:
        folder: where they are; it is made with the first number.

    Raises:
        UserError: the package is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "tracking.tensorboard: true needs the package tensorboard, which is not installed. "
            "Install it (pip install tensorboard), or set the option to false."
        )
    return EventLog(folder, read_event_scalars(folder))


def read_event_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read all numbers of a folder's event files.

    Args:
        folder: need not exist. A file that was cut off is read up to there.

    Returns:
        Name -> (step, value) in the order of writing; values as float32 holds them.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not folder.is_dir():
        return {}
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})  # 0 is all of them
    events.Reload()
    return {name: [(item.step, item.value) for item in events.Scalars(name)] for name in events.Tags()["scalars"]}


class EventLog:
    """Numbers of one run on their way to TensorBoard.

    Args:
        folder: of the event files.
        known: what they hold already, as :func:`read_event_scalars` returns it.
    """

    def __init__(self, folder: Path, known: Mapping[str, list[tuple[int, float]]]) -> None:
        self.folder = folder
        self.known = {(name, step, value) for name, items in known.items() for step, value in items}
        self.writer: Any = None

    def write_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        """Write numbers, and flush them; one that is there already with the same step and value is left out."""
        for name, value in scalars.items():
            entry = (name, step, float(np.float32(value)))
            if entry in self.known:
                continue
            if self.writer is None:
                from torch.utils.tensorboard import SummaryWriter

                self.writer = SummaryWriter(str(self.folder))
            self.writer.add_scalar(name, value, step)
            self.known.add(entry)
        if self.writer is not None:
            self.writer.flush()

    def close(self) -> None:
        """Close the file; a number written afterwards begins another."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None
