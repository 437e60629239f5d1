"""Settings and states as JSON, and back: frozen dataclasses with their class, arrays with dtype and shape."""

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
    """Turn a value into dicts, lists, text and numbers. Values of unknown types stay as they are.

    A dataclass becomes a dict of its fields, with the module and name of its class as "class".

    >>> from lr_env.optimizers import SGD
    >>> to_plain(SGD(momentum=0.5))
    {'class': 'lr_env.optimizers:SGD', 'momentum': 0.5, 'nesterov': False, 'weight_decay': 0.0}
    """
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        settings = {field.name: to_plain(getattr(value, field.name)) for field in fields(value) if field.init}
        return {_CLASS: f"{kind.__module__}:{kind.__qualname__}", **settings}
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
    """Turn the result of `to_plain` back into the value; lists become tuples.

    Raises:
        UserError: a class does not exist, is not a dataclass, or has other fields.
    """
    if isinstance(value, Mapping) and _CLASS in value:
        settings = {name: from_plain(part) for name, part in value.items() if name != _CLASS}
        try:
            return _dataclass_at(value[_CLASS])(**settings)
        except TypeError as error:
            raise UserError(f"settings of {value[_CLASS]!r} do not fit ({error}): give its own fields") from None
    if isinstance(value, Mapping):
        return {name: from_plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return tuple(from_plain(part) for part in value)
    return value


def pack(node: Any) -> Any:
    """Turn a tree of arrays, dicts, lists, tuples and JSON values into JSON values, from which `unpack` makes it again.

    >>> unpack(pack({"rates": np.array([0.5, 0.25]), "at": (1, None)}))
    {'rates': array([0.5 , 0.25]), 'at': (1, None)}

    Raises:
        UserError: the tree holds something else.
    """
    if isinstance(node, np.ndarray) and node.dtype.kind in "biuf":
        return {"array": node.ravel().tolist(), "dtype": str(node.dtype), "shape": list(node.shape)}
    if isinstance(node, np.generic):
        node = node.item()
    if isinstance(node, Mapping) and all(isinstance(name, str) for name in node):
        return {"dict": {name: pack(value) for name, value in node.items()}}
    if isinstance(node, tuple):
        return {"tuple": [pack(value) for value in node]}
    if isinstance(node, list):
        return [pack(value) for value in node]
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise UserError(f"the state of a planner may hold arrays and JSON values, not {type(node).__name__}")


def unpack(node: Any) -> Any:
    """Turn the result of `pack` back into the tree."""
    if isinstance(node, list):
        return [unpack(value) for value in node]
    if not isinstance(node, Mapping):
        return node
    if "array" in node:
        return np.array(node["array"], dtype=node["dtype"]).reshape(node["shape"])
    if "tuple" in node:
        return tuple(unpack(value) for value in node["tuple"])
    return {name: unpack(value) for name, value in node["dict"].items()}


def _dataclass_at(where: Any) -> Any:
    """Return the dataclass at "module:Name"."""
    kind: Any = None
    if isinstance(where, str) and where.count(":") == 1:
        module, _, path = where.partition(":")
        try:
            kind = importlib.import_module(module)
            for name in path.split("."):
                kind = getattr(kind, name)
        except (ImportError, AttributeError, ValueError):
            kind = None
    if not (isinstance(kind, type) and is_dataclass(kind)):
        raise UserError(f"there is no dataclass {where!r}: give 'module:Name' of one that can be imported here")
    return kind
