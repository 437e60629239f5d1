"""Files that are replaced as a whole or not at all, and sealed: what is read again is what was written, or is refused.

A seal is a short text in the file with the SHA-256 of all its other bytes. Each format has a place for text (a string
of JSON, the header of safetensors, a gap in Parquet), so that other software reads sealed files as it reads all others.
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
import mmap
import os
import platform
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lr_env.errors import UserError

MARK = b"lr_env:sha256:"
"""What a seal begins with; 64 hexadecimal digits follow."""

_DIGITS = 64
OPEN_SEAL = (MARK + b"0" * _DIGITS).decode()
"""What a writer puts where its format has a place for the seal; `write_sealed` fills it in."""

JSON_FORMAT = 2
"""Number of the format of sealed JSON files; those before had neither number nor seal."""

_in_use: set[Path] = set()
"""Temporary files that this process is writing."""


class DamagedError(ValueError):
    """A file is not what was written."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside a file, which takes the file's place once it is written.

    What processes left behind that were killed while they wrote the same file is removed.
    """
    remove_leftovers(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_host()}.tmp")
    _in_use.add(temporary)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        _in_use.discard(temporary)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of a file that were left by processes of this machine that are no more."""
    for file in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        pid, at, host = file.name.removeprefix(f".{path.name}.").removesuffix(".tmp").partition("@")
        if pid.isdecimal() and at + host in ("", _host()) and file not in _in_use and not _runs(int(pid)):
            file.unlink(missing_ok=True)


def _host() -> str:
    """What tells temporary files of this machine from those of others in a folder that they share."""
    return f"@{zlib.crc32(platform.node().encode()):08x}"


def _runs(pid: int) -> bool:
    """Whether another process of that number may be running."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is somebody else's
        return True
    return True


def write_sealed(path: Path, data: bytes) -> None:
    """Replace a file by data that hold `OPEN_SEAL`, which is filled in.

    Raises:
        OSError: the file cannot be written.
    """
    seal = _seal_of(data)
    assert seal is not None
    start, digest = seal
    rest = memoryview(data)
    try:
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            for part in (rest[:start], digest, rest[start + _DIGITS :]):
                file.write(part)
    except OSError as error:  # a full disk is told without the name of the file
        raise OSError(error.errno, f"cannot write it: {error.strerror}", str(path)) from error


def is_sealed(path: Path) -> bool:
    """Whether a file has a seal; it is then whole.

    Raises:
        DamagedError: it has one of other content.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return holds_seal(data)


def holds_seal(data: bytes | mmap.mmap) -> bool:
    """The same of the content of a file."""
    seal = _seal_of(data)
    if seal is None:
        return False
    start, digest = seal
    if data[start : start + _DIGITS] != digest:
        raise DamagedError("it is not what was written")
    return True


def _seal_of(data: bytes | mmap.mmap) -> tuple[int, bytes] | None:
    """Where the digits of a seal begin, and those that are right; None where there is no seal."""
    found = data.find(MARK)
    if found < 0:
        return None
    start = found + len(MARK)
    told = hashlib.sha256()
    with memoryview(data) as content:
        for part in (content[:start], content[start + _DIGITS :]):
            told.update(part)
            part.release()  # a mapped file cannot be closed before
    return start, told.hexdigest().encode()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a file by sealed JSON, an object; what JSON does not hold is written as text."""
    sealed = {"format": JSON_FORMAT, **content, "seal": OPEN_SEAL}
    write_sealed(path, (json.dumps(sealed, indent=2, default=str) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote, or an object of JSON from before there were seals.

    Raises:
        ValueError: it is damaged, or no object of JSON, or of a later format.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    sealed = holds_seal(data)
    try:
        content = json.loads(data)
    except RecursionError:
        raise DamagedError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise DamagedError("it holds no object")
    if not sealed and not content.keys().isdisjoint(("format", "seal")):
        raise DamagedError("its seal is damaged")
    if content.get("format", JSON_FORMAT) != JSON_FORMAT:
        raise DamagedError(f"it has format {content['format']!r}, not {JSON_FORMAT}")
    return {name: value for name, value in content.items() if name not in ("format", "seal")}


def in_home(path: str | os.PathLike[str], what: str) -> Path:
    """The path that a user gave, with a leading ~ or ~NAME as the home it stands for.

    Args:
        path: as it was given.
        what: it was given as, for the error.

    Raises:
        UserError: there is no such home, or it is no path.
    """
    if "\0" in str(path):
        raise UserError(f"{what} is {str(path)!r}: no path has a null byte")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{what} is {str(path)!r}, and there is no such home: give a path without ~") from None


def write_text(file: Path, text: str) -> None:
    """Write text as UTF-8, as a whole; bytes of files' names that are no text are written as escapes."""
    with atomic_write(file) as path:
        path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def json_number(value: float) -> float | None:
    """The value for JSON, which has neither infinity nor NaN: None."""
    return float(value) if math.isfinite(value) else None


@contextmanager
def exclusive_lock(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock file for this process; the system lets go of it however the process ends.

    Args:
        lock: the file.
        what: it stands for, in words for the error.

    Raises:
        UserError: another process holds it.
    """
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{what} is being run by another process: wait for it, or choose another --name") from None
    try:
        yield
    finally:
        held.release()
