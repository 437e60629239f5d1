"""Lines of text files that may be damaged, still growing, or of any encoding."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from pathlib import Path

_BLOCK = 2**20
"""Bytes that are read at a time."""

LONGEST = 2**24
"""Characters of the longest line that is read."""

_BYTE_ORDER_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8-sig"}


def encoding_of(head: bytes) -> str:
    """The encoding of a file, by its first bytes: UTF-8, unless they are another byte order mark.

    >>> encoding_of("step,lr".encode("utf-16")), encoding_of(b"step,lr")
    ('utf-16', 'utf-8')
    """
    return next((name for mark, name in _BYTE_ORDER_MARKS.items() if head.startswith(mark)), "utf-8")


def head_lines(head: bytes) -> list[str]:
    """The lines in the first bytes of a file that are printable text, up to the first that is not."""
    text = head.decode(encoding_of(head), errors="replace").removeprefix("\ufeff")
    lines = []
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if not line.replace("\t", "").isprintable():
            break
        lines.append(line)
    return lines


class Lines:
    """The lines of a text file.

    Attributes:
        unfinished: whether the last line has no end, once all are read: it may be cut off.
        too_long: lines that were left out because of their length, so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unfinished = False
        self.too_long = 0

    def blocks(self) -> Iterator[list[str]]:
        """Give all lines, many at a time; an unfinished one comes last, alone. Bytes that are no text become U+FFFD.

        Raises:
            OSError: the file cannot be read.
        """
        with open(self.path, "rb") as file:
            block = file.read(_BLOCK)
            decoder = io.IncrementalNewlineDecoder(
                codecs.getincrementaldecoder(encoding_of(block))(errors="replace"), translate=True
            )
            rest, skipping = "", False
            while block:
                text = decoder.decode(block)
                block = file.read(_BLOCK)
                if not block:
                    text += decoder.decode(b"", final=True)
                *lines, rest = (rest + text).split("\n")  # `splitlines` also splits inside of JSON texts
                if skipping and lines:
                    lines, skipping = lines[1:], False
                if len(rest) > LONGEST or skipping:
                    self.too_long += not skipping
                    rest, skipping = "", True
                if lines:
                    yield lines
            if rest:
                self.unfinished = True
                yield [rest]
