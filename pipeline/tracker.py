"""What a run's records are, wherever they are kept."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.event_log import EventLog
from pipeline.history import EpochResult


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
