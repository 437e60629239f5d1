"""Helpers that commands share: parsers of arguments, a check of folders, and the progress bar."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from lr_env.errors import UserError
from lr_env.stopping import STOPPING
from lr_env.terminal import console

LONGEST_NAME = 100
"""Limit for names in characters: they become part of file names, which have at most 255 characters."""


def writable(folder: Path, option: str = "--results") -> None:
    """Check that files can be written into a folder, before the work and not after it.

    Raises:
        UserError: they cannot; the message names the option that chooses the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write into {str(folder)!r} ({error.strerror}): choose a folder you may write to with {option}"
        ) from error


@contextmanager
def progress_bar(child_steps: int) -> Iterator[Callable[[str, int], None]]:
    """Show a progress bar with the time left on standard error, if that is a terminal."""
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    to = console(error=True)
    columns = (
        TextColumn("{task.description:9}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=to, disable=not to.is_terminal, transient=True) as bar:
        job = bar.add_task("measuring", total=child_steps)

        def update(what: str, steps: int) -> None:
            STOPPING.check()
            bar.update(job, description=what, advance=steps)

        yield update


def parse_name(name: str) -> str:
    """Check the name of an experiment or a training, which also names a folder.

    Raises:
        UserError: the name has characters that a folder should not have, or too many.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f"name {name!r}: use letters, digits, '.', '_' and '-', and begin with a letter or digit")
    if len(name) > LONGEST_NAME:
        raise UserError(f"name {name[:20]}... has {len(name)} characters: give at most {LONGEST_NAME}")
    return name


def beyond(command: Any, allowed: Sequence[str]) -> str:
    """An option of a command that was given though it does not apply here; empty where there is none."""
    given = [one.name for one in fields(command) if getattr(command, one.name) != one.default]
    found = [name for name in given if name not in allowed]
    return "" if not found else found[0] if found[0] == "task" else f"--{found[0].replace('_', '-')}"
