"""The time that reading a table of labels takes: a table of 100,000 rows, written here in each form.

    python reports/benchmarks/tables.py

Printed are the best of three runs, in seconds of processor time: reading and checking the table, what pandas takes to
read the same file with types that it guesses and no check, and then finding the files in the raw folder.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pandas as pd

from pipeline.config.sources import ColumnsConfig, DataConfig
from pipeline.core.provenance import read_hardware
from pipeline.data.label_tables import LabelTable, list_table_sources, read_label_table

NUM_ROWS, NUM_RUNS = 100_000, 3
NAMES = ("path", "patient", "side", "kl_grade", "published_split", "age", "name")


def make_rows() -> list[tuple[str, ...]]:
    """Make two knees of each patient; each in a folder of a thousand images."""
    rows = []
    for number in range(NUM_ROWS):
        patient, side = f"{9_000_000 + number // 2}", ("left", "right")[number % 2]
        path = f"images/{number // 1000}/{patient}_{side}.png"
        split = "val" if number // 2 % 7 == 0 else "train"
        rows.append((path, patient, side, str(number % 5), split, f"{40 + number % 400 / 10:.1f}", "N. N."))
    return rows


def measure(work: Callable[[], object]) -> float:
    """Return the least processor time of a few runs, in seconds."""
    times = []
    for _ in range(NUM_RUNS):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def main() -> None:
    rows = make_rows()
    columns = ColumnsConfig(label="kl_grade", split="published_split")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for path, *_ in rows:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).touch()
        german = [(*row[:5], row[5].replace(".", ","), row[6]) for row in rows]
        forms = {
            "comma, UTF-8": (",", rows, "utf-8"),
            "semicolon, decimal commas, Windows-1252": (";", german, "cp1252"),
        }
        given: dict[str, LabelTable] = {}
        print(read_hardware())
        for name, (separator, cells, encoding) in forms.items():
            table = folder / "table.csv"
            table.write_text("\n".join(map(separator.join, [NAMES, *cells])) + "\n", encoding=encoding)
            options = DataConfig(label_table=table, columns=columns, covariates=("age",))
            print(f"{name}: {measure(lambda: given.update(last=read_label_table(options))):.2f} s")  # noqa: B023
            print(f"  pandas alone: {measure(lambda: pd.read_csv(table, sep=separator, encoding=encoding)):.2f} s")  # noqa: B023
        print(f"finding the files: {measure(lambda: list_table_sources(folder, given['last'])):.2f} s")
        rows = rows[:10_000]
        book = openpyxl.Workbook(write_only=True)
        sheet = book.create_sheet()
        for row in (NAMES, *rows):
            sheet.append(row)
        book.save(folder / "table.xlsx")
        options = DataConfig(label_table=folder / "table.xlsx", columns=columns, covariates=("age",))
        print(f"XLSX of 10,000 rows: {measure(lambda: read_label_table(options)):.2f} s")


if __name__ == "__main__":
    main()
