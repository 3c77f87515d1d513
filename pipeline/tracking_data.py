"""What a run's records say of its data and its files."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.experiment import Experiment
from pipeline.provenance import compute_fingerprint
from pipeline.store import Store
from pipeline.tracker import Tracker

# Other stages write these into the report folder: they are not what ``evaluate`` found about this run.
FILES_OF_OTHERS = ("comparison.html", "predictions_new.csv")


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
