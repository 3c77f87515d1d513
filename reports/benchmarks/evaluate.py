"""Measure evaluate against the scoring of the rows that it answers for.

    python reports/benchmarks/evaluate.py --workspace FOLDER [--config FILE] [--runs 3] [--output FILE]

Processor time (user and system) of whole processes of ``evaluate``, from Python's start, in copies of a workspace in
which the experiment was trained; and in the same processes that of scoring the validation and the test rows, with the
mirror image where the model averages over it.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.core.files import write_bytes
from pipeline.core.provenance import read_commit, read_hardware, read_versions

ROOT = Path(__file__).parents[2]
EVALUATE = """
import importlib, sys, time
from pipeline.cli import main
from pipeline.stages import Stage
load, took = Stage.load, []

def load_and_measure(stage):
    function = load(stage)
    module = importlib.import_module("pipeline.stages.evaluate")
    score = module.score_splits

    def measure(*arguments):
        start = time.process_time()
        answers = score(*arguments)
        took.append(time.process_time() - start)
        return answers

    module.score_splits = measure
    return function

Stage.load = load_and_measure
sys.argv.insert(1, "evaluate")
code = main()
print("SECONDS", time.process_time(), *took)
sys.exit(code)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, required=True, help="where the experiment was trained")
    parser.add_argument("--config", default="configs/phantom.yaml", help="the experiment")
    parser.add_argument("--runs", type=int, default=3, help="processes; the median counts")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    rows = [measure_run(arguments.workspace, arguments.config) for _ in range(arguments.runs)]
    versions = read_versions()
    text = "\n".join(
        [
            f"Processor time of `evaluate` of `{arguments.config}`, {len(rows)} processes of one thread. "
            f"{read_hardware()}; torch {versions['torch']}; commit {read_commit()}.",
            "",
            "| whole process | scoring of its rows | ratio |",
            "|---|---|---|",
            *(f"| {whole:.1f} s | {scoring:.1f} s | {whole / scoring:.2f} |" for whole, scoring in rows),
            "",
            f"Ratio, median: **{statistics.median(whole / scoring for whole, scoring in rows):.2f}**.",
            "",
        ]
    )
    print(text)
    if arguments.output:
        write_bytes(arguments.output, text.encode())


def measure_run(workspace: Path, config: str) -> tuple[float, float]:
    """Return the seconds of processor time of one process, and those of scoring in it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(workspace, Path(folder) / "workspace"))
        answer = subprocess.run(
            [sys.executable, "-c", EVALUATE, "--config", config, "--workspace", str(copy)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
    (line,) = (line for line in answer.stdout.splitlines() if line.startswith("SECONDS"))
    whole, scoring = map(float, line.split()[1:])
    return whole, scoring


if __name__ == "__main__":
    main()
