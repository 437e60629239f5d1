"""One process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lr_env.errors import UserError


@contextmanager
def only_process(lock: Path, what: str) -> Iterator[None]:
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
