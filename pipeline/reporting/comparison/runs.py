"""Records of trained and evaluated runs, found by the names of their folders."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.core.errors import UserError
from pipeline.core.files import read_json
from pipeline.core.workspace import Workspace
from pipeline.evaluation.predictions import read_predictions
from pipeline.evaluation.schema import Metrics, is_of_kept_weights, read_metrics


@dataclass(frozen=True)
class RunRecord:
    """One run.

    Args:
        name: The names of the experiment and the run, unique among the runs of a page.
        paths: The folders of the run; where a report lies elsewhere, only the report's folder exists.
        report_folder: The folder that ``evaluate`` wrote to.
        metrics: The content of metrics.json.
        test: The predictions of the test rows.
        training: The content of training.json; empty where the file is missing.
        settings: The options that the weights depend on; empty where they are missing.
        history: A row for each epoch; None where the file is missing.
    """

    name: str
    paths: Workspace
    report_folder: Path
    metrics: Metrics
    test: pd.DataFrame
    training: dict[str, Any]
    settings: dict[str, Any]
    history: pd.DataFrame | None

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.metrics["class_names"])

    @property
    def val_accuracy(self) -> float | None:
        """The accuracy on validation of the epoch that was kept; None where it is not known."""
        return float(self.training["best"]["val_accuracy"]) if self.training else None


def sort_by_validation(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Sort runs by their accuracy on validation, the best first and those of which it is not known last."""
    return sorted(runs, key=lambda run: -1.0 if run.val_accuracy is None else run.val_accuracy, reverse=True)


def find_report_folders(wanted: Sequence[Path], paths: Workspace) -> list[Path]:
    """Find the report folders of runs.

    Args:
        wanted: Report folders, run folders, or names below the workspace's reports; a folder without a report of its
            own stands for all folders one level below. An empty list stands for all runs of the experiment.
        paths: The folders of the experiment.

    Returns:
        Folders with a metrics.json, each once, in the order of ``wanted``, else by name.

    Raises:
        UserError: There is no evaluated run.
    """
    reports = paths.root / "reports"
    if not wanted:
        own = reports / paths.name
        found = [folder for folder in (own, *_list_below(own)) if (folder / "metrics.json").is_file()]
        if not found:
            raise UserError(f"{own}: no evaluated run. Run the train and evaluate stages first, or name runs.")
        return found
    found = []
    for path in wanted:
        folder = _as_report_folder(path, reports)
        ready = [folder] if (folder / "metrics.json").is_file() else _list_below(folder)
        ready = [item for item in ready if (item / "metrics.json").is_file()]
        if not ready:
            raise UserError(
                f"{path}: no evaluated run. Name a report folder, or a run below {reports} such as phantom/seed-1, "
                "and run the evaluate stage for it first."
            )
        found += ready
    return list(dict.fromkeys(folder.resolve() for folder in found))


def read_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """Read runs and give each the shortest name that is unique.

    Args:
        folders: The report folders, as found by ``find_report_folders``.

    Raises:
        UserError: A file is missing or damaged, or the scores are of other weights than the training kept.
    """
    paths = [locate(folder) for folder in folders]
    only_one = len({(item.root, item.name) for item in paths}) == 1
    names = [item.run or item.name if only_one else item.title for item in paths]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return [_read_run(folder, place, name) for folder, place, name in zip(folders, paths, names, strict=True)]


def locate(report_folder: Path) -> Workspace:
    """Return the folders of a run whose report is ``ROOT/reports/EXPERIMENT[/RUN]``, else folders that do not exist."""
    folder = report_folder.resolve()
    if folder.parent.name == "reports":
        return Workspace(folder.parents[1], folder.name)
    if folder.parents[1].name == "reports":
        return Workspace(folder.parents[2], folder.parent.name, folder.name)
    return Workspace(folder, folder.name)


def _read_run(report_folder: Path, paths: Workspace, name: str) -> RunRecord:
    metrics = read_metrics(report_folder / "metrics.json")
    table = read_predictions(report_folder / "predictions.csv", tuple(metrics["class_names"]))
    test = table[table["split"] == metrics["split"]].reset_index(drop=True)
    training = read_json(paths.training_record) if paths.training_record.is_file() else {}
    if not is_of_kept_weights(metrics, training):
        raise UserError(
            f"{report_folder}: its scores are of other weights than the best of {paths.run_folder}. Run evaluate for "
            "it again, without evaluate.checkpoint, or name other runs."
        )
    started = paths.run_folder / "started.json"
    return RunRecord(
        name=name,
        paths=paths,
        report_folder=report_folder,
        metrics=metrics,
        test=test,
        training=training,
        settings=read_json(started)["settings"] if started.is_file() else {},
        history=pd.read_csv(paths.history) if paths.history.is_file() else None,
    )


def _list_below(folder: Path) -> list[Path]:
    return sorted(item for item in folder.iterdir() if item.is_dir()) if folder.is_dir() else []


def _as_report_folder(path: Path, reports: Path) -> Path:
    """Turn a name, a run folder or a report folder into a report folder."""
    if not path.is_dir():
        return reports / path
    folder = path.resolve()
    for depth in (0, 1):
        if folder.parents[depth].name == "runs" and not (folder / "metrics.json").is_file():
            return folder.parents[depth + 1] / "reports" / folder.relative_to(folder.parents[depth])
    return folder
