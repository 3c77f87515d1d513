"""Write README's numbers from the records that they come from, and list the command that gives each.

    python reports/benchmarks/readme_numbers.py                                # list them; fails where README differs
    python reports/benchmarks/readme_numbers.py --write                        # write them into README
    python reports/benchmarks/readme_numbers.py --write --metrics reports/phantom/metrics.json       # after a new run

The scores of the synthetic knees are kept in ``phantom.json``, the others in RESULTS.md and in ``model.md``. What a
clock gave (minutes of a run) is written by hand.
"""

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.data_kinds import VOLUMES
from pipeline.core.files import write_bytes
from pipeline.core.provenance import read_commit, read_hardware
from pipeline.evaluation.schema import Metrics, read_metrics
from pipeline.reporting.evaluation.notes import summarise_scores
from pipeline.reporting.formatting import show_percent_briefly

ROOT = Path(__file__).resolve().parents[2]
README, RESULTS = ROOT / "README.md", ROOT / "reports" / "RESULTS.md"
PHANTOM, MODEL = Path(__file__).with_name("phantom.json"), Path(__file__).with_name("model.md")
TABLE_START = "| data | patients tested |"
SCORES = re.compile(r"^      \S.*: accuracy .*$", re.MULTILINE)
PACE = re.compile(r"[\d.]+(?= times as fast)")
PAINTED = "make train evaluate CONFIG=configs/akoa.yaml DATA=painted"
COMMANDS = {
    "scores of the synthetic knees": "make preprocess train evaluate",
    "table, synthetic knees": "make preprocess train evaluate",
    "table, painted contrast, 3 seeds": f'{PAINTED} SET="--name painted --run perceiver-0 --train.seed 0", and so on',
    "table, cartilage masks": 'make train evaluate CONFIG=configs/akoa.yaml DATA=oai_label_slices SET="..."',
    "table, Kellgren-Lawrence grades": "make preprocess train evaluate CONFIG=configs/xray_kl.yaml DATA=knee_xrays",
    "table, lesions in whole scans": (
        'make preprocess train evaluate CONFIG=configs/phantom_lesion.yaml SET="--run seed-0 --train.seed 0", and so on'
    ),
    "times as fast as perceiver-pytorch": "python reports/benchmarks/model.py --rounds 5",
}


@dataclass(frozen=True)
class Number:
    """A place of README: what the record says, and what stands there.

    Args:
        name: The name in ``COMMANDS``.
        record: The file that holds it.
        expected: The text by the record.
        found: The text of README.
    """

    name: str
    record: Path
    expected: str
    found: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--metrics", type=Path, help="metrics.json of a new run on the synthetic knees")
    parser.add_argument("--write", action="store_true", help="write the numbers into README")
    arguments = parser.parse_args()
    if arguments.metrics:
        record = {"command": COMMANDS["table, synthetic knees"], "commit": read_commit(), "hardware": read_hardware()}
        record["metrics"] = extract_accuracies(read_metrics(arguments.metrics))
        write_bytes(PHANTOM, (json.dumps(record, indent=1) + "\n").encode())
    text = README.read_text("utf-8")
    numbers = list_numbers(text)
    for number in numbers:
        state = "" if number.expected == number.found else f"  README has {number.found!r}"
        print(f"{number.name}: {number.expected!r}{state}\n  {number.record.relative_to(ROOT)}")
        print(f"  {COMMANDS[number.name]}")
    if arguments.write:
        write_bytes(README, replace_numbers(text, numbers).encode())
        return 0
    return int(any(number.expected != number.found for number in numbers))


def replace_numbers(text: str, numbers: list[Number]) -> str:
    """Return the text of README with the numbers of the records."""
    for number in numbers:
        if number.name.startswith("times"):
            text = PACE.sub(number.expected, text)
        else:
            text = text.replace(number.found, number.expected)
    return text


def extract_accuracies(metrics: Metrics) -> dict[str, object]:
    """Return what README prints of a metrics.json: counts and accuracies."""
    kept = ("n", "groups", "groups_with_errors")
    return {
        "levels": {
            name: {key: level[key] for key in kept} | {"metrics": {"accuracy": level["metrics"]["accuracy"]}}
            for name, level in metrics["levels"].items()
        },
        "baselines": {name: {"accuracy": scores["accuracy"]} for name, scores in metrics["baselines"].items()},
    }


def list_numbers(readme: str) -> list[Number]:
    """Compare README with the records.

    Args:
        readme: The text of README.
    """
    metrics: Metrics = json.loads(PHANTOM.read_text("utf-8"))["metrics"]
    scores = "\n".join(f"      {line}" for line in summarise_scores(metrics, VOLUMES)).replace("\u00a0", " ")
    found_scores = "\n".join(SCORES.findall(readme))
    start = readme.index(TABLE_START)
    rows = [line for line in readme[start : readme.index("\n\n", start)].splitlines()[2:] if "not measured" not in line]
    expected = list_rows(RESULTS.read_text("utf-8"), metrics)
    tables = [
        Number(name, PHANTOM if "synthetic" in name else RESULTS, row, found)
        for (name, row), found in zip(expected.items(), rows, strict=True)
    ]
    pace = read_cell(MODEL.read_text("utf-8"), "| image | call |", "| 260 x 228 | forward | ours, float32 |", 4)
    (found_pace,) = PACE.findall(readme)
    return [
        Number("scores of the synthetic knees", PHANTOM, scores, found_scores),
        *tables,
        Number("times as fast as perceiver-pytorch", MODEL, f"{float(pace):.1f}", found_pace),
    ]


def list_rows(results: str, metrics: Metrics) -> dict[str, str]:
    """Return the rows of README's table of results.

    Args:
        results: The text of RESULTS.md.
        metrics: The accuracies of the synthetic knees.
    """
    first, logistic = metrics["levels"]["slice"], metrics["baselines"]["logistic_regression"]
    seeds, masks = "| model | seed 0 | seed 1 |", "| model | fold 0 | 1 | 2 | 3 | 4 | pooled: 118 slices |"
    grades, of_grades = "| task | model | accuracy |", "| | logistic regression on pixels | 4"
    mean, std = read_cell(results, seeds, "| Perceiver ", 4).split(", ")
    cnn_mean, cnn_std = read_cell(results, seeds, "| CNN", 4).split(", ")
    of_pixels, lesions = "| logistic regression", "| | AUROC | accuracy |"
    lesion_mean, lesion_std = read_cell(results, lesions, "| mean of the seeds", 1).split(", ")
    rows = {
        "table, synthetic knees": (
            "synthetic knees", str(first["groups"]),
            show_percent_briefly(first["metrics"]["accuracy"]).replace("100.0", "100"), "",
            show_percent_briefly(logistic["accuracy"]),
        ),
        "table, painted contrast, 3 seeds": (
            "real OAI anatomy, painted contrast, right knees mirrored left ones, 3 seeds", "6",
            f"**{mean.strip('*')} %**, standard deviation {std}", f"{cnn_mean} %, {cnn_std}",
            read_cell(results, seeds, of_pixels, 1),
        ),
        "table, cartilage masks": (
            "real OAI cartilage masks, real sides, 5 folds", "59",
            read_cell(results, masks, "| Perceiver ", 6), "", read_cell(results, masks, of_pixels, 6),
        ),
        "table, Kellgren-Lawrence grades": (
            "OAI radiographs, Kellgren-Lawrence grade 0 to 4, exploratory; quadratic kappa", "413",
            f"{read_cell(results, grades, '| KL grade | Perceiver', 2)}; "
            f"{read_cell(results, grades, '| | the same, cut points', 3)}", "",
            f"{read_cell(results, grades, of_grades, 2)}; {read_cell(results, grades, of_grades, 3)}",
        ),
        "table, lesions in whole scans": (
            "synthetic knees, a lesion in two to five of 26 slices, whole scans; AUROC, 5 seeds", "60",
            f"{lesion_mean}, standard deviation {lesion_std}", "", read_cell(results, lesions, of_pixels, 1),
        ),
    }  # fmt: skip
    return {
        name: "|" + "|".join(f" {cell} ".replace("  ", " ") for cell in cells).replace("\u00a0", " ") + "|"
        for name, cells in rows.items()
    }


def read_cell(text: str, table_start: str, row_start: str, column: int) -> str:
    """Return a cell of the first Markdown table that begins with a header, in the first row that begins so."""
    table = text[text.index(table_start) :].split("\n\n", 1)[0]
    row = next(line for line in table.splitlines() if line.startswith(row_start))
    return row.strip("|").split("|")[column].strip()


if __name__ == "__main__":
    sys.exit(main())
