"""Files: atomic writes, locks, and seals that detect damage.

A seal is a short text in a file with the SHA-256 of all its other bytes. It is where the format has a place for text (a
string of JSON, the header of safetensors, a gap in Parquet), so that other software can read sealed files.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock, Timeout

from lr_env.errors import UserError

MARK = b"lr_env:sha256:"
"""Beginning of a seal; 64 hexadecimal digits follow."""

_DIGITS = 64
OPEN_SEAL = (MARK + b"0" * _DIGITS).decode()
"""An empty seal, which a writer puts into its data; `write_sealed` fills it in."""

JSON_FORMAT = 2
"""Number of the format of sealed JSON files. Older files have neither a number nor a seal."""

_copies: dict[str, str] = {}
"""Name of a file of another machine -> its copy here."""

_folder: TemporaryDirectory[str] | None = None
"""The folder of the copies, once there is one; it is removed when this process ends."""

_in_use: set[Path] = set()
"""Temporary files that this process is writing."""


class DamagedError(ValueError):
    """The content of a file is not what was written."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file atomically: yield a temporary path beside it, which replaces the file at the end.

    Temporary files of the same file that killed processes have left behind are removed.
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
    """Remove the temporary files of a file that ended processes of this machine have left behind."""
    for file in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        pid, at, host = file.name.removeprefix(f".{path.name}.").removesuffix(".tmp").partition("@")
        if pid.isdecimal() and at + host in ("", _host()) and file not in _in_use and not _runs(int(pid)):
            file.unlink(missing_ok=True)


def _host() -> str:
    """Return a mark of this machine for temporary files, because machines may share a folder."""
    return f"@{zlib.crc32(platform.node().encode()):08x}"


def _runs(pid: int) -> bool:
    """Return whether another process with that number may be running."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to another user
        return True
    return True


def write_sealed(path: Path, data: bytes) -> None:
    """Write data that contain `OPEN_SEAL` to a file atomically, and fill in the seal.

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
    except OSError as error:  # the error of a full disk does not name the file
        raise OSError(error.errno, f"cannot write it: {error.strerror}", str(path)) from error


def is_sealed(path: Path) -> bool:
    """Return whether a file has a seal, after a check that the seal fits the content.

    Raises:
        DamagedError: the seal does not fit the content.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return holds_seal(data)


def holds_seal(data: bytes | mmap.mmap) -> bool:
    """Return whether the content of a file has a seal; see `is_sealed`."""
    seal = _seal_of(data)
    if seal is None:
        return False
    start, digest = seal
    if data[start : start + _DIGITS] != digest:
        raise DamagedError("it is not what was written")
    return True


def _seal_of(data: bytes | mmap.mmap) -> tuple[int, bytes] | None:
    """Return the position of a seal's digits, and the right digits; None if there is no seal."""
    position = data.find(MARK)
    if position < 0:
        return None
    start = position + len(MARK)
    digest = hashlib.sha256()
    with memoryview(data) as content:
        for part in (content[:start], content[start + _DIGITS :]):
            digest.update(part)
            part.release()  # a mapped file cannot be closed before
    return start, digest.hexdigest().encode()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a sealed JSON object to a file atomically; values of other types are written as text."""
    sealed = {"format": JSON_FORMAT, **content, "seal": OPEN_SEAL}
    write_sealed(path, (json.dumps(sealed, indent=2, default=str) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that `write_json` wrote, or an older JSON object without a seal.

    Raises:
        ValueError: it is damaged, not a JSON object, or of a later format.
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


def use_copies(contents: Mapping[str, bytes]) -> None:
    """Use copies of files of another machine from now on, under the names that they have there; see `in_place_of`.

    Args:
        contents: name of a file -> its content.
    """
    global _folder
    for name, content in contents.items():
        if _folder is None:
            _folder = TemporaryDirectory(prefix="lr_env-")
        copy = Path(_folder.name, hashlib.sha256(content).hexdigest()[:16], Path(name).name)
        if not copy.exists():
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(content)
        _copies[name] = str(copy)


def in_place_of(name: str) -> str:
    """Return the copy that is used in place of a file, or the file itself."""
    return _copies.get(name, name)


def in_home(path: str | os.PathLike[str], what: str) -> Path:
    """Expand a leading ~ or ~NAME in a path that the user gave.

    Args:
        path: the path.
        what: name of the option or variable, for error messages.

    Raises:
        UserError: there is no such home folder, or the path has a null byte.
    """
    if "\0" in str(path):
        raise UserError(f"{what} is {str(path)!r}: no path has a null byte")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{what} is {str(path)!r}, and there is no such home: give a path without ~") from None


def write_text(file: Path, text: str) -> None:
    """Write text as UTF-8 to a file atomically; bytes of file names that are not UTF-8 are written as escapes."""
    with atomic_write(file) as path:
        path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def json_number(value: float) -> float | None:
    """Return a number for JSON; None for infinity and NaN, which JSON does not have."""
    return float(value) if math.isfinite(value) else None


def json_numbers(values: Sequence[Any]) -> list[Any]:
    """Return nested lists of numbers for JSON, as `json_number` does for one."""
    return [json_numbers(value) if isinstance(value, list) else json_number(value) for value in values]


@contextmanager
def exclusive_lock(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock file inside the context. The operating system releases it however the process ends.

    Args:
        lock: path of the lock file.
        what: what the lock protects, for the error message.

    Raises:
        UserError: another process holds the lock.
    """
    file_lock = FileLock(lock)
    try:
        file_lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{what} is being run by another process: wait for it, or choose another --name") from None
    try:
        yield
    finally:
        file_lock.release()
