"""The fetch stage: raw data are there afterwards, or the user knows how to come by them."""

from rich.console import Console

from pipeline.config import require
from pipeline.datasets import DATASETS
from pipeline.experiment import Experiment


def fetch(experiment: Experiment, console: Console) -> None:
    """Make or download the raw data where they are absent.

    Raises:
        UserError: the data set cannot be downloaded; the message tells how to get it lawfully.
    """
    name = experiment.data.dataset
    require(name in DATASETS, "data.dataset", name, ", ".join(DATASETS))
    if experiment.data.raw is not None and experiment.data.raw.is_dir():
        console.print(f"{experiment.data.raw}: taken as it is.")
        return
    DATASETS[name].fetch(experiment, console)
