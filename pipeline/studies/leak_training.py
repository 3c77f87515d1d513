"""Training and scoring of one model of the leak study."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from pipeline.config.experiment import Experiment
from pipeline.config.model import ModelConfig
from pipeline.config.studies import LeakStudyConfig
from pipeline.config.training import AugmentConfig, TrainConfig
from pipeline.data.batches import Examples, place_examples
from pipeline.data.store import Store
from pipeline.evaluation.predictions import build_predictions
from pipeline.inference.probabilities import compute_probabilities
from pipeline.studies.leaky_splits import LeakyRun
from pipeline.training.devices import build_fabric
from pipeline.training.history import EpochResult
from pipeline.training.loop import TrainingSetup, train_epochs
from pipeline.training.setup import start_from

WARMUP_FRACTION = 0.1
# Nothing that would keep a model from learning slices by heart, and nothing that exchanges labels.
NO_CHANGES = AugmentConfig(
    rotation_degrees=0, zoom_fraction=0, shift_fraction=0, gamma=0, brightness_fraction=0, noise_std=0
)


@dataclass(frozen=True)
class Outcome:
    """The result of one model of the leak study.

    Args:
        predictions: The predictions of the test slices; ``label`` is the label that the model was to learn.
        history: One row for each epoch.
        num_steps: The number of steps of the optimizer.
        num_train: The number of training slices.
        device: The device that trained it.
    """

    predictions: pd.DataFrame
    history: tuple[EpochResult, ...]
    num_steps: int
    num_train: int
    device: torch.device


def build_recipe(experiment: Experiment, num_train: int) -> tuple[ModelConfig, TrainConfig]:
    """Return the options of model and training for all models of the leak study.

    The network, the batch size, the optimizer and the device are those of the experiment. All that works against
    learning by heart is off: dropout, weight decay, label smoothing; so is test-time augmentation, which would make
    shuffled labels wrong.

    Args:
        experiment: All options.
        num_train: The number of training slices, from which the number of epochs follows.
    """
    perceiver = dataclasses.replace(experiment.model.perceiver, dropout=0.0, attention_dropout=0.0)
    model = dataclasses.replace(experiment.model, mirror_tta=False, perceiver=perceiver)
    options: LeakStudyConfig = experiment.leak_study
    epochs = -(-options.num_steps // count_steps(num_train, experiment.train.batch_size))
    train = dataclasses.replace(
        experiment.train,
        epochs=epochs,
        learning_rate=options.learning_rate,
        schedule="cosine",
        warmup_epochs=WARMUP_FRACTION * epochs,
        weight_decay=0.0,
        label_smoothing=0.0,
        loss="cross_entropy",
        early_stopping_epochs=0,
        compile=False,
        devices=1,
        num_nodes=1,
    )
    return model, train


def count_steps(num_examples: int, batch_size: int) -> int:
    """Return the number of steps of an epoch; the last one may have fewer examples."""
    return -(-num_examples // batch_size)


def train_one(
    experiment: Experiment,
    store: Store,
    run: LeakyRun,
    on_epoch: Callable[[EpochResult], None],
) -> Outcome:
    """Train one model and score its test slices with the weights after the last step.

    Args:
        experiment: All options.
        store: The slices.
        run: The splits and the labels of the slices, and the seed of weights and order.
        on_epoch: Called with the result of each epoch.

    Raises:
        UserError: The loss becomes NaN or infinite.
    """
    model_options, train_options = build_recipe(experiment, run.num_train)
    train_options = dataclasses.replace(train_options, seed=run.seed)
    fabric = build_fabric(train_options)
    places = {role: np.flatnonzero(run.splits == role) for role in ("train", "val", "test")}
    codes = np.searchsorted(np.array(store.class_names), run.labels)  # the names are sorted
    positions = store.index["slice_position"].to_numpy()[run.rows]

    def select(role: str) -> Examples:
        chosen = places[role]
        return place_examples(store.examples, run.rows[chosen], codes[chosen], positions[chosen], fabric.device)

    spec = store.input_spec(experiment.preprocess.num_slices)
    recipe = dataclasses.replace(experiment, model=model_options, train=train_options, augment=NO_CHANGES)
    setup = TrainingSetup(recipe, fabric, spec, select("train"), select("val"))
    state = start_from(setup, None)
    for result in train_epochs(setup, state):
        on_epoch(result)
    state.classifier.eval()
    test = run.rows[places["test"]]
    index = store.index.iloc[test].assign(label=run.labels[places["test"]])
    scores = compute_probabilities(
        state.classifier,
        store.examples[test],
        positions[places["test"]],
        torch.device(fabric.device),
        experiment.evaluate.batch_size,
    )
    predictions = build_predictions(index, scores.astype(np.float64), store.class_names)
    num_steps = count_steps(len(setup.train_examples), train_options.batch_size) * len(state.history)
    return Outcome(predictions, tuple(state.history), num_steps, len(setup.train_examples), fabric.device)
