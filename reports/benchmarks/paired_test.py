"""Measure how often the test of two runs finds a difference where there is none.

    python reports/benchmarks/paired_test.py [--cases 1000] [--patients 6 10 16 22 59] [--seed 0] [--output FILE]

Each case is two runs of the same quality on the same patients: a patient has a difficulty of its own, each run a
skill at each patient, and slices vary around it. The test is the one of the compare stage, and a case counts where its
p-value is at most 0.05. Next to it stands the p-value of the bootstrap that the test took the place of: twice the
fraction of resampled differences on the other side of 0.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from pipeline.core.files import write_bytes
from pipeline.core.provenance import read_commit, read_hardware, read_versions
from pipeline.core.tables import prediction_columns
from pipeline.evaluation.bootstrap import Bootstrap, draw_patient_weights
from pipeline.evaluation.paired_comparison import Permutations, compare_pair

CLASSES = ("left", "right")
NUM_SLICES = 8
LEVEL = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--patients", type=int, nargs="+", default=[6, 10, 16, 22, 59])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    lines = [
        f"`--cases {arguments.cases} --seed {arguments.seed}`: {NUM_SLICES} slices a patient, both runs right for "
        "about 90 % of them.",
        f"{read_hardware()}; numpy {read_versions()['numpy']}; commit {read_commit()}.",
        "",
        "Cases with p of at most 0.05 though the runs are equally good, and the 95 % limit of that fraction "
        "(Clopper-Pearson, one-sided):",
        "",
        "| patients | exchanges, accuracy | exchanges, negative log-likelihood | bootstrap, accuracy |",
        "|---|---|---|---|",
    ]
    for num_patients in arguments.patients:
        found = [
            count_case(num_patients, np.random.default_rng([arguments.seed, num_patients, case]))
            for case in range(arguments.cases)
        ]
        cells = [show_fraction(int(column.sum()), arguments.cases) for column in np.array(found).T]
        lines.append(f"| {num_patients} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    text = "\n".join([*lines, ""])
    print(text)
    if arguments.output:
        write_bytes(arguments.output, text.encode())


def count_case(num_patients: int, generator: np.random.Generator) -> tuple[bool, bool, bool]:
    """Return whether each test finds a difference between two runs of the same quality."""
    difficulty = generator.normal(0, 1.0, num_patients)
    runs = tuple(draw_run(difficulty, generator) for _ in range(2))
    found = compare_pair((runs[0], runs[1]), CLASSES, "slice", Bootstrap(1), Permutations(1000))
    right = [
        (run["label"] == run["predicted"]).to_numpy().reshape(num_patients, NUM_SLICES).sum(axis=1) for run in runs
    ]
    drawn = draw_patient_weights(num_patients, 1000, generator) @ (right[1] - right[0])
    bootstrap = 2 * (min((drawn <= 0).sum(), (drawn >= 0).sum()) + 1) / 1001
    p_values = (found["accuracy"].p_value, found["nll"].p_value, bootstrap)
    return tuple(value is not None and value <= LEVEL for value in p_values)


def draw_run(difficulty: np.ndarray, generator: np.random.Generator) -> pd.DataFrame:
    """Draw the predictions of one run; half of a patient's slices have each label."""
    patients = np.repeat(np.arange(len(difficulty)), NUM_SLICES)
    skill = 2.0 + difficulty + generator.normal(0, 1.0, len(difficulty))
    score = skill[patients] + generator.normal(0, 1.0, len(patients))
    is_right_knee = np.arange(len(patients)) % 2 == 1
    right = 1 / (1 + np.exp(np.where(is_right_knee, -score, score)))
    names = patients.astype(str)
    columns = [
        np.arange(len(patients)).astype(str), names, names, "test", 0, np.where(is_right_knee, "right", "left"),
        np.where(right > 0.5, "right", "left"), 1 - right, right,
    ]  # fmt: skip
    return pd.DataFrame(dict(zip(prediction_columns(CLASSES), columns, strict=True)))


def show_fraction(count: int, number: int) -> str:
    limit = 1.0 if count == number else stats.beta.ppf(0.95, count + 1, number - count)
    return f"{count / number:.1%} (at most {limit:.1%})"


if __name__ == "__main__":
    main()
