"""The patients that another checkpoint has seen, so that none of them validates or is tested here."""

import dataclasses
from pathlib import Path

from pipeline.config.experiment import Experiment
from pipeline.config.sources import SplitConfig
from pipeline.core.errors import UserError
from pipeline.core.workspace import Workspace
from pipeline.data.certified_data import CertifiedData
from pipeline.data.leak_certificate import fingerprint_splits
from pipeline.data.splits import read_splits, resolve_roles
from pipeline.training.checkpoint import Checkpoint

# The names in a checkpoint's settings, and their values.
TEACHER_PATIENTS, START_PATIENTS = "teacher patients", "start patients"
KNOWN, UNKNOWN = "none of validation or test", "unknown"


def check_seen_patients(
    option: str, path: Path, checkpoint: Checkpoint, data: CertifiedData, experiment: Experiment
) -> str:
    """Refuse a checkpoint that was trained on patients who validate or are tested here.

    Its patients are known where its table of splits is that of this experiment, or is found in the workspace that its
    folder lies in. The fold that was its test counts, not the table alone.

    Args:
        option: The option that names the checkpoint, for messages.
        path: The file of the checkpoint.
        checkpoint: The checkpoint.
        data: The examples and their splits.
        experiment: All options.

    Returns:
        ``KNOWN`` where nobody is in both, ``UNKNOWN`` where its patients cannot be found out.

    Raises:
        UserError: it was trained on such a patient, or chosen by one who is tested here.
    """
    seen = find_roles(path, checkpoint, experiment)
    if seen is None:
        return UNKNOWN
    forbidden = {"train": ("val", "test"), "val": ("test",), "test": ()}
    leaked = sorted(group for group, role in data.roles.items() if role in forbidden[seen.get(group, "test")])
    if leaked:
        group = data.store.kind.group
        raise UserError(
            f"{option}: {path} saw {len(leaked)} of those who validate or are tested here, such as {group} {leaked[0]} "
            f"({seen[leaked[0]]} there, {data.roles[leaked[0]]} here). Give a checkpoint of the same split and fold."
        )
    return KNOWN


def find_roles(path: Path, checkpoint: Checkpoint, experiment: Experiment) -> dict[str, str] | None:
    """Find the split of each patient in the training of a checkpoint; None where no table of splits fits it.

    Args:
        path: The file of the checkpoint, in the folder of its run or elsewhere.
        checkpoint: The checkpoint.
        experiment: All options.
    """
    num_folds, test_fold = (int(checkpoint.settings.get(f"split.{name}", 0)) for name in ("num_folds", "test_fold"))
    options = SplitConfig(num_folds=num_folds, test_fold=test_fold)
    paths = experiment.paths
    workspaces = [dataclasses.replace(paths, num_folds=num_folds)]
    folders = path.absolute().parts[:-1]
    for place in [place for place, folder in enumerate(folders[:-1]) if folder == "runs"]:
        workspaces.append(Workspace(Path(*folders[:place]), folders[place + 1], "", num_folds))
    for workspace in workspaces:
        if workspace.splits.is_file():
            splits = read_splits(workspace.splits, options)
            if fingerprint_splits(splits) == checkpoint.split_fingerprint:
                return resolve_roles(splits, options)
    return None
