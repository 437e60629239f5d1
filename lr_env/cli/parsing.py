"""Helpers that commands share: parsers of arguments, a check of folders, and the progress bar."""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lr_env.errors import UserError
from lr_env.stopping import STOPPING
from lr_env.terminal import console

MOST_SEEDS = 100_000
MOST_RATES = 10_000
"""Upper limits that catch typing errors: more runs would take years."""

LONGEST_NAME = 100
"""Limit for names in characters: they become part of file names, which have at most 255 characters."""


def parse_seeds(text: str, first: int = 0) -> tuple[int, ...]:
    """Read seeds from a count, "10" (that many, from `first` up), or a list, "3,5,8"; "3," is the single seed 3.

    Raises:
        UserError: the text is neither, or the count is below 1 or above `MOST_SEEDS`.
    """
    try:
        numbers = [int(part) for part in text.removesuffix(",").split(",")]
    except ValueError:
        raise UserError(f"seeds {text!r}: give how many, e.g. 10, or a list, e.g. 3,5,8") from None
    if len(numbers) > 1 or "," in text:
        return tuple(numbers)
    if numbers[0] < 1:
        raise UserError(f"seeds {text!r}: give at least one")
    if numbers[0] > MOST_SEEDS:
        raise UserError(f"seeds {text!r}: give at most {MOST_SEEDS:,}; for the one seed of that number give '{text},'")
    return tuple(range(first, first + numbers[0]))


def parse_rates(text: str) -> tuple[float, ...]:
    """Read rates from "0.01:1:9" (9 rates on a log grid) or "0.01,0.1,1".

    Raises:
        UserError: the text is neither, or a rate is not a finite number above 0.
    """
    try:
        if ":" in text:
            low, high, count = text.split(":")
            return log_grid(float(low), float(high), int(count))
        rates = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"rates {text!r}: give LOW:HIGH:COUNT, e.g. 0.01:1:9, or a list, e.g. 0.01,0.1,1") from None
    for rate in rates:
        if not (math.isfinite(rate) and rate > 0):
            raise UserError(f"rate {rate:g}: rates must be finite and above 0")
    return rates


def log_grid(low: float, high: float, count: int) -> tuple[float, ...]:
    """Return `count` rates from `low` to `high`, evenly spaced in log rate, rounded to 4 significant digits.

    Raises:
        UserError: a bound is not a finite number above 0, they are not in order, or the count is below 2 or too large.
    """
    for bound in (low, high):
        if not (math.isfinite(bound) and bound > 0):
            raise UserError(f"rate {bound:g}: rates must be finite and above 0")
    if count > MOST_RATES:
        raise UserError(f"rates {low:g}:{high:g}:{count}: give a COUNT of at most {MOST_RATES:,}")
    if low >= high or count < 2:
        raise UserError(f"rates {low:g}:{high:g}:{count}: give LOW below HIGH and a COUNT of at least 2")
    return tuple(float(f"{low * (high / low) ** (i / (count - 1)):.4g}") for i in range(count))


def command_line() -> str:
    """Return the command as the user typed it, for a report."""
    return shlex.join(["lr-env", *sys.argv[1:]])


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


def parse_names(texts: Sequence[str]) -> list[str]:
    """Split words that may hold several names, e.g. "constant,cosine"."""
    return [name for text in texts for name in text.split(",") if name]


def parse_ends(text: str) -> tuple[float, float]:
    """Read two rates from LOW:HIGH, e.g. "0.001:1".

    Raises:
        UserError: the text has another form.
    """
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise UserError(f"rates {text!r}: give LOW:HIGH, e.g. 0.0001:1") from None
    return low, high


def parse_setting(text: str) -> tuple[str, Any]:
    """Read a setting from NAME=VALUE. The value is read as JSON; what is not JSON is text.

    Raises:
        UserError: there is no name or no "=".
    """
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UserError(f"setting {text!r}: give NAME=VALUE, e.g. warmup=0.2")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def parse_settings(texts: Sequence[str], planners: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read settings from PLANNER.SETTING=VALUE, and return a dict planner -> settings.

    Raises:
        UserError: a text has another form, or names a planner that does not take part.
    """
    settings: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, value = parse_setting(text)
        planner, dot, setting = name.partition(".")
        if not dot or planner not in planners:
            raise UserError(f"setting {text!r}: give PLANNER.SETTING=VALUE for a planner that takes part")
        settings.setdefault(planner, {})[setting] = value
    return settings
