"""Compare planners of the learning rate on real training of small neural networks."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Protocol, Union, cast

import tyro

from lr_env import terminal
from lr_env.cli.study import study_commands
from lr_env.entry_points import declared, load
from lr_env.errors import UserError
from lr_env.files import in_home
from lr_env.registry import COMMANDS

_MIN_COLUMNS = 40
"""Smallest width of help texts in columns."""

_RENAMED = {"--decisions": "--segments", "--ceiling": "--reference"}
"""Old name of an option -> its name today."""

_RENAMED_COMMANDS = {
    "budget": "tuning-budget",
    "conditions": "robustness",
    "scaling": "data-scaling",
    "cumulative": "cumulative-rate",
    "starts": "start-rates",
}
"""Old name of a command -> its name today."""


class Command(Protocol):
    """A command of `lr-env`: a dataclass whose fields are its options."""

    def run(self) -> None:
        """Run the command."""
        ...


def commands() -> dict[str, type[Command]]:
    """Return name -> class of every command that a package declares in the entry-point group `lr_env.commands`.

    Raises:
        UserError: one of them cannot be loaded.
    """
    return {name: load(COMMANDS, "command", name) for name in declared(COMMANDS)}


def parse() -> Command:
    """Read the arguments into a command. tyro's framed error messages become one line.

    Raises:
        UserError: the arguments are wrong.
        SystemExit: the arguments ask for help, which is printed.
    """
    messages = io.StringIO()
    try:
        with redirect_stderr(messages), _columns():
            kinds = {name: Annotated[kind, tyro.conf.subcommand(name)] for name, kind in commands().items()}
            kinds |= study_commands()
            _refuse_old_name()
            command = tyro.cli(
                cast("type[Command]", Union[tuple(kinds[name] for name in sorted(kinds))]),  # noqa: UP007 (of a list)
                prog="lr-env",
                description=__doc__,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
            )
        return _with_homes(command)
    except SystemExit as end:
        if not end.code:
            terminal.finish()
            raise
        text = " ".join(re.sub("[│╭╮╰╯]", " ", messages.getvalue()).split())
        text = re.sub(r"^─ [^─]* ─+ ", "", text)
        text = re.sub(r"^Error parsing [^:]+: ", "", text)
        near = re.search(r"Perhaps you meant: (--[a-z-]+)", text)
        guess = f"; did you mean {near[1]}?" if near and near[1] not in sys.argv else ""
        for before, now in _RENAMED.items():
            if f"options: {before}" in text:
                guess = f"; {before} is called {now} now"
        raise UserError(f"{re.split('─{3,}', text)[0].strip().rstrip('.')}{guess} (see lr-env --help)") from None


def _refuse_old_name() -> None:
    """Name the command that is called by its old name.

    Raises:
        UserError: it is.
    """
    if sys.argv[1:] and (now := _RENAMED_COMMANDS.get(sys.argv[1])):
        raise UserError(f"command {sys.argv[1]!r} is called {now!r} now: lr-env {now} {' '.join(sys.argv[2:])}")


def _with_homes(command: Any) -> Any:
    """Return the command with ~ expanded in all of its paths; a shell does not expand it after a = sign."""
    values = {field.name: getattr(command, field.name) for field in fields(command)}
    paths = {name: in_home(path, f"--{name}") for name, path in values.items() if isinstance(path, Path)}
    parts = {name: _with_homes(part) for name, part in values.items() if is_dataclass(part)}
    return replace(command, **paths, **parts) if paths or parts else command


@contextmanager
def _columns() -> Iterator[None]:
    """Set the width of tyro's texts: help is as wide as the terminal, error messages are on one line."""
    before = os.environ.get("COLUMNS")
    is_help = any(argument in ("-h", "--help") for argument in sys.argv)
    os.environ["COLUMNS"] = str(max(terminal.width(sys.stdout), _MIN_COLUMNS) if is_help else terminal.WIDEST)
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
