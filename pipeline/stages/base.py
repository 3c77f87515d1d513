"""A lock on the folder that a stage writes to."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path

from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.core.locks import lock_folder

Stage = Callable[[Experiment, Console], None]


def exclusive(choose_folder: Callable[[Experiment], Path]) -> Callable[[Stage], Stage]:
    """Lock a folder while a stage runs.

    Args:
        choose_folder: The function that returns the folder that the stage writes to.
    """

    def decorate(stage: Stage) -> Stage:
        @wraps(stage)
        def run(experiment: Experiment, console: Console) -> None:
            with lock_folder(choose_folder(experiment)):
                stage(experiment, console)

        return run

    return decorate
