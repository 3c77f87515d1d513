"""Train and evaluate experiments over several seeds, and put them into one table.

    python reports/benchmarks/published.py --configs cifar10_fourier cifar10_best --seeds 0 1 2 [--data FOLDER] \
        [--output FILE] [-- OPTION ...]

Options after ``--`` go to every stage, such as ``--data.allow_partial true``. Runs are called ``seed-N``; finished
stages are not run again. Radiographs whose table has the published parts train, val and test, scored on that test:

    python reports/benchmarks/published.py --configs xray_side xray_kl --seeds 0 1 2 3 4 --data FOLDER \
        -- --data.split_values {}
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
from pipeline.reporting.formatting import DASH


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
        "| config | seed | parameters | epochs | minutes | device | validation | test | 95 % interval | kappa |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in arguments.configs:
        common = ["--config", f"configs/{name}.yaml", *extra]
        common += ["--data.raw_folder", str(arguments.data)] if arguments.data else []
        for stage in ("fetch", "preprocess", "split"):
            run(stage, common)
        scores = [run_seed(common, seed) for seed in arguments.seeds]
        lines += [row for row, _, _ in scores]
        values, kappas = [value for _, value, _ in scores], [kappa for _, _, kappa in scores if kappa is not None]
        if len(values) > 1:
            accuracy = f"**{statistics.mean(values):.2%}**, {statistics.stdev(values):.2%}"
            kappa = f"{statistics.mean(kappas):.3f}, {statistics.stdev(kappas):.3f}" if len(kappas) > 1 else ""
            lines.append(f"| {name} | mean, standard deviation | | | | | | {accuracy} | | {kappa} |")
        print("\n".join(lines), flush=True)
        if arguments.output:
            write_bytes(arguments.output, "\n".join([*lines, ""]).encode())


def run_seed(common: list[str], seed: int) -> tuple[str, float, float | None]:
    """Train and evaluate one seed; return its row, its test accuracy and of grades the quadratic weighted kappa."""
    words = [*common, "--train.seed", str(seed), "--run", f"seed-{seed}"]
    experiment = parse_experiment("evaluate", words)
    paths = experiment.paths
    run("train", words)
    if not paths.metrics.is_file():
        run("evaluate", words)
    record: dict[str, Any] = read_json(paths.training_record)
    metrics: dict[str, Any] = read_json(paths.metrics)
    name, level = next(iter(metrics["levels"].items()))
    accuracy = level["metrics"]["accuracy"]
    scores = metrics["grades"]["levels"][name]["scores"] if "grades" in metrics else None
    kappa = None if scores is None else scores["quadratic_kappa"]
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
        "" if kappa is None else show_kappa(kappa),
    ]
    return f"| {' | '.join(cells)} |", accuracy["value"], None if kappa is None else kappa["value"]


def show_kappa(kappa: dict[str, Any]) -> str:
    """Write a kappa with its interval, which few images may not have."""
    if kappa["value"] is None or kappa["low"] is None:
        return DASH if kappa["value"] is None else f"{kappa['value']:.3f}"
    return f"{kappa['value']:.3f} ({kappa['low']:.3f} to {kappa['high']:.3f})"


def run(stage: str, words: list[str]) -> None:
    if run_stage([stage, *words]) != 0:
        raise SystemExit(f"{stage} failed; the line above gives the reason")


if __name__ == "__main__":
    main()
