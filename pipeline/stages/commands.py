"""Commands that are no single stage: init, a first look at labelled files, and run, all stages of a config."""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from pipeline.config.parsing import read_experiment, take_option
from pipeline.core.console import warn
from pipeline.core.errors import UserError
from pipeline.core.files import write_bytes
from pipeline.preprocessing.first_look import (
    Suggestion,
    describe_look,
    list_changes,
    list_doubts,
    look,
    name_data,
    suggest,
)
from pipeline.stages import RUN, STAGES

WIDTH = 118


def init(words: Sequence[str], console: Console) -> None:
    """Look at labelled files, and write a config with the reason of each choice.

    Args:
        words: A table of labels or a folder; ``--output`` with the config to write, which is named after the data
            otherwise; and options of an experiment, such as the columns of the table.
        console: Where the findings are printed.

    Raises:
        UserError: There is nothing to read, a column is not found, or the config is there already.
    """
    if not words or words[0].startswith("-"):
        raise UserError("init: no input. Name a table of labels, or a folder: perceiver init knees.csv")
    given = Path(words[0]).expanduser()
    output, rest = take_option(words[1:], "--output")
    experiment = name_data(given, read_experiment(rest))
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", given.resolve().stem).strip("-") or "mine"
    path = Path(output).expanduser() if output else Path(f"{name}.yaml")
    if path.exists():
        raise UserError(f"{path}: is there already. Delete it, or choose another with --output.")
    found = look(experiment)
    lines, doubts, suggestions = describe_look(found), list_doubts(found), suggest(found)
    doubts += [item.warning for item in suggestions if item.warning]
    for line in lines:
        console.print(line, highlight=False)
    for doubt in doubts:
        warn(console, doubt)
    text = _write_config(
        name, [*lines, *(f"To know: {doubt}" for doubt in doubts)], list_changes(experiment), suggestions
    )
    write_bytes(path, text.encode())
    read_experiment(["--config", str(path)])
    console.print(f"-> {path}; next: perceiver run --config {path}", highlight=False)


def run(words: Sequence[str], console: Console) -> None:
    """Run the stages in their order; each does nothing where its work is done.

    Args:
        words: The config and the options after it.
        console: Where the stages print.

    Raises:
        UserError: What the stages raise; the same command resumes there.
    """
    experiment = read_experiment(words)
    for number, name in enumerate(RUN, start=1):
        console.print(f"[{number} of {len(RUN)}] {name}", highlight=False)
        STAGES[name].run(experiment, console)


def _write_config(name: str, lines: Sequence[str], data: dict[str, Any], suggestions: Sequence[Suggestion]) -> str:
    """Return a config: on top what the data are, then the options, each below its reason."""
    header = [
        f"Written by perceiver init. Every option: docs/configuration.md. Run: perceiver run --config {name}.yaml"
    ]
    text = [part for line in (*header, *lines) for part in _comment(line, "")]
    text.append(f"name: {name}")
    options = [Suggestion(option, value, "") for option, value in data.items()] + list(suggestions)
    names = [item.name.split(".") for item in options]
    for section in dict.fromkeys(parts[0] for parts in names):
        text.append(f"{section}:")
        opened = ""
        for item, parts in zip(options, names, strict=True):
            if parts[0] != section:
                continue
            if len(parts) == 3 and parts[1] != opened:
                text.append(f"  {parts[1]}:")
                opened = parts[1]
            indent = "  " * (len(parts) - 1)
            text += [*_comment(item.reason, indent), f"{indent}{parts[-1]}: {_show(item.value)}"]
    return "\n".join(text) + "\n"


def _comment(text: str, indent: str) -> list[str]:
    start = f"{indent}# "
    return textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=start)


def _show(value: Any) -> str:
    """Return a value as YAML writes it on one line."""
    return (
        yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000).removesuffix("\n...\n").strip()
    )
