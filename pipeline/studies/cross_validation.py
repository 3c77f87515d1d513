"""Several runs of one recipe, on other patients (folds) or from other seeds, put together.

Fractions of rows pool: the accuracy of all test rows together is the mean over the seeds, and its interval covers the
choice of the patients that were tested. Scores that rank rows or divide by counts do not pool, because rows of several
models would be compared: they are computed for each run, and averaged. The standard deviations cover the choice of the
seed; no interval covers that of the training patients, of whom the models of two folds have most in common.

Source:
    Bengio and Grandvalet, "No unbiased estimator of the variance of k-fold cross-validation", JMLR 5, 2004.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
import pandas as pd

from pipeline.config.experiment import Experiment
from pipeline.core.data_kinds import DataKind
from pipeline.core.errors import UserError
from pipeline.core.files import read_json
from pipeline.core.workspace import Workspace, join_names
from pipeline.data.store import Store
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.metrics import compute_level, list_levels
from pipeline.evaluation.predictions import aggregate, read_predictions
from pipeline.evaluation.schema import Level, Subgroup, is_of_kept_weights, read_metrics

DEFAULT_NUM_FOLDS = 5
UNPOOLED = ("auroc", "mcc", "f1", "ece")


def plan_runs(experiment: Experiment, store: Store, has_published_split: bool = False) -> list[Experiment]:
    """List the runs, each with its fold, seed and name.

    Args:
        experiment: All options.
        store: The examples.
        has_published_split: Whether the table of labels gives each patient a split.

    Raises:
        UserError: Folds of a published set or of a published split, or several devices.
    """
    options, train_options = experiment.cross_validate, experiment.train
    if train_options.devices * train_options.num_nodes > 1:
        raise UserError(
            f"cross-validate: found {train_options.devices * train_options.num_nodes} devices, allowed is one. "
            "Train folds on several devices by themselves (--split.num_folds 5 --split.test_fold 0, then 1, "
            "...); this stage then reads them."
        )
    if not store.kind.has_patients and options.vary == "folds":
        raise UserError(
            f"cross-validate: {experiment.data.dataset} has published test rows, and folds would train on them. "
            "Vary the seed alone: --cross_validate.vary seeds --cross_validate.seeds [0,1,2]."
        )
    if has_published_split and options.vary == "folds" and experiment.split.split_table is None:
        raise UserError(
            "cross-validate: the table of labels has a published split, and folds would train on its test patients. "
            "Vary the seed alone: --cross_validate.vary seeds --cross_validate.seeds [0,1,2]; or leave the split "
            "unread (data.columns.split: null), preprocess again, and cross-validate all patients."
        )
    num_folds = 0 if options.vary == "seeds" else experiment.split.num_folds or DEFAULT_NUM_FOLDS
    jobs = []
    for seed in options.seeds or (train_options.seed,):
        word = f"seed-{seed}" if options.seeds else ""
        for fold in range(max(1, num_folds)):
            jobs.append(
                dataclasses.replace(
                    experiment,
                    run=join_names(experiment.run, word),
                    split=dataclasses.replace(experiment.split, num_folds=num_folds, test_fold=fold),
                    train=dataclasses.replace(train_options, seed=seed),
                )
            )
    return jobs


class RunLevel(Subgroup):
    """The results of one run at one level: counts, accuracy with its interval, and the values of ``UNPOOLED``."""

    unpooled: dict[str, float | None]


class MeanOverRuns(TypedDict):
    """Mean and standard deviation (n - 1) of a score over the runs that define it, and their number."""

    mean: float | None
    std: float | None
    runs: int


@dataclass(frozen=True)
class EvaluatedRun:
    """A run with its predictions and scores of the test rows.

    Args:
        name: The name of the run.
        seed: The seed of the training.
        fold: The fold that it was tested on; None for the single split.
        test: The predictions of the test rows.
        levels: The results at each level, as in its metrics.json; empty where the rows alone are pooled.
    """

    name: str
    seed: int
    fold: int | None
    test: pd.DataFrame
    levels: Mapping[str, RunLevel] = field(default_factory=dict)


@dataclass(frozen=True)
class CrossValidation:
    """Several runs put together.

    Args:
        class_names: All classes.
        num_resamples: The number of bootstrap draws.
        runs: The runs.
        pooled: The scores of all test rows together, as the levels of metrics.json.
        spread: How much the accuracy differs at each level, as :func:`spread_over_runs` returns it.
        means: The scores that do not pool, at each level, as :func:`average_over_runs` returns them.
    """

    class_names: tuple[str, ...]
    num_resamples: int
    runs: tuple[EvaluatedRun, ...]
    pooled: dict[str, Level]
    spread: dict[str, dict[str, dict[str, float | None]]]
    means: dict[str, dict[str, MeanOverRuns]]


def is_evaluated(paths: Workspace) -> bool:
    """Return whether a run's best weights were evaluated completely after its training was completed."""
    page = paths.report_folder / "report.html"
    files = (paths.training_record, paths.metrics, paths.predictions, page)
    if not all(path.is_file() for path in files):
        return False
    if page.stat().st_mtime_ns < paths.training_record.stat().st_mtime_ns:
        return False
    return is_of_kept_weights(read_metrics(paths.metrics), read_json(paths.training_record))


def read_cross_validation(experiment: Experiment, jobs: Sequence[Experiment], store: Store) -> CrossValidation:
    """Read the files of the runs, and pool their test rows.

    Args:
        experiment: All options.
        jobs: The runs, as :func:`plan_runs` returns them.
        store: The examples.
    """
    bootstrap = Bootstrap(experiment.evaluate.num_bootstrap_resamples, experiment.evaluate.seed)
    return combine_runs([_read_run(job, store.class_names) for job in jobs], store.class_names, bootstrap, store.kind)


def _read_run(job: Experiment, class_names: tuple[str, ...]) -> EvaluatedRun:
    levels = {name: extract_results(level) for name, level in read_metrics(job.paths.metrics)["levels"].items()}
    table = read_predictions(job.paths.predictions, class_names)
    test = table[table["split"] == "test"].reset_index(drop=True)
    fold = job.split.test_fold if job.split.num_folds else None
    return EvaluatedRun(job.run_name, job.train.seed, fold, test, levels)


def extract_results(level: Level) -> RunLevel:
    """Return what the study reads of one level of a metrics.json."""
    return {
        "n": level["n"],
        "groups": level["groups"],
        "accuracy": level["metrics"]["accuracy"],
        "unpooled": {name: level["metrics"][name]["value"] for name in UNPOOLED},
    }


def combine_runs(
    runs: Sequence[EvaluatedRun], class_names: tuple[str, ...], bootstrap: Bootstrap, kind: DataKind
) -> CrossValidation:
    """Pool the test rows of all runs, and measure how much the runs differ.

    Args:
        runs: The runs of one recipe.
        class_names: All classes.
        bootstrap: The resamples of patients.
        kind: The kind of data, which names rows and groups.
    """
    pooled = pool_runs(runs, class_names, bootstrap, kind)
    spread = {level: spread_over_runs(runs, level) for level in pooled}
    means = {level: average_over_runs(runs, level) for level in pooled}
    return CrossValidation(class_names, bootstrap.num_resamples, tuple(runs), pooled, spread, means)


def pool_runs(
    runs: Sequence[EvaluatedRun], class_names: Sequence[str], bootstrap: Bootstrap, kind: DataKind
) -> dict[str, Level]:
    """Score all test rows of all runs together, with intervals over all patients.

    Args:
        runs: The runs of one recipe.
        class_names: All classes.
        bootstrap: The resamples of patients.
        kind: The kind of data, which names rows and groups.

    Returns:
        The levels of metrics.json, as ``compute_levels`` returns them. Slices are averaged to volumes and patients
        within each seed: several seeds are no ensemble.
    """
    by_seed = [
        pd.concat([run.test for run in runs if run.seed == one], ignore_index=True)
        for one in dict.fromkeys(run.seed for run in runs)
    ]
    for table in by_seed:
        assert not table["example_id"].duplicated().any(), "a row was tested twice with one seed"
    return {
        level: compute_level(
            pd.concat([aggregate(table, level) for table in by_seed], ignore_index=True),
            class_names,
            bootstrap,
            kind,
        )
        for level in list_levels(by_seed[0], kind)
    }


def compute_spread(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean and standard deviation (n - 1) of runs; None as standard deviation of a single run."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "deviation": std}


def spread_over_runs(runs: Sequence[EvaluatedRun], level: str) -> dict[str, dict[str, float | None]]:
    """Measure how much the accuracy of a level differs between runs, and between seeds over all folds.

    Args:
        runs: The runs, with their levels.
        level: The level, such as ``slice``.

    Returns:
        ``runs``: mean and standard deviation over all of them. ``seeds``: the same over the seeds, each with the
        fraction of right rows over all its folds; left out where there is one seed.
    """
    scores = [(run.seed, run.levels[level]["n"], _read_value(run.levels[level])) for run in runs]
    spread = {"runs": compute_spread([value for _, _, value in scores])}
    seeds = dict.fromkeys(seed for seed, _, _ in scores)
    if len(seeds) > 1:
        means = [
            np.average([v for s, _, v in scores if s == seed], weights=[n for s, n, _ in scores if s == seed])
            for seed in seeds
        ]
        spread["seeds"] = compute_spread([float(mean) for mean in means])
    return spread


def average_over_runs(runs: Sequence[EvaluatedRun], level: str) -> dict[str, MeanOverRuns]:
    """Average the scores that do not pool over the runs that define them.

    Args:
        runs: The runs, with their levels.
        level: The level, such as ``slice``.
    """
    means: dict[str, MeanOverRuns] = {}
    for name in UNPOOLED:
        found = [run.levels[level]["unpooled"][name] for run in runs]
        defined = [value for value in found if value is not None]
        spread = compute_spread(defined) if defined else {"mean": None, "deviation": None}
        means[name] = {"mean": spread["mean"], "std": spread["deviation"], "runs": len(defined)}
    return means


def _read_value(scores: Subgroup) -> float:
    value = scores["accuracy"]["value"]
    assert value is not None, "an accuracy is always defined"
    return value
