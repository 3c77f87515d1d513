"""The data sets: a reader each, and one line in ``DATASETS``."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from pipeline.config.sources import DataConfig
from pipeline.config.validation import require
from pipeline.core.data_kinds import IMAGES, POINTS, VOLUMES, WHOLE_VOLUMES, DataKind
from pipeline.core.errors import UserError
from pipeline.core.provenance import count_cores
from pipeline.core.tables import refuse_alike
from pipeline.core.workspace import Workspace
from pipeline.data.label_tables import (
    UNKNOWN_PATIENTS,
    lies_in_class_folder,
    list_table_sources,
    read_class_folder,
    read_label_table,
)
from pipeline.data.sources import Listing, check_folder, list_named_sources
from pipeline.datasets.akoa import parse_name
from pipeline.datasets.base import MARK_NAME, PublishedSet, RemoteFile
from pipeline.datasets.cifar import REMOTE_CIFAR10, REMOTE_CIFAR100, read_cifar10, read_cifar100
from pipeline.datasets.medmnist import Variant, find_variant, read_medmnist
from pipeline.datasets.mnist import REMOTE_FILES, read_mnist
from pipeline.datasets.modelnet40 import REMOTE_CLOUDS, REMOTE_MESHES, read_modelnet40, read_modelnet40_meshes
from pipeline.datasets.oai.scans import list_scans
from pipeline.datasets.phantom.scans import COMPLETE_NAME, STARTED_NAME, make_phantom
from pipeline.datasets.phantom.scans import SYNTHETIC_NOTE as KNEES_NOTE
from pipeline.datasets.primitives import COMPLETE_NAME as PRIMITIVES_NAME
from pipeline.datasets.primitives import SYNTHETIC_NOTE as PRIMITIVES_NOTE
from pipeline.datasets.primitives import make_primitives, read_primitives

if TYPE_CHECKING:
    from pipeline.config.experiment import Experiment


@dataclass(frozen=True)
class Dataset:
    """Fetching and reading of one data set: its volumes are listed, or all its examples are read.

    Args:
        fetch: The function that fills the raw folder, or refuses and names the way to the files.
        kind: The kind of data.
        list_sources: For volumes: the function that lists the scans in a raw folder.
        read: For images and points: the function that reads all examples, given the raw folder.
        synthetic_note: The sentence that every report of a made-up set carries; empty for real ones.
        marks: The files that mark a folder as filled by ``fetch``, complete or half; a folder without them belongs to
            the user.
        is_published: Whether the files are the same for everyone, so that experiments use them together.
        has_delivery: Whether the raw folder is a delivery of series with clinical tables, and ``data.oai`` is read.
        find_variant: For a collection: the function that finds the set that ``data.variant`` names.
    """

    fetch: Callable[["Experiment", Console], None]
    kind: DataKind = VOLUMES
    list_sources: Callable[[Path, DataConfig], Listing] | None = None
    read: Callable[[Path, DataConfig], PublishedSet] | None = None
    synthetic_note: str = ""
    marks: tuple[str, ...] = ()
    is_published: bool = False
    has_delivery: bool = False
    find_variant: Callable[[DataConfig], Variant] | None = None

    def __post_init__(self) -> None:
        assert (self.list_sources is None) == (not self.kind.has_patients) == (self.read is not None)


def _require_files(raw: Path, advice: str, console: Console) -> None:
    """Refuse a folder that is not there, or in which nothing is; else say that it was found."""
    check_folder(raw, advice)
    if all(path.name.startswith(".") for path in raw.iterdir()):
        raise UserError(f"{raw}: an empty folder. {advice}")
    console.print(f"{raw}: raw data are there.")


def _require_akoa(experiment: "Experiment", console: Console) -> None:
    _require_files(
        find_raw_folder(experiment),
        "OAI images may not be passed on: ask for access at "
        "https://nda.nih.gov/oai, then put the NIfTI or PNG files there or name their folder with "
        "--data.raw_folder (make: DATA=folder). To try the pipeline without data use configs/phantom.yaml.",
        console,
    )


def _require_folder(experiment: "Experiment", console: Console) -> None:
    advice = "Put the files there, or name their folder with --data.raw_folder."
    _require_files(find_raw_folder(experiment), advice, console)


def _make_phantom(experiment: "Experiment", console: Console) -> None:
    workers = experiment.preprocess.num_workers or count_cores()
    raw = find_raw_folder(experiment)
    make_phantom(raw, experiment.phantom, workers, console)
    console.print(f"{raw}: synthetic knees are there.")


def _make_delivery(experiment: "Experiment", console: Console) -> None:
    from pipeline.datasets.oai.synthetic import make_delivery

    raw = find_raw_folder(experiment)
    make_delivery(raw, experiment.phantom, experiment.preprocess.num_workers or count_cores(), console)
    console.print(f"{raw}: a synthetic delivery of the OAI is there.")


def download(*files: RemoteFile) -> Callable[["Experiment", Console], None]:
    """Return a fetch function that brings published files.

    Args:
        files: The addresses and checksums of the files.
    """

    def fetch(experiment: "Experiment", console: Console) -> None:
        # Processes that slice volumes import this module, and pooch would cost each of them a moment.
        from pipeline.datasets.downloads import fetch_files

        fetch_files(find_raw_folder(experiment), files, console)

    return fetch


def _fetch_medmnist(experiment: "Experiment", console: Console) -> None:
    download(find_variant(experiment.data).remote)(experiment, console)


def _make_primitives(experiment: "Experiment", console: Console) -> None:
    raw = find_raw_folder(experiment)
    make_primitives(raw, console)
    console.print(f"{raw}: synthetic solids are there.")


def _list_knees(raw: Path, options: DataConfig) -> Listing:
    return Listing(tuple(list_named_sources(raw, options.pattern, parse_name)))


def _list_class_folders(raw: Path, options: DataConfig) -> Listing:
    sources = list_named_sources(raw, options.pattern, read_class_folder, lies_in_class_folder)
    places: dict[str, str] = {}
    for source in sources:
        if source.label:
            places.setdefault(source.label, str(source.paths[0].parent))
    refuse_alike(str(raw), "folders of classes", places)
    return Listing(tuple(sources), (f"{raw}: {UNKNOWN_PATIENTS}",))


DATASETS: dict[str, Dataset] = {
    "labelled": Dataset(_require_folder, list_sources=_list_class_folders),
    "akoa": Dataset(_require_akoa, list_sources=_list_knees),
    "oai": Dataset(_require_akoa, list_sources=list_scans, has_delivery=True),
    "oai_phantom": Dataset(
        _make_delivery,
        list_sources=list_scans,
        synthetic_note=f"{KNEES_NOTE} The figures show that the pipeline works, not how well a model reads real scans.",
        marks=(COMPLETE_NAME, STARTED_NAME),
        has_delivery=True,
    ),
    "phantom": Dataset(
        _make_phantom,
        list_sources=_list_knees,
        synthetic_note=f"{KNEES_NOTE} The figures show that the pipeline works, not how well a model reads real scans.",
        marks=(COMPLETE_NAME, STARTED_NAME),
    ),
    "mnist": Dataset(download(*REMOTE_FILES), IMAGES, read=read_mnist, marks=(MARK_NAME,), is_published=True),
    "cifar10": Dataset(download(REMOTE_CIFAR10), IMAGES, read=read_cifar10, marks=(MARK_NAME,), is_published=True),
    "cifar100": Dataset(download(REMOTE_CIFAR100), IMAGES, read=read_cifar100, marks=(MARK_NAME,), is_published=True),
    "medmnist": Dataset(
        _fetch_medmnist, IMAGES, read=read_medmnist, marks=(MARK_NAME,), is_published=True, find_variant=find_variant
    ),
    "medmnist3d": Dataset(
        _fetch_medmnist,
        WHOLE_VOLUMES,
        read=read_medmnist,
        marks=(MARK_NAME,),
        is_published=True,
        find_variant=find_variant,
    ),
    "modelnet40": Dataset(download(REMOTE_CLOUDS), POINTS, read=read_modelnet40, marks=(MARK_NAME,), is_published=True),
    "modelnet40_meshes": Dataset(
        download(REMOTE_MESHES), POINTS, read=read_modelnet40_meshes, marks=(MARK_NAME,), is_published=True
    ),
    "primitives": Dataset(
        _make_primitives,
        POINTS,
        read=read_primitives,
        synthetic_note=f"{PRIMITIVES_NOTE} Figures show that the pipeline works, not how well a model reads objects.",
        marks=(PRIMITIVES_NAME,),
        is_published=True,
    ),
}


def find_dataset(config: DataConfig) -> tuple[Dataset, Variant | None]:
    """Find the data set that the options name, and of a collection the set in it.

    Raises:
        UserError: there is no such reader or set, or ``data.variant`` names one where there is only one.
    """
    require(config.dataset in DATASETS, "data.dataset", config.dataset, ", ".join(DATASETS))
    dataset = DATASETS[config.dataset]
    if dataset.find_variant is not None:
        return dataset, dataset.find_variant(config)
    require(config.variant is None, "data.variant", config.variant, f"null, because {config.dataset} is a single set")
    return dataset, None


def find_raw_folder(experiment: "Experiment") -> Path:
    """Return the folder of the files as they came; all experiments on a published set share it."""
    if experiment.data.raw_folder is not None:
        return experiment.data.raw_folder
    dataset = DATASETS.get(experiment.data.dataset)
    is_shared = dataset is not None and dataset.is_published
    return Workspace(experiment.workspace, experiment.data.dataset).raw if is_shared else experiment.paths.raw


def list_sources(experiment: "Experiment") -> Listing:
    """List the scans of a data set of volumes; a table of the user takes the place of its own list.

    Raises:
        UserError: there is nothing to read.
    """
    raw, options = find_raw_folder(experiment), experiment.data
    if options.label_table is not None:
        check_folder(raw, "Paths of the table lead into it: put the files there, or name it with --data.raw_folder.")
        given = read_label_table(replace(options, label_table=_find_table(raw, options.label_table)))
        return Listing(tuple(list_table_sources(raw, given)), given.notes)
    if DATASETS[options.dataset].marks and options.raw_folder is None:
        check_folder(raw, "Run the fetch stage, which makes it.")
    reader = DATASETS[options.dataset].list_sources
    assert reader is not None, "a store of volumes comes from a reader of volumes"
    return reader(raw, options)


def _find_table(raw: Path, table: Path) -> Path:
    """Return the path of a table of labels, which may lie in the raw folder that was named elsewhere."""
    return raw / table if not table.exists() and (raw / table).exists() else table
