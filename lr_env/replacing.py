"""Paths that users give, text that is written as a whole or not at all, and numbers as JSON has them."""

from __future__ import annotations

import math
import os
from pathlib import Path

from lr_env.errors import UserError
from lr_env.files import replacing

__all__ = ["finite", "in_home", "replacing", "write_text"]


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
