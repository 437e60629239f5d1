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

import tyro

from lr_env import terminal
from lr_env.cli.across import Across
from lr_env.cli.budget import Budget
from lr_env.cli.catalogue import Planners, Tasks
from lr_env.cli.compare import Compare, Sweep
from lr_env.cli.conditions import Conditions
from lr_env.cli.cumulative import Cumulative
from lr_env.cli.explain import Explain
from lr_env.cli.fit import Fit
from lr_env.cli.preview import Preview
from lr_env.cli.range_test import RangeTest
from lr_env.cli.scaling import Scaling
from lr_env.cli.starts import Starts
from lr_env.cli.train_ppo import TrainPpo
from lr_env.errors import UserError
from lr_env.files import in_home

COMMANDS = (
    Tasks
    | Planners
    | Preview
    | RangeTest
    | Sweep
    | Compare
    | Across
    | Scaling
    | Cumulative
    | Starts
    | TrainPpo
    | Fit
    | Explain
    | Budget
    | Conditions
)

_LEAST = 40
"""Columns that help is laid out in at least."""


def parse() -> COMMANDS:
    """What the arguments ask for; tyro's framed messages become one line.

    Raises:
        UserError: the arguments are wrong.
        SystemExit: they ask for help, which is printed.
    """
    told = io.StringIO()
    try:
        with redirect_stderr(told), _columns():
            command = tyro.cli(
                COMMANDS,
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


def _with_homes(command: COMMANDS) -> COMMANDS:
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
