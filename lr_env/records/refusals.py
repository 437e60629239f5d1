"""Why a file cannot be used as a record store, in one line that names the fix."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lr_env.errors import UserError


@contextmanager
def told_plainly(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into lines that name the fix."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise  # a mistake of ours, not of the file's
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "readonly" in text or "unable to open" in text:
            why, fix = "cannot be written", "choose a folder you may write to with --store"
        elif "full" in text:
            why, fix = "cannot grow: the disk is full", "free some space and run the same command again"
        elif "locked" in text:
            why, fix = "is locked by another process", "wait for it, or choose another with --store"
        elif any(words in text for words in ("not a database", "malformed", "Could not decode")):
            why, fix = "is damaged or not a record store", "move it away, or choose another with --store"
        elif "disk I/O" in text:
            why, fix = "could not be read or written (disk I/O error)", "check the disk and its free space"
        else:
            why, fix = f"cannot be used ({text})", "move it away, or choose another with --store"
        raise UserError(f"the record store {str(path)!r} {why}: {fix}") from error
    except UnicodeDecodeError as error:  # SQLite quotes names of tables that are damaged
        raise UserError(
            f"the record store {str(path)!r} is damaged: move it away, or choose another with --store"
        ) from error


def check_place(path: Path) -> None:
    """See that a store can be a file at a path.

    Raises:
        UserError: it cannot.
    """
    text = str(path)
    if text == ":memory:" or text.startswith("file:") or "\0" in text:
        raise UserError(f"the record store {text!r} would keep nothing: give the path of a file with --store")
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no file"
        raise UserError(f"the record store {text!r} is {what}: give the path of a file with --store")
