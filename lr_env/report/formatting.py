"""Numbers, intervals, settings and names as text for tables and sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lr_env.records.record import _plain
from lr_env.stats.intervals import Estimate, Versus


def setting_text(settings: Mapping[str, Any]) -> str:
    """Settings as compact text with 3 significant digits, e.g. "peak=0.1, cooldown=0.5"; "-" for none."""
    return ", ".join(f"{name}={_value_text(value)}" for name, value in settings.items()) or "-"


def decimals_of(estimates: Iterable[Estimate | None], scale: float = 1.0) -> int:
    """Decimals of a column of estimates: those that show 2 digits of the median half-width, 6 at most."""
    halves = np.array([e.half_width * scale for e in estimates if e is not None])
    halves = halves[np.isfinite(halves) & (halves > 0)]
    return int(np.clip(1 - np.floor(np.log10(np.median(halves))), 0, 6)) if len(halves) else 4


def number_text(value: float, decimals: int = 4, sign: bool = False) -> str:
    """A number as text; `sign` shows the "+" of a positive one."""
    if np.isnan(value):
        return "undefined"
    plus = "+" if sign else ""
    if np.isinf(value) or abs(value) < 1e4:
        return f"{value:{plus}.{decimals}f}"
    return f"{value:{plus}.1e}"


def estimate_text(estimate: Estimate, decimals: int, scale: float = 1.0, sign: bool = False) -> str:
    """A mean with its Student t interval, which is symmetric, e.g. "0.1234 ±0.0021"."""
    half = estimate.half_width * scale
    value = number_text(estimate.value * scale, decimals, sign)
    if not np.isfinite(half) or not np.isfinite(estimate.value):
        return value
    return f"{value} ±{number_text(half, decimals)}"


def interval_text(estimate: Estimate, decimals: int, scale: float = 1.0) -> str:
    """An interval, e.g. "[0.1213, 0.1255]"; "no interval" where one run allows none."""
    if np.isnan(estimate.low):
        return "no interval"
    return f"[{number_text(estimate.low * scale, decimals)}, {number_text(estimate.high * scale, decimals)}]"


def value_and_interval_text(estimate: Estimate, decimals: int, sign: bool = False) -> str:
    """A value and its interval, e.g. "0.1234 [0.1213, 0.1255]"."""
    return f"{number_text(estimate.value, decimals, sign)} {interval_text(estimate, decimals)}"


class _PlannerRow(Protocol):
    @property
    def planner(self) -> str: ...

    @property
    def diverged(self) -> int: ...


def marked_planner(row: _PlannerRow) -> str:
    """The planner of a row, and how many of its runs diverged, if any did."""
    return f"{row.planner} ({row.diverged} div.)" if row.diverged else row.planner


def versus_text(versus: Versus, decimals: int) -> str:
    """A paired difference with its Student t interval and its verdict, e.g. "+0.0123 ±0.0021 worse".

    Of one that is not told apart, also how large it may be: the end of the interval that is farther from 0.
    """
    most = max(abs(versus.difference.low), abs(versus.difference.high))
    up_to = f", up to {number_text(most, decimals)}" if versus.verdict == "not told apart" and np.isfinite(most) else ""
    return f"{estimate_text(versus.difference, decimals, sign=True)} {versus.verdict}{up_to}"


def short_versus_text(versus: Versus | None, decimals: int) -> str:
    """The same for narrow tables: the verdict in one word; the reference itself is said to be that."""
    if versus is None:
        return "(reference)"
    return f"{estimate_text(versus.difference, decimals, sign=True)} {versus.short}"


def tied_text(names: Sequence[str], gaps: Sequence[Estimate], decimals: int, unit: str, what: str) -> str:
    """The end of a sentence on the best planner: which others are tied with it.

    Args:
        names: the tied planners.
        gaps: their paired differences to the best one.
        decimals: of differences.
        unit: of differences.
        what: words for the differences.
    """
    if not names:
        return ", and every other planner is told apart from it"
    largest = max(gap.high for gap in gaps)
    up_to = f"up to {number_text(largest, decimals)} {unit}" if np.isfinite(largest) else "up to any difference"
    return (
        f". Not told apart from it, {up_to}: {listed(names)} (the 95 % intervals of {what} to it contain 0, and end "
        "there at most)"
    )


def seeds_text(n: int) -> str:
    """A count of seeds in words: "1 seed", "20 seeds"."""
    return "1 seed" if n == 1 else f"{n} seeds"


def listed(names: Sequence[str]) -> str:
    """Names in words: "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _value_text(value: Any) -> str:
    value = _plain(value) if isinstance(value, np.generic | np.ndarray) else value
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_value_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(_value_text, value)) + ")"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
