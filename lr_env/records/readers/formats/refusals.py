"""Why a file is not read at all: the lines that readers of binary logs share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lr_env.records.readers.base import UnreadableError

_POINTER = b"version https://git-lfs.github.com/spec/"


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Refuse a Git-LFS pointer, and turn errors of the operating system into one line.

    Raises:
        UnreadableError: the file cannot be read, or stands in for another.
    """
    try:
        if path.is_file():
            with open(path, "rb") as file:
                if file.read(len(_POINTER)) == _POINTER:
                    raise UnreadableError("a Git-LFS pointer, not the file itself: fetch it with `git lfs pull`")
        yield
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror or error}): check its permissions") from error
