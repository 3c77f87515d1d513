"""TensorBoard's event files; the only module that needs its package, which is optional."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.training.history import EpochResult, list_numbers


class EventLog:
    """The event files of a run. Each process writes its own file, which hides those of earlier processes.

    Args:
        folder: The folder of the event files; it is made with the first number.

    Raises:
        UserError: The package is not installed.
    """

    def __init__(self, folder: Path) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise UserError(
                "tracking.tensorboard: true needs the package tensorboard, which is not installed. "
                "Install it (pip install tensorboard), or set the option to false."
            )
        self.folder = folder
        self.writer: Any = None
        self.written: dict[tuple[str, int], float] = {}

    def write(self, history: Sequence[EpochResult], metrics: Mapping[str, float]) -> None:
        """Write and flush the numbers that this process has not written yet.

        Args:
            history: All epochs so far; an epoch is a step.
            metrics: Numbers about the run as a whole, at step 0.
        """
        points = {(name, 0): value for name, value in metrics.items()}
        points |= {(name, result.epoch): value for result in history for name, value in list_numbers(result).items()}
        for (name, step), value in points.items():
            if self.written.get((name, step)) == value:
                continue
            if self.writer is None:
                from torch.utils.tensorboard import SummaryWriter

                # A process that was killed may have lost the end of its file, so that all steps are written again.
                self.writer = SummaryWriter(str(self.folder), purge_step=0)
            self.writer.add_scalar(name, value, step)
            self.written[name, step] = value
        if self.writer is not None:
            self.writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self.writer is not None:
            self.writer.close()
