"""Reads TensorBoard event files: TFRecord framing around protocol buffers."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lr_env.records.readers.base import LoggedRun, UnreadableError
from lr_env.records.readers.formats import protobuf
from lr_env.records.readers.formats.points import Points, flat, parse_json
from lr_env.records.readers.formats.protobuf import BYTES, FIXED32, FIXED64, VARINT, WireError, fields
from lr_env.records.readers.formats.refusals import refusing
from lr_env.records.readers.formats.tfrecords import TFRecords, begins_with_record
from lr_env.words import counted

Unpack = Callable[[bytes, int], tuple[Any, ...]]

_FLOAT: Unpack = struct.Struct("<f").unpack_from
_WIDTHS: dict[int, tuple[int, Unpack]] = {  # data types of TensorFlow
    1: (4, _FLOAT),
    2: (8, struct.Struct("<d").unpack_from),
    3: (4, struct.Struct("<i").unpack_from),
    9: (8, struct.Struct("<q").unpack_from),
    14: (2, lambda data, at: _FLOAT(b"\0\0" + data[at : at + 2], 0)),  # bfloat16
    19: (2, struct.Struct("<e").unpack_from),
}
_TYPED_FIELDS = {5: 1, 6: 2}
"""Fields of a tensor that hold floats and doubles -> their data type."""

_MOST_LAYOUTS = 10_000


@dataclass(frozen=True)
class _Number:
    """A number in a record: where it starts and ends, and how it is unpacked."""

    start: int
    end: int
    unpack: Unpack


_CANONICAL = "events.out.tfevents."
_SPLITS = ("train", "training", "val", "valid", "validation", "eval", "test")
"""Folders into which writers of one run put what they measure on each part of the data; Keras does."""


class TensorBoard:
    """Reads event files. Those of one folder are parts of one run, and so are those of its folders "train" and "val".

    What such a folder holds is named as TensorBoard shows it, "validation/epoch_loss"; what PyTorch's `add_scalars`
    wrote is "loss/val". A file that was renamed is a run of its own, since a folder of such files is somebody's
    collection.
    """

    name = "tensorboard"

    def detects(self, path: Path, head: bytes) -> bool:
        """Whether it is an event file, by its name or its first record."""
        if begins_with_record(head) and b"brain.Event:" in head[:64]:
            return True
        return "tfevents" in path.name and path.is_file()

    def read(self, path: Path) -> Iterator[LoggedRun]:
        """Give the part of a run that an event file holds."""
        with refusing(path):
            events = _Events()
            records = TFRecords(path)
            for data, starts, ends in records.batches():
                events.take(data, starts, ends)
            series = events.points.series()
            run, names = _place(path, series)
        if not events.points and not events.config:
            raise UnreadableError(_why_nothing(path, records, events))
        notes = [records.note] if records.note else []
        if events.damaged:
            notes.append(f"{counted(events.damaged, 'record')} could not be parsed")
        yield LoggedRun(
            self.name,
            path,
            str(run),
            {names[tag]: each for tag, each in series.items()},
            clock="step",
            config=events.config,
            began=events.began,
            notes=tuple(notes),
        )


def _place(path: Path, tags: Collection[str]) -> tuple[Path, dict[str, str]]:
    """Return where the run of an event file lies, and what its tags are called there."""
    folder = path.parent
    if not path.name.startswith(_CANONICAL):
        return path, {tag: tag for tag in tags}
    if len(tags) == 1:
        (tag,) = tags
        # `add_scalars` of PyTorch writes "loss" into a folder "loss_train", that of tensorboardX into "loss/train".
        begin, parts = tag.replace("/", "_") + "_", tuple(tag.split("/"))
        if folder.name.startswith(begin) and _has_events(folder.parent):
            return folder.parent, {tag: f"{tag}/{folder.name.removeprefix(begin)}"}
        if folder.parts[-len(parts) - 1 : -1] == parts and _has_events(folder.parents[len(parts)]):
            return folder.parents[len(parts)], {tag: f"{tag}/{folder.name}"}
    if folder.name.lower() in _SPLITS:
        siblings = [each for each in folder.parent.iterdir() if each != folder and each.name.lower() in _SPLITS]
        if any(map(_has_events, (folder.parent, *siblings))):
            return folder.parent, {tag: f"{folder.name}/{tag}" for tag in tags}
    return folder, {tag: tag for tag in tags}


def _has_events(folder: Path) -> bool:
    """Return whether event files lie in a folder."""
    return any(folder.glob(f"{_CANONICAL}*"))


def _why_nothing(path: Path, records: TFRecords, events: _Events) -> str:
    """Return why no number can be read from a file."""
    if path.stat().st_size == 0 or (records.count == 1 and not records.note and not events.damaged):
        return "empty: an event file without events"
    if records.note:
        return f"no scalars: {records.note}"
    return f"no scalars among {counted(records.count, 'record')}"


class _Events:
    """What the events of a file say.

    Most records of a file differ only in the time, the step and one number of a fixed width. So the rest of each is
    remembered with where its number lies, and is looked up before a record is parsed.
    """

    def __init__(self) -> None:
        self.points = Points()
        self.config: dict[str, Any] = {}
        self.began = math.nan
        self.damaged = 0
        self._plugins: dict[str, str] = {}
        # Length of what follows the step -> places of numbers in it -> all but the number -> tag, how to unpack.
        self._layouts: dict[int, dict[tuple[int, int], dict[bytes, tuple[Any, Any, Unpack]]]] = {}
        self._remembered = 0

    def take(self, data: bytes, starts: list[int], ends: list[int]) -> None:
        """Take a batch of records."""
        layouts = self._layouts
        for start, end in zip(starts, ends, strict=True):
            # Every writer puts time (tag 9, 8 bytes), step (tag 16, a varint) and what happened in this order.
            at = start + 9
            step = 0
            if at < end and data[at] == 16:
                at += 1
                step = data[at]
                at += 1
                if step >= 128:
                    step &= 127
                    shift = 7
                    while at < end:
                        byte = data[at]
                        at += 1
                        step |= (byte & 127) << shift
                        if byte < 128:
                            break
                        shift += 7
            rest = data[at:end]
            for (begin, stop), whole in layouts.get(len(rest), {}).items():
                entry = whole.get(rest[:begin] + rest[stop:])
                if entry is not None and data[start] == 9 and step < 1 << 63:
                    clock, values, unpack = entry
                    clock.append(step)
                    values.append(unpack(rest, begin)[0])
                    break
            else:
                self._parse(data[start:end], at - start)

    def _parse(self, record: bytes, rest: int) -> None:
        """Parse a record, and remember its layout: what lies from `rest` on."""
        try:
            event = list(fields(record))
            time, step, summaries = math.nan, 0, []
            for number, kind, start, end in event:
                if number == 1 and kind == FIXED64:
                    time = protobuf.double(record, start)
                elif number == 2 and kind == VARINT:
                    step = protobuf.signed(protobuf.varint(record, start)[0])
                elif number == 5 and kind == BYTES:
                    summaries.append((start, end))
            if math.isnan(self.began):
                self.began = time
            values = [
                field for start, end in summaries for field in fields(record, start, end) if field[:2] == (1, BYTES)
            ]
            for _, _, start, end in values:
                tag, scalar = self._value(record, start, end)
                if scalar is None:
                    continue
                self.points.add(tag, step, scalar.unpack(record, scalar.start)[0])
                ordered = [number for number, *_ in event] in ([1, 5], [1, 2, 5]) and record[0] == 9
                if ordered and len(values) == 1 and scalar.start >= rest and step >= 0:
                    self._remember(record[rest:], scalar.start - rest, scalar.end - rest, tag, scalar.unpack)
        except WireError:
            self.damaged += 1

    def _remember(self, rest: bytes, begin: int, stop: int, tag: str, unpack: Unpack) -> None:
        """Remember all of a record but its time, step and number."""
        if self._remembered < _MOST_LAYOUTS:
            self._remembered += 1
            whole = self._layouts.setdefault(len(rest), {}).setdefault((begin, stop), {})
            whole[rest[:begin] + rest[stop:]] = (*self.points.column(tag), unpack)

    def _value(self, record: bytes, start: int, end: int) -> tuple[str, _Number | None]:
        """Return the tag and the number of one value of a summary; None if it is no scalar of the training."""
        tag, number, tensor = "", None, None
        for field, kind, begin, stop in fields(record, start, end):
            if field == 1 and kind == BYTES:
                tag = protobuf.text(record, begin, stop)
            elif field == 2 and kind == FIXED32:
                number = _Number(begin, stop, _FLOAT)
            elif field == 8 and kind == BYTES:
                tensor = begin, stop
            elif field == 9 and kind == BYTES:
                self._metadata(tag, record, begin, stop)
        if tag == "hp_metric" or tag.startswith("_hparams_/"):
            return tag, None
        if number is None and tensor is not None:
            plugin = self._plugins.get(tag)
            if plugin == "scalars":
                number = _tensor_number(record, *tensor)
            elif plugin == "text":
                self._text(record, *tensor)
        return tag, number

    def _metadata(self, tag: str, record: bytes, start: int, end: int) -> None:
        """Note which plugin a tag belongs to, and take hyperparameters."""
        for field, kind, begin, stop in fields(record, start, end):
            if field != 1 or kind != BYTES:
                continue
            plugin, content = "", (stop, stop)
            for inner, inner_kind, inner_begin, inner_stop in fields(record, begin, stop):
                if inner == 1 and inner_kind == BYTES:
                    plugin = protobuf.text(record, inner_begin, inner_stop)
                elif inner == 2 and inner_kind == BYTES:
                    content = inner_begin, inner_stop
            self._plugins.setdefault(tag, plugin)
            if plugin == "hparams":
                self.config |= flat(_hyperparameters(record, *content))

    def _text(self, record: bytes, start: int, end: int) -> None:
        """Take a config that was logged as text: a JSON object."""
        for field, kind, begin, stop in fields(record, start, end):
            if field == 8 and kind == BYTES and record[begin : begin + 1] == b"{":
                try:
                    config = parse_json(record[begin:stop])
                except ValueError:
                    continue
                if isinstance(config, dict):
                    self.config = flat(config) | self.config


def _tensor_number(record: bytes, start: int, end: int) -> _Number | None:
    """Return the number of a tensor of one element; None if it has more, or is of a type that no scalar has."""
    kind_of_data, content = 0, None
    for field, kind, begin, stop in fields(record, start, end):
        if field == 1 and kind == VARINT:
            kind_of_data = protobuf.varint(record, begin)[0]
        elif field == 4 and kind == BYTES:
            content = begin, stop
        elif field in _TYPED_FIELDS and kind in (BYTES, FIXED32, FIXED64):  # packed or not
            content = begin, stop
            kind_of_data = _TYPED_FIELDS[field]
    width, unpack = _WIDTHS.get(kind_of_data, (0, _FLOAT))
    if content is None or not width or content[1] - content[0] != width:
        return None
    return _Number(*content, unpack)


def _hyperparameters(record: bytes, start: int, end: int) -> dict[str, Any]:
    """Return the hyperparameters of a session that the plugin of that name began."""
    result = {}
    for field, kind, begin, stop in fields(record, start, end):
        if field != 3 or kind != BYTES:
            continue
        for inner, inner_kind, inner_begin, inner_stop in fields(record, begin, stop):
            if inner == 1 and inner_kind == BYTES:
                name, value = protobuf.map_entry(record, inner_begin, inner_stop)
                result[name] = _plain(record, *value)
    return result


def _plain(record: bytes, start: int, end: int) -> Any:
    """Return a number, text or truth value; None for all else."""
    for field, kind, begin, stop in fields(record, start, end):
        if field == 2 and kind == FIXED64:
            return protobuf.double(record, begin)
        if field == 3 and kind == BYTES:
            return protobuf.text(record, begin, stop)
        if field == 4 and kind == VARINT:
            return bool(record[begin])
    return None
