"""The options of studies: what they may be, as text on the command line and as values in code."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from tyro.conf import arg
from tyro.constructors import PrimitiveConstructorSpec

from lr_env import seeds
from lr_env.errors import UserError

MOST_SEEDS = 100_000
MOST_RATES = 10_000
"""Upper limits that catch typing errors: more runs would take years."""


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


def _option(metavar: str, parse: Callable[[str], Any]) -> PrimitiveConstructorSpec[Any]:
    """A tuple of values that is written as one word, such as 1,2,3."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: parse(words[0]),
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda values: [_show(values)],
    )


def _show(values: tuple[Any, ...] | None) -> str:
    """The text that is read as these values; for seeds the count where that is enough."""
    if (
        values
        and len(values) > 1
        and values in {tuple(first[: len(values)]) for first in (seeds.COMPARISON, seeds.TUNING)}
    ):
        return str(len(values))
    return str(values) if values is None else ",".join(f"{value}" for value in values)


def _parse_counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"runs {text!r}: give numbers of runs, e.g. 10,20,40") from None


def _parse_shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"fractions {text!r}: give a list, e.g. 0.1,0.25,0.5") from None


def _parse_reference(text: str) -> tuple[str, int]:
    tuner, _, runs = text.rpartition(":")
    if not tuner or not runs.isdecimal():
        raise UserError(f"reference {text!r}: give TUNER:RUNS, e.g. direct:400")
    return tuner, int(runs)


def _show_reference(value: tuple[str, int] | None) -> list[str]:
    return ["None"] if value is None else [":".join(map(str, value))]


Seeds = Annotated[tuple[int, ...], _option("SEEDS", parse_seeds)]
"""How many seeds from 0 up, or a list."""

TuneSeeds = Annotated[tuple[int, ...], _option("SEEDS", lambda text: parse_seeds(text, seeds.TUNING.start))]
"""How many seeds from the first one for tuning up, or a list."""

Rates = Annotated[tuple[float, ...], _option("RATES", parse_rates)]
"""A log grid LOW:HIGH:COUNT, or a list."""

OptionalRates = Annotated[tuple[float, ...] | None, _option("RATES", parse_rates)]
"""The same, which may be left out."""

Counts = Annotated[tuple[int, ...], _option("RUNS", _parse_counts)]
"""A list of numbers of runs."""

Shares = Annotated[tuple[float, ...], _option("SHARES", _parse_shares)]
"""A list of fractions."""

Reference = Annotated[
    tuple[str, int] | None,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="TUNER:RUNS",
        instance_from_str=lambda words: _parse_reference(words[0]),
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=_show_reference,
    ),
]
"""A tuner and its runs."""

Names = Annotated[tuple[str, ...], arg(metavar="NAME...")]
"""Names, as words of which each may hold several: constant,cosine."""

Settings = Annotated[tuple[str, ...], arg(metavar="PLANNER.SETTING=VALUE...")]
"""Settings of several planners."""

PlannerSettings = Annotated[tuple[str, ...], arg(metavar="SETTING=VALUE...")]
"""Settings of one planner."""
