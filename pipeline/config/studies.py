"""The options of stages that train several models: leak demonstration, folds and seeds, learning curve, search."""

from dataclasses import dataclass, field
from typing import Literal

from pipeline.config.sources import Word
from pipeline.config.validation import require, require_at_least


@dataclass(frozen=True)
class LeakStudyConfig:
    """The leak demonstration: one recipe, several ways to split, true labels and shuffled ones.

    The model is that of the experiment without test-time augmentation and dropout; images are not augmented, labels not
    smoothed, weights not decayed, and the weights after the last step are evaluated. Fractions are those of ``split``.

    Args:
        num_steps: The number of steps of the optimizer, the same for all; rounded up to whole passes over the training
            slices.
        num_slices: The number of neighbouring slices taken from the middle of each volume; 0 takes all.
        learning_rate: The highest learning rate; it grows over a tenth of the steps and falls along a cosine.
        seeds: The seeds; each draws splits, shuffled labels and initial weights of its own, and results are pooled.
    """

    num_steps: int = 400
    num_slices: int = 10
    learning_rate: float = 2e-3
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        require_at_least("leak_study", self, 1, "num_steps")
        require(self.num_slices >= 0, "leak_study.num_slices", self.num_slices, "0 (all) or more")
        require(self.learning_rate > 0, "leak_study.learning_rate", self.learning_rate, "above 0")
        require_distinct("leak_study.seeds", self.seeds)


@dataclass(frozen=True)
class CrossValidateConfig:
    """Training and evaluating every fold, so that every patient is tested once, and with several seeds.

    There are ``split.num_folds`` folds, five where it is 0.

    Args:
        seeds: The values of ``train.seed``; each trains every fold from scratch. None means the one of ``train.seed``.
        vary: The difference between the trainings. folds: every seed trains every fold. seeds: every seed trains on the
            single split, or on a published set's own.
    """

    seeds: tuple[int, ...] = ()
    vary: Literal["folds", "seeds"] = "folds"

    def __post_init__(self) -> None:
        if self.seeds:
            require_distinct("cross_validate.seeds", self.seeds)
        given = len(self.seeds) > 0 or self.vary == "folds"
        require(given, "cross_validate.seeds", [], "one seed or more where cross_validate.vary is seeds")


CurveModel = Literal["perceiver", "distilled", "cnn", "logistic_regression"]


@dataclass(frozen=True)
class LearningCurveConfig:
    """The accuracy by the number of training patients, of several models on the same patients and the same test.

    The networks are those of ``model.perceiver`` and ``model.cnn``, trained by the recipe of the experiment. Every
    training makes ``train.epochs`` epochs of as many steps as with all training patients: the examples of few patients
    come several times in an epoch.

    Args:
        patients: The numbers of training patients, growing; none means 2, 4, 8 and so on, and all of them.
        draws: The number of draws of training patients. A draw is one order of all of them, of which each size takes
            the first: the patients of a smaller size are among those of a larger one, and draws are independent.
        models: The models, which see the same patients in each draw. distilled: the Perceiver with the CNN as its
            teacher (``train.teacher: cnn``), which is trained first, on the patients of the draw alone.
        wanted: The accuracy whose number of training patients is estimated, by a power law.
        seed: The seed of the draws.
    """

    patients: tuple[int, ...] = ()
    draws: int = 5
    models: tuple[CurveModel, ...] = ("perceiver", "cnn", "logistic_regression")
    wanted: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        growing = list(self.patients) == sorted(set(self.patients)) and all(number >= 1 for number in self.patients)
        require(growing, "learning_curve.patients", list(self.patients), "growing numbers of 1 or more")
        require_at_least("learning_curve", self, 1, "draws")
        good_models = len(self.models) >= 1 and len(set(self.models)) == len(self.models)
        require(good_models, "learning_curve.models", list(self.models), "one or more, each once")
        require(0 < self.wanted < 1, "learning_curve.wanted", self.wanted, "between 0 and 1")


@dataclass(frozen=True)
class TuneConfig:
    """The search for a recipe among those of a declared space, on validation patients alone.

    Several processes that are started with the same options share one search. It ends when the minutes or the trials
    are spent, whichever comes first, or when no recipe of the space is left.

    Args:
        space: The options that are searched, of ``model``, ``augment`` and ``train``, each with its choices, as
            ``[64, 128, 256]`` or ``[null, 1.0]``, or with the ends of a range, as ``[0.0001, 0.01, log]`` or
            ``[0.0, 0.3, linear]``.
        minutes: The minutes of training of all trials and processes together, after which none is begun; null without
            such a limit.
        trials: The number of recipes that are tried; null without such a limit.
        warmup_epochs: The number of epochs of a trial before it can be ended, which happens to one whose best
            validation is worse than the median of the others after as many epochs.
        seed: The seed of the search; another one begins another search.
    """

    space: dict[str, tuple[Word | None, ...]] = field(default_factory=dict)
    minutes: float | None = 30.0
    trials: int | None = None
    warmup_epochs: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        good_minutes = self.minutes is None or self.minutes > 0
        require(good_minutes, "tune.minutes", self.minutes, "above 0, or null")
        good_trials = self.trials is None or self.trials >= 1
        require(good_trials, "tune.trials", self.trials, "1 or more, or null")
        require_at_least("tune", self, 0, "warmup_epochs")
        has_end = self.minutes is not None or self.trials is not None
        require(has_end, "tune.minutes", None, "a number, where tune.trials is null: a search needs an end")


def require_distinct(field: str, seeds: tuple[int, ...]) -> None:
    """Refuse an empty list of seeds, and one that has a seed twice."""
    require(len(seeds) >= 1 and len(set(seeds)) == len(seeds), field, list(seeds), "one seed or more, each once")
