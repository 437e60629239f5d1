"""The wire format of protocol buffers: fields of a message by number, without a schema."""

from __future__ import annotations

import struct
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types."""

Field = tuple[int, int, int, int]
"""Number, wire type, and where the value starts and ends in the buffer."""


class WireError(ValueError):
    """Bytes that are no message."""


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Return an unsigned integer and where it ends."""
    if at < len(data) and data[at] < 0x80:  # most are short
        return data[at], at + 1
    value = shift = 0
    while shift < 70:
        if at >= len(data):
            raise WireError("it ends within a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
    raise WireError("a number is too long")


def signed(value: int) -> int:
    """Return a varint as the int64 that it stands for."""
    return value - (1 << 64) if value >> 63 else value


def zigzag(value: int) -> int:
    """Return a varint as the sint64 that it stands for."""
    return (value >> 1) ^ -(value & 1)


def fields(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Field]:
    """Give the fields of the message between two positions of a buffer, in their order.

    Raises:
        WireError: it is no message.
    """
    at, stop = start, len(data) if end is None else end
    while at < stop:
        key, at = varint(data, at)
        kind = key & 7
        if kind == VARINT:
            value_end = varint(data, at)[1]
        elif kind == FIXED64:
            value_end = at + 8
        elif kind == FIXED32:
            value_end = at + 4
        elif kind == BYTES:
            length, at = varint(data, at)
            value_end = at + length
        else:
            raise WireError(f"wire type {kind} is unknown")
        if value_end > stop:
            raise WireError("a field ends after its message")
        yield key >> 3, kind, at, value_end
        at = value_end


def double(data: bytes, start: int) -> float:
    """Return the value of a FIXED64 field as a double."""
    return struct.unpack_from("<d", data, start)[0]


def text(data: bytes, start: int, end: int) -> str:
    """Return the value of a BYTES field as text; bytes that are not UTF-8 are replaced."""
    return data[start:end].decode("utf-8", "replace")


def map_entry(data: bytes, start: int, end: int) -> tuple[str, tuple[int, int]]:
    """Return an entry of a map from text to messages: the key, and where the value starts and ends."""
    key, value = "", (end, end)
    for number, kind, begin, stop in fields(data, start, end):
        if number == 1 and kind == BYTES:
            key = text(data, begin, stop)
        elif number == 2 and kind == BYTES:
            value = begin, stop
    return key, value
