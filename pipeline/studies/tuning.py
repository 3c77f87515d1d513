"""The search for a recipe: trials of a declared space, on validation. The only module that imports Optuna, an extra.

Optuna proposes the recipes (a tree-structured Parzen estimator) and ends trials that are worse than the median of the
others. Its journal, one file, is shared by all processes of a search. A process holds a lock as long as it lives. A
trial that runs although its process is dead is marked as failed, and its recipe is put in front of the queue, so that
no trial is lost; a recipe that was tried, refused, or is being tried, is not tried again.

Source:
    Bergstra and others, "Algorithms for hyper-parameter optimization", NeurIPS 2011; Akiba and others, "Optuna: a
    next-generation hyperparameter optimization framework", KDD 2019.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import socket
import time
import typing
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.config.experiment import Experiment
from pipeline.config.options import PLAIN_TYPES, describe_type
from pipeline.config.parsing import OPTIONS, find_nearest
from pipeline.core.errors import UserError
from pipeline.core.provenance import compute_fingerprint
from pipeline.data.certified_data import CertifiedData
from pipeline.studies.kept_models import train_best
from pipeline.training.devices.fabric import build_fabric
from pipeline.training.history import EpochResult, find_best
from pipeline.training.loop.epochs import DivergenceError
from pipeline.training.loop.state import derive_seed
from pipeline.training.run_state import EXECUTION, OF_A_TEACHER, describe_settings
from pipeline.training.setup import prepare_training

SECTIONS = ("model.", "augment.", "train.")
# What is counted with, what compares the trials, and what is no part of a recipe.
FIXED = (
    *(*EXECUTION, *OF_A_TEACHER, "train.seed", "train.monitor", "train.loss", "train.recipes_tried", "train.teacher"),
    *("train.start_from", "train.freeze"),
)
MIN_TRIALS = 4  # before one is ended for being worse than the median
MAX_REPEATS = 30  # proposals in a row that were tried before; then no other is looked for
MAX_REFUSED = 30  # trials in a row that were refused; then no other is begun
Params = dict[str, Any]


@dataclass(frozen=True)
class Choices:
    """The values of an option that is searched."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """The range of a number that is searched, with both ends; on a logarithmic scale, or of whole numbers."""

    low: float
    high: float
    is_log: bool
    is_whole: bool


Space = dict[str, Choices | Range]


@dataclass(frozen=True)
class TrialResult:
    """A trial of a search, as the tables list it.

    Args:
        number: Its number, from 0.
        state: complete, ended (worse than the median), diverged, refused (the data or other options do not allow it),
            running, failed (its process died) or repeated.
        params: The options that it tried.
        val_loss: The validation loss of its best epoch; None before the first one.
        val_accuracy: The validation accuracy of that epoch.
        epochs: The number of its epochs.
        seconds: The seconds of its training.
        reason: Why it was refused; empty for all others.
    """

    number: int
    state: str
    params: Params
    val_loss: float | None
    val_accuracy: float | None
    epochs: int
    seconds: float
    reason: str = ""


@dataclass(frozen=True)
class Search:
    """The state of a search.

    Args:
        trials: All trials in the order of their numbers.
        best: The best of the complete ones by ``train.monitor``; None without one.
    """

    trials: tuple[TrialResult, ...]
    best: TrialResult | None

    @property
    def num_tried(self) -> int:
        """The number of recipes that were compared: complete, ended and diverged trials."""
        return sum(trial.state in ("complete", "ended", "diverged") for trial in self.trials)

    @property
    def seconds(self) -> float:
        return sum(trial.seconds for trial in self.trials)


def read_space(experiment: Experiment) -> Space:
    """Read the space that is searched, and check that each of its values makes an experiment.

    Raises:
        UserError: No option, an unknown one, one that is no part of a recipe, or values that it cannot have.
    """
    given = experiment.tune.space
    if not given:
        raise UserError(
            "tune.space: found {}, allowed are options with their values: train.learning_rate: [1e-4, 1e-2, log]."
        )
    space: Space = {}
    for name, values in given.items():
        if name not in OPTIONS:
            raise UserError(f"tune.space: {name}: unknown option; the nearest is {find_nearest(name, OPTIONS)}.")
        if not name.startswith(SECTIONS) or name in FIXED:
            raise UserError(f"tune.space: {name} is not searched; allowed are options of model, augment and train.")
        space[name] = _read_values(name, tuple(values))
        for value in _list_extremes(space[name]):
            apply_params(experiment, {name: value})
    return space


def _read_values(name: str, values: tuple[Any, ...]) -> Choices | Range:
    """Read the choices or the range of one option."""
    kind = _read_kind(name)
    if values and values[-1] in ("log", "linear"):
        if kind not in (int, float):
            raise UserError(f"tune.space: {name}: found {list(values)}, allowed are choices; it is no number.")
        allowed = f"[LOW, HIGH, {values[-1]}]" + (" of whole numbers" if kind is int else "")
        try:
            low, high = (_convert(name, kind, value) for value in values[:-1])
        except ValueError as error:  # another number of values, or no numbers
            raise UserError(f"tune.space: {name}: found {list(values)}, allowed is {allowed}.") from error
        is_log, is_whole = values[-1] == "log", kind is int
        if not low < high or (is_log and low <= 0):
            raise UserError(
                f"tune.space: {name}: found {list(values)}, allowed are a lower and a higher number, above 0 where the "
                "scale is log."
            )
        return Range(low, high, is_log, is_whole)
    may_be_null = OPTIONS[name].may_be_null
    typed = tuple(None if value is None and may_be_null else _convert(name, kind, value) for value in values)
    if len(typed) < 2 or len(set(typed)) < len(typed):
        raise UserError(f"tune.space: {name}: found {list(values)}, allowed are two choices or more, each once.")
    return Choices(typed)


def _read_kind(name: str) -> Any:
    """Return the type of an option's values, without the null that some have.

    Raises:
        UserError: The values are lists, which a search would have to take as choices.
    """
    option = OPTIONS[name]
    kinds = [kind for kind in typing.get_args(option.annotation) if kind is not type(None)]
    kind = kinds[0] if option.may_be_null else option.annotation
    if kind not in PLAIN_TYPES and not option.choices:
        raise UserError(
            f"tune.space: {name} is not searched: its value is {describe_type(kind)}, allowed are options whose value "
            "is one number, one word, true or false. Set it next to the space, and search once for each of its values."
        )
    return kind


def _convert(name: str, kind: Any, value: Any) -> Any:
    """Return a choice as its option has it; YAML reads 1e-4 as a text."""
    option, given = OPTIONS[name], value
    if option.choices:
        fits, allowed = value in option.choices, " | ".join(option.choices)
    elif kind is float:
        with contextlib.suppress(ValueError):
            value = float(value) if type(value) in (int, str) else value
        fits, allowed = type(value) is float and math.isfinite(value), "a finite number"
    else:
        fits, allowed = type(value) is kind, describe_type(kind)
        allowed = f"a {allowed}" if kind is int else allowed
    if not fits:
        raise UserError(f"tune.space: {name}: found {given!r}, allowed is {allowed}.")
    return value


def _list_extremes(values: Choices | Range) -> tuple[Any, ...]:
    if isinstance(values, Choices):
        return values.values
    return values.low, values.high


def apply_params(experiment: Experiment, params: Mapping[str, Any]) -> Experiment:
    """Return the experiment with other values of some options.

    Args:
        experiment: All options.
        params: ``section.field`` -> value.

    Raises:
        UserError: A value that the option cannot have.
    """
    for name, value in params.items():
        try:
            experiment = _replace(experiment, name, value)
        except ValueError as error:
            raise UserError(f"tune.space: {error}") from error
    return experiment


def _replace(record: Any, name: str, value: Any) -> Any:
    field, _, rest = name.partition(".")
    return dataclasses.replace(record, **{field: _replace(getattr(record, field), rest, value) if rest else value})


def _list_fixed(experiment: Experiment, space: Space, data: CertifiedData) -> dict[str, Any]:
    """List the settings that all trials have in common, with those that are read at some values of the space alone."""
    fixed: dict[str, Any] = {}
    for name, values in space.items():
        for value in _list_extremes(values):
            point = apply_params(experiment, {name: value})
            fixed |= describe_settings(point, data.store, data.certificate["splits_fingerprint"])
    return {name: value for name, value in fixed.items() if name not in space}


class SharedSearch:
    """A search that this process takes part in.

    Args:
        experiment: All options.
        data: All examples and their splits; of the test rows nothing is read.
        folder: The folder of the journal and the locks.

    Raises:
        UserError: Optuna is not installed, or a space that cannot be searched.
    """

    def __init__(self, experiment: Experiment, data: CertifiedData, folder: Path) -> None:
        if importlib.util.find_spec("optuna") is None:
            raise UserError("tune: Optuna is not installed. Install it: pip install 'perceiver-knees[tune]'.")
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.experiment, self.data, self.folder = experiment, data, folder
        self.space = read_space(experiment)
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        (folder / "workers").mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(folder / "search.lock")
        fixed = _list_fixed(experiment, self.space, data)
        # The seed too: it goes with the trials, as what draws them again.
        self.name = compute_fingerprint(fixed, dataclasses.asdict(experiment.tune)["space"], experiment.tune.seed)
        with self.lock:
            self.study = optuna.create_study(
                study_name=self.name,
                storage=JournalStorage(JournalFileBackend(str(folder / "journal.log"))),
                direction="minimize" if experiment.train.monitor == "val_loss" else "maximize",
                pruner=optuna.pruners.MedianPruner(MIN_TRIALS, experiment.tune.warmup_epochs),
                load_if_exists=True,
            )

    @contextlib.contextmanager
    def join(self) -> Iterator[None]:
        """Take part in the search: the others see that this process lives until the block ends."""
        path = self._name_lock(self.worker)
        with FileLock(path):
            yield
        path.unlink(missing_ok=True)

    def _name_lock(self, worker: str) -> Path:
        return self.folder / "workers" / f"{worker}.lock"

    def _is_alive(self, worker: str) -> bool:
        """Return whether the process of a trial holds its lock; the system lets go where one dies."""
        path = self._name_lock(worker)
        if not path.is_file():
            return False
        try:
            with FileLock(path, blocking=False):
                return False
        except Timeout:
            return True

    def read(self) -> Search:
        """Read all trials."""
        trials = tuple(self._describe(trial) for trial in self.study.get_trials(deepcopy=False))
        complete = [trial for trial in trials if trial.state == "complete"]
        if not complete:
            return Search(trials, None)
        if self.experiment.train.monitor == "val_loss":
            return Search(trials, min(complete, key=lambda trial: trial.val_loss or 0.0))
        return Search(trials, max(complete, key=lambda trial: trial.val_accuracy or 0.0))

    def _describe(self, trial: Any) -> TrialResult:
        attrs, state = trial.user_attrs, trial.state.name
        # Of a process that died between the word and the state, the word is not true: the recipe is tried again.
        is_reported = state == "PRUNED" or (state == "FAIL" and attrs.get("state") == "repeated")
        words = {
            "COMPLETE": "complete",
            "PRUNED": "ended",
            "FAIL": "failed",
            "RUNNING": "running",
            "WAITING": "waiting",
        }
        return TrialResult(
            number=trial.number,
            state=(is_reported and attrs.get("state")) or words[state],
            params=dict(trial.params) or dict(trial.system_attrs.get("fixed_params", {})),
            val_loss=attrs.get("val_loss"),
            val_accuracy=attrs.get("val_accuracy"),
            epochs=attrs.get("epochs", 0),
            seconds=attrs.get("seconds", 0.0),
            reason=attrs.get("reason", "") if is_reported else "",
        )

    def run(self, on_trial: Callable[[TrialResult], None]) -> Search:
        """Try recipes until the budget is spent; return the search with the trials of all processes.

        Args:
            on_trial: Called with each trial of this process when it has ended.

        Raises:
            UserError: The devices or the precision are not there.
        """
        build_fabric(self.experiment.train)  # what is refused here is no fault of a trial
        with self.join():
            while (trial := self._ask()) is not None:
                self._try(trial)
                on_trial(self._describe(self.study.get_trials(deepcopy=False)[trial.number]))
        return self.read()

    def _ask(self) -> Any:
        """Return the next trial; None where the budget is spent or nothing is left to try."""
        with self.lock:
            self._recover()
            for _ in range(MAX_REPEATS):
                if self._is_spent():
                    return None
                trial = self._propose()
                if not self._was_tried(trial):
                    return trial
                trial.set_user_attr("state", "repeated")
                self._tell(trial.number, state="FAIL")
        return None

    def _propose(self) -> Any:
        """Ask Optuna for a trial, with a seed that depends on the number of trials alone."""
        import optuna

        seed = derive_seed(self.experiment.tune.seed, "tune", len(self.study.get_trials(deepcopy=False)))
        self.study.sampler = optuna.samplers.TPESampler(seed=seed % 2**32)
        trial = self.study.ask()
        trial.set_user_attr("worker", self.worker)
        for name, values in self.space.items():
            if isinstance(values, Choices):
                trial.suggest_categorical(name, list(values.values))
            elif values.is_whole:
                trial.suggest_int(name, int(values.low), int(values.high), log=values.is_log)
            else:
                trial.suggest_float(name, values.low, values.high, log=values.is_log)
        return trial

    def _was_tried(self, trial: Any) -> bool:
        """Return whether another trial, ended or under way, has the same recipe."""
        others = (other for other in self.study.get_trials(deepcopy=False) if other.number != trial.number)
        return any(other.state.name != "FAIL" and other.params == trial.params for other in others)

    def _is_spent(self) -> bool:
        """Return whether no further trial may begin: by minutes, by recipes tried or under way, or by those refused."""
        options, search = self.experiment.tune, self.read()
        num_running = sum(trial.state == "running" for trial in search.trials)
        if options.minutes is not None and search.seconds >= 60 * options.minutes:
            return True
        reported = [
            trial.state for trial in search.trials if trial.state in ("complete", "ended", "diverged", "refused")
        ]
        if len(reported) >= MAX_REFUSED and set(reported[-MAX_REFUSED:]) == {"refused"}:
            return True
        return options.trials is not None and search.num_tried + num_running >= options.trials

    def _recover(self) -> None:
        """Mark trials of dead processes as failed, and put their recipes into the queue, each once."""
        trials = self.study.get_trials(deepcopy=False)
        tried_again = {trial.user_attrs.get("again") for trial in trials}
        for trial in trials:
            if trial.state.name != "RUNNING" or self._is_alive(trial.user_attrs.get("worker", "")):
                continue
            # In this order: a process that dies between the two leaves the trial for the next one.
            if trial.params.keys() == self.space.keys() and trial.number not in tried_again:
                self.study.enqueue_trial(trial.params, user_attrs={"again": trial.number})
            self._tell(trial.number, state="FAIL")

    def _tell(self, number: int, value: float | None = None, state: str = "COMPLETE") -> None:
        import optuna

        self.study.tell(number, value, optuna.trial.TrialState[state])

    def _try(self, trial: Any) -> None:
        """Train one recipe, and report each epoch; a trial that is worse than the median of the others is ended."""
        import optuna

        monitor, started = self.experiment.train.monitor, time.perf_counter()
        history: list[EpochResult] = []

        def report(result: EpochResult) -> None:
            history.append(result)
            best = find_best(history, monitor)
            trial.set_user_attr("val_loss", best.val_loss)
            trial.set_user_attr("val_accuracy", best.val_accuracy)
            trial.set_user_attr("epochs", len(history))
            trial.set_user_attr("seconds", time.perf_counter() - started)
            trial.report(getattr(best, monitor), result.epoch)
            if result.epoch < recipe.train.epochs and trial.should_prune():
                raise optuna.TrialPruned

        try:
            recipe = apply_params(self.experiment, trial.params)
            setup = prepare_training(recipe, build_fabric(recipe.train), self.data)
            train_best(setup, report)
        except optuna.TrialPruned:
            self._tell(trial.number, state="PRUNED")
        except DivergenceError:
            trial.set_user_attr("seconds", time.perf_counter() - started)
            trial.set_user_attr("state", "diverged")
            self._tell(trial.number, state="PRUNED")
        except UserError as error:  # an end that is kept: the same recipe would be refused again
            trial.set_user_attr("seconds", time.perf_counter() - started)
            trial.set_user_attr("reason", str(error))
            trial.set_user_attr("state", "refused")
            self._tell(trial.number, state="PRUNED")
        else:
            self._tell(trial.number, getattr(find_best(history, monitor), monitor))


def choose_recipe(experiment: Experiment, search: Search) -> Experiment:
    """Return the experiment with the best recipe, which states how many were compared.

    Args:
        experiment: All options.
        search: The search, with a best trial.
    """
    assert search.best is not None
    chosen = apply_params(experiment, search.best.params)
    number = experiment.train.recipes_tried + search.num_tried
    return dataclasses.replace(chosen, train=dataclasses.replace(chosen.train, recipes_tried=number))
