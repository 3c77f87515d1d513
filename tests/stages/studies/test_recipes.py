"""No stage that trains takes a recipe that the data or other options do not allow, and none says so too late."""

import dataclasses
import io

import numpy as np
import pytest
from rich.console import Console

from pipeline.config.model import CnnConfig
from pipeline.config.studies import LearningCurveConfig, TuneConfig
from pipeline.core.errors import UserError
from pipeline.data.certified_data import load_certified_data
from pipeline.data.store import read_store, write_store
from pipeline.preprocessing.parts import describe_options
from pipeline.stages.split import split
from pipeline.stages.studies.learning_curve import learning_curve
from pipeline.stages.studies.tune import choose_folder, tune
from pipeline.stages.train import train
from pipeline.studies import kept_models
from pipeline.studies.learning_curve import plan_curve
from pipeline.studies.tuning import read_space
from pipeline.training.devices.fabric import build_fabric
from pipeline.training.setup import prepare_training
from tests.builders.training_runs import make_experiment, with_train

# Options of knees whose labels are left and right, and the line that refuses them.
REFUSED = (
    ({"augment.horizontal_flip": "keep_label"}, r"augment\.horizontal_flip: 'keep_label' would call"),
    ({"preprocess.plane": "sagittal"}, r"augment\.horizontal_flip: 'swap_label'"),
    (
        {"preprocess.plane": "sagittal", "augment.horizontal_flip": "none", "model.mirror_tta": True},
        r"model\.mirror_tta",
    ),
    ({"train.loss": "corn"}, r"train\.loss: found 'corn', allowed is cross_entropy or mse"),
    ({"augment.crop_padding": 8}, r"augment\.crop_padding: found 8, but images of 8 x 8 pixels"),
)
# Of these the learning curve sets one or the other itself.
REFUSED_OF_ONE = (
    (
        {"model.architecture": "cnn", "model.slice_position": False, "train.input_fraction": 0.5},
        r"train\.input_fraction.* cnn",
    ),
    ({"train.strategy": "fsdp", "train.auxiliary_weight": 0.5}, r"train\.strategy: found 'fsdp', allowed is ddp"),
)


def change(experiment, options):
    for name, value in options.items():
        section, _, field = name.partition(".")
        part = dataclasses.replace(getattr(experiment, section), **{field: value})
        experiment = dataclasses.replace(experiment, **{section: part})
    if "preprocess.plane" in options:  # the examples have to be of the same plane
        store, folder = read_store(experiment.paths.prepared), experiment.paths.prepared
        write_store(folder, [np.array(store.examples)], store.index, describe_options(experiment.preprocess))
        split(experiment, Console(file=io.StringIO()))
    return experiment


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """An experiment in which no network may be trained."""

    def refuse(*args, **options):
        raise AssertionError("a network is trained")

    monkeypatch.setattr(kept_models, "start_from", refuse)
    monkeypatch.setattr("pipeline.stages.train.build_state", refuse)
    made = with_train(make_experiment(tmp_path), epochs=1)
    made = dataclasses.replace(made, model=dataclasses.replace(made.model, cnn=CnnConfig(channels=(4,))))
    space = {"train.learning_rate": (1e-3, 1e-2)}
    return dataclasses.replace(made, tune=TuneConfig(space=space, trials=1))


def name_models(experiment, *models):
    return dataclasses.replace(experiment, learning_curve=LearningCurveConfig(patients=(2,), draws=1, models=models))


@pytest.mark.parametrize(("options", "match"), [*REFUSED, *REFUSED_OF_ONE])
def test_a_recipe_that_the_data_do_not_allow_is_refused_before_a_training(experiment, options, match):
    changed, console = change(experiment, options), Console(file=io.StringIO(), width=200)
    for stage in (train, tune):
        with pytest.raises(UserError, match=match):
            stage(changed, console)
    with pytest.raises(UserError, match=match):
        prepare_training(changed, build_fabric(experiment.train), load_certified_data(changed))
    assert not (choose_folder(changed) / "journal.log").exists(), "no trial was begun"


@pytest.mark.parametrize(("options", "match"), REFUSED)
def test_the_learning_curve_refuses_each_of_its_networks_before_the_first(experiment, options, match):
    changed = change(experiment, options)
    for model in ("perceiver", "cnn", "distilled"):
        with pytest.raises(UserError, match=match):
            learning_curve(name_models(changed, "logistic_regression", model), Console(file=io.StringIO(), width=200))


def test_the_learning_curve_keeps_baselines_that_do_not_read_what_is_refused(experiment):
    """A CNN reads all pixels whatever the Perceiver reads, and a logistic regression reads no recipe."""
    data = load_certified_data(experiment)
    halved = change(experiment, {"train.input_fraction": 0.5, "model.slice_position": False})
    assert len(plan_curve(data, name_models(halved, "perceiver", "cnn", "distilled"))) == 3
    for options, _ in REFUSED:
        assert len(plan_curve(data, change(name_models(experiment, "logistic_regression"), options))) == 1


@pytest.mark.parametrize("freeze", ["none", "backbone"])
def test_searches_and_learning_curves_take_no_weights_of_another_model(experiment, freeze):
    """They draw all weights; a frozen backbone of drawn ones would be a probe of noise."""
    console = Console(file=io.StringIO(), width=200)
    started = with_train(experiment, start_from="other.safetensors", freeze=freeze)
    with pytest.raises(UserError, match=r"tune: found train\.start_from other\.safetensors.*train\.freeze to none"):
        tune(started, console)
    for model in ("perceiver", "cnn", "distilled"):
        guided = with_train(started, guidance_weight=0.0)  # for a frozen pupil there is no other
        with pytest.raises(UserError, match=r"learning-curve: found train\.start_from other\.safetensors"):
            learning_curve(name_models(guided, "logistic_regression", model), console)
    assert plan_curve(load_certified_data(started), name_models(started, "logistic_regression"))
    for name, values in (("train.start_from", ("a", "b")), ("train.freeze", ("none", "backbone"))):
        with pytest.raises(UserError, match=f"{name} is not searched"):
            read_space(dataclasses.replace(experiment, tune=TuneConfig(space={name: values})))
