"""Rows of named values, as text formats have them, collected into logged runs."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.records.readers.base import LoggedRun, Series, UnreadableError

RUN_COLUMNS = ("run_id", "run_name", "run", "trial_id", "trial")
"""Columns that tell the runs of one file apart; the first that is there counts."""

_MISSING = frozenset(("", "-", "--", "none", "null", "n/a", "na", "nil", "undefined"))
"""Texts in place of a number that was not measured; NaN is a number that was."""

_LONGEST_NUMBER = 60
"""Characters."""

_DEEPEST, _WIDEST = 6, 32
"""Levels of objects, and items of lists of numbers, that become names."""

_MOST_COLUMNS = 50_000


def to_number(value: Any) -> float | None:
    """A value of a log as a number; None where it is none.

    >>> to_number(" 1e-3 "), to_number("-"), to_number("nan"), to_number(10**400), to_number("0:00:24")
    (0.001, None, nan, inf, None)
    """
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str):
        value = value.strip()
        if len(value) > _LONGEST_NUMBER or "_" in value:
            return None
    try:
        return float(value)
    except (ValueError, TypeError):
        return None
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def flattened(row: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Names and values of a nested row: {"train": {"loss": 1, "lr": [0.1, 0.2]}} has "train/loss" and "train/lr/0".

    Longer lists, deeper levels and lists of anything but numbers are left out.
    """
    for name, value in row.items():
        if isinstance(value, Mapping):
            if depth < _DEEPEST:
                yield from flattened(value, f"{prefix}{name}/", depth + 1)
        elif isinstance(value, list):
            if len(value) <= _WIDEST and all(type(item) in (int, float) for item in value):
                yield from ((f"{prefix}{name}/{place}", item) for place, item in enumerate(value))
        else:
            yield f"{prefix}{name}", value


class Rows:
    """The rows of a file, in order. Numbers become series over the number of the row, texts that stay the same config."""

    def __init__(self) -> None:
        self._row = 0
        self._numbers: dict[str, tuple[array[int], array[float]]] = {}
        self._texts: dict[str, str | bool | None] = {}

    def add(self, row: Iterable[tuple[str, Any]]) -> None:
        """Add a row of names and values."""
        numbers, at = self._numbers, self._row
        for name, value in row:
            if type(value) is float:
                number: float | None = value
            elif (number := to_number(value)) is None:
                if isinstance(value, str | bool):
                    self._add_text(name, value)
                continue
            if name not in numbers:
                self._check_width()
                numbers[name] = array("q"), array("d")
            rows, values = numbers[name]
            rows.append(at)
            values.append(number)
        self._row = at + 1

    def add_columns(self, columns: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Add rows of texts, given as columns of the same length with a name each."""
        for name, cells in columns:
            try:  # nearly every block of a column is numbers only
                if max(map(len, cells), default=0) > _LONGEST_NUMBER:
                    raise ValueError
                values = np.array(cells).astype(np.float64)
                rows = np.arange(len(cells))
            except ValueError:
                parsed = [to_number(cell) for cell in cells]
                rows = np.array([at for at, number in enumerate(parsed) if number is not None], dtype=np.int64)
                values = np.array([number for number in parsed if number is not None], dtype=np.float64)
                for text in {cell for cell, number in zip(cells, parsed, strict=True) if number is None}:
                    self._add_text(name, text)
            if len(rows):
                if name not in self._numbers:
                    self._check_width()
                    self._numbers[name] = array("q"), array("d")
                self._numbers[name][0].frombytes((rows + self._row).astype(np.int64).tobytes())
                self._numbers[name][1].frombytes(values.tobytes())
        self._row += max((len(cells) for _, cells in columns), default=0)

    def _check_width(self) -> None:
        if len(self._numbers) >= _MOST_COLUMNS:
            raise UnreadableError(f"its rows have more than {_MOST_COLUMNS:,} different names: it is no log of runs")

    def _add_text(self, name: str, text: str | bool) -> None:
        if isinstance(text, str):
            text = text.strip()
            if text.lower() in _MISSING or len(text) > 1000:
                return
        if self._texts.setdefault(name, text) != text:
            self._texts[name] = None

    def __len__(self) -> int:
        return self._row

    def runs(
        self, reader: str, path: Path, config: Mapping[str, Any] | None = None, notes: Sequence[str] = ()
    ) -> Iterator[LoggedRun]:
        """Give the run that the rows are of, or several, where a column tells them apart."""
        series = {name: Series(_floats(rows), _floats(values)) for name, (rows, values) in self._numbers.items()}
        texts = {name: text for name, text in self._texts.items() if text is not None}
        config = {**texts, **(config or {})}
        column = next((name for name in RUN_COLUMNS if name in series and len(np.unique(series[name].values)) > 1), None)
        if column is None:
            yield LoggedRun(reader, path, str(path), series, "row", config, notes=tuple(notes))
            return
        of_row = np.full(self._row, np.nan)
        of_row[series[column].at.astype(np.int64)] = series[column].values
        for value in dict.fromkeys(series[column].values.tolist()):
            if math.isnan(value):
                continue
            parts = {name: _where(one, of_row[one.at.astype(np.int64)] == value) for name, one in series.items()}
            parts = {name: one for name, one in parts.items() if len(one.at)}
            yield LoggedRun(reader, path, f"{path}/{column}={value:g}", parts, "row", config, notes=tuple(notes))


class GroupedRows:
    """Rows of a file in which a column of texts may tell runs apart."""

    def __init__(self) -> None:
        self._groups: dict[str, Rows] = {}

    def group(self, name: str) -> Rows:
        """The rows of the run with that name; "" where rows name none."""
        return self._groups.setdefault(name, Rows())

    def add(self, items: Sequence[tuple[str, Any]]) -> None:
        """Add a row of names and values to the run that it names."""
        named = dict(items)
        for column in RUN_COLUMNS:
            value = named.get(column)
            if isinstance(value, str) and value and to_number(value) is None:
                self.group(f"{column}={value[:200]}").add(items)
                return
        self.group("").add(items)

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def runs(
        self, reader: str, path: Path, config: Mapping[str, Any] | None = None, notes: Sequence[str] = ()
    ) -> Iterator[LoggedRun]:
        """Give the runs, in the order in which they begin."""
        for name, rows in self._groups.items():
            for run in rows.runs(reader, path, config, notes):
                if name and len(self._groups) > 1:
                    yield LoggedRun(reader, path, f"{path}/{name}", run.series, "row", run.config, notes=run.notes)
                else:
                    yield run


def _floats(values: array[Any]) -> NDArray[np.float64]:
    """An array without a copy, where it has floats already."""
    return np.asarray(np.frombuffer(values, dtype=np.float64 if values.typecode == "d" else np.int64), dtype=np.float64)


def _where(series: Series, which: NDArray[np.bool_]) -> Series:
    return Series(series.at[which], series.values[which])


def damage_notes(unreadable: int, too_long: int, unfinished: bool) -> list[str]:
    """What was not whole in a file of lines, as notes."""
    notes = []
    if unreadable:
        notes.append(f"{unreadable:,} {'line' if unreadable == 1 else 'lines'} could not be read")
    if too_long:
        notes.append(f"{too_long:,} {'line was' if too_long == 1 else 'lines were'} too long to be read")
    if unfinished:
        notes.append("its last line is cut off")
    return notes
