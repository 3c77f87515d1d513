"""The command line over the stages; an experiment's dataclasses are its options.

Nothing heavy is imported here: help takes a moment, and a stage loads what it needs when it runs.
"""

import contextlib
import difflib
import errno
import importlib
import importlib.metadata
import io
import json
import os
import shutil
import stat
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.renames import RENAMED_STAGES
from pipeline.core.collector import pause_collector
from pipeline.core.errors import UserError
from pipeline.core.text import join_by_blanks, make_printable
from pipeline.stages import COMMANDS, STAGES, Stage, is_among

if TYPE_CHECKING:
    from pipeline.config.experiment import Experiment
    from pipeline.config.options import Option, Section
    from pipeline.core.console import StageConsole

# Errors of the machine that a user can fix: a full disk, a folder without permission, a path through a file.
USER_ERRNOS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EFBIG,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}
# A file or folder that went away or cannot be read any more: another program, a disk, or a network folder.
GONE_ERRNOS = {errno.ENOENT, errno.ESTALE, errno.EIO}
HELP = ("-h", "--help")
QUIET, JSON = "--quiet", "--json"
DISTRIBUTION = "perceiver-knees"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a stage.

    Args:
        arguments: The command line without the program's name; by default this process's own.

    Returns:
        The exit code: 0, 1 where nobody reads the output any more, 2 after a user's mistake (with one line on
        stderr), 130 when interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller (>&-); the first file that a stage opens would take its place
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 (it stays open, as the stream does)
        if isinstance(stream, io.TextIOWrapper):
            # A letter that the stream's encoding lacks, as on a terminal that is not UTF-8, is shown as its code.
            stream.reconfigure(errors="backslashreplace")
    choose_matplotlib_folder()
    output = Output(QUIET in words, JSON in words)
    words = [word for word in words if word not in (QUIET, JSON)]
    name, started = (words or [""])[0], time.perf_counter()
    try:
        code = _run(words, output, is_alone=arguments is None)
        output.finish(name, code, time.perf_counter() - started)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as head has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the interpreter's end
        return 1
    except OSError as error:  # standard output is a file on a full disk; errors of other files were reported above
        if error.errno not in USER_ERRNOS | GONE_ERRNOS or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        output.fail(f"error: standard output: {error.strerror}. Send it elsewhere; work done so far is kept.")
        return 2
    return code


def choose_matplotlib_folder() -> None:
    """Name a folder of this user for matplotlib's list of fonts, where the home folder takes none.

    Without one matplotlib prints two lines in every process and lists the fonts again each time.

    Source:
        https://matplotlib.org/stable/install/environment_variables_faq.html
    """
    if "MPLCONFIGDIR" in os.environ or not sys.platform.startswith("linux"):
        return
    usual = (os.environ.get(f"XDG_{name.upper()}_HOME") or f"~/.{name}" for name in ("config", "cache"))
    if all(_can_be_made(Path(os.path.expanduser(folder), "matplotlib")) for folder in usual):  # noqa: PTH111 (may fail)
        return
    folder = Path(tempfile.gettempdir(), f"perceiver-matplotlib-{os.getuid()}")
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        # Of another user, who may have made it first, nothing is read.
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022:
            os.environ["MPLCONFIGDIR"] = str(folder)


def _can_be_made(folder: Path) -> bool:
    """Return whether a folder is there and can be written to, or can be made."""
    nearest = next((place for place in (folder, *folder.parents) if os.path.lexists(place)), Path())
    return folder.is_absolute() and nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


class Output:
    """The printed text of a stage, and how much of it is shown.

    Args:
        is_quiet: Whether warnings and errors alone are shown.
        is_json: Whether standard output is one JSON object, when the stage has ended.
    """

    def __init__(self, is_quiet: bool, is_json: bool) -> None:
        self.is_quiet, self.is_json = is_quiet, is_json
        self.console: StageConsole | None = None
        self.error: str | None = None

    def open(self) -> "StageConsole":
        """Open the console that the stage prints on."""
        # rich is not needed for help.
        from pipeline.core.console import StageConsole

        self.console = StageConsole(is_silent=self.is_quiet or self.is_json)
        return self.console

    def fail(self, text: str) -> None:
        """Print why the stage ended, on standard error."""
        self.error = text
        print(text, file=sys.stderr)

    def finish(self, name: str, code: int, seconds: float) -> None:
        """Show the warnings of a quiet stage, or all as JSON.

        Args:
            name: The stage.
            code: Its exit code.
            seconds: The time that it took.
        """
        if self.is_json and (self.console is not None or self.error is not None):
            printed = {part: getattr(self.console, part, []) for part in ("messages", "warnings")}
            ended = {"stage": name, "exit_code": code, "seconds": round(seconds, 1), "error": self.error}
            print(json.dumps(ended | printed, ensure_ascii=False))
        elif self.console is not None:
            for warning in self.console.warnings:
                print(f"warning: {warning}", file=sys.stderr)


def _run(words: list[str], output: Output, is_alone: bool) -> int:
    if not words or words[0] in HELP:
        print(describe_stages())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"perceiver {importlib.metadata.version(DISTRIBUTION)}")
        return 0
    stage_name = words.pop(0)
    try:
        if stage_name in COMMANDS:
            _run_command(stage_name, words, output)
            return 0
        stage = _find_stage(stage_name)
        if any(word in HELP for word in words):
            print(describe_stage(stage, min(shutil.get_terminal_size().columns, 120), _find_topic(words)))
            return 0
        with pause_collector():
            experiment = parse_experiment(stage_name, words)
        stage.run(experiment, output.open(), is_alone)
    except UserError as error:
        output.fail(f"error: {join_by_blanks(str(error))}")
        return 2
    except OSError as error:
        if error.errno not in USER_ERRNOS | GONE_ERRNOS:
            raise
        place = f"{make_printable(str(error.filename))}: " if error.filename else ""
        advice = (
            "Free or choose another place" if error.errno in USER_ERRNOS else "Bring it back and run the stage again"
        )
        output.fail(f"error: {place}{error.strerror}. {advice}; work done so far is kept.")
        return 2
    except KeyboardInterrupt:
        output.fail("interrupted; the same command resumes from here.")
        return 130
    return 0


def _run_command(name: str, words: list[str], output: Output) -> None:
    """Run what is no single stage, such as a first look at data."""
    if any(word in HELP for word in words):
        print(describe_command(name, min(shutil.get_terminal_size().columns, 120)))
        return
    getattr(importlib.import_module("pipeline.stages.commands"), name)(words, output.open())


def parse_experiment(stage_name: str, words: Sequence[str]) -> "Experiment":
    """Read the YAML file and the options after it.

    Args:
        stage_name: The stage; some take words without an option's name.
        words: The command line after the stage.

    Raises:
        UserError: an unknown option, a bad value, or a config file that cannot be read.
    """
    # jsonargparse and YAML are not needed for the list of stages.
    from pipeline.config.parsing import read_experiment

    return read_experiment(words, STAGES[stage_name].inputs)


def _find_stage(name: str) -> Stage:
    if name in RENAMED_STAGES:
        raise UserError(f"stage: {name} is called {RENAMED_STAGES[name]} now.")
    if name not in STAGES:
        known = (*COMMANDS, *STAGES)
        nearest = difflib.get_close_matches(name, known, 1)
        advice = f"The nearest is {nearest[0]}" if nearest else "See perceiver --help"
        raise UserError(f"stage: found {name!r}, allowed are {', '.join(known)}. {advice}.")
    return STAGES[name]


def describe_stages() -> str:
    """Return the text of ``perceiver --help``."""
    width = max(map(len, STAGES))
    lines = [f"  {stage.name:{width}s}  {stage.description}" for stage in STAGES.values()]
    commands = [f"  {name:{width}s}  {description}" for name, description in COMMANDS.items()]
    return "\n".join(
        [
            "usage: perceiver STAGE --config NAME [--section.option value ...]",
            "",
            "to begin with:",
            *commands,
            "",
            "stages:",
            *lines,
            "",
            "perceiver STAGE --help lists the options of a stage that are set most often, with type, default and",
            "meaning, --help SECTION those of a section, and --help all all that it reads. perceiver --version names",
            "the version. Of every stage, --quiet shows warnings and errors alone, and --json prints one object at the",
            "end.",
            "NAME is a YAML file, or the name of a config that comes along, such as phantom or akoa.",
        ]
    )


def describe_command(name: str, width: int) -> str:
    """Return the text of ``perceiver init --help`` or ``perceiver run --help``.

    Args:
        name: The command.
        width: The columns of the terminal.
    """
    usage = {
        "init": "usage: perceiver init TABLE-or-FOLDER [--output FILE.yaml] [--data.columns.label NAME ...]",
        "run": "usage: perceiver run --config NAME [--section.option value ...]",
    }
    more = {
        "init": "A table has a row for each image or scan, with its path, patient and label; names of columns are "
        "guessed, or given with --data.columns. A folder holds one such table, a folder for each class, or scans with "
        "AKOA's names.",
        "run": "All options of the stages are taken; perceiver STAGE --help lists those of each.",
    }
    return "\n".join([usage[name], "", *textwrap.wrap(COMMANDS[name], width), "", *textwrap.wrap(more[name], width)])


def _find_topic(words: Sequence[str]) -> str:
    """Return the word after ``--help``, such as a section; empty where there is none."""
    place = next(index for index, word in enumerate(words) if word in HELP)
    following = [*words, ""][place + 1]
    return "" if following.startswith("-") else following.strip(".")


def describe_stage(stage: Stage, width: int, topic: str = "") -> str:
    """Return the text of ``perceiver STAGE --help``: options that the stage reads, section by section.

    Args:
        stage: The stage.
        width: The columns of the terminal.
        topic: A section or an option, or ``all``; empty for those that are set most often.

    Raises:
        UserError: The stage reads no option of this name.
    """
    # The dataclasses are not needed for the list of stages.
    from pipeline.config.experiment import Experiment
    from pipeline.config.options import describe_default, describe_type, list_sections

    sections = [
        (section, [option for option in section.options if stage.reads_option(option.name)])
        for section in list_sections(Experiment)
    ]
    names = {"": stage.first, "all": ()}.get(topic, (topic,))
    lines = _describe_call(stage, width) if topic in ("", "all") else []
    for section, options in sections:
        shown = [option for option in options if not names or is_among(option.name, names)]
        heading = f"{section.name}: {section.meaning}" if section.name else "Where the experiment is:"
        lines += ["", *textwrap.wrap(heading, width)] if shown else []
        for option in shown:
            default = describe_default(option.default)
            lines.append(f"  --{option.name}  {describe_type(option.annotation)}, default {default}")
            lines += _indent(option.meaning, width)
    if not lines:
        known = [section.name for section, options in sections if section.name and options]
        raise UserError(f"--help {topic}: {stage.name} reads no such option; its sections are {', '.join(known)}.")
    if not topic and stage.first:
        lines += ["", "These are set most often. All that this stage reads, and in how many options:"]
        lines += _list_sections(sections, width)
        lines += ["", f"perceiver {stage.name} --help SECTION lists those of one, --help all lists all."]
    elif topic in ("", "all"):
        lines += ["", "All other options of an experiment are accepted, and not read here."]
    return "\n".join(lines).strip("\n")


def _describe_call(stage: Stage, width: int) -> list[str]:
    """Return what stands above the options of a stage."""
    word = stage.inputs.rpartition(".")[2].upper().removesuffix("S")
    usage = f"usage: perceiver {stage.name} --config NAME [--section.option value ...]"
    lines = [usage.replace(" --config", f" [{word} ...] --config") if word else usage, ""]
    lines += [*textwrap.wrap(stage.description, width), ""]
    lines += [f"  {word} ...", *_indent(stage.inputs_meaning, width)] if word else []
    about = "A YAML file, or the name of a config; options after it override it."
    return [*lines, "  --config NAME", *_indent(about, width)]


def _list_sections(sections: "Sequence[tuple[Section, list[Option]]]", width: int) -> list[str]:
    """Return a line for each section: its name, the number of options, and its meaning."""
    named = [(section, len(options)) for section, options in sections if section.name and options]
    longest = max(len(section.name) for section, _ in named)
    lines = []
    for section, number in named:
        start = f"  {section.name:{longest}s} {number:3d}  "
        lines += textwrap.wrap(section.meaning, width, initial_indent=start, subsequent_indent=" " * len(start))
    return lines


def _indent(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
