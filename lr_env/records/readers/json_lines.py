"""Read JSON lines: one object a line, as LLaMA-Factory, Detectron2, DeiT and many training loops write them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lr_env.records.readers.base import LoggedRun, UnreadableError
from lr_env.records.readers.lines import Lines, head_lines
from lr_env.records.readers.names import is_training_log
from lr_env.records.readers.rows import GroupedRows, damage_notes

_KEY = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:')

_DECODER = json.JSONDecoder()

_CONSTANT = frozenset({"total_steps", "max_steps", "n_parameters", "num_train_epochs", "steps_per_epoch"})
"""Names of numbers that are facts of the run, which are config, too."""


def keys_of(line: str) -> set[str]:
    """The keys in a line of JSON, which may be cut off."""
    return set(_KEY.findall(line))


def parse_line(line: str) -> dict[str, Any] | None:
    """The object in a line; None where there is none."""
    try:
        row, end = _DECODER.raw_decode(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and not line[end:].strip() else None


class JSONRows:
    """Objects in the lines of a file.

    Attributes:
        unreadable: lines without one, so far, an unfinished last line aside.
        cut_off: whether the last line has no end and no whole object.
    """

    def __init__(self, path: Path) -> None:
        self.lines = Lines(path)
        self.unreadable = 0
        self.cut_off = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Give the objects.

        Raises:
            OSError: the file cannot be read.
        """
        for block in self.lines.blocks():
            for line in block:
                if (row := parse_line(line.lstrip())) is not None:
                    yield row
                elif self.lines.unfinished:
                    self.cut_off = bool(line.strip())
                elif line and not line.isspace():
                    self.unreadable += 1

    def notes(self) -> list[str]:
        """What was not whole."""
        return damage_notes(self.unreadable, self.lines.too_long, self.cut_off)


@dataclass(frozen=True)
class JSONLines:
    """Reads objects with the numbers that were logged at one time.

    Attributes:
        name: of the format.
        keys: names of which the first line has at least one of each set.
    """

    name: str
    keys: tuple[frozenset[str], ...] = ()

    def detects(self, path: Path, head: bytes) -> bool:
        """Whether the first line is an object with the names of the format; see `Reader`."""
        lines = [line for line in head_lines(head) if line.strip()]
        if not lines or not lines[0].lstrip().startswith("{"):
            return False
        if len(lines) > 1 and parse_line(lines[0]) is None:  # a document over many lines
            return False
        if self.keys:
            names = keys_of(lines[0])
            return all(not some.isdisjoint(names) for some in self.keys)
        first = {name for line in lines[:20] for name in keys_of(line)}
        several = (
            len(lines) > 1 or path.suffix in (".jsonl", ".ndjson") or (len(head) >= 4096 and path.suffix != ".json")
        )
        return several and is_training_log(first)

    def read(self, path: Path) -> Iterator[LoggedRun]:
        """Give the runs in a file; see `Reader`."""
        rows, runs = JSONRows(path), GroupedRows()
        config: dict[str, Any] = {}
        for row in rows:
            if not len(runs):
                config = {name: row[name] for name in _CONSTANT if isinstance(row.get(name), int | float)}
            runs.add(row)
        if not len(runs):
            raise UnreadableError("no line of it is a whole JSON object" if rows.unreadable else "it is empty")
        yield from runs.runs(self.name, path, config, rows.notes())


JSON_LINES = JSONLines("json-lines")
LLAMAFACTORY = JSONLines("llamafactory", (frozenset({"current_steps"}), frozenset({"total_steps"})))
DETECTRON2 = JSONLines("detectron2", (frozenset({"iteration"}), frozenset({"total_loss", "eta_seconds", "data_time"})))
DEIT = JSONLines("deit", (frozenset({"epoch"}), frozenset({"train_lr"}), frozenset({"train_loss"})))
