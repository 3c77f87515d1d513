"""How often one of the three slices that carry an answer shows the lesion, where the true place is known.

    make preprocess train evaluate CONFIG=configs/phantom_lesion.yaml
    python reports/benchmarks/lesion_slices.py [--runs default] [--output FILE]

Of each test scan that has a lesion and in which the model finds one, the three slices are taken without which the
answer loses most, and the three that get the most attention. A slice shows the lesion where it cuts its ball. By chance
is what three slices drawn at random would do. Intervals (95 %) are over patients.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.attention.slices import weigh_slices
from pipeline.cli import parse_experiment
from pipeline.core.files import write_bytes
from pipeline.core.provenance import read_commit, read_hardware, read_versions
from pipeline.datasets import find_raw_folder
from pipeline.datasets.phantom.lesions import TABLE_NAME
from pipeline.evaluation.proportions import PatientCounts, estimate_fraction
from pipeline.reporting.formatting import show_percent_briefly
from pipeline.training.run_state import load_trained_run

NUM_SLICES = 3  # that carry an answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/phantom_lesion.yaml")
    parser.add_argument("--workspace", default=".")
    parser.add_argument("--runs", nargs="+", default=["default"], help="names of runs that are trained")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    lines = [
        f"{read_hardware()}; torch {read_versions()['torch']}; commit {read_commit()}.",
        "",
        "| run | lesions | found | leaving out | attention | by chance |",
        "|---|---|---|---|---|---|",
    ]
    for run in arguments.runs:
        lines.append(describe_run(run, ["--config", arguments.config, "--workspace", arguments.workspace]))
        print(lines[-1], flush=True)
    if arguments.output:
        write_bytes(arguments.output, "\n".join([*lines, ""]).encode())


def describe_run(run: str, words: list[str]) -> str:
    """Return the row of one run."""
    experiment = parse_experiment("attention", [*words, "--run", run])
    trained = load_trained_run(experiment, None)
    store, classifier = trained.data.store, trained.classifier
    truth = pd.read_csv(find_raw_folder(experiment) / TABLE_NAME, index_col="path")
    found, num_lesions = [], 0
    for row in trained.data.rows["test"].tolist():
        scan = truth.loc[store.index["source_id"].iloc[row]]
        if scan["label"] != "lesion":
            continue
        num_lesions += 1
        weights = weigh_slices(classifier, store, row)
        if store.class_names[int(weights.probabilities.argmax())] != "lesion":
            continue
        shows = np.abs(weights.places_mm[:, 0] - scan["right_mm"]) < scan["radius_mm"]
        attention = np.zeros(len(shows)) if weights.attention is None else weights.attention.sum(axis=(1, 2))
        found.append(
            {
                "patient": store.index["group_id"].iloc[row],
                "leaving out": shows[np.argsort(-weights.lost)[:NUM_SLICES]].any(),
                "attention": shows[np.argsort(-attention)[:NUM_SLICES]].any(),
                "by chance": 1 - math.comb(int((~shows).sum()), NUM_SLICES) / math.comb(len(shows), NUM_SLICES),
            }
        )
    table = pd.DataFrame(found)
    cells = [run, f"{num_lesions}", f"{len(table)}"]
    for name in ("leaving out", "attention"):
        patients = table.groupby("patient")[name].agg(["sum", "count"]).astype(float)
        counts = PatientCounts(patients["sum"].to_numpy(), patients["count"].to_numpy())
        cells.append(show_percent_briefly(estimate_fraction(counts)))
    return f"| {' | '.join(cells)} | {table['by chance'].mean():.1%} |"


if __name__ == "__main__":
    main()
