"""One command line over the stages; the signature of the config is its signature."""

import dataclasses
import errno
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import jsonargparse
import yaml

from pipeline.config.experiment import Experiment
from pipeline.core.console import open_console
from pipeline.core.errors import UserError
from pipeline.core.text import make_printable
from pipeline.stages import STAGES

# What the machine refuses, a user can mend: a full disk, a folder without permission, a path through a file.
USER_ERRNOS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EFBIG,
}
# A file or folder that went away or cannot be read any more: another program, a disk, or a network folder.
GONE_ERRNOS = {errno.ENOENT, errno.ESTALE, errno.EIO}
# Stages that take words without an option's name: the field of their section, and what it is.
GIVEN = {
    "predict": (
        "inputs",
        "files (NIfTI, slices as PNG; PNG for models of images), folders of them or of a DICOM series, or a .csv "
        "with a column path",
    ),
    "report": ("runs", "report folders, or names such as phantom/seed-1; without them, all runs of the experiment"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a stage.

    Args:
        arguments: the command line without the program's name; by default this process's own.

    Returns:
        The exit code: 0, 2 after a user's mistake (one line on stderr tells it), 130 when interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_describe_stages())
        return 0 if words else 2
    stage_name = words.pop(0)
    try:
        if stage_name not in STAGES:
            raise UserError(f"stage: found {stage_name!r}, allowed are {', '.join(STAGES)}. See perceiver --help.")
        experiment = parse_experiment(stage_name, words)
        STAGES[stage_name](experiment, open_console())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in USER_ERRNOS | GONE_ERRNOS:
            raise
        place = f"{make_printable(str(error.filename))}: " if error.filename else ""
        advice = (
            "Free or choose another place" if error.errno in USER_ERRNOS else "Bring it back and run the stage again"
        )
        print(f"error: {place}{error.strerror}. {advice}; work done so far is kept.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def parse_experiment(stage_name: str, words: Sequence[str]) -> Experiment:
    """Read the YAML file and the options after it.

    Raises:
        UserError: an unknown option, a bad value, or a config file that cannot be read.
    """
    parser = _build_parser(stage_name)
    try:
        options = parser.parse_args(list(words))
        given = tuple(options.pop(GIVEN[stage_name][0], ())) if stage_name in GIVEN else ()
        options.pop("config", None)
        sections = parser.instantiate(options)
    except (jsonargparse.ArgumentError, yaml.YAMLError) as error:
        raise UserError(_one_line(error, stage_name)) from error
    experiment = Experiment(**{field.name: sections[field.name] for field in dataclasses.fields(Experiment)})
    if given:
        field, _ = GIVEN[stage_name]
        section = dataclasses.replace(getattr(experiment, stage_name), **{field: given})
        experiment = dataclasses.replace(experiment, **{stage_name: section})
    return experiment


def _build_parser(stage_name: str) -> jsonargparse.ArgumentParser:
    words = f" [{GIVEN[stage_name][0].upper().removesuffix('S')} ...]" if stage_name in GIVEN else ""
    parser = jsonargparse.ArgumentParser(
        prog=f"perceiver {stage_name}",
        usage=f"perceiver {stage_name}{words} --config configs/NAME.yaml [--section.key value ...]",
        description=_first_line(stage_name),
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="the experiment's YAML file; options after it override it")
    if stage_name in GIVEN:
        field, meaning = GIVEN[stage_name]
        parser.add_argument(field, nargs="*", type=Path, help=meaning)
    parser.add_class_arguments(Experiment)
    return parser


def _one_line(error: Exception, stage_name: str) -> str:
    """Put the parser's words into the form of this project's errors."""
    text = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    text = re.sub(r'^Parser key "(.+?)": ', r"\1: ", text)
    text = re.sub(r"Expected an? <class '(.+?)'>", r"expected \1", text)
    text = text.replace("Expected a typing.Literal", "expected one of ").replace(". Got value:", ", found")
    return f"{text.removesuffix('.')}. See perceiver {stage_name} --help."


def _first_line(stage_name: str) -> str:
    return (STAGES[stage_name].__doc__ or "").strip().splitlines()[0]


def _describe_stages() -> str:
    width = max(map(len, STAGES))
    lines = [f"  {name:{width}s}  {_first_line(name)}" for name in STAGES]
    return "\n".join(
        [
            "usage: perceiver STAGE --config configs/NAME.yaml [--section.key value ...]",
            "",
            "stages:",
            *lines,
            "",
            "perceiver STAGE --help lists every option with its type, default and meaning.",
        ]
    )
