"""Who sets the learning rate best? Planners compared on real training of small networks."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Protocol, Union, cast

import tyro

from lr_env import terminal
from lr_env.errors import UserError
from lr_env.files import in_home
from lr_env.registry import COMMANDS, declared, load

_LEAST = 40
"""Columns that help is laid out in at least."""


class Command(Protocol):
    """A command of `lr-env`: a dataclass, whose fields are its options."""

    def run(self) -> None:
        """Do what it is for."""
        ...


def commands() -> dict[str, type[Command]]:
    """Name -> class of every command that an installed package declares in the entry-point group `lr_env.commands`.

    Raises:
        UserError: one of them cannot be loaded.
    """
    return {name: load(COMMANDS, "command", name) for name in declared(COMMANDS)}


def parse() -> Command:
    """What the arguments ask for; tyro's framed messages become one line.

    Raises:
        UserError: the arguments are wrong.
        SystemExit: they ask for help, which is printed.
    """
    told = io.StringIO()
    try:
        with redirect_stderr(told), _columns():
            kinds = [Annotated[kind, tyro.conf.subcommand(name)] for name, kind in commands().items()]
            command = tyro.cli(
                cast("type[Command]", Union[tuple(kinds)]),  # noqa: UP007 (of a list)
                prog="lr-env",
                description=__doc__,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
        return _with_homes(command)
    except SystemExit as end:
        if not end.code:
            terminal.finish()
            raise
        text = " ".join(re.sub("[│╭╮╰╯]", " ", told.getvalue()).split())
        text = re.sub(r"^─ [^─]* ─+ ", "", text)
        near = re.search(r"Perhaps you meant: (--[a-z-]+)", text)
        guess = f"; did you mean {near[1]}?" if near and near[1] not in sys.argv else ""
        raise UserError(f"{re.split('─{3,}', text)[0].strip().rstrip('.')}{guess} (see lr-env --help)") from None


def _with_homes(command: Any) -> Any:
    """The command with all of its paths as they are meant: a shell leaves a ~ alone after a = sign."""
    paths = {field.name: getattr(command, field.name) for field in fields(command)}
    paths = {name: in_home(path, f"--{name}") for name, path in paths.items() if isinstance(path, Path)}
    return replace(command, **paths)


@contextmanager
def _columns() -> Iterator[None]:
    """Tell tyro how wide its text may be: help as wide as there is room, what is wrong as wide as can be."""
    before = os.environ.get("COLUMNS")
    helps = any(argument in ("-h", "--help") for argument in sys.argv)
    os.environ["COLUMNS"] = str(max(terminal.width(sys.stdout), _LEAST) if helps else terminal.WIDEST)
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
