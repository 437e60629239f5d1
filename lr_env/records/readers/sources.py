"""Find the logs in files and folders, and the reader of each."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from lr_env.entry_points import declared, load
from lr_env.errors import UserError, unknown
from lr_env.records.readers.base import Reader

READERS = "lr_env.readers"
"""The group of entry points of readers."""

HEAD = 4096
"""Bytes of a file by which its format is told."""

_LAST = ("csv", "json-lines", "json", "parquet", "text")
"""Formats that are asked for last, for they take much of what others read better."""

_TABLES = {".csv": "csv", ".tsv": "csv", ".jsonl": "json-lines", ".ndjson": "json-lines", ".json": "json"}
"""Suffix -> format of a table whose names only the user knows."""

_LFS = b"version https://git-lfs.github.com/spec/"

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
"""First bytes of compressed files -> what compressed them."""


@dataclass(frozen=True)
class Log:
    """A file or folder with the reader of its format."""

    path: Path
    reader: Reader


@dataclass(frozen=True)
class Refused:
    """A file or folder that is a log, or was given as one, and cannot be read."""

    path: Path
    reason: str


@dataclass(frozen=True)
class PassedOver:
    """A file in a folder that is no log in any format."""

    path: Path


def reader_names() -> list[str]:
    """The names of all formats that can be read, in alphabetical order."""
    return sorted(declared(READERS))


def find_reader(name: str) -> Reader:
    """The reader of a format.

    Raises:
        UserError: there is none, or the package that declares it cannot be loaded.
    """
    reader = load(READERS, "format", name)
    reader = reader() if isinstance(reader, type) else reader
    missing = [part for part in ("name", "detects", "read") if not hasattr(reader, part)]
    if missing:
        raise UserError(f"the reader of {name!r} has no {missing[0]!r}: see lr_env.records.readers.base.Reader")
    return cast("Reader", reader)


def all_readers() -> list[Reader]:
    """All readers, those of formats that take much of what others read last.

    Raises:
        UserError: see `find_reader`.
    """
    names = sorted(reader_names(), key=lambda name: (_LAST.index(name) if name in _LAST else -1, name))
    return [find_reader(name) for name in names]


def find_logs(
    sources: Sequence[Path], readers: Sequence[Reader], names: Mapping[str, str], forced: Reader | None = None
) -> Iterator[Log | Refused | PassedOver]:
    """Look for logs in files and folders, in the order of their names; each once, however often links lead to it.

    Args:
        sources: files, and folders that are searched with all that is in them.
        readers: of the formats to look for, the most particular first.
        names: the user's names, by which a table without any name of the table of names is told.
        forced: reader of all files, for which nothing is detected.

    Raises:
        UserError: a source does not exist, or is a file of no known format.
    """
    walk = _Walk(readers, [name.encode() for name in names.values()], forced)
    for source in sources:
        try:
            mode = os.stat(source).st_mode
        except OSError as error:
            raise UserError(f"cannot read {str(source)!r} ({error.strerror}): give files and folders of logs") from None
        if stat.S_ISDIR(mode):
            yield from walk.folder(source)
        elif stat.S_ISREG(mode):
            yield from walk.file(source, by_name=True)
        else:
            raise UserError(f"{str(source)!r} is neither a file nor a folder: give files and folders of logs")


class _Walk:
    def __init__(self, readers: Sequence[Reader], names: Sequence[bytes], forced: Reader | None) -> None:
        self._readers = readers
        self._by_name = {reader.name: reader for reader in readers}
        self._names = [name for name in names if name]
        self._forced = forced
        self._seen: set[tuple[int, int]] = set()

    def folder(self, folder: Path) -> Iterator[Log | Refused | PassedOver]:
        """Look for logs in a folder."""
        try:
            if self._is_seen(folder):
                return
            entries = sorted(os.scandir(folder), key=lambda entry: _natural(entry.name))
        except OSError as error:
            yield Refused(folder, f"it cannot be read ({error.strerror})")
            return
        if self._forced is None or self._forced.name != "text":
            candidates = self._readers if self._forced is None else [self._forced]
            if reader := next((one for one in candidates if one.detects(folder, b"")), None):
                yield Log(folder, reader)
                return
        for entry in entries:
            path = folder / entry.name
            try:
                mode = os.stat(path).st_mode
            except OSError:
                yield PassedOver(path)  # a link that leads nowhere
                continue
            if stat.S_ISDIR(mode):
                if not entry.name.startswith("."):
                    yield from self.folder(path)
            elif stat.S_ISREG(mode):
                yield from self.file(path, by_name=False)
            else:
                yield PassedOver(path)

    def file(self, path: Path, by_name: bool) -> Iterator[Log | Refused | PassedOver]:
        """Tell the format of a file.

        Raises:
            UserError: the user gave its name, and its format is unknown.
        """
        try:
            if self._is_seen(path):
                return
            with open(path, "rb") as file:
                head = file.read(HEAD)
        except OSError as error:
            yield Refused(path, f"it cannot be read ({error.strerror})")
            return
        if head.startswith(_LFS):
            yield Refused(path, "it is a pointer of Git LFS, not the file itself: fetch that with git lfs pull")
        elif self._forced is not None:
            yield Log(path, self._forced)
        elif reader := self._reader_of(path, head):
            yield Log(path, reader)
        elif not by_name:
            yield PassedOver(path)
        elif not head:
            yield Refused(path, "it is empty")
        elif tool := next((tool for begin, tool in _COMPRESSED.items() if head.startswith(begin)), None):
            raise UserError(f"{str(path)!r} is compressed ({tool}): unpack it and give what is in it")
        else:
            raise UserError(
                f"{str(path)!r} is no log in any of the formats {', '.join(reader_names())}: if it is, give --format "
                "NAME; for a text log give --pattern"
            )

    def _reader_of(self, path: Path, head: bytes) -> Reader | None:
        if reader := next((one for one in self._readers if one.detects(path, head)), None):
            return reader
        if self._names and all(name in head for name in self._names):
            return self._by_name.get(_TABLES.get(path.suffix.lower(), ""))
        return None

    def _is_seen(self, path: Path) -> bool:
        """Whether a file or folder was looked at before, perhaps under another name."""
        status = os.stat(path)
        key = status.st_dev, status.st_ino
        if key in self._seen:
            return True
        self._seen.add(key)
        return False


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key by which version_2 comes before version_10."""
    parts = re.findall(r"\d{1,18}|\D+|\d+", name)
    return [(0, int(part), "") if part.isdecimal() and part.isascii() else (1, 0, part) for part in parts]
