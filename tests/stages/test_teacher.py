"""Trainings with a teacher: one that is trained first, and one that is a checkpoint."""

import contextlib
import dataclasses
import io
import shutil

import pandas as pd
import pytest
from rich.console import Console

from pipeline.config.experiment import Experiment
from pipeline.config.model import CnnConfig
from pipeline.config.sources import SplitConfig
from pipeline.config.training import TrainConfig
from pipeline.core.errors import UserError
from pipeline.core.files import read_json
from pipeline.data.certified_data import load_certified_data
from pipeline.reporting.evaluation.notes import describe_unknown_patients
from pipeline.stages.split import split
from pipeline.training.checkpoint import build_from_checkpoint, read_checkpoint, write_checkpoint
from pipeline.training.objectives.teacher import describe_teacher
from pipeline.training.seen_patients import SAME, TEACHER_PATIENTS, UNKNOWN
from tests.builders.checkpoints import make_scan_checkpoint
from tests.builders.scan_runs import MOST_SLICES, make_scans
from tests.builders.training_runs import Cut, make_experiment, read_weights, run, with_train


def make_taught(workspace, **options) -> Experiment:
    experiment = with_train(make_experiment(workspace), **({"epochs": 2, "teacher": "cnn"} | options))
    model = dataclasses.replace(experiment.model, cnn=CnnConfig(channels=(2, 3)))
    return dataclasses.replace(experiment, model=model)


def get_teacher(experiment: Experiment) -> Experiment:
    """Return the experiment by which the teacher is trained on its own."""
    model = dataclasses.replace(experiment.model, architecture="cnn")
    return with_train(dataclasses.replace(experiment, run="teacher", model=model), teacher=None)


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> Experiment:
    experiment = make_taught(tmp_path_factory.mktemp("taught"))
    run(experiment)
    return experiment


def test_a_teacher_is_a_run_of_its_own_whose_time_is_recorded(taught):
    assert "already trained; nothing to do" in run(get_teacher(taught))
    record, own = read_json(taught.paths.training_record), pd.read_csv(taught.paths.history)["seconds"].sum()
    teacher_seconds = read_json(get_teacher(taught).paths.training_record)["seconds"]
    assert record["teacher_seconds"] == teacher_seconds > 0
    assert record["seconds"] == pytest.approx(own + teacher_seconds)


def test_what_is_kept_for_use_has_no_heads(taught):
    best, last = read_checkpoint(taught.paths.best_checkpoint), read_checkpoint(taught.paths.last_checkpoint)
    assert best.heads == {}
    assert last.heads
    build_from_checkpoint(best)
    assert best.settings["train.teacher"] == "cnn"


def test_a_teacher_and_a_student_that_were_interrupted_end_with_the_same_bytes(taught, tmp_path):
    experiment = make_taught(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(experiment, Cut("epoch 1/2"))
    assert not experiment.paths.last_checkpoint.is_file()
    run(get_teacher(experiment))
    with pytest.raises(KeyboardInterrupt):
        run(experiment, Cut("epoch 1/2"))
    assert read_checkpoint(experiment.paths.last_checkpoint).heads
    assert "resuming after epoch 1" in run(experiment)
    check_same(experiment, taught)


def check_same(experiment, taught):
    for name in ("best_checkpoint", "last_checkpoint"):
        assert read_weights(getattr(experiment.paths, name)) == read_weights(getattr(taught.paths, name))
    first, second = (read_checkpoint(each.paths.last_checkpoint) for each in (experiment, taught))
    assert all((first.heads[name] == second.heads[name]).all() for name in second.heads)
    assert all((first.optimizer.tensors[name] == value).all() for name, value in second.optimizer.tensors.items())


def test_a_run_with_a_teacher_of_its_own_is_not_extended_which_would_be_by_another_teacher(taught):
    before = get_teacher(taught).paths.best_checkpoint.read_bytes()
    with pytest.raises(UserError, match=r"train\.epochs: found 3, more than .* was started with; .*--run NAME"):
        run(with_train(taught, epochs=3))
    assert get_teacher(taught).paths.best_checkpoint.read_bytes() == before
    assert "already trained" in run(taught)


def test_the_same_network_as_a_checkpoint_teaches_the_same(taught, tmp_path):
    path = get_teacher(taught).paths.best_checkpoint
    experiment = with_train(dataclasses.replace(taught, run="by-path"), teacher=str(path))
    run(experiment)
    assert read_weights(experiment.paths.best_checkpoint) == read_weights(taught.paths.best_checkpoint)
    settings = read_checkpoint(experiment.paths.best_checkpoint).settings
    assert settings["train.teacher"].startswith("checkpoint ")
    assert settings[TEACHER_PATIENTS] == SAME
    assert describe_unknown_patients(settings) == []


def test_a_teacher_whose_answers_and_features_weigh_nothing_changes_nothing(taught):
    options = {"distillation_weight": 0.0, "guidance_weight": 0.0}
    plain = with_train(dataclasses.replace(taught, run="plain"), teacher=None)
    silent = with_train(
        dataclasses.replace(taught, run="silent"), teacher=str(get_teacher(taught).paths.best_checkpoint)
    )
    run(plain)
    run(with_train(silent, **options))
    weights = read_weights(plain.paths.best_checkpoint)
    assert read_weights(silent.paths.best_checkpoint) == weights
    assert read_weights(taught.paths.best_checkpoint) != weights
    # Options that are not read leave no trace: runs of before are resumed.
    settings = read_checkpoint(plain.paths.best_checkpoint).settings
    assert not [name for name in settings if "teacher" in name or "distillation" in name or "guidance" in name]


def describe(path, experiment):
    return describe_teacher(path, read_checkpoint(path), load_certified_data(experiment), experiment)


def test_a_teacher_that_saw_patients_of_validation_or_test_is_refused(taught, tmp_path):
    """Found by its folds, where the table is the same, and by the table in its own workspace, where it is another."""
    folds = dataclasses.replace(taught, split=SplitConfig(num_folds=5))
    split(folds, Console(file=io.StringIO()))
    teacher = with_train(dataclasses.replace(get_teacher(folds), run="fold"), epochs=1)
    run(teacher)
    path = teacher.paths.best_checkpoint
    assert describe(path, folds)[TEACHER_PATIENTS] == SAME
    other = dataclasses.replace(folds, split=SplitConfig(num_folds=5, test_fold=2))
    with pytest.raises(UserError, match=r"train\.teacher: .* saw 4 of those who validate or are tested here"):
        describe(path, other)

    elsewhere = make_taught(tmp_path / "elsewhere")
    elsewhere = dataclasses.replace(elsewhere, split=dataclasses.replace(elsewhere.split, seed=1))
    elsewhere.paths.splits.unlink()
    split(elsewhere, Console(file=io.StringIO()))
    teacher = with_train(get_teacher(elsewhere), epochs=1)
    run(teacher)
    path = teacher.paths.best_checkpoint
    with pytest.raises(UserError, match=r"saw \d of those who validate or are tested here, such as patient 00\d"):
        describe(path, taught)
    # Away from its workspace nobody knows whom it saw, and a report says so.
    away = tmp_path / "away.safetensors"
    shutil.copy(path, away)
    settings = describe(away, taught)
    assert settings[TEACHER_PATIENTS] == UNKNOWN
    assert "training patients are not known" in describe_unknown_patients(settings)[0]


def test_frozen_features_have_no_teacher():
    frozen = {"start_from": "old.safetensors", "freeze": "backbone", "teacher": "cnn"}
    with pytest.raises(UserError, match=r"train\.guidance_weight: found 1\.0, allowed is 0 where train\.freeze"):
        TrainConfig(**frozen)
    assert TrainConfig(**frozen, guidance_weight=0.0).teacher == "cnn"


def test_a_teacher_of_other_classes_or_inputs_or_without_maps_is_refused(taught, tmp_path):
    checkpoint = read_checkpoint(get_teacher(taught).paths.best_checkpoint)
    for changes, named in (
        ({"class_names": ("right", "left")}, "classes right, left; allowed are .* left, right"),
        ({"image_size": (16, 16)}, "inputs 1 x 16 x 16, slices; allowed are .* 1 x 8 x 8"),
    ):
        path = tmp_path / "changed.safetensors"
        spec = dataclasses.replace(checkpoint.spec, **changes)
        write_checkpoint(path, dataclasses.replace(checkpoint, spec=spec))
        with pytest.raises(UserError, match=named):
            describe(path, taught)
    local = dataclasses.replace(checkpoint, model=dataclasses.replace(checkpoint.model, local_contrast=True))
    write_checkpoint(path, local)
    with pytest.raises(UserError, match=r"model\.local_contrast: found False, allowed is True, which the teacher"):
        describe(path, taught)
    perceiver = taught.paths.best_checkpoint
    with pytest.raises(UserError, match=r"train\.guidance_weight: found 1, but .* is a perceiver"):
        describe(perceiver, taught)
    assert describe(perceiver, with_train(taught, guidance_weight=0.0))[TEACHER_PATIENTS] == SAME


def test_a_teacher_of_another_plane_or_a_smaller_field_of_view_is_refused(taught, tmp_path):
    path = tmp_path / "changed.safetensors"
    checkpoint = read_checkpoint(get_teacher(taught).paths.best_checkpoint)
    for changes, named in (
        ({"plane": "coronal"}, r"learned with preprocess\.plane coronal; allowed is that of these data, axial"),
        ({"fit": "crop"}, r"learned with preprocess\.fit crop; allowed is that of these data, pad"),
        ({"num_slices": 3, "max_volume_gib": 9.0}, None),
    ):
        preprocess = dataclasses.replace(checkpoint.preprocess, **changes)
        write_checkpoint(path, dataclasses.replace(checkpoint, preprocess=preprocess))
        with contextlib.nullcontext() if named is None else pytest.raises(UserError, match=named):
            describe(path, taught)
    scans = make_scans(tmp_path / "scans", guidance_weight=0.0)
    spec = load_certified_data(scans).store.input_spec(MOST_SLICES)
    teacher = dataclasses.replace(make_scan_checkpoint(scans.model), spec=spec, preprocess=scans.preprocess)
    for factor, reason in ((1.0, contextlib.nullcontext()), (0.5, pytest.raises(UserError, match="field of view is"))):
        smaller = dataclasses.replace(spec, field_of_view_mm=factor * spec.field_of_view_mm)
        write_checkpoint(path, dataclasses.replace(teacher, spec=smaller))
        with reason:
            describe(path, scans)
