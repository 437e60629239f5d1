"""The log format of LevelDB: records in blocks of 32 KiB, cut into fragments that have checksums."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

_BLOCK = 32 << 10
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_HEADER = 7
"""Bytes before a fragment: checksum, length, type."""

_TYPE_SUMS = [zlib.crc32(bytes([kind])) for kind in range(5)]


class LevelDBLog:
    """The records of a file, as far as they are whole. Their checksums are those of zlib, as W&B writes them.

    After damage the next block is gone on with, where a record begins.

    Args:
        path: the file.
        header: bytes before the first record; they count as part of the first block.
        biggest: bytes of the biggest record that is given; others are passed over.

    Attributes:
        count: how many records were given.
        damaged: how many places were passed over because they are damaged.
        cut: whether the file ends within a record.
    """

    def __init__(self, path: Path, header: int, biggest: int = 16 << 20) -> None:
        self.path = path
        self.count = 0
        self.damaged = 0
        self.cut = False
        self._header = header
        self._biggest = biggest

    def records(self) -> Iterator[bytes]:
        """Give the records in their order.

        Raises:
            OSError: the file cannot be read.
        """
        parts: list[bytes] = []
        size = 0
        within = False  # a record that began and is not yet at its end
        at = self._header
        with open(self.path, "rb") as file:
            while block := file.read(_BLOCK):
                for kind, content in self._fragments(block, at):
                    if kind in (_FULL, _FIRST):
                        self.damaged += within  # the end of the record before is lost
                        within, parts, size = kind == _FIRST, [content], len(content)
                        if kind == _FULL:
                            self.count += 1
                            yield content
                    elif not kind:
                        within = False
                    elif within:  # else its beginning is lost, which was counted there
                        size += len(content)
                        parts = [*parts, content] if size <= self._biggest else []
                        if kind == _LAST:
                            within = False
                            if size <= self._biggest:
                                self.count += 1
                                yield b"".join(parts)
                at = 0
                if len(block) < _BLOCK:  # the file may grow meanwhile: what follows would not begin with a block
                    break
        self.cut |= within

    def _fragments(self, block: bytes, at: int) -> Iterator[tuple[int, bytes]]:
        """Give the fragments of a block, with type 0 for a place that is damaged."""
        size = len(block)
        unpack = struct.Struct("<IHB").unpack_from
        while at + _HEADER <= size:
            checksum, length, kind = unpack(block, at)
            end = at + _HEADER + length
            if end > size and size < _BLOCK:
                self.cut = True
                return
            content = block[at + _HEADER : end]
            if (
                end > size
                or kind not in (_FULL, _FIRST, _MIDDLE, _LAST)
                or (zlib.crc32(content, _TYPE_SUMS[kind]) != checksum)
            ):
                self.damaged += 1
                yield 0, b""
                return
            yield kind, content
            at = end
        if size < _BLOCK and at < size:
            self.cut = True
