"""Measure the time until a stage begins, until help is printed, and until training does its first step.

    python reports/benchmarks/start.py [--before FOLDER] [--runs 7] [--workspace FOLDER] [--output FILE]

Processor time (user and system) of whole processes, the median of several runs, and the lines that they print. A stage
is started in an empty workspace, so that it ends as soon as it reads its first file. With ``--before`` the code in that
folder, such as a worktree of an earlier commit, is measured in turn with this one.

With ``--workspace``, in which the phantom was prepared and split, the first step is measured instead: its training is
started in a new workspace on the same data, and ended after one step.
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
TRACKING = {"with MLflow": "true", "without": "false"}
FIRST_STEP = """
import os, sys, time
import torch, lightning.fabric
imported, begun = time.process_time(), []
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

def end(*_):
    print("SECONDS", begun[0] - imported, time.process_time() - imported, flush=True)
    os._exit(0)

register_module_forward_pre_hook(lambda *_: begun.append(time.process_time()))
register_optimizer_step_post_hook(end)
from pipeline.cli import main
sys.argv.insert(1, "train")
main()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="a folder with other code to compare with")
    parser.add_argument("--runs", type=int, default=7, help="processes for each command; the median counts")
    parser.add_argument("--workspace", type=Path, help="where the phantom was prepared and split")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    folders = [*([arguments.before] if arguments.before else []), ROOT]
    rows = []
    for command in () if arguments.workspace else COMMANDS:
        found = {folder: [] for folder in folders}
        for _ in range(arguments.runs):
            for folder in folders:
                found[folder].append(measure(folder, find_words(folder, command)))
        cells = [f"{statistics.median(s for s, _ in runs):.2f} s | {runs[0][1]}" for runs in found.values()]
        name = " ".join(word for word in command if word != "report")
        rows.append(f"| `perceiver {name}` | {' | '.join(cells)} |")
        print(rows[-1], file=sys.stderr, flush=True)
    for name, is_tracked in TRACKING.items() if arguments.workspace else ():
        seconds = {folder: [] for folder in folders}
        for _ in range(arguments.runs):
            for folder in folders:
                seconds[folder].append(measure_first_step(folder, arguments.workspace, is_tracked))
        for place, event in enumerate(("begins", "has ended")):
            found = [f"{statistics.median(times[place] for times in runs):.2f} s" for runs in seconds.values()]
            rows.append(f"| the first step {event}, {name} | {' | '.join(found)} |")
            print(rows[-1], file=sys.stderr, flush=True)
    text = describe(rows, arguments.runs, arguments.before is not None, arguments.workspace is not None)
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


def measure_first_step(folder: Path, prepared: Path, is_tracked: str) -> tuple[float, float]:
    """Return the seconds of processor time beyond the import of torch and Fabric, until the step begins and has ended.

    Those of a thread that works at the same time count too.
    """
    with tempfile.TemporaryDirectory() as workspace:
        (Path(workspace) / "data").symlink_to(prepared.resolve() / "data")
        words = ["--config", "configs/phantom.yaml", "--workspace", workspace, "--tracking.enabled", is_tracked]
        answer = subprocess.run(
            [sys.executable, "-c", FIRST_STEP, *words],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)},
        )
        (line,) = (line for line in answer.stdout.splitlines() if line.startswith("SECONDS"))
        begun, ended = map(float, line.split()[1:])
        return begun, ended


def describe(rows: list[str], num_runs: int, has_before: bool, has_steps: bool) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(read_versions().items()) if name == "torch")
    folders = ["before", "now"] if has_before else ["processor time"]
    heads = folders if has_steps else [head for folder in folders for head in (folder, "lines")]
    place = f"median of {num_runs} processes. {read_hardware()}; {versions}; commit {read_commit()}."
    text = [
        "Processor time (user and system) of a whole process until help is printed, or until a stage in an empty",
        f"workspace reads its first file: {place}",
    ]
    if has_steps:
        text = [
            "Processor time (user and system) of all threads of `train` on the phantom, beyond `import torch,",
            f"lightning.fabric`, until its first step begins and has ended, in a workspace without records: {place}",
        ]
    text += ["", f"| {'event' if has_steps else 'command'} | {' | '.join(heads)} |", f"|---{'|---' * len(heads)}|"]
    return "\n".join([*text, *rows, ""])


if __name__ == "__main__":
    main()
