"""A table that is written row by row: nothing is kept in memory, and an interrupted table is resumed.

Rows go to ``NAME.partial`` next to the table, one JSON text a line, each flushed. When all are there, the table itself
is written, whole, and the partial file goes.
"""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from pipeline.core.files import open_atomically

Row = dict[str, Any]


class RowWriter:
    """Writes a table row by row, after those that an interrupted call with the same identity has left.

    Args:
        output: The file of the table, ``.csv`` or ``.json``.
        identity: A text that changes with whatever changes the rows.
    """

    def __init__(self, output: Path, identity: str) -> None:
        self.output = output
        self.partial = output.with_name(f"{output.name}.partial")
        self.num_rows = 0
        output.parent.mkdir(parents=True, exist_ok=True)
        start = (json.dumps({"identity": identity}) + "\n").encode()
        end = self._find_end(start)
        self.file = self.partial.open("r+b" if end else "wb")
        if end:
            self.file.truncate(end)
            self.file.seek(end)
        else:
            self.file.write(start)
            self.file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, row: Row) -> None:
        """Append a row; when this returns, it is in the file."""
        self.file.write((json.dumps(row, allow_nan=False) + "\n").encode())
        self.file.flush()
        self.num_rows += 1

    def read(self) -> Iterator[Row]:
        """Read the rows back, one at a time."""
        with self.partial.open("rb") as file:
            next(file)
            for line in file:
                yield json.loads(line)

    def finish(self, columns: tuple[str, ...]) -> None:
        """Write the table and remove the partial file.

        Args:
            columns: The columns of the table, as in :func:`write_rows`.
        """
        self.file.close()
        write_rows(self.output, self.read(), columns)
        self.partial.unlink()

    def _find_end(self, start: bytes) -> int:
        """Return where the last whole row of an earlier call ends, 0 where there is none to resume."""
        if not self.partial.is_file():
            return 0
        with self.partial.open("rb") as file:
            if file.readline() != start:
                return 0
            end = file.tell()
            for line in file:
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                self.num_rows += 1
        return end


def write_rows(path: Path, rows: Iterator[Row], columns: tuple[str, ...]) -> None:
    """Write a table, whole or not at all.

    Args:
        path: The file; one that ends in ``.json`` holds a JSON list, every other one CSV.
        rows: The rows, read one at a time.
        columns: The columns, in order; a row without one has an empty cell, in JSON null, and what else a row holds is
            left out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(path) as file:
        # A name that is no Unicode text is written with its bytes as \xNN.
        text = io.TextIOWrapper(file, "utf-8", "backslashreplace", newline="\n", write_through=True)
        write = write_json_rows if path.suffix.lower() == ".json" else write_csv_rows
        write(text, rows, columns)
        text.detach()


def write_csv_rows(file: io.TextIOBase, rows: Iterator[Row], columns: tuple[str, ...]) -> None:
    """Write rows as CSV: lists joined by semicolons, truth as true and false.

    Args:
        file: A file that is open for writing.
        rows: The rows, read one at a time.
        columns: The columns, in order.
    """
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    quoting = csv.DictWriter(file, columns, restval="", lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writeheader()
    for row in rows:
        cells = {name: _to_cell(row[name]) for name in columns if name in row}
        # A carriage return is no line's end to the writer and one to many readers, except in quotes.
        has_return = any("\r" in str(cell) for cell in cells.values())
        (quoting if has_return else writer).writerow(cells)


def write_json_rows(file: io.TextIOBase, rows: Iterator[Row], columns: tuple[str, ...]) -> None:
    """Write rows as a JSON list of objects, one a line.

    Args:
        file: A file that is open for writing.
        rows: The rows, read one at a time.
        columns: The columns, in order.
    """
    separator = "["
    for row in rows:
        file.write(f"{separator}\n{json.dumps({name: row.get(name) for name in columns})}")
        separator = ","
    file.write("[]\n" if separator == "[" else "\n]\n")


def _to_cell(value: Any) -> Any:
    if isinstance(value, list):
        return "; ".join(value)
    return str(value).lower() if isinstance(value, bool) else value
