"""The fetch stage: download or make the raw data, or report how to get them."""

from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.core.locks import lock_folder
from pipeline.datasets import find_dataset, find_raw_folder


def fetch(experiment: Experiment, console: Console) -> None:
    """Make or download the raw data where they are absent.

    A folder that the user filled is taken as it is; one that this stage began to fill is completed.

    Raises:
        UserError: The data set cannot be downloaded; the message describes how to get it lawfully.
    """
    raw = experiment.data.raw_folder
    dataset, _ = find_dataset(experiment.data)
    is_ours = raw is None or not raw.is_dir() or any((raw / mark).exists() for mark in dataset.marks)
    if raw is not None and not is_ours and any(not path.name.startswith(".") for path in raw.iterdir()):
        console.print(f"{raw}: taken as it is.")
        return
    if not dataset.marks:  # nothing is written, and a lock would make the folder that is looked for
        dataset.fetch(experiment, console)
        return
    with lock_folder(find_raw_folder(experiment)):
        dataset.fetch(experiment, console)
