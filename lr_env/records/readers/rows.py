"""Rows of named values, as text formats have them, collected into logged runs."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_env.records.readers.base import LoggedRun, Series, UnreadableError
from lr_env.words import counted

RUN_COLUMNS = ("run_id", "run_name", "run", "trial_id", "trial")
"""Columns that tell the runs of one file apart; the first that is there counts."""

_MISSING = frozenset(("", "-", "--", "none", "null", "n/a", "na", "nil", "undefined"))
"""Texts in place of a number that was not measured; NaN is a number that was."""

_SPOILED = re.compile(r"\s*[-+]?\d.*")
"""Texts that begin as a number, and are none that can be read for certain: "1,000", "12k"."""

_LONGEST_NUMBER = 60
"""Characters."""

_DEEPEST, _WIDEST = 6, 32
"""Levels of objects, and items of lists of numbers, that become names."""

_MOST_COLUMNS = 50_000

_EXACT = 2**63
"""Whole numbers below this become floats without further ado."""


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
    """Rows of a file, in order. Numbers become series over the number of the row, texts that never change config.

    In a column of numbers a text that begins as one is NaN: a clock does not stand still there.
    """

    def __init__(self) -> None:
        self._row = 0
        self._numbers: dict[str, tuple[array[int], array[float]]] = {}
        self._texts: dict[str, str | bool | None] = {}
        self._spoiled: dict[str, tuple[int, str]] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row of names and values, which may be nested; see `flattened`."""
        numbers, at = self._numbers, self._row
        for name, value in row.items():
            kind = type(value)
            if kind is float or (kind is int and -_EXACT < value < _EXACT):
                column = numbers.get(name)
                if column is None:
                    column = self._new_column(name)
                column[0].append(at)
                column[1].append(value)
            elif value is not None:
                self._add_other(name, value)
        self._row = at + 1

    def _add_other(self, name: str, value: Any) -> None:
        """Add a value of the current row that is no plain number."""
        if isinstance(value, Mapping | list):
            for part_name, part in flattened({name: value}):
                self._add_other(part_name, part)
        elif (number := to_number(value)) is not None:
            rows, values = self._numbers.get(name) or self._new_column(name)
            rows.append(self._row)
            values.append(number)
        elif isinstance(value, str | bool):
            self._add_text(name, value)
            if isinstance(value, str) and name in self._numbers and _SPOILED.fullmatch(value):
                rows, values = self._numbers[name]
                rows.append(self._row)
                values.append(math.nan)
                self._count_spoiled(name, 1, value)

    def add_columns(self, columns: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Add rows of texts, given as columns of the same length with a name each."""
        for name, cells in columns:
            rows, values = self._parsed(name, cells)
            if len(rows):
                column = self._numbers.get(name) or self._new_column(name)
                column[0].frombytes((rows + self._row).tobytes())
                column[1].frombytes(values.tobytes())
        self._row += max((len(cells) for _, cells in columns), default=0)

    def _parsed(self, name: str, cells: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The numbers in a column of texts, and their places. Nearly every column has nothing else, or is empty."""
        if max(map(len, cells), default=0) <= _LONGEST_NUMBER:
            texts = np.array(cells)
            there = np.flatnonzero(texts != "")
            try:
                return there, texts[there].astype(np.float64)
            except ValueError:
                pass
        parsed = [to_number(cell) for cell in cells]
        for text in {cell for cell, number in zip(cells, parsed, strict=True) if number is None}:
            self._add_text(name, text)
        if name in self._numbers or any(number is not None for number in parsed):
            spoiled = [at for at, number in enumerate(parsed) if number is None and _SPOILED.fullmatch(cells[at])]
            for at in spoiled:
                parsed[at] = math.nan
            if spoiled:
                self._count_spoiled(name, len(spoiled), cells[spoiled[0]])
        places = [at for at, number in enumerate(parsed) if number is not None]
        return np.array(places, dtype=np.int64), np.array([parsed[at] for at in places], dtype=np.float64)

    def _new_column(self, name: str) -> tuple[array[int], array[float]]:
        if len(self._numbers) >= _MOST_COLUMNS:
            raise UnreadableError(f"its rows have more than {_MOST_COLUMNS:,} different names: it is no log of runs")
        column = self._numbers[name] = array("q"), array("d")
        return column

    def _add_text(self, name: str, text: str | bool) -> None:
        if isinstance(text, str):
            text = text.strip()
            if text.lower() in _MISSING or len(text) > 1000:
                return
        if self._texts.setdefault(name, text) != text:
            self._texts[name] = None

    def _count_spoiled(self, name: str, count: int, text: str) -> None:
        before, first = self._spoiled.get(name, (0, text.strip()[:_LONGEST_NUMBER]))
        self._spoiled[name] = before + count, first

    def __len__(self) -> int:
        return self._row

    def _spoiled_notes(self) -> list[str]:
        """What is said of numbers that could not be read, which count as NaN."""
        return [
            f"{counted(count, 'value')} of {name!r} could not be read as a number, such as {text!r}"
            for name, (count, text) in self._spoiled.items()
        ]

    def runs(
        self, reader: str, path: Path, config: Mapping[str, Any] | None = None, notes: Sequence[str] = ()
    ) -> Iterator[LoggedRun]:
        """Give the run that the rows are of, or several, where a column tells them apart."""
        notes = [*notes, *self._spoiled_notes()]
        every_row = np.arange(self._row, dtype=np.float64)
        series = {}
        for name in list(self._numbers):
            rows, values = self._numbers.pop(name)  # one column at a time is there twice
            at = every_row if len(rows) == self._row else np.frombuffer(rows, dtype=np.int64).astype(np.float64)
            series[name] = Series(at, np.frombuffer(values, dtype=np.float64))
        texts = {name: text for name, text in self._texts.items() if text is not None}
        config = {**texts, **(config or {})}
        column = next(
            (name for name in RUN_COLUMNS if name in series and len(np.unique(series[name].values)) > 1), None
        )
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

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row of names and values to the run that it names."""
        for column in RUN_COLUMNS:
            if column in row and isinstance(name := row[column], str) and name and to_number(name) is None:
                self.group(name[:200]).add(row)
                return
        self.group("").add(row)

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
