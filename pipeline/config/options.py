"""The options of an experiment as a list, read from its dataclasses: name, type, default and meaning of each."""

import dataclasses
import json
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docstring_parser

PLAIN_TYPES = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}


@dataclass(frozen=True)
class Option:
    """A line of the YAML file, and ``--name`` on the command line.

    Args:
        name: The name with those of its sections, such as ``train.epochs``.
        annotation: The type that its dataclass declares.
        default: The value without the option.
        meaning: The description in the docstring of its section.
    """

    name: str
    annotation: Any
    default: Any
    meaning: str

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that are allowed, where only a few are."""
        return tuple(typing.get_args(self.annotation)) if typing.get_origin(self.annotation) is typing.Literal else ()

    @property
    def may_be_null(self) -> bool:
        """True where null is a value."""
        return type(None) in typing.get_args(self.annotation)


@dataclass(frozen=True)
class Section:
    """A record of options.

    Args:
        name: The name with those of the sections around it, such as ``model.perceiver``; empty for the experiment.
        meaning: The description in the docstring of the section around it.
        text: The paragraphs of its own docstring.
        options: Its own options, without those of sections below it.
    """

    name: str
    meaning: str
    text: tuple[str, ...]
    options: tuple[Option, ...]


def list_sections(record: type, name: str = "", meaning: str = "") -> Iterator[Section]:
    """Yield a section, and then those below it, in the order of their fields.

    Args:
        record: A frozen dataclass; a field that is a dataclass itself is a section below it.
        name: The name of the section, empty for the experiment.
        meaning: The purpose of the section.
    """
    documented = docstring_parser.parse(record.__doc__ or "")
    meanings = {item.arg_name: _join_lines(item.description) for item in documented.params}
    text = tuple(_join_lines(part) for part in (documented.short_description, documented.long_description) if part)
    hints = typing.get_type_hints(record)
    options: list[Option] = []
    below: list[Iterator[Section]] = []
    for field in dataclasses.fields(record):
        dotted = f"{name}.{field.name}".lstrip(".")
        if dataclasses.is_dataclass(hints[field.name]):
            below.append(list_sections(hints[field.name], dotted, meanings[field.name]))
        else:
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            options.append(Option(dotted, hints[field.name], default, meanings[field.name]))
    yield Section(name, meaning, text, tuple(options))
    for sections in below:
        yield from sections


def _join_lines(text: str | None) -> str:
    """Join the lines of a docstring's paragraph; code gets single back-quotes, as in Markdown."""
    return " ".join((text or "").split()).replace("``", "`")


def describe_type(annotation: Any) -> str:
    """Return a type in words, in the form in which YAML writes its values."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is dict:
        return f"{{{describe_type(arguments[0])}: {describe_type(arguments[1])}}}"
    if origin in (types.UnionType, typing.Union):
        if str in arguments:  # numbers next to it are texts that YAML reads as numbers
            arguments = tuple(item for item in arguments if item not in (int, float, bool))
        return " or ".join("null" if item is type(None) else describe_type(item) for item in arguments)
    if origin is typing.Literal:
        return " | ".join(arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"[{describe_type(arguments[0])}, ...]"
    if origin is tuple:
        return f"[{', '.join(map(describe_type, arguments))}]"
    return PLAIN_TYPES[annotation]


def describe_default(default: Any) -> str:
    """Return a default in the form in which YAML writes it."""
    return str(default) if default and isinstance(default, str | Path) else json.dumps(default, default=str)
