"""Ensembles: several trained models that answer as one, with the mean of their probabilities.

The members may differ in everything but what they read and what they answer: the same classes, the same form of
examples and the same preprocessing.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.config.experiment import Experiment
from pipeline.core.data_kinds import SCANS
from pipeline.core.errors import UserError
from pipeline.core.predictions import Mirrored
from pipeline.core.serialization import flatten
from pipeline.core.text import count_words, plural
from pipeline.core.workspace import TEACHER, Workspace
from pipeline.data.certified_data import Answers, CertifiedData
from pipeline.data.leak_certificate import check_certificate
from pipeline.data.splits import read_splits, resolve_roles
from pipeline.training.checkpoint import Checkpoint, read_checkpoint

NAME = "ensemble"  # of the folder that the report of an ensemble gets


@dataclass(frozen=True)
class Member:
    """A model of an ensemble.

    Args:
        name: The name of its run, or the path that was given.
        path: Its checkpoint.
        checkpoint: The weights and all that is known of them.
    """

    name: str
    path: Path
    checkpoint: Checkpoint


class Ensemble(nn.Module):
    """Classifiers that answer together, with the mean of their probabilities.

    Two members that give a class 0.9 and 0.5 give it 0.7 together.

    Args:
        members: The classifiers, in evaluation mode and on one device.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: torch.Tensor, slice_position: torch.Tensor) -> torch.Tensor:
        """Classify examples as the store holds them; return the logarithms of the probabilities (batch, classes)."""
        answers = torch.stack([member(images, slice_position) for member in self.members])
        return answers.logsumexp(dim=0) - float(np.log(len(self.members)))


def read_members(names: Sequence[str], paths: Workspace, option: str) -> list[Member]:
    """Read the models of an ensemble, and check that they can answer as one.

    Args:
        names: For each of them the name of a run of the experiment, such as ``seed-1``, the folder of a run, or a
            checkpoint; a name with ``*`` stands for all trained runs that it fits, but for teachers of other runs.
        paths: The folders of the experiment.
        option: The option that the names come from, for messages.

    Raises:
        UserError: Fewer than two models, one twice, or two that do not read or answer alike.
    """
    found = [item for name in names for item in _find_checkpoints(name, paths, option)]
    places = [path.resolve() for _, path in found]
    twice = [name for (name, _), place in zip(found, places, strict=True) if places.count(place) > 1]
    if twice:
        raise UserError(f"{option}: {twice[-1]} is there twice. Name each run once.")
    if len(found) < 2:
        raise UserError(f"{option}: found {len(found)} trained run, an ensemble needs two or more. Name others.")
    members = [Member(name, path, read_checkpoint(path)) for name, path in found]
    for member in members[1:]:
        _check_alike(members[0], member, option)
    return members


def _find_checkpoints(name: str, paths: Workspace, option: str) -> list[tuple[str, Path]]:
    """Return the runs that a name stands for, each with its best checkpoint."""
    if Path(name).suffix == ".safetensors":
        return [(name, Path(name))]
    root = paths.root / "runs" / paths.name
    if "*" in name:
        found = sorted(
            path
            for path in root.glob(f"{name}/best.safetensors")
            # A teacher was trained for another run, and is often no Perceiver.
            if path.parent != root and (TEACHER in name or TEACHER not in path.parent.name.split("-"))
        )
        if not found:
            raise UserError(f"{option}: no trained run below {root} is named like {name!r}. Train some, or name them.")
        return [(path.parent.name, path) for path in found]
    folder = Path(name) if (Path(name) / "best.safetensors").is_file() else root / name
    if not (folder / "best.safetensors").is_file():
        raise UserError(f"{option}: {name}: no trained run; there is no {folder / 'best.safetensors'}.")
    return [(name, folder / "best.safetensors")]


def choose_reader(members: Sequence[Member]) -> Checkpoint:
    """Return the checkpoint by whose options new files are read: that of the smallest field of view.

    Members may have learned from whole scans of other stores, and none of them answers a scan that reaches beyond its
    own field of view; in all else that is read they are alike.

    Args:
        members: The models of an ensemble.
    """
    return min((member.checkpoint for member in members), key=lambda checkpoint: checkpoint.spec.field_of_view_mm)


def _check_alike(first: Member, other: Member, option: str) -> None:
    """Refuse two models that do not read the same examples, or do not have the same classes in the same order.

    Raises:
        UserError: Names what differs.
    """
    one, two = first.checkpoint, other.checkpoint
    facts = {"classes": [", ".join(item.spec.class_names) for item in (one, two)]}
    facts |= {"kind of data": [item.spec.kind.name for item in (one, two)]}
    # A model of whole scans reads any number of slices; that of a store is the one of its largest scan.
    shapes = [item.spec.image_size if item.spec.kind is SCANS else item.spec.stored_shape for item in (one, two)]
    facts |= {"shape of an example": [str(shape) for shape in shapes]}
    facts |= {"model.num_points": [str(item.model.num_points) for item in (one, two)]}
    old, new = (flatten(item.preprocess, "preprocess") for item in (one, two))
    facts |= {name: [str(old[name]), str(new[name])] for name in old if name != "preprocess.num_workers"}
    for name, (left, right) in facts.items():
        if left != right:
            raise UserError(
                f"{option}: {first.name} and {other.name} differ in {name}: {left} and {right}. Members of an ensemble "
                "read and answer alike; leave one out."
            )


def find_roles(member: Member, experiment: Experiment, data: CertifiedData, option: str) -> dict[str, str]:
    """Return the split of each patient in the training of a member: train, val or test.

    Args:
        member: A model of an ensemble.
        experiment: All options.
        data: All examples and their splits.
        option: The option that the member comes from, for messages.

    Raises:
        UserError: It was trained on other examples, or its split is not there any more.
    """
    checkpoint = member.checkpoint
    if checkpoint.store_fingerprint != data.store.fingerprint:
        raise UserError(f"{option}: {member.name} was trained on other examples than these. Leave it out.")
    num_folds, test_fold = (int(checkpoint.settings.get(f"split.{name}") or 0) for name in ("num_folds", "test_fold"))
    options = dataclasses.replace(experiment.split, num_folds=num_folds, test_fold=test_fold)
    paths = dataclasses.replace(experiment.paths, num_folds=num_folds)
    if paths.splits.is_file() and paths.certificate.is_file():
        splits = read_splits(paths.splits, options)
        certificate = check_certificate(paths.certificate, data.store, splits)
        if certificate["splits_fingerprint"] == checkpoint.split_fingerprint:
            return resolve_roles(splits, options)
    raise UserError(
        f"{option}: the split that {member.name} was trained on is not there any more ({paths.splits}), so that nobody "
        "knows which test patients it has seen. Train it again, or leave it out."
    )


def check_members(members: Sequence[Member], experiment: Experiment, data: CertifiedData, option: str) -> str:
    """Refuse members that have seen a patient who is tested, in training or to choose the epoch.

    Args:
        members: The models of the ensemble.
        experiment: All options.
        data: All examples and their splits.
        option: The option that the members come from, for messages.

    Returns:
        The reason why nothing can be fitted on the validation patients; empty where all members share them.

    Raises:
        UserError: Names the member and a patient.
    """
    group, reason = data.store.kind.group, ""
    tested, val = ({name for name, role in data.roles.items() if role == wanted} for wanted in ("test", "val"))
    for member in members:
        roles = find_roles(member, experiment, data, option)
        for role, use in (("train", "was trained on"), ("val", "was chosen on")):
            seen = sorted(name for name in tested if roles.get(name) == role)
            if seen:
                raise UserError(
                    f"{option}: {member.name} {use} {count_words(len(seen), group)} of this test, such as {seen[0]}. "
                    f"Members of an ensemble must not know the {plural(group)} that it is tested on: folds answer "
                    "together for new scans (predict), and are tested each by itself (cross-validate)."
                )
        if not reason and {name for name, role in roles.items() if role == "val"} != val:
            reason = f"the members do not share their validation {plural(group)} ({member.name} has others)"
    return reason


def average_answers(answers: Sequence[Answers], has_val: bool) -> Answers:
    """Average the probabilities of several models; what their last layers read is put side by side.

    Args:
        answers: The answers of each model to the same rows.
        has_val: Whether those to the validation rows are kept.
    """
    splits = ("val", "test") if has_val else ("test",)
    probabilities = {split: np.mean([item.probabilities[split] for item in answers], axis=0) for split in splits}
    features = np.concatenate([item.features for item in answers], axis=1)
    found = [item.mirrored for item in answers if item.mirrored is not None]
    mirrored = None
    if len(found) == len(answers) and len({item.is_averaged for item in found}) == 1:
        straight, turned = (
            np.mean([getattr(item, name) for item in found], axis=0) for name in ("straight", "mirrored")
        )
        mirrored = Mirrored(straight, turned, found[0].is_averaged)
    return Answers(probabilities, features, mirrored)
