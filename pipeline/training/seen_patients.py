"""The patients that another checkpoint has seen, so that none of them validates or is tested here."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from pipeline.config.experiment import Experiment
from pipeline.config.sources import SplitConfig
from pipeline.core.errors import UserError
from pipeline.core.tables import describe_difference, find_known
from pipeline.core.workspace import Workspace
from pipeline.data.certified_data import CertifiedData
from pipeline.data.leak_certificate import fingerprint_splits
from pipeline.data.splits import read_splits, resolve_roles
from pipeline.training.checkpoint import Checkpoint

# The names in a checkpoint's settings, and their values.
TEACHER_PATIENTS, START_PATIENTS = "teacher patients", "start patients"
SAME, KNOWN, UNKNOWN = "those of the same splits", "none of validation or test", "unknown"
# The setting of a pretraining that has read scans of a further table, which no table of splits lists.
UNLABELLED = "unlabelled fingerprint"
# The splits here that a patient of each split there must not be in.
FORBIDDEN = {"train": ("val", "test"), "val": ("test",)}


def check_seen_patients(
    option: str, path: Path, checkpoint: Checkpoint, data: CertifiedData, experiment: Experiment
) -> str:
    """Refuse a checkpoint that was trained on patients who validate or are tested here.

    Its patients are known where its table of splits is that of this experiment, or is found in the workspace that its
    folder lies in. The fold that was its test counts, not the table alone. A patient who is spelled otherwise there is
    taken for the same.

    Weights may have learned from more than their table of splits says: from scans without labels, or from another
    checkpoint that they started from or were taught by. A checkpoint has no names of patients, so that such weights are
    known only where their splits are those of this experiment, against which all of it was checked then.

    Args:
        option: The option that names the checkpoint, for messages.
        path: The file of the checkpoint.
        checkpoint: The checkpoint.
        data: The examples and their splits.
        experiment: All options.

    Returns:
        ``SAME`` where all are in this table of splits, ``KNOWN`` where none validates or is tested here, ``UNKNOWN``
        where they cannot be found out.

    Raises:
        UserError: it was trained on such a patient, or chosen by one who is tested here.
    """
    seen = find_roles(path, checkpoint, experiment)
    if seen is None:
        return UNKNOWN
    leaked = find_leaked(seen, data.roles)
    if leaked:
        group, (there, here) = data.store.kind.group, next(iter(leaked.items()))
        raise UserError(
            f"{option}: {path} saw {len(leaked)} of those who validate or are tested here, such as {group} "
            f"{name_leaked(there, here)} ({seen[there]} there, {data.roles[here]} here). Give a checkpoint of the same "
            "split and fold."
        )
    settings = checkpoint.settings
    ancestors = {settings[name] for name in (TEACHER_PATIENTS, START_PATIENTS) if name in settings}
    if UNLABELLED in settings:
        ancestors.add(KNOWN)
    if checkpoint.split_fingerprint == data.certificate["splits_fingerprint"]:
        return UNKNOWN if UNKNOWN in ancestors else KNOWN if KNOWN in ancestors else SAME
    return UNKNOWN if ancestors else KNOWN


def find_leaked(seen: Mapping[str, str], roles: Mapping[str, str]) -> dict[str, str]:
    """Find the patients of another training who must not validate or be tested here, in whatever spelling.

    A patient who is there and here in one spelling is that one; any other may be one here who is spelled otherwise.

    Args:
        seen: The split there of each patient: train, val or test.
        roles: The split here of each patient.

    Returns:
        Each such patient as spelled there, sorted, with the spelling here.
    """
    leaked: dict[str, str] = {}
    for role, forbidden in FORBIDDEN.items():
        learned = [patient for patient, split in seen.items() if split == role]
        leaked |= {patient: patient for patient in learned if roles.get(patient) in forbidden}
        strangers = [patient for patient in learned if patient not in roles]
        if strangers:  # to compare spellings takes long, and most often there are none
            leaked |= find_known(strangers, [patient for patient, split in roles.items() if split in forbidden])
    return dict(sorted(leaked.items()))


def name_leaked(there: str, here: str) -> str:
    """Name a patient, with the spelling here where it is another one."""
    if there == here:
        return there
    return f"{there}, who may be {here}, which differs only in {describe_difference(there, here)}"


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
