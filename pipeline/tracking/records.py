"""The records of a run: facts for MLflow and TensorBoard that are not in its files and curves."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config.experiment import Experiment
from pipeline.core.data_kinds import DataKind
from pipeline.core.files import read_json, write_json
from pipeline.core.provenance import compute_fingerprint
from pipeline.core.serialization import build_record
from pipeline.core.text import plural
from pipeline.core.workspace import Workspace
from pipeline.data.certified_data import CertifiedData
from pipeline.data.external_data import ExternalData
from pipeline.evaluation.schema import Estimate, External, Grades, Level, Metrics

# Other stages write these into the report folder; they are not part of the evaluation of this run.
FILES_OF_OTHERS = ("comparison.html", "predictions_new.csv")


@dataclass(frozen=True)
class DatasetUse:
    """The data that a run used in one role.

    Args:
        name: The name that is shown.
        digest: A fingerprint of the content.
        source: The folder that holds the data.
        role: The use of the data, such as ``train``.
    """

    name: str
    digest: str
    source: str
    role: str


@dataclass(frozen=True)
class RunFacts:
    """All facts of a run that a server shows. Files are named by their path below the workspace.

    Args:
        settings: The options, ``section.field`` -> value.
        tags: Facts such as versions and fingerprints.
        datasets: The data that the run used.
        metrics: Numbers about the run as a whole.
        files: File or folder -> the folder in MLflow that gets a copy, empty for the top.
        history: The CSV file with the curves, a row an epoch; empty for none.
        checkpoint: The weights that MLflow serves; empty for none.
        last_checkpoint: The weights of the last epoch; empty for none.
        evaluated: The digest of the weights that the numbers of the test are of; empty where they are of several.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    datasets: tuple[DatasetUse, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    history: str = ""
    checkpoint: str = ""
    last_checkpoint: str = ""
    evaluated: str = ""


@dataclass(frozen=True)
class RunRecord:
    """A run's facts and the state of its copy in MLflow.

    Args:
        run_id: The id in MLflow; empty until a server gave one.
        status: RUNNING, FINISHED, FAILED or KILLED.
        facts: All that the stages recorded.
        sent: A file, or another part of the run -> the state in which it was sent, such as size and time of the file.
        is_sent: Whether MLflow has everything.
    """

    run_id: str = ""
    status: str = "RUNNING"
    facts: RunFacts = field(default_factory=RunFacts)
    sent: dict[str, str] = field(default_factory=dict)
    is_sent: bool = True


def read_record(path: Path) -> RunRecord:
    """Read the record of a run; an empty one where there is none."""
    return build_record(RunRecord, read_json(path)) if path.is_file() else RunRecord()


def write_record(path: Path, record: RunRecord) -> None:
    """Write the record of a run, whole or not at all."""
    write_json(path, dataclasses.asdict(record))


def merge_facts(old: RunFacts, new: RunFacts) -> RunFacts:
    """Add facts to the old ones; of two with the same name the new one stays."""
    return RunFacts(
        settings=old.settings | new.settings,
        tags=old.tags | new.tags,
        datasets=tuple(dict.fromkeys((*old.datasets, *new.datasets))),
        metrics=old.metrics | new.metrics,
        files=old.files | new.files,
        history=new.history or old.history,
        checkpoint=new.checkpoint or old.checkpoint,
        last_checkpoint=new.last_checkpoint or old.last_checkpoint,
        evaluated=new.evaluated if new.metrics else old.evaluated,
    )


def name_files(workspace: Workspace, paths: Iterable[Path], folder: str = "") -> dict[str, str]:
    """List files, or whole folders, for :attr:`RunFacts.files`.

    Args:
        workspace: The folders, which paths are named from.
        paths: The files and folders.
        folder: The folder in MLflow that gets a copy of them; empty for the top.
    """
    return {workspace.name_file(path): folder for path in paths}


def list_own_files(report_folder: Path) -> list[Path]:
    """List the files that ``evaluate`` wrote about one run; its folders belong to other runs and other stages."""
    files = (path for path in report_folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted(path for path in files if path.name not in FILES_OF_OTHERS)


def describe_split(experiment: Experiment, data: CertifiedData, role: str) -> DatasetUse:
    """Describe the examples of one split, by a digest of the store and of the patients in the split.

    Args:
        experiment: All options.
        data: All examples and their splits.
        role: train, val or test.
    """
    members = sorted(group_id for group_id, split in data.roles.items() if split == role)
    digest = compute_fingerprint(data.store.fingerprint, members)
    return DatasetUse(f"{experiment.name} {role}", digest, str(experiment.paths.prepared), role)


def describe_tested(
    experiment: Experiment, data: CertifiedData, external: ExternalData | None
) -> tuple[DatasetUse, ...]:
    """Describe the test rows, and the data of another site where there are any."""
    test = describe_split(experiment, data, "test")
    if external is None:
        return (test,)
    table = external.table
    return test, DatasetUse(table.name, external.store.fingerprint, str(table.given.path), "external")


def describe_external(metrics: Metrics) -> dict[str, str]:
    """Name the table and the fingerprint of an external validation; both are "none" where there is none, or no more.

    A server keeps numbers for ever, also those of an external validation that was removed: the tag says so.
    """
    external = metrics.get("external")
    if external is None:
        return {"external_table": "none", "external_made_from": "none"}
    return {"external_table": external["table"], "external_made_from": external["made_from"]}


def flatten_estimate(name: str, estimate: Estimate) -> dict[str, float]:
    """Return a score and the ends of its interval as ``NAME``, ``NAME_low`` and ``NAME_high``; None is left out."""
    ends = {name: estimate["value"], f"{name}_low": estimate["low"], f"{name}_high": estimate["high"]}
    return {end: value for end, value in ends.items() if value is not None}


def flatten_metrics(metrics: Metrics, kind: DataKind) -> dict[str, float]:
    """Return the numbers for MLflow's table: ``test_slice_accuracy`` and so on, with the ends of the intervals.

    Those of an external validation are called ``external_slice_accuracy`` and so on.
    """
    flat = _flatten_levels("test", metrics["levels"], metrics.get("grades"), kind)
    if "external" in metrics:
        flat |= _flatten_external(metrics["external"], kind)
    for baseline, scores in metrics["baselines"].items():
        flat[f"test_{next(iter(metrics['levels']))}_accuracy_{baseline}"] = scores["accuracy"]["value"]
    probes = metrics["probes"]
    if "border_only" in probes:
        flat["test_border_only_accuracy"] = probes["border_only"]["accuracy"]["value"]
    if "index_only" in probes:
        flat["test_index_only_accuracy"] = probes["index_only"]["accuracy"]["value"]
    if "mirror" in probes:
        flat["test_mirror_flip_share"] = probes["mirror"]["flipped_without_averaging"]["value"]
    for level, calibration in metrics["decision"]["calibration"].items():
        flat[f"temperature_{level}"] = calibration["temperature"]
    return {name: float(value) for name, value in flat.items() if value is not None}


def _flatten_levels(
    prefix: str, levels: Mapping[str, Level], grades: Grades | None, kind: DataKind
) -> dict[str, float | None]:
    """Return the scores of levels, and of grades, as ``PREFIX_LEVEL_NAME``."""
    flat: dict[str, float | None] = {}
    for level, content in levels.items():
        flat[f"{prefix}_{level}_n"] = content["n"]
        if kind.has_patients:
            flat[f"{prefix}_{level}_{plural(kind.group)}"] = content["groups"]
        for name, estimate in content["metrics"].items():
            flat |= flatten_estimate(f"{prefix}_{level}_{name}", estimate)
    for level, found in grades["levels"].items() if grades is not None else ():
        scores = found["scores"]
        named = {"quadratic_kappa": scores["quadratic_kappa"], "linear_kappa": scores["linear_kappa"]}
        named |= {"mae": scores["mae"], "within_one": scores["within_one"]}
        for name, estimate in named.items():
            flat |= flatten_estimate(f"{prefix}_{level}_{name}", estimate)
    return flat


def _flatten_external(external: External, kind: DataKind) -> dict[str, float | None]:
    """Return scores, calibration of two classes, and the drift of grey levels."""
    flat = _flatten_levels("external", external["levels"], external.get("grades"), kind)
    for level, calibration in external["decision"]["calibration"].items():
        found = list(calibration["before"]["recalibration"].values())
        if len(found) == 1:
            flat |= flatten_estimate(f"external_{level}_calibration_slope", found[0]["slope"])
            flat |= flatten_estimate(f"external_{level}_calibration_intercept", found[0]["intercept"])
            flat |= flatten_estimate(f"external_{level}_calibration_in_the_large", found[0]["in_the_large"])
    return flat | {"external_grey_level_distance": external["drift"]["distance"]}
