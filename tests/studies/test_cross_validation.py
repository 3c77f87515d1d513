"""Folds and seeds pooled: numbers computed by hand, and seeds that are no ensemble."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.config.experiment import Experiment
from pipeline.config.sources import SplitConfig
from pipeline.config.studies import CrossValidateConfig
from pipeline.core.data_kinds import VOLUMES
from pipeline.core.errors import UserError
from pipeline.evaluation.bootstrap import Bootstrap
from pipeline.evaluation.metrics import compute_levels
from pipeline.reporting.studies.cross_validation_page import (
    describe_method,
    describe_pooled,
    tabulate_means,
    tabulate_pooled,
    tabulate_runs,
)
from pipeline.studies.cross_validation import (
    EvaluatedRun,
    average_over_runs,
    combine_runs,
    compute_spread,
    extract_results,
    plan_runs,
    pool_runs,
    spread_over_runs,
)
from tests.builders.reports import build_metric
from tests.builders.stores import build_store

NAMES = ("left", "right")
WORD = VOLUMES


def make_table(patients, right_of):
    """Both knees of each patient, two slices each; ``right_of(patient, side, place)`` is the probability of right."""
    rows = []
    for patient in patients:
        for side in NAMES:
            for place in range(2):
                probability = right_of(patient, side, place)
                rows.append(
                    {
                        "example_id": f"{patient}_{side}_{place}",
                        "source_id": f"{patient}_{side}",
                        "group_id": patient,
                        "split": "test",
                        "slice_index": place,
                        "label": side,
                        "predicted": NAMES[int(probability > 0.5)],
                        "probability_left": 1 - probability,
                        "probability_right": probability,
                    }
                )
    return pd.DataFrame(rows)


def test_folds_of_a_published_split_are_refused_before_anything_is_trained():
    store = build_store(num_rows=8)
    with pytest.raises(UserError, match=r"the table of labels has a published split.*--cross_validate.vary seeds"):
        plan_runs(Experiment(), store, has_published_split=True)
    seeds = Experiment(cross_validate=CrossValidateConfig(vary="seeds", seeds=(0, 1)))
    assert [job.train.seed for job in plan_runs(seeds, store, has_published_split=True)] == [0, 1]
    given = Experiment(split=SplitConfig(num_folds=3, split_table=Path("folds.csv")))
    assert len(plan_runs(given, store, has_published_split=True)) == 3, "a table of folds overrules the published split"
    assert len(plan_runs(Experiment(), store)) == 5


def good(patient, side, place):
    return 0.9 if side == "right" else 0.1


def always_right(patient, side, place):
    return 0.8


def test_one_seed_pools_to_the_metrics_of_all_rows_together():
    generator = np.random.default_rng(0)
    tables = [make_table(group, lambda *_: generator.uniform()) for group in ("ab", "cd", "ef")]
    runs = [EvaluatedRun(f"fold-{fold}", 0, fold, table) for fold, table in enumerate(tables)]
    pooled = pool_runs(runs, NAMES, Bootstrap(300), WORD)
    assert pooled == compute_levels(pd.concat(tables, ignore_index=True), NAMES, Bootstrap(300), WORD)
    assert (pooled["slice"]["n"], pooled["slice"]["groups"]) == (24, 6)


def test_seeds_are_averaged_as_scores_and_not_as_probabilities():
    """A confident and right seed would outvote an unconfident and wrong one; here each counts by itself."""
    runs = [EvaluatedRun("seed-0", 0, None, make_table("abcd", lambda *_: 0.99))]
    runs += [EvaluatedRun("seed-1", 1, None, make_table("abcd", lambda *_: 0.4))]
    pooled = pool_runs(runs, NAMES, Bootstrap(100), WORD)
    assert pooled["volume"]["n"] == 16
    assert pooled["volume"]["confusion"] == [[4, 4], [4, 4]]
    assert pooled["slice"]["metrics"]["accuracy"]["value"] == 0.5


def test_a_patient_is_drawn_with_the_rows_of_all_seeds():
    """With equal seeds the interval is that of one seed: repeating a patient adds no other patients."""
    generator = np.random.default_rng(1)
    table = make_table("abcdefgh", lambda *_: generator.uniform())
    one = pool_runs([EvaluatedRun("seed-0", 0, None, table)], NAMES, Bootstrap(400), WORD)
    many = pool_runs(
        [EvaluatedRun(f"seed-{seed}", seed, None, table) for seed in range(5)], NAMES, Bootstrap(400), WORD
    )
    for level in ("slice", "volume"):
        assert many[level]["groups"] == one[level]["groups"] == 8
        for name in ("accuracy", "auroc", "nll"):
            assert many[level]["metrics"][name] == pytest.approx(one[level]["metrics"][name])


def test_a_row_that_was_tested_twice_with_one_seed_is_a_bug():
    runs = [EvaluatedRun(f"fold-{fold}", 0, fold, make_table("ab", good)) for fold in range(2)]
    with pytest.raises(AssertionError, match="tested twice"):
        pool_runs(runs, NAMES, Bootstrap(100), WORD)


def test_the_standard_deviation_is_that_of_a_sample():
    assert compute_spread([0.9, 1.0, 0.95]) == {"mean": pytest.approx(0.95), "deviation": pytest.approx(0.05)}
    assert compute_spread([0.9]) == {"mean": 0.9, "deviation": None}


def make_run(name, seed, fold, n, accuracy):
    unpooled = {"auroc": None if accuracy == 1 else accuracy, "mcc": 0.5, "f1": 0.5, "ece": 0.25}
    levels = {"slice": {"n": n, "groups": 2, "accuracy": build_metric(accuracy), "unpooled": unpooled}}
    return EvaluatedRun(name, seed, fold, pd.DataFrame(), levels)


def test_a_seeds_score_is_the_fraction_of_right_rows_over_its_folds():
    runs = [make_run("a", 0, 0, 100, 1.0), make_run("b", 0, 1, 300, 0.8)]
    runs += [make_run("c", 1, 0, 100, 0.6), make_run("d", 1, 1, 300, 0.8)]
    spread = spread_over_runs(runs, "slice")
    assert spread["runs"]["mean"] == pytest.approx(0.8)
    # 0.85 and 0.75: half their difference times the root of two.
    assert spread["seeds"] == {"mean": pytest.approx(0.8), "deviation": pytest.approx(0.1 / np.sqrt(2))}
    assert "seeds" not in spread_over_runs(runs[:2], "slice")


def combine(runs):
    scored = []
    for run in runs:
        levels = compute_levels(run.test, NAMES, Bootstrap(100), WORD)
        shown = {level: extract_results(found) for level, found in levels.items()}
        scored.append(dataclasses.replace(run, levels=shown))
    return combine_runs(scored, NAMES, Bootstrap(100), WORD)


def test_sentences_and_table_hold_the_numbers():
    study = combine(
        [
            EvaluatedRun("fold-0", 0, 0, make_table("ab", good)),
            EvaluatedRun("fold-1", 0, 1, make_table("cd", always_right)),
        ]
    )
    first, volumes, spread = describe_pooled(study, WORD)
    assert first.startswith("On 16 slices of 4 patients, each tested once, the model is right for 75.0\u00a0%")
    assert volumes.startswith("Averaged per volume (8), 75.0\u00a0%")
    assert spread == "Over the 2 runs the mean is 75.00\u00a0%, the standard deviation 35.36 points."
    assert "from all seeds" not in " ".join(describe_method(study, WORD))
    rows = {row[0]: row[1:] for row in tabulate_runs(study, WORD).rows}
    assert rows["mean over runs"][0] == "75.00\u00a0%"
    assert rows["standard deviation"][0] == "35.36 points"
    assert rows["pooled"][2] == "4"


def test_sentences_describe_how_seeds_are_pooled():
    study = combine(
        [
            EvaluatedRun(f"seed-{seed}-fold-{fold}", seed, fold, make_table(group, rule))
            for seed, rule in enumerate((good, always_right))
            for fold, group in enumerate(("ab", "cd"))
        ]
    )
    sentences = describe_pooled(study, WORD)
    assert sentences[0].startswith("On 32 slice predictions of 4 patients, each tested once with every seed,")
    assert sentences[-1] == "Over the 2 seeds, each on all folds, the standard deviation is 35.36 points."
    method = describe_method(study, WORD)[-1]
    assert "The rows of a patient from all seeds count as one." in method
    assert "The variance of the training is missing from them" in method


def test_scores_that_do_not_pool_are_means_over_runs_with_the_pooled_one_next_to_them():
    """Three seeds rank all rows correctly, each on a scale of its own; pooled, the rows are not ranked correctly."""
    runs = [
        EvaluatedRun(
            f"seed-{seed}",
            seed,
            None,
            make_table("abcd", lambda _, side, __, s=seed: 0.2 * s + 0.3 * (side == "right")),
        )
        for seed in range(3)
    ]
    study = combine(runs)
    assert study.means["slice"]["auroc"] == {"mean": 1.0, "std": 0.0, "runs": 3}
    assert study.pooled["slice"]["metrics"]["auroc"]["value"] == pytest.approx(8 / 9), "0.3 is below 0.4"
    table = tabulate_means(study)
    assert table.columns[:4] == ("Score", "Slices, mean over runs", "Slices, standard deviation", "Slices, pooled")
    assert table.rows[0][:4] == ("AUROC", "1.000", "0.000", "0.889")
    assert "auroc" not in {row[0].lower() for row in tabulate_pooled(study.pooled).rows}


def test_a_run_that_does_not_define_a_score_is_left_out_of_its_mean():
    runs = [make_run("a", 0, 0, 100, 1.0), make_run("b", 0, 1, 300, 0.8), make_run("c", 0, 2, 300, 0.6)]
    means = average_over_runs(runs, "slice")
    assert means["auroc"] == {"mean": pytest.approx(0.7), "std": pytest.approx(0.2 / np.sqrt(2)), "runs": 2}
    assert average_over_runs(runs[:1], "slice")["auroc"] == {"mean": None, "std": None, "runs": 0}
