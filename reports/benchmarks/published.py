"""Train and evaluate experiments over several seeds, and put them into one table.

    python reports/benchmarks/published.py --configs cifar10_fourier cifar10_best --seeds 0 1 2 [--data FOLDER] \
        [--output FILE] [-- OPTION ...]

Options after ``--`` go to every stage, such as ``--data.allow_partial true``. Runs are called ``seed-N``; finished
stages are not run again.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from pipeline.cli import main as run_stage
from pipeline.cli import parse_experiment
from pipeline.core.files import read_json, write_bytes
from pipeline.core.provenance import read_commit, read_versions


def main() -> None:
    words = sys.argv[1:]
    extra = words[words.index("--") + 1 :] if "--" in words else []
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", nargs="+", required=True, help="names of files in configs, without .yaml")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data", type=Path, help="the raw folder; by default it is downloaded")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    arguments = parser.parse_args(words[: len(words) - len(extra) - 1] if extra else words)
    lines = [
        f"torch {read_versions()['torch']}; commit {read_commit()}; options {' '.join(extra) or 'none'}.",
        "",
        "| config | seed | parameters | epochs | minutes | device | validation | test | 95 % interval |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in arguments.configs:
        common = ["--config", f"configs/{name}.yaml", *extra]
        common += ["--data.raw_folder", str(arguments.data)] if arguments.data else []
        for stage in ("fetch", "preprocess", "split"):
            run(stage, common)
        scores = [run_seed(common, seed) for seed in arguments.seeds]
        lines += [row for row, _ in scores]
        values = [value for _, value in scores]
        if len(values) > 1:
            mean, std = statistics.mean(values), statistics.stdev(values)
            lines.append(f"| {name} | mean, standard deviation | | | | | | **{mean:.2%}**, {std:.2%} | |")
        print("\n".join(lines), flush=True)
        if arguments.output:
            write_bytes(arguments.output, "\n".join([*lines, ""]).encode())


def run_seed(common: list[str], seed: int) -> tuple[str, float]:
    """Train and evaluate one seed; return its row and its test accuracy."""
    words = [*common, "--train.seed", str(seed), "--run", f"seed-{seed}"]
    experiment = parse_experiment("evaluate", words)
    paths = experiment.paths
    run("train", words)
    if not paths.metrics.is_file():
        run("evaluate", words)
    record: dict[str, Any] = read_json(paths.training_record)
    level = next(iter(read_json(paths.metrics)["levels"].values()))
    accuracy = level["metrics"]["accuracy"]
    cells = [
        experiment.name,
        str(seed),
        f"{record['num_parameters']:,}",
        f"{record['best']['epoch']} of {record['epochs']}",
        f"{record['seconds'] / 60:.1f}",
        f"{record['hardware']}; {record['precision']}",
        f"{record['best']['val_accuracy']:.2%}",
        f"{accuracy['value']:.2%}",
        f"{accuracy['low']:.2%} to {accuracy['high']:.2%}",
    ]
    return f"| {' | '.join(cells)} |", accuracy["value"]


def run(stage: str, words: list[str]) -> None:
    if run_stage([stage, *words]) != 0:
        raise SystemExit(f"{stage} failed; the line above gives the reason")


if __name__ == "__main__":
    main()
