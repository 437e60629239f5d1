"""Read CSV files and their like: any delimiter, quoted names, decimal commas, headers repeated by a resumed run."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lr_env.records.readers.base import LoggedRun, UnreadableError
from lr_env.records.readers.beside import yaml_beside
from lr_env.records.readers.lines import Lines, head_lines
from lr_env.records.readers.names import is_training_log
from lr_env.records.readers.rows import RUN_COLUMNS, GroupedRows, damage_notes, to_number

_DELIMITERS = ",;\t|"
_DECIMAL_COMMA = re.compile(r"\s*[-+]?\d*,\d+(?:[eE][-+]?\d+)?\s*")
_LONGEST_CELL = 60
_LONGEST_LINE = 100_000


def header_of(lines: Sequence[str]) -> tuple[list[str], str] | None:
    """The names in the first line that is neither empty nor a comment, and the delimiter; None where it has no names.

    >>> header_of(["# made by us", "epoch; train loss; lr"])
    (['epoch', 'train loss', 'lr'], ';')
    """
    line = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    if line.lstrip()[:1] in ("{", "["):
        return None
    delimiter = max(_DELIMITERS, key=line.count)
    names = _names(_split(line, delimiter))
    if len(names) < 2 or not line.replace("\t", "").isprintable():
        return None
    return None if any(to_number(name) is not None for name in names) else (names, delimiter)


def _split(line: str, delimiter: str) -> list[str]:
    """The cells of one line. A quote that does not end spoils this line only."""
    if '"' not in line:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:
        return []


def _needs_care(line: str) -> bool:
    """Whether a line may have more in it than cells and delimiters."""
    return '"' in line or line[:1] == "#" or len(line) > _LONGEST_LINE


def _names(cells: Sequence[str]) -> list[str]:
    """Cells of a header as names: without blanks around them; each name once."""
    names: list[str] = []
    for cell in cells:
        name = cell.strip()
        same = sum(1 for other in names if other == name or other.startswith(f"{name} ("))
        names.append(f"{name} ({same + 1})" if name and name in names else name)
    return names


@dataclass(frozen=True)
class Delimited:
    """Reads tables of text with one row a time at which something was logged.

    Attributes:
        name: of the format.
        columns: names that its header has.
        begins: beginnings of names, of each of which its header has at least one.
        lacks: names that its header does not have.
        file: name of its files; any if empty.
        config: name of a YAML file with hyperparameters, beside the file.
    """

    name: str
    columns: frozenset[str] = frozenset()
    begins: tuple[str, ...] = ()
    lacks: frozenset[str] = frozenset()
    file: str = ""
    config: str = ""

    def detects(self, path: Path, head: bytes) -> bool:
        """Whether a file begins with the names of the format; see `Reader`."""
        lines = head_lines(head)
        if len(lines) < 2 and len(head) >= 4096:  # a long header
            lines = [line.rpartition(",")[0] for line in lines]
        header = header_of(lines)
        if header is None or self.file not in ("", path.name):
            return False
        names, _ = header
        if not self.columns <= set(names) or not self.lacks.isdisjoint(names):
            return False
        if not all(any(name.startswith(begin) for name in names) for begin in self.begins):
            return False
        return bool(self.columns) or is_training_log(names)

    def read(self, path: Path) -> Iterator[LoggedRun]:
        """Give the runs in a file; see `Reader`."""
        lines = Lines(path)
        table: _Table | None = None
        for block in lines.blocks():
            if table is None:
                if lines.unfinished and not any(block):
                    break
                header = header_of(block[:1000])
                if header is None:
                    raise UnreadableError("its first line has no names of columns")
                start = next(at for at, line in enumerate(block) if line.strip() and not line.startswith("#"))
                table = _Table(*header)
                block = block[start + 1 :]
            if lines.unfinished:
                table.add_unfinished(block[0] if block else "")
            else:
                table.add(block)
        if table is None:
            raise UnreadableError("it is empty")
        notes = damage_notes(table.unreadable, lines.too_long, table.cut_off)
        config = yaml_beside(path, self.config) if self.config else {}
        yield from table.rows.runs(self.name, path, config, notes)


class _Table:
    """The rows under a header."""

    def __init__(self, names: list[str], delimiter: str) -> None:
        self.rows = GroupedRows()
        self.unreadable = 0
        self.cut_off = False
        self._delimiter = delimiter
        self._last_lengths: deque[int] = deque(maxlen=20)
        self._set_header(names)

    def _set_header(self, names: list[str]) -> None:
        self._header = names
        self._grouped = not set(RUN_COLUMNS).isdisjoint(names)

    def add(self, lines: Sequence[str]) -> None:
        """Add whole lines."""
        if not any(map(_needs_care, lines)):
            rows = list(csv.reader(lines, delimiter=self._delimiter, quoting=csv.QUOTE_NONE))
            if {*map(len, rows)} == {len(self._header)} and not any(row[0] == self._header[0] for row in rows):
                self._add_rows(rows)
                return
        rows: list[list[str]] = []
        for line in lines:
            cells = _split(line, self._delimiter)
            if len(cells) == len(self._header) + 1 and not cells[-1].strip():  # a delimiter at the end of each line
                cells.pop()
            if len(cells) == len(self._header) and not (cells[0].strip() == self._header[0] != ""):
                rows.append(cells)
            elif not line.strip() or line.startswith("#"):
                continue
            elif (again := self._header_again(cells)) is not None:
                self._add_rows(rows)
                rows = []
                self._set_header(again)
            else:
                self.unreadable += 1
        self._add_rows(rows)

    def _header_again(self, cells: Sequence[str]) -> list[str] | None:
        """The names in a line that is a header again, perhaps with more columns; None where it is none."""
        names = _names(cells)
        same = len(set(names) & set(self._header))
        return (
            names if 2 * same > len(self._header) and not any(to_number(name) is not None for name in names) else None
        )

    def add_unfinished(self, line: str) -> None:
        """Add the last line, which has no end. Its last cell counts only if it is as long as those above it.

        A file that is still written may end in the middle of a number, but many whole files lack the last line's end.
        """
        cells = _split(line, self._delimiter)
        if len(cells) != len(self._header):
            self.cut_off = bool(line.strip())
            return
        if len(cells[-1]) < min(self._last_lengths, default=_LONGEST_CELL):
            self.cut_off = True
            cells[-1] = ""
        self._add_rows([cells])

    def _add_rows(self, rows: list[list[str]]) -> None:
        if not rows:
            return
        self._last_lengths.extend([len(row[-1]) for row in rows if row[-1].strip()][-20:])
        columns = [
            (name, self._cells(cells)) for name, cells in zip(self._header, zip(*rows, strict=True), strict=True)
        ]
        columns = [(name, cells) for name, cells in columns if name]  # the index of a data frame has none
        if self._grouped:
            names = [name for name, _ in columns]
            for row in zip(*(cells for _, cells in columns), strict=True):
                self.rows.add(dict(zip(names, row, strict=True)))
        else:
            self.rows.group("").add_columns(columns)

    def _cells(self, cells: Sequence[str]) -> Sequence[str]:
        if self._delimiter == ",":
            return cells
        return [cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else cell for cell in cells]


CSV = Delimited("csv")
KERAS = Delimited("keras", frozenset({"epoch", "loss"}), lacks=frozenset({"step", "train_loss", "iteration", "iter"}))
LIGHTNING = Delimited("lightning", frozenset({"epoch", "step"}), file="metrics.csv", config="hparams.yaml")
TIMM = Delimited("timm", frozenset({"epoch", "train_loss", "eval_loss"}), lacks=frozenset({"step"}))
ULTRALYTICS = Delimited("ultralytics", frozenset({"epoch"}), ("train/", "metrics/"), config="args.yaml")
