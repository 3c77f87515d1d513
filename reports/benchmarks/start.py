"""Measure the time until a stage begins, and until help is printed.

    python reports/benchmarks/start.py [--before FOLDER] [--runs 7] [--output FILE]

Processor time (user and system) of whole processes, the median of several runs, and the lines that they print. A stage
is started in an empty workspace, so that it ends as soon as it reads its first file. With ``--before`` the code in that
folder, such as a worktree of an earlier commit, is measured in turn with this one.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.core.files import write_bytes
from pipeline.core.provenance import read_commit, read_hardware, read_versions

ROOT = Path(__file__).parents[2]
# The last two have had other names.
COMMANDS = (
    ("--help",),
    ("predict", "--help"),
    ("split", "--help"),
    ("train", "--help"),
    ("split",),
    ("compare", "report"),
    ("train",),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="a folder with other code to compare with")
    parser.add_argument("--runs", type=int, default=7, help="processes for each command; the median counts")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    folders = [*([arguments.before] if arguments.before else []), ROOT]
    rows = []
    for command in COMMANDS:
        found = {folder: [] for folder in folders}
        for _ in range(arguments.runs):
            for folder in folders:
                found[folder].append(measure(folder, find_words(folder, command)))
        cells = [f"{statistics.median(s for s, _ in runs):.2f} s | {runs[0][1]}" for runs in found.values()]
        name = " ".join(word for word in command if word != "report")
        rows.append(f"| `perceiver {name}` | {' | '.join(cells)} |")
        print(rows[-1], file=sys.stderr, flush=True)
    text = describe(rows, arguments.runs, arguments.before is not None)
    print(text)
    if arguments.output:
        write_bytes(arguments.output, text.encode())


def find_words(folder: Path, command: tuple[str, ...]) -> list[str]:
    """Return the words of a command as the code in a folder takes them."""
    if command == ("compare", "report"):
        return ["report" if (folder / "pipeline" / "stages" / "report.py").is_file() else "compare"]
    return list(command)


def measure(folder: Path, words: list[str]) -> tuple[float, int]:
    """Return the seconds of processor time of one process, and the lines that it prints."""
    with tempfile.TemporaryDirectory() as workspace, tempfile.TemporaryFile() as output:
        options = [] if "--help" in words else ["--workspace", workspace, "--tracking.enabled", "false"]
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", *words, *options],
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"},
        )
        _, status, usage = os.wait4(process.pid, 0)
        output.seek(0)
        lines = output.read().decode().splitlines()
        expected = 0 if "--help" in words else 2
        assert os.waitstatus_to_exitcode(status) == expected, "\n".join(lines[-5:])
        return usage.ru_utime + usage.ru_stime, len(lines)


def describe(rows: list[str], num_runs: int, has_before: bool) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(read_versions().items()) if name == "torch")
    hardware = read_hardware()
    heads = ["before", "lines", "now", "lines"] if has_before else ["processor time", "lines"]
    return "\n".join(
        [
            "Processor time (user and system) of a whole process until help is printed, or until a stage in an empty",
            f"workspace reads its first file: median of {num_runs} processes. {hardware}; {versions}; commit "
            f"{read_commit()}.",
            "",
            f"| command | {' | '.join(heads)} |",
            f"|---{'|---' * len(heads)}|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main()
