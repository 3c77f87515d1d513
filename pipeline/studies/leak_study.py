"""The leak study: one recipe, several ways to split the same slices or images, with true and with shuffled labels."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline.config.experiment import Experiment
from pipeline.config.model import ModelConfig
from pipeline.config.studies import LeakStudyConfig
from pipeline.config.training import AugmentConfig, TrainConfig
from pipeline.core.files import read_json
from pipeline.core.serialization import flatten
from pipeline.core.text import plural
from pipeline.data.batches import Examples, place_examples
from pipeline.data.store import Store
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.metrics import compute_level
from pipeline.evaluation.predictions import build_predictions, read_predictions
from pipeline.evaluation.schema import Estimate
from pipeline.inference.probabilities import compute_probabilities
from pipeline.studies.kept_models import OnEpoch, Outcome
from pipeline.studies.leaky_splits import LeakyRun
from pipeline.training.devices.fabric import build_fabric
from pipeline.training.loop.epochs import train_epochs
from pipeline.training.loop.state import TrainingSetup
from pipeline.training.run_state import EXECUTION
from pipeline.training.setup import start_from

WARMUP_FRACTION = 0.1
# Nothing that would keep a model from learning slices by heart, and nothing that exchanges labels.
NO_CHANGES = AugmentConfig(
    rotation_degrees=0, zoom_fraction=0, shift_fraction=0, gamma=0, brightness_fraction=0, noise_std=0
)


@dataclass(frozen=True)
class LeakOutcome:
    """The accuracy of the models with one way to split and one kind of labels, over all seeds together.

    Args:
        unit: The unit that was kept in one split, one of ``SPLIT_UNITS`` or ``IMAGE_UNITS``.
        labels: The kind of labels, one of ``LABELLINGS``.
        seeds: The number of seeds.
        n: The number of test slices or images.
        groups: The number of their patients.
        accuracy: The accuracy: ``value``, and ``low`` and ``high`` of its 95 % interval over patients.
    """

    unit: str
    labels: str
    seeds: int
    n: int
    groups: int
    accuracy: Estimate


@dataclass(frozen=True)
class LeakStudy:
    """The results of all models.

    Args:
        outcomes: The accuracy for each way to split and each kind of labels.
        records: The facts about each model, such as its seed and its number of steps.
        settings: All that shapes the models but their seeds.
    """

    outcomes: tuple[LeakOutcome, ...]
    records: tuple[dict[str, Any], ...]
    settings: dict[str, Any]


def use_single_split(experiment: Experiment) -> Experiment:
    """Turn folds and given split tables off, which belong to training; the experiment's name for the run stays."""
    plain = dataclasses.replace(experiment.split, num_folds=0, test_fold=0, split_table=None, val_count=None)
    return dataclasses.replace(experiment, split=plain)


def list_settings(experiment: Experiment, store: Store, num_train: int) -> dict[str, Any]:
    """List all that shapes the models of the study but their seeds.

    Args:
        experiment: All options.
        store: The slices.
        num_train: The number of training slices of each model.

    Returns:
        ``section.field`` -> value.
    """
    model, train = build_recipe(experiment, num_train)
    settings = flatten(model, "model") | flatten(NO_CHANGES, "augment")
    left_out = (*EXECUTION, "train.seed", "train.monitor", "train.early_stopping_epochs")
    settings |= {name: value for name, value in flatten(train, "train").items() if name not in left_out}
    split = experiment.split
    settings |= {f"split.{name}": getattr(split, name) for name in ("val_fraction", "test_fraction", "stratify")}
    return settings | {
        "leak_study.num_slices": experiment.leak_study.num_slices,
        f"training {plural(store.kind.example)}": num_train,
        "store fingerprint": store.fingerprint,
    }


def build_recipe(experiment: Experiment, num_train: int) -> tuple[ModelConfig, TrainConfig]:
    """Return the options of model and training for all models of the leak study.

    The network, the batch size, the optimizer and the device are those of the experiment. All that works against
    learning by heart is off: dropout, subsets of inputs, the average of the weights, weight decay,
    label smoothing; so are balanced classes and patients, and test-time augmentation, which would make shuffled labels
    wrong.

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
        class_weights="equal",
        sampling="once",
        loss="cross_entropy",
        early_stopping_epochs=0,
        accumulate_batches=1,
        average_decay=0.0,
        input_fraction=1.0,
        start_from=None,
        freeze="none",
        compile="none",
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
    on_epoch: OnEpoch,
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
    positions = store.places[run.rows]

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


def read_leak_study(
    folder: Path, runs: Sequence[LeakyRun], class_names: tuple[str, ...], bootstrap: Bootstrap
) -> LeakStudy:
    """Read the files of all models, and score each way to split over all seeds.

    Args:
        folder: The folder of the models' files.
        runs: The models.
        class_names: All classes.
        bootstrap: The resamples of patients.
    """
    predictions: dict[tuple[str, str], list[pd.DataFrame]] = {}
    records = []
    for run in runs:
        record = read_json(folder / f"{run.name}.json")
        table = read_predictions(folder / f"{run.name}.csv", class_names)
        predictions.setdefault((run.unit, run.labelling), []).append(table)
        records.append({"division": run.unit, "labels": run.labelling, "seed": run.seed} | record["facts"])
    outcomes = summarise_outcomes(predictions, class_names, bootstrap)
    return LeakStudy(outcomes, tuple(records), record["settings"])


def summarise_outcomes(
    predictions: Mapping[tuple[str, str], Sequence[pd.DataFrame]], class_names: Sequence[str], bootstrap: Bootstrap
) -> tuple[LeakOutcome, ...]:
    """Score each way to split, with each kind of labels, over all seeds together.

    A patient who was tested with several seeds is drawn with all its rows, so that intervals stay over patients.

    Args:
        predictions: The predictions of the test slices: for each (unit, labelling) one table for each seed.
        class_names: All classes.
        bootstrap: The resamples of patients.
    """
    outcomes = []
    for (unit, labelling), tables in predictions.items():
        level = compute_level(pd.concat(tables, ignore_index=True), class_names, bootstrap)
        accuracy = level["metrics"]["accuracy"]
        outcomes.append(LeakOutcome(unit, labelling, len(tables), level["n"], level["groups"], accuracy))
    return tuple(outcomes)


def list_rows(outcomes: Sequence[LeakOutcome]) -> list[dict[str, Any]]:
    """List the outcomes as leak_study.json and leak_study.csv keep them, where the key of the unit is ``division``."""
    return [
        {"division" if name == "unit" else name: value for name, value in dataclasses.asdict(outcome).items()}
        for outcome in outcomes
    ]
