"""A lock on what a stage writes."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from pathlib import Path

from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.core.locks import lock_folder

Stage = Callable[[Experiment, Console], None]


def exclusive(
    choose_path: Callable[[Experiment], Path], lock: Callable[[Path], AbstractContextManager[None]] = lock_folder
) -> Callable[[Stage], Stage]:
    """Lock a folder or an output while a stage runs.

    Args:
        choose_path: The function that returns what the stage writes.
        lock: ``lock_folder`` for a folder that it writes into, ``lock_output`` for a file, or for a folder that it
            replaces.
    """

    def decorate(stage: Stage) -> Stage:
        @wraps(stage)
        def run(experiment: Experiment, console: Console) -> None:
            with lock(choose_path(experiment)):
                stage(experiment, console)

        return run

    return decorate
