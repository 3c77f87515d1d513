"""Compare two models that were trained with several seeds each, paired over seeds and over test patients.

    python reports/benchmarks/paired_seeds.py --config FILE [--workspace .] --first RUN ... --second RUN ...

Prints each model's scores, their mean and standard deviation over the runs, and the mean difference, second minus
first, with its 95 % interval over the test patients: each resample draws patients with all their rows in all runs.
The runs of both lists go together in their order, and are evaluated before.
"""

import argparse

import numpy as np
import pandas as pd

from pipeline.cli import parse_experiment
from pipeline.core.array_types import Floats
from pipeline.core.files import read_json
from pipeline.evaluation.bootstrap import Bootstrap, find_percentiles, widen_tail
from pipeline.evaluation.paired_comparison import explain_mismatch
from pipeline.evaluation.predictions import number_patients, read_class_indices, read_predictions, read_probabilities
from pipeline.evaluation.scores import PatientTotals, compute_scores, sum_over_patients

SCORES = ("auroc", "accuracy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--workspace", default=".")
    parser.add_argument("--first", nargs="+", required=True, help="runs of one model, one a seed")
    parser.add_argument("--second", nargs="+", required=True, help="runs of the other, with the same seeds")
    arguments = parser.parse_args()
    place = ["--config", arguments.config, "--workspace", arguments.workspace]
    groups = [[read_run(place, run) for run in runs] for runs in (arguments.first, arguments.second)]
    rows = [table for group in groups for table, _ in group]
    for other in rows[1:]:
        if mismatch := explain_mismatch(rows[0], other):
            raise SystemExit(mismatch)
    for name, group in zip(("first", "second"), groups, strict=True):
        found = np.array([score(totals, np.ones((1, totals.num_patients)))[0] for _, totals in group])
        for column, metric in enumerate(SCORES):
            values = found[:, column]
            std = f", standard deviation {values.std(ddof=1):.4f}" if len(values) > 1 else ""
            print(f"{name} {metric}: {' '.join(f'{value:.4f}' for value in values)}; mean {values.mean():.4f}{std}")
    pairs = [(first, second) for (_, first), (_, second) in zip(*groups, strict=True)]

    def compute(weights: Floats) -> Floats:
        differences = [score(second, weights) - score(first, weights) for first, second in pairs]
        mean: Floats = np.stack(differences).mean(axis=0)
        return mean

    num_patients = pairs[0][0].num_patients
    resampled = Bootstrap().resample(compute, num_patients, max(first.numbers_held for first, _ in pairs))
    values = compute(np.ones((1, num_patients)))[0]
    print(f"second minus first, {len(pairs)} pairs, {num_patients} patients:")
    for column, metric in enumerate(SCORES):
        ends = None if resampled is None else find_percentiles(resampled[:, column], widen_tail(num_patients))
        interval = "no interval" if ends is None else f"{ends[0]:+.4f} to {ends[1]:+.4f}"
        print(f"{metric} {values[column]:+.4f} ({interval})")


def read_run(place: list[str], run: str) -> tuple[pd.DataFrame, PatientTotals]:
    """Read the test rows of an evaluated run, in the order of their names, and sum them up by patient."""
    folder = parse_experiment("evaluate", [*place, "--run", run]).paths.report_folder
    class_names = tuple(read_json(folder / "metrics.json")["class_names"])
    table = read_predictions(folder / "predictions.csv", class_names)
    table = table[table["split"] == "test"].sort_values("example_id", ignore_index=True)
    labels, predicted = (read_class_indices(table[column], class_names) for column in ("label", "predicted"))
    totals = sum_over_patients(
        labels, predicted, read_probabilities(table, class_names), number_patients(table["group_id"])
    )
    return table, totals


def score(totals: PatientTotals, weights: Floats) -> Floats:
    """Score the patients with these weights, ``(rows of weights, scores)``."""
    found = compute_scores(totals, weights)
    return np.stack([found[name] for name in SCORES], axis=1)


if __name__ == "__main__":
    main()
