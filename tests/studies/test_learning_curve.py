"""The learning curve's draws: nested, with all classes and their mixture, and as many steps at every size."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.config.model import CnnConfig
from pipeline.config.studies import LearningCurveConfig
from pipeline.core.data_kinds import VOLUMES
from pipeline.core.errors import UserError
from pipeline.data.certified_data import load_certified_data
from pipeline.studies.learning_curve import (
    build_recipe,
    choose_sizes,
    list_settings,
    order_patients,
    plan_curve,
    repeat_examples,
    select_patients,
    train_one,
)
from pipeline.training.devices.fabric import build_fabric
from pipeline.training.setup import prepare_training
from tests.builders.training_runs import make_experiment, with_train


def make_index(labels):
    return pd.DataFrame({"group_id": [f"p{number:02d}" for number in range(len(labels))], "label": labels})


@pytest.mark.parametrize("seed", range(5))
def test_every_start_of_a_draw_has_all_classes_in_the_mixture_of_the_whole(seed):
    index = make_index(["a"] * 12 + ["b"] * 6 + ["c"] * 2)
    order = order_patients(index, ("a", "b", "c"), np.random.default_rng(seed))
    assert sorted(order) == sorted(index["group_id"])
    label_of = dict(zip(index["group_id"], index["label"], strict=True))
    assert {label_of[name] for name in order[:3]} == {"a", "b", "c"}
    for size in (10, 15, 20):
        counts = pd.Series([label_of[name] for name in order[:size]]).value_counts()
        assert counts["a"] == pytest.approx(0.6 * size, abs=1)
        assert counts["b"] == pytest.approx(0.3 * size, abs=1)


def test_patients_with_both_labels_cover_them_alone():
    index = pd.concat([make_index(["left"] * 6), make_index(["right"] * 6)])
    orders = {order_patients(index, ("left", "right"), np.random.default_rng(seed)) for seed in range(8)}
    assert len({order[0] for order in orders}) > 2, "draws are independent"


def test_sizes_double_up_to_all_patients():
    assert choose_sizes(LearningCurveConfig(), 13, 1, VOLUMES) == (2, 4, 8, 13)
    assert choose_sizes(LearningCurveConfig(), 16, 3, VOLUMES) == (4, 8, 16)
    assert choose_sizes(LearningCurveConfig(patients=(3, 5)), 16, 3, VOLUMES) == (3, 5)
    with pytest.raises(UserError, match="found 17, but 16 patients are in train"):
        choose_sizes(LearningCurveConfig(patients=(3, 17)), 16, 3, VOLUMES)
    with pytest.raises(UserError, match=r"found 2, .* 3 patients to have all classes"):
        choose_sizes(LearningCurveConfig(patients=(2,)), 16, 3, VOLUMES)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    options = LearningCurveConfig(patients=(2, 4), draws=2)
    experiment = make_experiment(tmp_path_factory.mktemp("curve"), learning_curve=options)
    data = load_certified_data(experiment)
    return experiment, data, plan_curve(data, experiment)


def test_models_of_a_draw_have_one_set_of_patients_and_one_seed_and_a_smaller_size_is_in_a_larger(planned):
    _, data, runs = planned
    assert len(runs) == 2 * 2 * 3
    by_key = {}
    for run in runs:
        by_key.setdefault((run.size, run.draw), set()).add((run.patients, run.seed))
        assert all(data.roles[name] == "train" for name in run.patients)
        assert len(set(run.patients)) == run.size
    assert all(len(found) == 1 for found in by_key.values())
    for draw in (0, 1):
        ((small, _),), ((large, _),) = by_key[2, draw], by_key[4, draw]
        assert large[:2] == small


def test_validation_and_test_stay_and_an_epoch_has_as_many_steps_at_every_size(planned):
    experiment, data, runs = planned
    experiment = with_train(experiment, sampling="class")
    steps = set()
    for run in runs[:3]:
        part = select_patients(data, run.patients)
        assert {role: part.rows[role].tolist() for role in ("val", "test")} == {
            role: data.rows[role].tolist() for role in ("val", "test")
        }
        recipe = build_recipe(experiment, run)
        plain = prepare_training(recipe, build_fabric(recipe.train), part)
        setup = repeat_examples(plain, len(data.rows["train"]))
        steps.add(len(setup.train_examples))
        times = np.bincount(setup.train_examples.rows, minlength=len(data.store.index))
        assert set(np.flatnonzero(times)) == set(part.rows["train"])
        assert times.max() - times[part.rows["train"]].min() <= 1, "each comes as often, or once more"
        codes = data.store.index["label"].map({"left": 0, "right": 1}).to_numpy()
        assert setup.train_examples.labels.tolist() == codes[setup.train_examples.rows].tolist()
        stored = torch.from_numpy(np.array(data.store.examples[setup.train_examples.rows]))
        assert torch.equal(setup.train_examples.placed[:, 0], stored)
        assert len(setup.sampling_weights) == len(setup.train_examples)
    assert steps == {len(data.rows["train"])}


def test_other_patients_another_recipe_or_another_seed_are_another_model(planned):
    experiment, data, runs = planned
    run = runs[0]
    settings = list_settings(experiment, data, run)
    assert settings != list_settings(experiment, data, dataclasses.replace(run, seed=9))
    other = dataclasses.replace(run, patients=runs[-1].patients)
    assert settings != list_settings(experiment, data, other)
    assert settings != list_settings(with_train(experiment, learning_rate=0.1), data, run)
    assert build_recipe(experiment, dataclasses.replace(run, model="cnn")).model.architecture == "cnn"


def test_a_taught_perceiver_learns_from_its_teacher_and_from_the_patients_of_the_draw_alone(planned):
    experiment, data, runs = planned
    small = dataclasses.replace(experiment.model, cnn=CnnConfig(channels=(4,)))
    experiment = with_train(dataclasses.replace(experiment, model=small), epochs=1)
    plain = next(run for run in runs if run.model == "perceiver")
    taught = dataclasses.replace(plain, model="distilled")
    others = np.isin(data.split_of, "train") & ~data.store.index["group_id"].isin(plain.patients).to_numpy()
    hidden = np.array(data.store.examples)
    hidden[others] = 255 - hidden[others]
    changed = dataclasses.replace(data, store=dataclasses.replace(data.store, examples=hidden))

    def score(run, data=data):
        return train_one(experiment, data, run, lambda _: None).predictions

    predictions = score(taught)
    assert others.any()
    pd.testing.assert_frame_equal(predictions, score(taught, changed))
    assert not predictions.equals(score(plain))


def test_several_devices_are_refused(planned):
    experiment, data, _ = planned
    with pytest.raises(UserError, match="found 2 devices, allowed is one"):
        plan_curve(data, with_train(experiment, devices=2))
