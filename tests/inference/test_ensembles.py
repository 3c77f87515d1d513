"""Ensembles: the mean of probabilities, models that read and answer alike, and no member that knows a test patient."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from rich.console import Console

from pipeline.config.sources import SplitConfig
from pipeline.core.errors import UserError
from pipeline.core.predictions import Mirrored
from pipeline.core.workspace import Workspace
from pipeline.data.certified_data import Answers, load_certified_data
from pipeline.inference.ensembles import Ensemble, Member, average_answers, check_members, choose_reader, read_members
from pipeline.stages.split import split
from pipeline.training.checkpoint import write_checkpoint
from tests.builders.checkpoints import make_checkpoint, make_scan_checkpoint
from tests.builders.scan_models import CHOICES
from tests.builders.training_runs import make_experiment

OPTION = "evaluate.ensemble"


class Constant(torch.nn.Module):
    """A classifier that gives every example the same probabilities."""

    def __init__(self, *probabilities):
        super().__init__()
        self.answer = torch.tensor(probabilities).log()

    def forward(self, images, slice_position):
        return self.answer.expand(len(images), -1)


def test_an_ensemble_answers_with_the_mean_of_the_probabilities():
    ensemble = Ensemble([Constant(0.9, 0.1), Constant(0.5, 0.5), Constant(1.0, 0.0)])
    found = ensemble(torch.zeros(2, 1, 4, 4), torch.zeros(2)).exp()
    torch.testing.assert_close(found, torch.tensor([[0.8, 0.2], [0.8, 0.2]]))


def make_answers(value, is_averaged=True):
    table = np.full((2, 2), value, dtype=np.float32)
    mirrored = Mirrored(table, 1 - table, is_averaged)
    return Answers({"val": table, "test": table}, np.full((2, 3), value), mirrored)


def test_answers_are_averaged_and_features_put_side_by_side():
    found = average_answers([make_answers(0.2), make_answers(0.6)], has_val=True)
    np.testing.assert_allclose(found.probabilities["val"], 0.4)
    np.testing.assert_allclose(found.features[0], [0.2, 0.2, 0.2, 0.6, 0.6, 0.6])
    np.testing.assert_allclose(found.mirrored.mirrored, 0.6)
    assert set(average_answers([make_answers(0.2), make_answers(0.6)], has_val=False).probabilities) == {"test"}
    assert average_answers([make_answers(0.2), make_answers(0.6, is_averaged=False)], has_val=True).mirrored is None


def write_runs(paths, **runs):
    for name, checkpoint in runs.items():
        place = dataclasses.replace(paths, run=name.replace("_", "-"))
        place.run_folder.mkdir(parents=True)
        write_checkpoint(place.best_checkpoint, checkpoint)
    return paths


def test_runs_are_found_by_name_by_a_pattern_by_folder_and_by_file(tmp_path):
    paths = write_runs(
        Workspace(tmp_path, "knees"), seed_1=make_checkpoint(), seed_2=make_checkpoint(), other=make_checkpoint()
    )
    assert [member.name for member in read_members(["seed-*"], paths, OPTION)] == ["seed-1", "seed-2"]
    folder, file = tmp_path / "runs/knees/seed-2", tmp_path / "runs/knees/other/best.safetensors"
    found = read_members(["seed-1", str(folder), str(file)], paths, OPTION)
    assert [member.path.parent.name for member in found] == ["seed-1", "seed-2", "other"]


def test_a_pattern_leaves_out_the_teachers_of_other_runs_unless_it_names_them(tmp_path):
    runs = ("seed_1", "seed_1_teacher", "seed_2_teacher_fold_0", "seed_2_fold_0", "teacher")
    paths = write_runs(Workspace(tmp_path, "knees"), **{name: make_checkpoint() for name in runs})
    for pattern in ("*", "seed-*"):
        assert [member.name for member in read_members([pattern], paths, OPTION)] == ["seed-1", "seed-2-fold-0"]
    found = read_members(["seed-*-teacher*"], paths, OPTION)
    assert [member.name for member in found] == ["seed-1-teacher", "seed-2-teacher-fold-0"]


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["seed-1"], "found 1 trained run, an ensemble needs two"),
        (["seed-*", "seed-2"], "seed-2 is there twice"),
        (["seed-1", "seed-9"], "seed-9: no trained run"),
        (["fold-*"], "is named like 'fold-"),
        (["seed-1", "classes"], "seed-1 and classes differ in classes: left, right and right, left"),
        (["seed-1", "cut"], "seed-1 and cut differ in preprocess.spacing_mm: 1.5 and 2.0"),
    ],
)
def test_models_that_cannot_answer_together_are_refused_by_name(tmp_path, names, match):
    one = make_checkpoint()
    turned = dataclasses.replace(one, spec=dataclasses.replace(one.spec, class_names=one.spec.class_names[::-1]))
    coarse = dataclasses.replace(one, preprocess=dataclasses.replace(one.preprocess, spacing_mm=2.0))
    paths = write_runs(Workspace(tmp_path, "knees"), seed_1=one, seed_2=make_checkpoint(), classes=turned, cut=coarse)
    with pytest.raises(UserError, match=match):
        read_members(names, paths, OPTION)


def test_models_of_whole_scans_answer_together_within_the_smallest_field_of_view(tmp_path):
    """Their stores may be others, whose largest scans have other numbers of slices."""
    wide = make_scan_checkpoint(CHOICES["joint"])
    spec = dataclasses.replace(wide.spec, num_slices=wide.spec.num_slices + 3, field_of_view_mm=60.0)
    narrow = make_scan_checkpoint(CHOICES["joint"], spec=spec)
    members = read_members(["wide", "narrow"], write_runs(Workspace(tmp_path, "k"), wide=wide, narrow=narrow), OPTION)
    assert [choose_reader(order).spec.field_of_view_mm for order in (members, members[::-1])] == [60.0, 60.0]
    slices = [make_checkpoint(), dataclasses.replace(make_checkpoint(), epoch=2)]
    named = [Member("", tmp_path, checkpoint) for checkpoint in slices]
    assert choose_reader(named) is slices[0], "of other models the first"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Ten patients with a single split and five folds, and a checkpoint of each, without any training."""
    experiment = make_experiment(tmp_path_factory.mktemp("ensembles"))
    folds = dataclasses.replace(experiment, split=SplitConfig(num_folds=5))
    split(folds, Console(file=io.StringIO()))
    checkpoints = {}
    for one, fold in ((experiment, None), *((folds, fold) for fold in range(5))):
        data = load_certified_data(one)
        checkpoints[f"fold_{fold}" if fold is not None else "seed_1"] = make_checkpoint(
            store_fingerprint=data.store.fingerprint,
            split_fingerprint=data.certificate["splits_fingerprint"],
            settings={
                "train.loss": "cross_entropy",
                "split.num_folds": 0 if fold is None else 5,
                "split.test_fold": fold or 0,
            },
        )
    checkpoints["seed_2"] = dataclasses.replace(checkpoints["seed_1"], epoch=2)
    checkpoints["lost"] = dataclasses.replace(checkpoints["seed_1"], split_fingerprint="of another table")
    checkpoints["foreign"] = dataclasses.replace(checkpoints["seed_1"], store_fingerprint="of another store")
    write_runs(experiment.paths, **checkpoints)
    return experiment, folds


def check(experiment, *names):
    data = load_certified_data(experiment)
    return check_members(read_members(names, experiment.paths, OPTION), experiment, data, OPTION)


def test_a_member_that_knows_a_test_patient_is_refused(trained):
    experiment, folds = trained
    with pytest.raises(UserError, match=r"fold-1 was trained on \d patients of this test"):
        check(folds, "fold-0", "fold-1")
    # Of five folds, fold 4 validates on fold 0, which is the test here.
    with pytest.raises(UserError, match=r"fold-4 was chosen on 2 patients of this test"):
        check(folds, "fold-0", "fold-4")
    with pytest.raises(UserError, match=r"patients? of this test"):
        check(experiment, "seed-1", "fold-0", "fold-1", "fold-2")


def test_a_member_of_an_unknown_split_or_store_is_refused(trained):
    experiment, _ = trained
    with pytest.raises(UserError, match="the split that lost was trained on is not there any more"):
        check(experiment, "seed-1", "lost")
    with pytest.raises(UserError, match="foreign was trained on other examples"):
        check(experiment, "seed-1", "foreign")


def test_nothing_is_fitted_where_members_have_other_validation_patients(trained):
    experiment, _ = trained
    assert check(experiment, "seed-1", "seed-2") == ""
    data = load_certified_data(experiment)
    moved = next(name for name, role in data.roles.items() if role == "val")
    other = dataclasses.replace(data, roles=data.roles | {moved: "train"})
    members = read_members(["seed-1", "seed-2"], experiment.paths, OPTION)
    assert "do not share their validation patients" in check_members(members, experiment, other, OPTION)
