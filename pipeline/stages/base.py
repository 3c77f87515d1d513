"""What the stages share."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path

from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.core.locks import lock_folder

Stage = Callable[[Experiment, Console], None]


def exclusive(choose_folder: Callable[[Experiment], Path]) -> Callable[[Stage], Stage]:
    """Make a stage hold a folder while it runs.

    Args:
        choose_folder: where the stage writes.
    """

    def decorate(stage: Stage) -> Stage:
        @wraps(stage)
        def run(experiment: Experiment, console: Console) -> None:
            with lock_folder(choose_folder(experiment)):
                stage(experiment, console)

        return run

    return decorate
