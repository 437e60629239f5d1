"""TFRecord framing: records with checked lengths and contents, in batches."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lr_env.records.readers.formats.crc32c import crc32c, crc32c_of_pieces, masked

_HEADER = 12
"""Bytes before the content: its length, and the checksum of the length."""

_FOOTER = 4
"""Bytes after the content: its checksum."""

_CHUNK = 4 << 20


class TFRecords:
    """The records of a file, as far as they are whole.

    The checksum of every length is checked before the length is trusted, and that of every content that is given. Big
    records are passed over unread, so that nothing is allocated for what a damaged length claims.

    Args:
        path: the file.
        biggest: bytes of the biggest content that is given.

    Attributes:
        note: what is not whole, once `batches` has come to its end; empty where all is.
        count: how many records were read or passed over.
    """

    def __init__(self, path: Path, biggest: int = 64 << 10) -> None:
        self.path = path
        self.note = ""
        self.count = 0
        self._biggest = biggest

    def batches(self) -> Iterator[tuple[bytes, list[int], list[int]]]:
        """Give batches of records: a buffer, where the contents start in it, and where they end.

        Raises:
            OSError: the file cannot be read.
        """
        with open(self.path, "rb") as file:
            data = b""
            while True:
                more = file.read(_CHUNK)
                data += more
                starts, ends, rest = self._framed(data)
                whole = self._checked(data, starts, ends)
                if whole:
                    yield data, starts[:whole], ends[:whole]
                self.count += whole
                if whole < len(starts):
                    self.note = f"damaged after {self.count:,} records"
                    return
                data = data[rest:]
                if len(data) >= _HEADER:
                    data = self._passed_over(file, data)
                    if self.note:
                        return
                if not more:
                    if data:
                        self.note = f"cut off after {self.count:,} records"
                    return

    def _framed(self, data: bytes) -> tuple[list[int], list[int], int]:
        """Return where contents start and end if all lengths are right, and where that ends."""
        starts, ends = [], []
        at, size, biggest = 0, len(data), self._biggest
        length_at = struct.Struct("<Q").unpack_from
        while at + _HEADER <= size:
            length = length_at(data, at)[0]
            end = at + _HEADER + length
            if length > biggest or end + _FOOTER > size:
                break
            starts.append(at + _HEADER)
            ends.append(end)
            at = end + _FOOTER
        return starts, ends, at

    def _checked(self, data: bytes, starts: list[int], ends: list[int]) -> int:
        """Return how many records are whole, from the first."""
        if not starts:
            return 0
        begin, end = np.array(starts), np.array(ends)
        right = _sums_fit(data, begin - _HEADER, begin - 4) & _sums_fit(data, begin, end)
        return len(starts) if right.all() else int(np.argmin(right))

    def _passed_over(self, file: BinaryIO, data: bytes) -> bytes:
        """Return what follows if a record begins here that is too big to be given; leave others as they are."""
        length = struct.unpack_from("<Q", data)[0]
        if not _fits(data[:8], data[8:12]):
            self.note = f"damaged after {self.count:,} records"
            return data
        if length <= self._biggest:
            return data
        here = file.tell() - len(data)
        end = here + _HEADER + length + _FOOTER
        if end > file.seek(0, 2):
            self.note = f"cut off after {self.count:,} records"
            return data
        file.seek(end)
        self.count += 1
        return b""


def begins_with_record(head: bytes) -> bool:
    """Return whether the first bytes of a file are the beginning of TFRecord framing."""
    return len(head) >= _HEADER and _fits(head[:8], head[8:12])


def _fits(data: bytes, checksum: bytes) -> bool:
    """Return whether a checksum is that of some bytes."""
    return int(masked(np.array([crc32c(data)], np.uint32))[0]) == int.from_bytes(checksum, "little")


def _sums_fit(data: bytes, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return whether the four bytes after pieces are their checksums, (pieces,)."""
    sums = masked(crc32c_of_pieces(data, begin, end))
    buffer = np.frombuffer(data, np.uint8)
    stored = buffer[end[:, None] + np.arange(_FOOTER)].astype(np.uint32) << np.array([0, 8, 16, 24], np.uint32)
    return sums == np.bitwise_or.reduce(stored, axis=1)
