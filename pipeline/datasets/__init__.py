"""The data sets: a reader each, and one line in ``DATASETS``."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from pipeline.datasets.akoa import parse_name
from pipeline.datasets.phantom import NOTE, make_phantom
from pipeline.datasets.sources import Source, list_named_sources
from pipeline.errors import UserError
from pipeline.provenance import count_cores

if TYPE_CHECKING:
    from pipeline.experiment import Experiment


@dataclass(frozen=True)
class Dataset:
    """How one data set is brought here and read.

    Args:
        fetch: fills the raw folder, or says how to come by the files.
        list_sources: lists the scans in a raw folder, given a pattern for their names.
        synthetic_note: the sentence that every report of a made-up set carries; empty for real ones.
    """

    fetch: Callable[["Experiment", Console], None]
    list_sources: Callable[[Path, str], list[Source]]
    synthetic_note: str = ""


def _require_akoa(experiment: "Experiment", console: Console) -> None:
    if not experiment.raw_folder.is_dir():
        raise UserError(
            f"{experiment.raw_folder}: no such folder. OAI images may not be passed on: ask for access at "
            "https://nda.nih.gov/oai, then put the NIfTI or PNG files there or name their folder with --data.raw "
            "(make: DATA=folder). To try the pipeline without data use configs/phantom.yaml."
        )
    console.print(f"{experiment.raw_folder}: raw data are there.")


def _make_phantom(experiment: "Experiment", console: Console) -> None:
    workers = experiment.preprocess.num_workers or count_cores()
    make_phantom(experiment.raw_folder, experiment.phantom, workers, console)
    console.print(f"{experiment.raw_folder}: synthetic knees are there.")


def _list_knees(raw: Path, pattern: str) -> list[Source]:
    return list_named_sources(raw, pattern, parse_name)


DATASETS: dict[str, Dataset] = {
    "akoa": Dataset(_require_akoa, _list_knees),
    "phantom": Dataset(
        _make_phantom,
        _list_knees,
        f"{NOTE} The figures say that the pipeline works, not how well a model reads a real scan.",
    ),
}
