"""Reads W&B's `.wandb` files, which every run folder holds: a LevelDB log of protocol buffers."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lr_env.records.readers.base import LoggedRun, UnreadableError
from lr_env.records.readers.formats import protobuf
from lr_env.records.readers.formats.leveldb_log import LevelDBLog
from lr_env.records.readers.formats.points import Points, flat, number, parse_json
from lr_env.records.readers.formats.protobuf import BYTES, FIXED64, VARINT, WireError, fields
from lr_env.records.readers.formats.refusals import refusing
from lr_env.words import counted

_MAGIC = b":W&B"
_HEADER = 7

_HISTORY, _CONFIG, _RUN, _EXIT = 2, 5, 17, 18
"""Fields of a record: what kind it is."""

_Column = tuple[str, "array[float]", "array[float]"]
"""A name, and what is collected under it: the clock and the values."""

_MEDIA = "_type"
"""A key of what is an image, a histogram or a table, and no number."""


class WandB:
    """Reads the file of a run, offline or online. The clock is W&B's own, `_step`, which counts calls of `log`."""

    name = "wandb"

    def detects(self, path: Path, head: bytes) -> bool:
        """Whether it is a `.wandb` file, by its name or its first bytes."""
        return head.startswith(_MAGIC) or (path.suffix == ".wandb" and path.is_file())

    def read(self, path: Path) -> Iterator[LoggedRun]:
        """Give the run of a file."""
        with refusing(path):
            with open(path, "rb") as file:
                head = file.read(_HEADER)
            if not head:
                raise UnreadableError("empty")
            if head[:4] != _MAGIC:
                raise UnreadableError("not a W&B file, or its beginning is damaged")
            run = _Run()
            log = LevelDBLog(path, _HEADER)
            for record in log.records():
                run.take(record)
        notes = []
        if log.cut:
            notes.append(f"cut off after {counted(log.count, 'record')}")
        if log.damaged:
            notes.append(f"damaged in {counted(log.damaged, 'place')}, where records are missing")
        if run.damaged:
            notes.append(f"{counted(run.damaged, 'record')} could not be parsed")
        if run.repeated:
            notes.append(f"{counted(run.repeated, 'record')} repeated: taken once")
        if run.exit_code is None:
            notes.append("no exit record: it crashed, or is still running")
        elif run.exit_code:
            notes.append(f"exit code {run.exit_code}")
        if not run.rows:
            raise UnreadableError("; ".join(["no history record", *notes]))
        yield LoggedRun(
            self.name,
            path,
            run.run_id or path.stem.removeprefix("run-"),
            run.series(),
            clock="_step",
            config=run.config,
            began=run.began,
            notes=tuple(notes),
        )


class _Run:
    """What the records of a file say."""

    def __init__(self) -> None:
        self.points = Points()
        self.config: dict[str, Any] = {}
        self.run_id = ""
        self.began = math.nan
        self.exit_code: int | None = None
        self.rows = 0
        self.damaged = 0
        self.repeated = 0
        self._last = 0
        self._media: set[str] = set()
        self._columns: dict[bytes, _Column] = {}

    def series(self) -> dict[str, Any]:
        """Return the numbers; the sizes of images and the like are none."""
        media = tuple(f"{name}." for name in self._media)
        return {
            name: series for name, series in self.points.series().items() if not media or not name.startswith(media)
        }

    def take(self, record: bytes) -> None:
        """Take a record."""
        try:
            at = 0
            if record[:1] == b"\x08":  # the number of the record in the file
                count, at = protobuf.varint(record, 1)
                if 0 < count <= self._last:
                    self.repeated += 1
                    return
                self._last = count
            for field, kind, start, end in fields(record, at):
                if kind != BYTES:
                    continue
                if field == _HISTORY:
                    self._history(record, start, end)
                elif field == _CONFIG:
                    self._configured(record, start, end)
                elif field == _RUN:
                    self._described(record, start, end)
                elif field == _EXIT:
                    self.exit_code = 0
                    for inner, inner_kind, begin, _ in fields(record, start, end):
                        if inner == 1 and inner_kind == VARINT:
                            self.exit_code = protobuf.signed(protobuf.varint(record, begin)[0])
        except WireError:
            self.damaged += 1

    def _history(self, record: bytes, start: int, end: int) -> None:
        """Take a row of the history: items, and the step."""
        row: list[tuple[_Column, float]] = []
        step: float | None = None
        columns = self._columns
        at = start
        while at < end:
            tag = record[at]
            if tag == 10 and at + 1 < end and record[at + 1] < 128:  # an item of less than 128 bytes, as most are
                begin = at + 2
                at = begin + record[at + 1]
                if at > end:
                    raise WireError("an item ends after its row")
                # Nearly always a key of one part (1 or 2), then the value as JSON (16, so two bytes of tag).
                if at - begin > 6 and record[begin] in (10, 18):
                    key_end = begin + 2 + record[begin + 1]
                    if key_end + 3 <= at and record[key_end : key_end + 2] == b"\x82\x01":
                        column = columns.get(record[begin + 2 : key_end])
                        if column is not None and key_end + 3 + record[key_end + 2] == at:
                            try:
                                value = float(record[key_end + 3 : at])
                                row.append((column, value))
                                continue
                            except ValueError:
                                pass
                row += self._item(record, begin, at)
                continue
            key, at = protobuf.varint(record, at)
            if key & 7 != BYTES:
                raise WireError("a row has no such field")
            length, begin = protobuf.varint(record, at)
            at = begin + length
            if at > end:
                raise WireError("a field ends after its row")
            if key >> 3 == 1:
                row += self._item(record, begin, at)
            elif key >> 3 == 2:
                step = 0.0
                if length and record[begin] == 8:
                    step = float(protobuf.signed(protobuf.varint(record, begin + 1)[0]))
        for column, value in row:
            if column[0] == "_step":
                step = value
        if step is None or not math.isfinite(step):
            step = float(self.rows)
        self.rows += 1
        for (_, clock, values), value in row:
            clock.append(step)
            values.append(value)

    def _item(self, record: bytes, start: int, end: int) -> list[tuple[_Column, float]]:
        """Return the numbers of an item of any form: a plain or nested key, and a value as JSON or by type."""
        keys: list[bytes] = []
        value: Any = None
        for field, kind, begin, stop in fields(record, start, end):
            if field in (1, 2) and kind == BYTES:
                keys.append(record[begin:stop])
            elif field == 4 and kind == VARINT:
                value = bool(record[begin])
            elif field == 5 and kind == VARINT:
                value = protobuf.zigzag(protobuf.varint(record, begin)[0])
            elif field == 6 and kind == FIXED64:
                value = protobuf.double(record, begin)
            elif field in (8, 16) and kind == BYTES:
                try:
                    value = parse_json(record[begin:stop])
                except ValueError as error:
                    raise WireError(str(error)) from None
        name = ".".join(key.decode("utf-8", "replace") for key in keys)
        if keys and keys[-1] == _MEDIA.encode():
            self._media.add(name.removesuffix(f".{_MEDIA}"))
            return []
        if isinstance(value, dict):
            if _MEDIA in value:
                return []
            numbers = {f"{name}.{key}": number(each) for key, each in flat(value).items()}
        else:
            numbers = {name: number(value)}
        result: list[tuple[_Column, float]] = []
        for each, converted in numbers.items():
            if converted is not None:
                column = (each, *self.points.column(each))
                if each == name and len(keys) == 1:
                    self._columns[keys[0]] = column
                result.append((column, converted))
        return result

    def _configured(self, record: bytes, start: int, end: int) -> None:
        """Take a change of the config."""
        for field, kind, begin, stop in fields(record, start, end):
            if field not in (1, 2) or kind != BYTES:
                continue
            keys, value = [], b"null"
            for inner, inner_kind, inner_begin, inner_stop in fields(record, begin, stop):
                if inner in (1, 2) and inner_kind == BYTES:
                    keys.append(protobuf.text(record, inner_begin, inner_stop))
                elif inner == 16 and inner_kind == BYTES:
                    value = record[inner_begin:inner_stop]
            name = ".".join(keys)
            if keys[:1] == ["_wandb"]:
                continue
            self.config = {
                key: each for key, each in self.config.items() if key != name and not key.startswith(f"{name}.")
            }
            if field == 1:
                try:
                    self.config |= flat({name: parse_json(value)})
                except ValueError:
                    self.damaged += 1

    def _described(self, record: bytes, start: int, end: int) -> None:
        """Take what the run is called, when it began, and its config."""
        for field, kind, begin, stop in fields(record, start, end):
            if field == 1 and kind == BYTES:
                self.run_id = protobuf.text(record, begin, stop)
            elif field == 4 and kind == BYTES:
                self._configured(record, begin, stop)
            elif field == 17 and kind == BYTES:
                seconds = nanoseconds = 0
                for inner, inner_kind, value, _ in fields(record, begin, stop):
                    if inner_kind == VARINT and inner == 1:
                        seconds = protobuf.signed(protobuf.varint(record, value)[0])
                    elif inner_kind == VARINT and inner == 2:
                        nanoseconds = protobuf.varint(record, value)[0]
                self.began = seconds + nanoseconds / 1e9
