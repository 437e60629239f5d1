"""Logged numbers as they are collected: compact, by name, in the order of the log."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np

from lr_env.records.readers.base import Series

_LONGEST = 1000
"""Characters of the longest text that is taken into a config."""

_DEEPEST = 20
"""How deep a config may be nested."""

_DECODER = json.JSONDecoder()

_SPOKEN = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Points:
    """Numbers of one run by name, each with its clock: 16 bytes a point."""

    def __init__(self) -> None:
        self._columns: dict[str, tuple[array[float], array[float]]] = {}

    def __bool__(self) -> bool:
        return any(len(at) for at, _ in self._columns.values())

    def column(self, name: str) -> tuple[array[float], array[float]]:
        """Return what is collected under a name: the clock and the values, to be appended to."""
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = (array("d"), array("d"))
        return column

    def add(self, name: str, at: float, value: float) -> None:
        """Append a number."""
        clock, values = self.column(name)
        clock.append(at)
        values.append(value)

    def series(self) -> dict[str, Series]:
        """Return all numbers; nothing can be added afterwards."""
        return {
            name: Series(np.frombuffer(at), np.frombuffer(values))
            for name, (at, values) in self._columns.items()
            if len(at)
        }


def number(value: Any) -> float | None:
    """Return a number of JSON or SQLite as a float, also one that is spelt "NaN" or "Infinity"; None for all else."""
    if type(value) is float:
        return value
    if isinstance(value, str):
        return _SPOKEN.get(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def parse_json(data: Any) -> Any:
    """Parse JSON, as text or bytes of any origin.

    Raises:
        ValueError: it is no JSON, or is nested too deeply.
    """
    text = data.decode() if isinstance(data, bytes) else data
    if not isinstance(text, str):  # a database has values of any type
        raise ValueError("it is no text")
    text = text.strip()
    try:
        value, end = _DECODER.raw_decode(text)  # json.loads looks for blanks around it, which takes as long
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if end != len(text):
        raise ValueError("more follows it")
    return value


def typed(value: str) -> Any:
    """Return the number, truth value or None that a text spells, as Python or JSON would; other texts as they are."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if value.lower() in words:
        return words[value.lower()]
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def flat(config: Mapping[str, Any], within: str = "", depth: int = 0) -> dict[str, Any]:
    """Return a nested config under flat names, "model.width". Lists become their text; what is long is left out."""
    result = {}
    for key, value in config.items():
        name = f"{within}{key}"
        if isinstance(value, Mapping):
            if depth < _DEEPEST:
                result |= flat(value, f"{name}.", depth + 1)
            continue
        if isinstance(value, list | tuple):
            try:
                value = json.dumps(value)
            except (ValueError, TypeError, RecursionError):
                continue
        if value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) < _LONGEST):
            result[name] = value
    return result
