"""Files that are replaced as a whole or not at all, and numbers as JSON has them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lr_env.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside a file, which takes the file's place once it is written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
    with replacing(file) as path:
        path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def finite(value: float) -> float | None:
    """The value for JSON, which has neither infinity nor NaN: None."""
    return float(value) if math.isfinite(value) else None
