"""The learning curve: the accuracy by the number of training patients, of several models on the same patients.

Validation and test stay those of the experiment. A draw is an order of all training patients, and each size takes the
first of it, so that within a draw the patients of a smaller size are among those of a larger one, while draws are
independent. Each class is there from the start, and the mixture of labels stays as close to that of all patients as
whole patients allow.

The budget of a network is the same at every size: ``train.epochs`` epochs of as many steps as with all training
patients. For that the examples of few patients come several times in an epoch, each as often as the others or once
more. So do learning rate, warm-up and the number of epochs that the best one is chosen from.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from pipeline.config.experiment import Experiment
from pipeline.config.studies import CurveModel, LearningCurveConfig
from pipeline.core.array_types import Array, Floats
from pipeline.core.data_kinds import DataKind
from pipeline.core.errors import UserError
from pipeline.core.files import read_json
from pipeline.core.provenance import compute_fingerprint
from pipeline.core.text import plural
from pipeline.data.batches import Examples
from pipeline.data.certified_data import CertifiedData
from pipeline.evaluation.baselines import logistic_regression
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.predictions import build_predictions, read_predictions
from pipeline.evaluation.proportions import PatientCounts, estimate_proportion
from pipeline.evaluation.schema import Estimate
from pipeline.inference.probabilities import compute_probabilities
from pipeline.studies.kept_models import OnEpoch, Outcome, train_best, train_checkpoint
from pipeline.studies.power_law import Comparison, Forecast, compare_draws, estimate_mean, forecast_size
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.devices.fabric import build_fabric
from pipeline.training.fine_tuning import check_no_start
from pipeline.training.loop.epochs import DivergenceError
from pipeline.training.loop.state import TrainingSetup, derive_seed
from pipeline.training.run_state import describe_settings
from pipeline.training.setup import check_recipe, describe_origin, prepare_training


@dataclass(frozen=True)
class CurveRun:
    """One model of the learning curve.

    Args:
        model: The kind of the model.
        size: The number of training patients.
        draw: The number of the draw, from 0.
        patients: The training patients, in the order of the draw.
        seed: The seed of the training, the same for all models and sizes of a draw.
    """

    model: CurveModel
    size: int
    draw: int
    patients: tuple[str, ...]
    seed: int

    @property
    def name(self) -> str:
        """The name of the model's files."""
        return f"{self.model}-{self.size}-draw-{self.draw}"


@dataclass(frozen=True)
class CurvePoint:
    """The accuracy of one model with one number of training patients.

    Args:
        model: The kind of the model.
        size: The number of training patients.
        accuracies: The accuracy of each draw.
        over_draws: Their mean, with its interval over draws: of training patients, first weights and order.
        over_patients: The same mean, with its interval over the test patients.
        n: The number of test rows.
        groups: The number of test patients.
    """

    model: CurveModel
    size: int
    accuracies: tuple[float, ...]
    over_draws: Estimate
    over_patients: Estimate
    n: int
    groups: int


@dataclass(frozen=True)
class LearningCurve:
    """The results of all models.

    Args:
        points: The accuracy of each model at each size.
        comparisons: The Perceiver minus the CNN at each size; none without both.
        forecasts: The number of training patients that each model needs for the wanted accuracy.
        records: The facts about each model, such as its draw and its number of steps.
    """

    points: tuple[CurvePoint, ...]
    comparisons: tuple[Comparison, ...]
    forecasts: tuple[Forecast, ...]
    records: tuple[dict[str, Any], ...]


def order_patients(index: pd.DataFrame, class_names: Sequence[str], generator: np.random.Generator) -> tuple[str, ...]:
    """Draw an order of the patients whose first ones, however many, have all classes in the mixture of the whole.

    Of five patients, three with the label left and two with right, the first two are one of each, as drawn; then comes
    at each place one of the label that lacks most: of three patients 1.8 should have left, so left.

    Args:
        index: A row an example, with ``group_id`` and ``label``.
        class_names: All classes.
        generator: The random number generator.
    """
    labels_of = index.groupby("group_id", sort=True)["label"].agg(frozenset).to_dict()
    names = [str(name) for name in labels_of]
    shuffled = [names[place] for place in generator.permutation(len(names))]
    lacking, first = set(class_names), []
    for name in shuffled:
        if labels_of[name] & lacking:
            first.append(name)
            lacking -= labels_of[name]
    strata: dict[tuple[str, ...], list[str]] = {tuple(sorted(labels)): [] for labels in labels_of.values()}
    strata = dict(sorted(strata.items()))
    taken = dict.fromkeys(strata, 0)
    for name in first:
        taken[tuple(sorted(labels_of[name]))] += 1
    for name in shuffled:
        if name not in first:
            strata[tuple(sorted(labels_of[name]))].append(name)
    fractions = {labels: (len(rest) + taken[labels]) / len(names) for labels, rest in strata.items()}
    order = list(first)
    while len(order) < len(names):
        left = [labels for labels, rest in strata.items() if rest]
        most = max(left, key=lambda labels: fractions[labels] * (len(order) + 1) - taken[labels])
        order.append(strata[most].pop(0))
        taken[most] += 1
    return tuple(order)


def choose_sizes(options: LearningCurveConfig, num_patients: int, num_needed: int, kind: DataKind) -> tuple[int, ...]:
    """Return the numbers of training patients.

    Args:
        options: The wanted numbers; none for 2, 4, 8 and so on, and all.
        num_patients: The number of training patients.
        num_needed: The number of patients of a draw that have all classes.
        kind: The kind of data, which names the groups.

    Raises:
        UserError: More patients than there are, or fewer than have all classes.
    """
    if not options.patients:
        doubled = [2**power for power in range(1, num_patients.bit_length()) if num_needed <= 2**power < num_patients]
        return (*doubled, num_patients)
    smallest, largest = options.patients[0], options.patients[-1]
    if largest > num_patients:
        raise UserError(
            f"learning_curve.patients: found {largest}, but {num_patients} {plural(kind.group)} are in train. Take "
            "smaller numbers, or a smaller split.val_fraction and split.test_fraction."
        )
    if smallest < num_needed:
        raise UserError(
            f"learning_curve.patients: found {smallest}, but in a draw it takes {num_needed} {plural(kind.group)} to "
            "have all classes. Begin with more."
        )
    return options.patients


def plan_curve(data: CertifiedData, experiment: Experiment) -> list[CurveRun]:
    """List the models of the study, the smallest sizes first.

    Args:
        data: All examples and their splits.
        experiment: All options.

    Raises:
        UserError: Sizes that do not fit the training patients, several devices, or a model that does not fit the data.
    """
    options, store = experiment.learning_curve, data.store
    num_devices = experiment.train.devices * experiment.train.num_nodes
    if num_devices > 1:
        raise UserError(f"learning-curve: found {num_devices} devices, allowed is one. Set train.devices: 1.")
    if "logistic_regression" in options.models and not store.kind.is_image:
        raise UserError(
            f"learning_curve.models: logistic_regression reads pixels, and {experiment.data.dataset} has "
            f"{plural(store.kind.example)}. Leave it out."
        )
    index = store.index.iloc[data.rows["train"]]
    orders = [
        order_patients(
            index, store.class_names, np.random.default_rng(derive_seed(options.seed, "learning curve", draw))
        )
        for draw in range(options.draws)
    ]
    labels_of = index.groupby("group_id")["label"].agg(set).to_dict()
    needed = [_count_needed(order, labels_of, store.class_names) for order in orders]
    sizes = choose_sizes(options, len(orders[0]), max(needed), store.kind)
    runs = [
        CurveRun(model, size, draw, order[:size], experiment.train.seed + draw)
        for size in sizes
        for draw, order in enumerate(orders)
        for model in options.models
    ]
    networks = _list_networks(options.models)
    if networks:
        check_no_start("learning-curve", experiment)
    # Before the first network is trained, and not when the one is reached whose recipe is refused.
    for model in networks:
        check_recipe(build_recipe(experiment, dataclasses.replace(runs[0], model=model)), store)
    return runs


def _list_networks(models: Sequence[CurveModel]) -> list[CurveModel]:
    """Return the models that are trained by the experiment's recipe, with the CNN that teaches another."""
    taught: list[CurveModel] = ["cnn"] if "distilled" in models else []
    return list(dict.fromkeys([*(model for model in models if model != "logistic_regression"), *taught]))


def _count_needed(order: Sequence[str], labels_of: Mapping[str, set[str]], class_names: Sequence[str]) -> int:
    """Count the patients at the start of an order that have all classes."""
    lacking = set(class_names)
    for number, name in enumerate(order, 1):
        lacking -= labels_of[name]
        if not lacking:
            return number
    raise UserError(f"split: there is no example labelled {sorted(lacking)[0]} in train. Split again.")


def build_recipe(experiment: Experiment, run: CurveRun) -> Experiment:
    """Return the options of one network: those of the experiment, with its kind and its seed.

    Training does not stop early and has one device. A teacher from a file would know other patients than those of the
    draw, so that the only one is the CNN of the same draw.
    """
    train = dataclasses.replace(
        experiment.train,
        seed=run.seed,
        early_stopping_epochs=0,
        keep_attention_every_epochs=0,
        strategy="ddp",
        teacher="cnn" if run.model == "distilled" else None,
        input_fraction=1.0 if run.model == "cnn" else experiment.train.input_fraction,
        auxiliary_weight=0.0 if run.model == "cnn" else experiment.train.auxiliary_weight,
    )
    architecture: Literal["perceiver", "cnn"] = "cnn" if run.model == "cnn" else "perceiver"
    return dataclasses.replace(
        experiment, model=dataclasses.replace(experiment.model, architecture=architecture), train=train
    )


def list_settings(experiment: Experiment, data: CertifiedData, run: CurveRun) -> dict[str, Any]:
    """List all that shapes one model, ``section.field`` -> value; of a network its own seed too.

    Args:
        experiment: All options.
        data: All examples and their splits.
        run: The model.
    """
    chosen = {"training patients": compute_fingerprint(sorted(run.patients))}
    split_fingerprint = data.certificate["splits_fingerprint"]
    if run.model == "logistic_regression":
        options = experiment.evaluate
        return chosen | {
            "evaluate.seed": options.seed,
            "evaluate.logistic_regression_examples": options.logistic_regression_examples,
            "store fingerprint": data.store.fingerprint,
            "split fingerprint": split_fingerprint,
        }
    return chosen | describe_settings(build_recipe(experiment, run), data.store, split_fingerprint)


def train_one(experiment: Experiment, data: CertifiedData, run: CurveRun, on_epoch: OnEpoch) -> Outcome:
    """Train one model on the patients of its draw, and score the test rows.

    Args:
        experiment: All options.
        data: All examples and their splits.
        run: The model.
        on_epoch: Called with the result of each epoch.

    Raises:
        UserError: The loss becomes NaN or infinite, or a class has too few rows.
    """
    part, store, options = select_patients(data, run.patients), data.store, experiment.evaluate
    rows = part.rows["test"]
    build = partial(build_predictions, store.index.iloc[rows], class_names=store.class_names)
    if run.model == "logistic_regression":
        scores = logistic_regression(store, part.rows, options.seed, options.logistic_regression_examples)
        return Outcome(build(scores), (), 0, len(part.rows["train"]), torch.device("cpu"))
    recipe = build_recipe(experiment, run)
    teacher = _train_teacher(experiment, data, run) if run.model == "distilled" else None
    setup = _prepare_draw(recipe, data, part, teacher)
    device = setup.fabric.device
    classifier, history = train_best(setup, on_epoch)
    scores = compute_probabilities(classifier, store.examples, store.places, device, options.batch_size, rows)
    examples_of_a_step = recipe.train.batch_size * recipe.train.accumulate_batches
    num_steps = len(history) * -(-len(setup.train_examples) // examples_of_a_step)
    return Outcome(build(scores.astype(np.float64)), history, num_steps, len(part.rows["train"]), device)


def _prepare_draw(
    recipe: Experiment, data: CertifiedData, part: CertifiedData, teacher: Checkpoint | None = None
) -> TrainingSetup:
    """Prepare a training on the patients of a draw, with as many examples an epoch as all patients have."""
    setup = prepare_training(recipe, build_fabric(recipe.train), part, teacher)
    return repeat_examples(setup, len(data.rows["train"]))


def _train_teacher(experiment: Experiment, data: CertifiedData, run: CurveRun) -> Checkpoint:
    """Train the CNN of the same draw, with the same seed; its time counts in that of the model that it teaches."""
    recipe, part = build_recipe(experiment, dataclasses.replace(run, model="cnn")), select_patients(data, run.patients)
    try:
        return train_checkpoint(_prepare_draw(recipe, data, part), describe_origin(recipe, part), lambda _: None)
    except DivergenceError as error:
        raise DivergenceError(f"of its teacher {error.found}", error.advice, error.epoch) from error


def select_patients(data: CertifiedData, patients: Sequence[str]) -> CertifiedData:
    """Return the data with these training patients alone; validation and test stay.

    Args:
        data: All examples and their splits.
        patients: Some of the training patients.
    """
    chosen = set(patients)
    assert all(data.roles[name] == "train" for name in chosen), "a patient of another split"
    roles = {name: role for name, role in data.roles.items() if role != "train" or name in chosen}
    return dataclasses.replace(data, roles=roles)


def repeat_examples(setup: TrainingSetup, number: int) -> TrainingSetup:
    """Repeat the training examples in turn until there are so many, so that an epoch has as many steps.

    Args:
        setup: The training, with at most so many examples.
        number: The number of examples that an epoch has.
    """
    examples = setup.train_examples
    places = np.resize(np.arange(len(examples)), number)
    device_places = torch.from_numpy(places).to(examples.labels.device)

    def take(values: torch.Tensor | None) -> torch.Tensor | None:
        return None if values is None else values[device_places]

    repeated = Examples(
        images=examples.images,
        rows=examples.rows[places],
        labels=examples.labels[device_places],
        slice_position=examples.slice_position[device_places],
        placed=take(examples.placed),
        weights=take(examples.weights),
        num_slices=None if examples.num_slices is None else examples.num_slices[places],
    )
    weights = setup.sampling_weights
    weights = None if weights is None else weights[torch.from_numpy(places)]
    return dataclasses.replace(setup, train_examples=repeated, sampling_weights=weights)


def read_curve(folder: Path, runs: Sequence[CurveRun], data: CertifiedData, experiment: Experiment) -> LearningCurve:
    """Read the files of all models, and put them together.

    Args:
        folder: The folder of the models' files.
        runs: The models.
        data: All examples and their splits.
        experiment: All options.
    """
    names = data.store.class_names
    tables = {(run.model, run.size, run.draw): read_predictions(folder / f"{run.name}.csv", names) for run in runs}
    records = []
    for run in runs:
        kept = read_json(folder / f"{run.name}.json")
        # As trained: a logistic regression has no seed of training, and that of its examples instead.
        seed = kept["settings"]["evaluate.seed" if run.model == "logistic_regression" else "train.seed"]
        records.append({"model": run.model, "size": run.size, "draw": run.draw, "seed": seed} | kept["facts"])
    bootstrap = Bootstrap(experiment.evaluate.num_bootstrap_resamples, experiment.evaluate.seed)
    return combine_curve(tables, bootstrap, experiment.learning_curve.wanted, records)


def combine_curve(
    tables: Mapping[tuple[CurveModel, int, int], pd.DataFrame],
    bootstrap: Bootstrap,
    wanted: float,
    records: Sequence[dict[str, Any]] = (),
) -> LearningCurve:
    """Score every model and size over all draws, compare the networks, and estimate the patients that are needed.

    Args:
        tables: The predictions of the test rows by model, size and draw.
        bootstrap: The resamples of test patients.
        wanted: The accuracy whose number of training patients is estimated.
        records: The facts about each model.
    """
    models = tuple(dict.fromkeys(model for model, _, _ in tables))
    sizes = tuple(dict.fromkeys(size for _, size, _ in tables))
    points, correct = [], {}
    num_rows: Floats = np.zeros(0)
    for model in models:
        for size in sizes:
            drawn = [table for (one, number, _), table in tables.items() if (one, number) == (model, size)]
            counted = [count_correct(table) for table in drawn]
            num_rows = counted[0][1]
            correct[model, size] = np.stack([found for found, _ in counted])
            accuracies = tuple(float(found.sum() / num_rows.sum()) for found, _ in counted)
            over_draws = estimate_mean(accuracies, (0.0, 1.0))
            mean = correct[model, size].mean(axis=0)
            over_patients = estimate_proportion(float(np.mean(accuracies)), PatientCounts(mean, num_rows))
            n, groups = int(num_rows.sum()), len(num_rows)
            points.append(CurvePoint(model, size, accuracies, over_draws, over_patients, n, groups))
    comparisons = (
        [compare_draws(size, correct["perceiver", size], correct["cnn", size], num_rows, bootstrap) for size in sizes]
        if {"perceiver", "cnn"} <= set(models)
        else []
    )
    forecasts = [
        forecast_size(model, sizes, np.stack([correct[model, size] for size in sizes]), num_rows, wanted, bootstrap)
        for model in models
    ]
    return LearningCurve(tuple(points), tuple(comparisons), tuple(forecasts), tuple(records))


def count_correct(table: pd.DataFrame) -> tuple[Array, Array]:
    """Count the right rows and all rows of each test patient, ``(patients,)`` each, in the order of their ids."""
    rows = (table["label"] == table["predicted"]).groupby(table["group_id"], sort=True)
    return rows.sum().to_numpy(dtype=np.float64), rows.size().to_numpy(dtype=np.float64)
