"""Settings as JSON has them, and back: frozen dataclasses with their class, numpy's numbers as Python's."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np

from lr_env.errors import UserError

_CLASS = "class"


def to_plain(value: Any) -> Any:
    """A value made of dicts, lists, text and numbers; what is none of what is known here stays as it is.

    A dataclass becomes a dict of its fields, with "class" for the module and the name of its class.
    """
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        own = {field.name: to_plain(getattr(value, field.name)) for field in fields(value) if field.init}
        return {_CLASS: f"{kind.__module__}:{kind.__qualname__}", **own}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {name: to_plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(part) for part in value]
    return value


def from_plain(value: Any) -> Any:
    """What `to_plain` was given, but that lists are tuples.

    Raises:
        UserError: a class is not where it is said to be, is no dataclass, or has other fields.
    """
    if isinstance(value, Mapping) and _CLASS in value:
        own = {name: from_plain(part) for name, part in value.items() if name != _CLASS}
        try:
            return _found(value[_CLASS])(**own)
        except TypeError as error:
            raise UserError(f"settings of {value[_CLASS]!r} do not fit ({error}): give its own fields") from None
    if isinstance(value, Mapping):
        return {name: from_plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return tuple(from_plain(part) for part in value)
    return value


def _found(where: Any) -> Any:
    """The dataclass of a module and a name in it."""
    found: Any = None
    if isinstance(where, str) and where.count(":") == 1:
        module, _, path = where.partition(":")
        try:
            found = importlib.import_module(module)
            for name in path.split("."):
                found = getattr(found, name)
        except (ImportError, AttributeError, ValueError):
            found = None
    if not (isinstance(found, type) and is_dataclass(found)):
        raise UserError(f"there is no dataclass {where!r}: give 'module:Name' of one that can be imported here")
    return found
