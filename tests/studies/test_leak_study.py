"""The recipe of the leak study lets a model learn by heart, and a leaky split raises its score."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from perceiver import PerceiverConfig
from pipeline.config.experiment import Experiment
from pipeline.config.model import CnnConfig, ModelConfig
from pipeline.config.sources import SplitConfig
from pipeline.config.studies import LeakStudyConfig
from pipeline.config.training import AugmentConfig, TrainConfig
from pipeline.data.store import read_store, write_store
from pipeline.studies.leak_study import NO_CHANGES, build_recipe, train_one
from pipeline.studies.leaky_splits import LeakyRun, assign_by_unit, equalize_training, shuffle_labels

STRONG = Experiment(
    model=ModelConfig(mirror_tta=True, perceiver=PerceiverConfig(dropout=0.2, attention_dropout=0.1)),
    augment=AugmentConfig(
        horizontal_flip="swap_label", rotation_degrees=20, random_erasing_probability=0.5, mixup_alpha=1, cutmix_alpha=1
    ),
    train=TrainConfig(
        weight_decay=0.1, label_smoothing=0.1, early_stopping_epochs=3, batch_size=32, devices=2, loss="mse"
    ),
)


def test_what_exchanges_labels_or_keeps_from_learning_by_heart_is_off():
    model, train = build_recipe(STRONG, 100)
    assert not model.mirror_tta
    assert (model.perceiver.dropout, model.perceiver.attention_dropout) == (0, 0)
    assert (train.weight_decay, train.label_smoothing, train.early_stopping_epochs) == (0, 0, 0)
    assert (train.loss, train.devices) == ("cross_entropy", 1)
    for field in dataclasses.fields(AugmentConfig):
        value = getattr(NO_CHANGES, field.name)
        if field.name not in ("random_erasing_area", "points", "transforms_per_image"):
            assert value in (0, "none"), field.name


@pytest.mark.parametrize(("num_train", "steps", "epochs"), [(64, 10, 5), (65, 10, 4), (32, 1, 1), (1000, 32, 1)])
def test_steps_are_rounded_up_to_whole_epochs(num_train, steps, epochs):
    """Batches hold 32: two steps an epoch of 64 slices, three of 65."""
    _, train = build_recipe(dataclasses.replace(STRONG, leak_study=LeakStudyConfig(num_steps=steps)), num_train)
    assert train.epochs == epochs


@pytest.fixture(scope="module")
def marked_store(tmp_path_factory):
    """Slices that show who the patient is and nothing else: a texture of the patient's own, under noise."""
    generator = np.random.default_rng(0)
    rows, slices = [], []
    for patient in range(24):
        texture = np.kron(generator.integers(0, 2, (4, 4)), np.ones((4, 4))) * 120 + 40
        for side in ("left", "right"):
            for place in range(8):
                ids = {"example_id": f"{patient}_{side}_{place}", "source_id": f"{patient}_{side}"}
                rows.append(ids | {"group_id": f"{patient}", "label": side, "slice_index": place, "slice_position": 0})
                slices.append(np.clip(texture + generator.normal(0, 10, (16, 16)), 0, 255).astype(np.uint8))
    folder = tmp_path_factory.mktemp("marked")
    write_store(folder, [np.stack(slices)], pd.DataFrame(rows), {})
    return read_store(folder)


@pytest.mark.slow
def test_a_leaky_split_scores_high_on_labels_that_mean_nothing(marked_store):
    store = marked_store
    experiment = Experiment(
        model=ModelConfig(architecture="cnn", cnn=CnnConfig(channels=(16, 32))),
        leak_study=LeakStudyConfig(num_steps=120, learning_rate=1e-2),
        train=TrainConfig(precision="32-true"),
    )
    index = store.index
    labels = shuffle_labels(index, store.class_names, 0)
    splits = {name: assign_by_unit(index, name, SplitConfig(), 0) for name in ("slice", "patient")}
    splits = equalize_training(splits, 0)
    rows = np.arange(len(index))
    heard = []
    outcomes = {
        name: train_one(experiment, store, LeakyRun(name, "shuffled", 0, rows, labels, split), heard.append)
        for name, split in splits.items()
    }
    right = {name: (o.predictions["label"] == o.predictions["predicted"]).mean() for name, o in outcomes.items()}
    assert right["slice"] > 0.9
    # Six patients are tested: half of them, give or take what six coins do.
    assert right["patient"] < 0.85
    assert outcomes["slice"].num_train == outcomes["patient"].num_train
    assert outcomes["slice"].num_steps == outcomes["patient"].num_steps >= 120
    assert len(heard) == sum(len(outcome.history) for outcome in outcomes.values())
    for name, outcome in outcomes.items():
        tested = set(outcome.predictions["example_id"])
        assert tested == set(index["example_id"][splits[name] == "test"])
        expected = dict(zip(index["example_id"], labels, strict=True))
        assert all(row.label == expected[row.example_id] for row in outcome.predictions.itertuples())
