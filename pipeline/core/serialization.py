"""Frozen dataclasses to and from what JSON can hold."""

import dataclasses
import json
import types
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pipeline.core.data_kinds import DATA_KINDS, DataKind

Record = TypeVar("Record")


def build_record(kind: type[Record], values: dict[str, Any]) -> Record:
    """Build a dataclass from what ``json.loads`` gives for its ``dataclasses.asdict``.

    JSON has neither tuples nor paths nor dataclasses; the annotations name them.

    Args:
        kind: The dataclass.
        values: From the name of a field to its value.

    Returns:
        The record, its own checks passed.
    """
    hints = get_type_hints(kind)
    return kind(**{name: _restore(hints[name], value) for name, value in values.items()})


def _restore(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    if hint is DataKind:
        return DATA_KINDS[value]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _restore(next(argument for argument in arguments if argument is not type(None)), value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return build_record(hint, value)
    if origin is tuple:
        kinds = [arguments[0]] * len(value) if arguments[-1] is ... else arguments
        return tuple(_restore(kind, item) for kind, item in zip(kinds, value, strict=True))
    return Path(value) if hint is Path else value


def flatten(record: Any, prefix: str = "") -> dict[str, Any]:
    """List the fields of nested dataclasses.

    Args:
        record: A dataclass.
        prefix: A text that is put before each name, with a dot.

    Returns:
        ``section.field`` -> value as JSON can hold it: tuples as lists, paths as text.
    """
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(record):
        name = f"{prefix}.{item.name}" if prefix else item.name
        value = getattr(record, item.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, name)
        else:
            flat[name] = to_plain(value)
    return flat


def encode_plain(value: Any) -> Any:
    """Turn a dataclass or a path into what JSON can hold; for ``json.dumps(default=...)``.

    Raises:
        TypeError: anything else that JSON cannot hold.
    """
    if isinstance(value, DataKind):
        return value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"JSON cannot hold {type(value).__name__}")


def to_plain(value: Any) -> Any:
    """Turn a value into what ``json.loads`` returns for it: dataclasses as dicts, tuples as lists, paths as text."""
    return json.loads(json.dumps(value, default=encode_plain))
