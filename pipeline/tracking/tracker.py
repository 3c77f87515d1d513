"""What a run's records are, wherever they are kept."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.config.experiment import Experiment
from pipeline.core.data_kinds import DataKind
from pipeline.core.provenance import compute_fingerprint
from pipeline.core.text import plural
from pipeline.data.store import Store
from pipeline.tracking.tensorboard import EventLog
from pipeline.training.history import EpochResult

# Other stages write these into the report folder: they are not what ``evaluate`` found about this run.
FILES_OF_OTHERS = ("comparison.html", "predictions_new.csv")


def flatten_metrics(metrics: dict[str, Any], kind: DataKind) -> dict[str, float]:
    """Return what MLflow shows in its table: ``test_slice_accuracy`` and so on, with the ends of the intervals."""
    flat: dict[str, Any] = {}
    for level, content in metrics["levels"].items():
        flat |= {f"test_{level}_n": content["n"]}
        if kind.has_patients:
            flat |= {f"test_{level}_{plural(kind.group)}": content["groups"]}
        for name, metric in content["metrics"].items():
            flat |= {
                f"test_{level}_{name}{end}": metric[key]
                for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))
            }
    for baseline, content in metrics["baselines"].items():
        flat[f"test_{next(iter(metrics['levels']))}_accuracy_{baseline}"] = content["accuracy"]["value"]
    probes = metrics["probes"]
    for name in ("border_only", "index_only"):
        if name in probes:
            flat[f"test_{name}_accuracy"] = probes[name]["accuracy"]["value"]
    if "mirror" in probes:
        flat["test_mirror_flip_share"] = probes["mirror"]["flipped_without_averaging"]["value"]
    flat["temperature"] = metrics["decision"]["temperature"]
    return {name: float(value) for name, value in flat.items() if value is not None}


class Tracker:
    """Records of one run that go nowhere but into event files: what is used where MLflow is off.

    Args:
        run_id: of the run in MLflow; empty without one.
        events: TensorBoard's files, which get curves and numbers; None where they are not asked for.
    """

    def __init__(self, run_id: str = "", events: EventLog | None = None) -> None:
        self.run_id = run_id
        self.events = events

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        """Keep the options, ``section.field`` -> value."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Keep facts such as versions and fingerprints; later ones replace earlier ones."""

    def log_text(self, text: str, name: str) -> None:
        """Keep a text as a file called ``name``."""

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of a file, or of a folder with all that is in it."""

    def log_dataset(self, name: str, fingerprint: str, source: str, role: str) -> None:
        """Say which data the run used as what, such as ``train``; saying it again changes nothing."""

    def watch_system(self) -> None:
        """From now on until ``finish``, keep how busy the machine is."""

    def log_history(self, history: Sequence[EpochResult]) -> None:
        """Keep the curves; epochs that are there already are left as they are."""
        if self.events is not None:
            for result in history:
                self.events.write_scalars(list_numbers(result), result.epoch)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Keep numbers."""
        if self.events is not None:
            self.events.write_scalars(metrics, step)

    def log_model(self, checkpoint_path: Path, tags: Mapping[str, str], registered_name: str = "") -> None:
        """Keep the model with its signature, ready to be served; one a run.

        Args:
            checkpoint_path: the weights.
            tags: facts about the model.
            registered_name: the model in the registry that gets a new version; empty registers nothing.
        """

    def finish(self, status: str = "FINISHED") -> None:  # noqa: ARG002 (event files have no place for it)
        """Say how the run ended: FINISHED, FAILED or KILLED."""
        if self.events is not None:
            self.events.close()


@contextmanager
def finishing(tracker: Tracker) -> Iterator[None]:
    """Say how a run ended when the block ends: FINISHED, KILLED by an interruption, or FAILED."""
    try:
        yield
    except KeyboardInterrupt:
        tracker.finish("KILLED")
        raise
    except BaseException:
        tracker.finish("FAILED")
        raise
    tracker.finish()


def list_numbers(result: EpochResult) -> dict[str, float]:
    """Return an epoch's numbers without the epoch's own."""
    return {name: value for name, value in dataclasses.asdict(result).items() if name != "epoch"}


def log_split(tracker: Tracker, experiment: Experiment, store: Store, roles: Mapping[str, str], role: str) -> None:
    """Say that the run used the pictures of one split, by a digest of the pictures and of who is in the split.

    Args:
        tracker: of the run.
        experiment: names the data.
        store: the pictures.
        roles: each patient's split.
        role: train, val or test.
    """
    members = sorted(group_id for group_id, split in roles.items() if split == role)
    digest = compute_fingerprint(store.fingerprint, members)
    tracker.log_dataset(f"{experiment.name} {role}", digest, str(experiment.paths.prepared), role)


def list_own_files(report_folder: Path) -> list[Path]:
    """List what ``evaluate`` wrote about one run; folders below it are other runs and other stages."""
    files = (path for path in report_folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted(path for path in files if path.name not in FILES_OF_OTHERS)
