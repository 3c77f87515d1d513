"""The command line and the YAML files of an experiment, read into its record.

jsonargparse turns words into values. This module adds to its errors the known name that is nearest to an unknown one,
and the file that holds a refused value.
"""

import dataclasses
import difflib
import functools
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jsonargparse
import yaml

from pipeline.config.experiment import Experiment
from pipeline.config.options import PLAIN_TYPES, Option, describe_type, list_sections
from pipeline.config.renames import RENAMED_VALUES, explain_old_name
from pipeline.core.errors import UserError

SECTIONS = tuple(list_sections(Experiment))
OPTIONS = {option.name: option for section in SECTIONS for option in section.options}
# Names that stand for no option: sections take a mapping, print_config prints all options as YAML.
SECTION_NAMES = {section.name for section in SECTIONS if section.name}
OTHER_NAMES = ("config", "print_config")


# What a path means elsewhere, where it would be the name of a folder here.
OTHER_MEANINGS = {
    "a variable of a shell, which puts in no value here": r"\$\{?\w|%[A-Za-z_]\w{2,}%",
    "an address, and only files are read and written": r"[A-Za-z][A-Za-z0-9+.-]+:/",
    **({} if os.name == "nt" else {"a path of Windows": r"[A-Za-z]:($|[\\/])|\\\\"}),
    "a path with a blank at an end": r"\s|.*\s$",
    "a path with a line end or another control character": r".*[\x00-\x1f\x7f]",
}


class StrictLoader(yaml.SafeLoader):
    """A reader of plain YAML that refuses what others change without a word.

    Of a key given twice they drop the first; ``013`` is 11 to them, a number of base 8, and ``1:30`` is 90.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping, as the base class does.

        Raises:
            KeyTwiceError: A key is there twice; 1 and "1" are one, as both stand for the same text of a table.
        """
        lines: dict[str, int] = {}
        for key_node, _ in node.value:
            key, line = str(self.construct_object(key_node, deep=True)), key_node.start_mark.line + 1
            if key in lines:
                raise KeyTwiceError(key, lines[key], line)
            lines[key] = line
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Build a whole number, as the base class does.

        Raises:
            OtherNumberError: It is another number than it shows.
        """
        text = str(node.value)
        if re.fullmatch(r"[-+]?0[0-9_]+|.*:.*", text):
            raise OtherNumberError(text, super().construct_yaml_int(node), node.start_mark.line + 1)
        return super().construct_yaml_int(node)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """Build a number, as the base class does.

        Raises:
            OtherNumberError: It is another number than it shows, as 90.5 for ``1:30.5``.
        """
        text = str(node.value)
        if ":" in text:
            raise OtherNumberError(text, super().construct_yaml_float(node), node.start_mark.line + 1)
        return super().construct_yaml_float(node)


StrictLoader.add_constructor("tag:yaml.org,2002:float", StrictLoader.construct_yaml_float)
StrictLoader.add_constructor("tag:yaml.org,2002:int", StrictLoader.construct_yaml_int)


class OtherNumberError(yaml.YAMLError):
    """A number that YAML takes for another one, with that number and the line."""

    def __str__(self) -> str:
        text, number, line = self.args
        return f"line {line}: YAML takes {text} for the number {number}. Write {number}, or put it into quotes."


class KeyTwiceError(yaml.YAMLError):
    """A key that is there twice, with the two lines."""

    def __str__(self) -> str:
        key, first, second = self.args
        where = f"line {first}" if first == second else f"lines {first} and {second}"
        return f"{key} is there twice, in {where}. Keep one."


def read_experiment(words: Sequence[str], inputs: str = "") -> Experiment:
    """Read the YAML files and the options after them.

    Args:
        words: The command line after the stage's name; ``--config`` takes a file, or the name of a config that comes
            along, such as ``akoa``.
        inputs: The option that takes the words without a name, such as ``predict.inputs``; empty where no such word
            is allowed.

    Raises:
        UserError: An unknown option, a bad value, or a file that cannot be read.
    """
    if any("\0" in word for word in words):
        raise UserError("a NUL character is in an option; no path and no value has one. Take it away.")
    words = list(_resolve_configs(words))
    given = {word[2:].split("=")[0] for word in words if word.startswith("--") and word != "--"}
    for name in sorted(given):
        _check_name(name, "--", (*OPTIONS, *SECTION_NAMES, *OTHER_NAMES))
    paths = [Path(found) for found in _find_values(words, "config")]
    names_in_files = {path: _collect_names(path) for path in paths}
    try:
        return _parse(words, inputs)
    except (jsonargparse.ArgumentError, yaml.YAMLError, ValueError) as error:
        text = _explain(str(error))
        option = re.match(r"[\w.]*", text)[0]  # type: ignore[index]  # it matches every text
        places = [path for path, names in names_in_files.items() if option in names and option not in given]
        raise UserError(f"{places[-1]}: {text}" if places else text) from error


@functools.cache
def _build_parser(field: str) -> jsonargparse.ArgumentParser:
    """Build the parser of all options; ``field`` takes the words without a name, where it is not empty."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False, allow_abbrev=False, add_help=False)
    parser.add_argument("--config", action="config")
    if field:
        parser.add_argument(field, nargs="*", type=Path)
    parser.add_class_arguments(Experiment)
    return parser


@functools.cache
def _read_defaults(field: str) -> jsonargparse.Namespace:
    """Read the values of all options that are not given; a copy of them is changed, never these."""
    return _build_parser(field).get_defaults(skip_validation=True)


def _parse(words: Sequence[str], inputs: str) -> Experiment:
    section, _, field = inputs.partition(".")
    parser = _build_parser(field)
    # The parser looks for each key among all options, so that it checks those that are given alone.
    given = parser.parse_args(list(words), defaults=False)
    options = _read_defaults(field).clone()
    options.update(given)
    unnamed = tuple(options.pop(field, ())) if inputs else ()
    options.pop("config", None)
    for option in OPTIONS.values():
        _check_value(option, options[option.name])
    sections = parser.instantiate(options)
    experiment = Experiment(**{field.name: sections[field.name] for field in dataclasses.fields(Experiment)})
    if unnamed:
        replaced = dataclasses.replace(getattr(experiment, section), **{field: unnamed})
        experiment = dataclasses.replace(experiment, **{section: replaced})
    expanded: Experiment = _expand_home(experiment)
    return expanded


def _check_value(option: Option, value: Any) -> None:
    """Refuse what the parser lets through: null where there must be a value, and infinite numbers.

    Raises:
        UserError: It is null.
        ValueError: It is infinite.
    """
    if value is None:
        _refuse_null(option)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{option.name}: found {value}, allowed are finite numbers")


def _refuse_null(option: Option, before: str = "") -> None:
    if not option.may_be_null:
        allowed = describe_type(option.annotation)
        raise UserError(
            f"{before}{option.name}: found null, allowed is {allowed}. Write a value, or remove the option."
        )


def _expand_home(value: Any, name: str = "") -> Any:
    """Replace ``~`` at the start of every path in a record; a YAML file has no shell that does it.

    A text that begins with ``~/`` is a path too, as of a checkpoint or run, and so is that of a database's address.

    Raises:
        ValueError: ``~`` with a user that there is not.
    """
    if isinstance(value, Path):
        try:
            return _check_path(value.expanduser(), name)
        except RuntimeError as error:
            raise ValueError(
                f"{name}: found {str(value)!r}, and there is no such user. Write the folder out"
            ) from error
    if isinstance(value, str) and value.startswith(("~/", "sqlite:///~/")):
        before, _, rest = value.partition("~/")
        home = os.path.expanduser("~")  # noqa: PTH111 (a text)
        return f"{before}{quote(home, safe='/ ') if before else home}/{rest}"
    if isinstance(value, tuple):
        return tuple(_expand_home(item, name) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        before = f"{name}." if name else ""
        changed = {field: new for field, old in fields.items() if (new := _expand_home(old, before + field)) != old}
        return dataclasses.replace(value, **changed) if changed else value
    return value


def _check_path(path: Path, name: str) -> Path:
    """Refuse a path that means something to another program, and would be a folder of that name here.

    One that is there is taken, whatever it is called.

    Raises:
        ValueError: It has a variable of a shell, an address, a drive of Windows, a control character, or a blank at an
            end.
    """
    text = str(path)
    meaning = next((meaning for meaning, pattern in OTHER_MEANINGS.items() if re.match(pattern, text, re.DOTALL)), None)
    if meaning is not None and not os.path.lexists(path):
        raise ValueError(f"{name}: found {text!r}, {meaning}; no file or folder here is called so. Write the path out")
    return path


def take_option(words: Sequence[str], name: str, default: str = "") -> tuple[str, list[str]]:
    """Take an option of a command that belongs to no experiment, such as ``--port``, out of its words.

    Args:
        words: The command line after the command.
        name: The option.
        default: Its value where it is not there.

    Returns:
        The value, and the other words.
    """
    if name not in words[:-1]:
        return default, list(words)
    place = words.index(name)
    return words[place + 1], [*words[:place], *words[place + 2 :]]


def list_presets() -> dict[str, Path]:
    """List configs by their names: those that come along, and before these those of the folder ``configs`` here."""
    here = Path(__file__).resolve().parent
    folders = (
        here / "presets",
        here.parents[1] / "configs",
        Path("configs"),
    )  # of a wheel, of the repository, own ones
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def _resolve_configs(words: Sequence[str]) -> Iterator[str]:
    """Yield the words, with the path of each config that is named without one.

    Raises:
        UserError: There is no config of this name.
    """
    previous = ""
    for word in words:
        is_joined = word.startswith("--config=")
        name = word.partition("=")[2] if is_joined else word if previous == "--config" else ""
        if name.startswith("~/"):
            yield f"--config={Path(name).expanduser()}" if is_joined else str(Path(name).expanduser())
        elif re.fullmatch(r"[\w-]+", name) and not Path(name).exists():
            presets = list_presets()
            if name not in presets:
                nearest = find_nearest(name, presets)
                advice = f"the nearest is {nearest}" if nearest else f"those that come along are {', '.join(presets)}"
                raise UserError(f"--config: found {name}, which is no file and no config that comes along; {advice}.")
            yield f"--config={presets[name]}" if is_joined else str(presets[name])
        else:
            yield word
        previous = word


def _find_values(words: Sequence[str], name: str) -> Iterator[str]:
    for word, following in itertools.pairwise((*words, "")):
        if word == f"--{name}" and following:
            yield following
        elif word.startswith(f"--{name}="):
            yield word.partition("=")[2]


def _read_yaml(path: Path) -> dict[Any, Any]:
    try:
        content = yaml.load(path.read_text("utf-8"), StrictLoader)  # noqa: S506 (a loader of plain values)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; --config takes an experiment's YAML file.") from error
    except RecursionError as error:
        raise UserError(f"{path}: lists or sections in one another, too deep to be read. Write them flat.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from error
    except (KeyTwiceError, OtherNumberError) as error:
        raise UserError(f"{path}: {error}") from error
    except yaml.YAMLError as error:
        found = " ".join(str(error).split()).replace('in "<unicode string>", ', "in ")
        raise UserError(f"{path}: not plain YAML: {found}") from error
    if not isinstance(content, dict):
        shown = "nothing, or comments alone" if content is None else repr(content)
        raise UserError(f"{path}: found {shown}, allowed are sections with options, as in configs/phantom.yaml.")
    return content


def _collect_names(path: Path) -> set[str]:
    """Return the options in a file; refuse one that is there with its full name and in its section."""
    names: set[str] = set()
    for name in _list_names(_read_yaml(path), path):
        if name in names:
            raise UserError(f"{path}: {name} is there twice, in its section and with its full name. Keep one.")
        names.add(name)
    return names


def _list_names(content: dict[Any, Any], path: Path, prefix: str = "") -> Iterator[str]:
    """Yield the full names of the options in a file; refuse those that there are not."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(key, bool):
            raise UserError(f"{path}: {name}: no option; YAML reads yes, no, on and off as true and false.")
        _check_name(name, f"{path}: ", (*OPTIONS, *SECTION_NAMES))
        if name in OPTIONS:
            if value is None:
                _refuse_null(OPTIONS[name], f"{path}: ")
            yield name
        elif isinstance(value, dict):
            yield from _list_names(value, path, f"{name}.")
        else:
            raise UserError(f"{path}: {name}: found {value!r}, allowed are the options of this section, or no {name}.")


def _check_name(name: str, before: str, known: Iterable[str]) -> None:
    if name in known:
        return
    explanation = explain_old_name(name)
    if explanation is not None:
        raise UserError(f"{before}{name}: {explanation}")
    nearest = find_nearest(name, known)
    advice = f"the nearest is {nearest}" if nearest else "perceiver STAGE --help lists those that a stage reads"
    raise UserError(f"{before}{name}: unknown option; {advice}.")


def find_nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the name that was most likely meant.

    It ends in the same word, or in words with these first letters, as ``lr`` is short for ``learning_rate``; else it is
    spelled alike.

    Args:
        name: An unknown name.
        known: The names that there are.
    """
    known = list(known)
    last = name.rpartition(".")[2]
    same_word = [other for other in known if other.rpartition(".")[2] == last]
    same_word = same_word or [other for other in known if _abbreviate(other) == last]
    found = difflib.get_close_matches(name, same_word, 1, cutoff=0.0) or difflib.get_close_matches(name, known, 1)
    return found[0] if found else None


def _abbreviate(name: str) -> str:
    """Return the first letters of the words of an option, where it has two or more."""
    words = name.rpartition(".")[2].split("_")
    return "".join(word[:1] for word in words) if len(words) > 1 else ""


def _explain(text: str) -> str:
    """Put the message of a parser or a section into the form of this project's errors."""
    text = " ".join(line.strip() for line in text.splitlines() if line.strip())
    unnamed = text.removeprefix("unrecognized arguments: ")
    if unnamed != text:
        return f"{unnamed}: no option; a YAML file is given as --config FILE, an option as --section.option VALUE."
    refused = re.match(r'Parser key "([\w.]+)": .*Got value: (.*)$', text)
    if refused is None or refused[1] not in OPTIONS:
        return f"{text.replace('PerceiverConfig.', 'model.perceiver.', 1).removesuffix('.')}."
    option, found = OPTIONS[refused[1]], refused[2]
    nearest, renamed = find_nearest(found, option.choices), RENAMED_VALUES.get(option.name, {}).get(found)
    advice = f"; the nearest is {nearest}" if nearest else ""
    advice = f"; it is called {renamed} now" if renamed else advice
    allowed = describe_type(option.annotation)
    if found.startswith(("[", "{")) or allowed.startswith(("[", "{")):
        is_word = found.isidentifier() and found not in ("None", "True", "False")
        # A word where there is a list, a list where there is a word, or a number among words.
        advice = f"; write [{found}]" if allowed.endswith(", ...]") and is_word else ""
        if allowed == "[text, ...]" and not is_word and found[:1] not in "[{":
            advice = "; put it into quotes"
    elif PLAIN_TYPES[str] in allowed:  # YAML takes off for false and 1e3 for a number
        advice = "; put it into quotes"
    return f"{option.name}: found {found!r}, allowed is {allowed}{advice}."
