"""Bring logged series from whatever their clock counts to optimizer steps, and tell attempts in one log apart."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lr_env.errors import UserError
from lr_env.records.readers.base import Floats, LoggedRun, Series
from lr_env.records.readers.names import (
    EPOCH_CLOCKS,
    STEP_CLOCKS,
    STEPS_PER_EPOCH,
    canonical,
    counts_environment_steps,
    named,
    rank,
)

_STEP = "step"
"""The clock of a run whose tracker says that it counts optimizer steps."""

_EPOCH_NAME = re.compile(r"(?:(?:train|training|val|valid|validation|eval|test)_)?epoch_")

_BY_EPOCH = "its clock is the epoch, and it does not say how many steps an epoch has: give --steps-per-epoch N"


class ClockError(UserError):
    """A run whose clock cannot be brought to optimizer steps; the message says why, and what helps."""


@dataclass(frozen=True)
class Clock:
    """What a run is brought to optimizer steps with.

    Attributes:
        steps: turns the clock of a series of the run into optimizer steps; NaN where that is not possible.
        name: what the log calls it.
        epochs: for a clock that counts epochs, optimizer steps of an epoch; None for one that counts steps.
        readings: the values of the clock over the run's own, in the order of the log; None where they are the same.
        note: what has to be known about it; empty if nothing.
    """

    steps: Callable[[Floats], Floats]
    name: str
    epochs: float | None = None
    readings: Series | None = None
    note: str = ""


def attempts(run: LoggedRun, mapping: Mapping[str, str]) -> Iterator[LoggedRun]:
    """Split a run whose clock begins again: a file to which several runs were written, one after the other.

    A clock that falls back to where it began begins another run. One that falls back to somewhere else goes on from a
    checkpoint, which `joined` sees to. Only rows that have an order, whatever they are numbered with, can be split.
    """
    readings = _main_clock(run, mapping)
    if readings is None or len(readings.values) < 2:
        yield run
        return
    starts = _restarts(readings.values)
    if not starts:
        yield run
        return
    bounds = [-math.inf, *(float(readings.at[start]) for start in starts), math.inf]
    for number, (low, high) in enumerate(pairwise(bounds), 1):
        series = {
            name: Series(one.at[which], one.values[which])
            for name, one in run.series.items()
            if (which := (one.at >= low) & (one.at < high)).any()
        }
        yield replace(run, run_id=f"{run.run_id}#{number}", series=series)


def _restarts(values: Floats) -> list[int]:
    """Where values fall back to the first one, or below it, after two others at least."""
    finite = np.where(np.isfinite(values), values, np.inf)
    falls = np.flatnonzero(finite[1:] < finite[:-1]) + 1
    starts: list[int] = []
    begin = 0
    for fall in falls.tolist():
        if finite[fall] <= finite[begin] and len(np.unique(finite[begin:fall])) > 1:
            starts.append(fall)
            begin = fall
    return starts


def _main_clock(run: LoggedRun, mapping: Mapping[str, str]) -> Series | None:
    """The clock by which attempts are told apart; None where rows have no order of their own."""
    if run.clock == _STEP:
        return None
    for kind in ("step", "epoch"):
        if kind in mapping:
            names = [name for name in run.series if canonical(name) == canonical(mapping[kind])]
            return run.series[names[0]] if names else None
    for name in _clock_names(run, STEP_CLOCKS):
        if not _within_epochs(run, name):
            return run.series[name]
    return next((run.series[name] for name in _clock_names(run, EPOCH_CLOCKS)), None)


def _clock_names(run: LoggedRun, patterns: tuple[str, ...]) -> list[str]:
    """The series of a run that are clocks, the best first."""
    ranked = [(at, place, name) for place, name in enumerate(run.series) if (at := rank(name, patterns)) is not None]
    names = [name for _, _, name in sorted(ranked)]
    moving = [name for name in names if len(np.unique(run.series[name].values)) > 1]
    return moving or names


def _within_epochs(run: LoggedRun, name: str) -> bool:
    """Whether a clock counts within epochs: it begins again whenever the epoch rises."""
    epochs = next((run.series[one] for one in _clock_names(run, EPOCH_CLOCKS)), None)
    clock = run.series[name]
    if epochs is None or len(clock.at) < 2:
        return False
    falls = np.flatnonzero(np.diff(clock.values) < 0) + 1
    if not len(falls):
        return False
    epoch_at = _last_readings(epochs, clock.at)
    rises = epoch_at[falls] > epoch_at[falls - 1]
    return bool(rises.mean() > 0.5)


def _last_readings(clock: Series, at: Floats) -> Floats:
    """The last reading of a clock at or before each of some positions; NaN before the first."""
    places = np.searchsorted(clock.at, at, side="right") - 1
    values = np.append(clock.values, np.nan)
    return values[np.where(places < 0, len(clock.values), places)]


def clock_of(run: LoggedRun, mapping: Mapping[str, str], steps_per_epoch: float | None) -> Clock:
    """Find the clock of a run.

    Args:
        run: one attempt.
        mapping: the user's names, of which "step" and "epoch" are used.
        steps_per_epoch: as the user gave it; None if not.

    Raises:
        ClockError: it has none, or it cannot be converted.
        MissingNameError: the run has no series of the name that the user gave.
    """
    if "step" in mapping:
        return _given_clock(run, "step", mapping["step"], None)
    if "epoch" in mapping:
        return _given_clock(run, "epoch", mapping["epoch"], steps_per_epoch)
    if counts_environment_steps(run.series):
        raise ClockError(
            "it is of reinforcement learning, whose clock counts steps of the environment and not of the optimizer: "
            "give --names step=NAME of a column that counts optimizer steps"
        )
    if run.clock == _STEP:
        return Clock(lambda at: at, run.clock)
    names = _clock_names(run, STEP_CLOCKS)
    for name in names:
        if not _within_epochs(run, name):
            return _read_clock(run.series[name], name)
    if names:
        return _clock_within_epochs(run, names[0], steps_per_epoch)
    epochs = _clock_names(run, EPOCH_CLOCKS)
    if epochs:
        return _epoch_clock(run, run.series[epochs[0]], epochs[0], steps_per_epoch)
    if rank(run.clock, EPOCH_CLOCKS) is not None:
        return _epoch_clock(run, None, run.clock, steps_per_epoch)
    if run.clock == "row":
        names_there = ", ".join(list(run.series)[:20])
        raise ClockError(
            f"nothing in it counts steps: give --names step=NAME (there are: {names_there}); where each row is a step, "
            "step=row, and where each is an epoch, epoch=row"
        )
    return Clock(lambda at: at, run.clock, note=f"its clock is {run.clock!r}, taken for optimizer steps")


def _given_clock(run: LoggedRun, kind: str, name: str, steps_per_epoch: float | None) -> Clock:
    """The clock that the user named."""
    if name == run.clock and name not in run.series:
        return Clock(lambda at: at, name) if kind == "step" else _epoch_clock(run, None, name, steps_per_epoch)
    (name, *_) = named(run.series, kind, name)
    if kind == "step":
        return _read_clock(run.series[name], name)
    return _epoch_clock(run, run.series[name], name, steps_per_epoch)


def _read_clock(readings: Series, name: str) -> Clock:
    """A clock whose readings are a series."""
    return Clock(lambda at: _last_readings(readings, at), name, readings=readings)


def _clock_within_epochs(run: LoggedRun, name: str, steps_per_epoch: float | None) -> Clock:
    """A clock of a column that counts steps within the epoch that another column has."""
    epochs = run.series[_clock_names(run, EPOCH_CLOCKS)[0]]
    size = _epoch_size(run, steps_per_epoch)
    if size is None:
        raise ClockError(
            f"its {name!r} begins again in each epoch, and it does not say how many steps an epoch has: "
            "give --steps-per-epoch N"
        )
    inside, first = run.series[name], float(np.nanmin(epochs.values))

    def steps(at: Floats) -> Floats:
        return (_last_readings(epochs, at) - first) * size + _last_readings(inside, at)

    return Clock(steps, name, size, inside)


def _epoch_clock(run: LoggedRun, readings: Series | None, name: str, steps_per_epoch: float | None) -> Clock:
    """A clock that counts epochs. What is logged under a whole number is measured at the end of that epoch."""
    size = _epoch_size(run, steps_per_epoch)
    if size is None:
        raise ClockError(_BY_EPOCH)
    values = readings.values if readings else np.concatenate([one.at for one in run.series.values()] or [np.zeros(0)])
    shift = ended_epochs(values)
    read = (lambda at: at) if readings is None else (lambda at: _last_readings(readings, at))
    return Clock(lambda at: np.round((read(at) + shift) * size), name, size, readings)


def ended_epochs(epochs: Floats) -> int:
    """How many epochs have ended under the number 0: one where epochs are whole numbers from 0 up.

    >>> ended_epochs(np.array([0.0, 1, 2])), ended_epochs(np.array([1.0, 2])), ended_epochs(np.array([0.0, 0.5]))
    (1, 0, 0)
    """
    finite = epochs[np.isfinite(epochs)]
    return int(len(finite) > 0 and finite.min() == 0 and bool((finite == np.round(finite)).all()))


def _epoch_size(run: LoggedRun, steps_per_epoch: float | None) -> float | None:
    """Optimizer steps of an epoch: as the user says, or as the log does; None where neither does."""
    if steps_per_epoch is not None:
        return steps_per_epoch
    plain = {canonical(name): value for name, value in run.config.items()}
    said = [value for name, value in plain.items() if re.fullmatch(STEPS_PER_EPOCH, name)]
    for name in run.series:
        if re.fullmatch(STEPS_PER_EPOCH, canonical(name)):
            said += run.series[name].values[:1].tolist()
    for value in said:
        if isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value < 1e9:
            return float(value)
    steps, epochs = plain.get("max_steps"), plain.get("num_train_epochs", plain.get("max_epochs"))
    if isinstance(steps, int | float) and isinstance(epochs, int | float) and 0 < epochs <= steps < 1e12:
        return steps / epochs
    return None


def steps_of_epochs(run: LoggedRun, clock: Clock) -> float | None:
    """How many optimizer steps an epoch has, where a run counts both; None where it does not.

    Args:
        run: one attempt.
        clock: its clock.
    """
    for name in _clock_names(run, EPOCH_CLOCKS):
        epochs = run.series[name]
        steps = clock.steps(epochs.at)
        finite = np.isfinite(steps) & np.isfinite(epochs.values)
        steps, values = steps[finite], epochs.values[finite]
        if len(values) < 2 or values[-1] <= values[0] or steps[-1] <= steps[0]:
            continue
        if (values != np.round(values)).any():  # parts of epochs
            return float(steps[-1] / values[-1])
        changes = np.flatnonzero(np.diff(values) > 0) + 1
        if len(changes) > 1:
            return float((steps[changes[-1]] - steps[changes[0]]) / (values[changes[-1]] - values[changes[0]]))
        return float((steps[-1] - steps[0]) / (values[-1] - values[0]))
    return _epoch_size(run, None)


def counted_by_epoch(steps: Floats, others: Floats) -> bool:
    """Whether a series counts epochs where another counts steps: 0, 1, 2 ... beside 0, 100, 200 ...

    >>> counted_by_epoch(np.arange(10.0), np.arange(0, 5000, 50.0))
    True
    >>> counted_by_epoch(np.arange(0, 5000, 500.0), np.arange(0, 5000, 50.0))
    False
    """
    if len(steps) < 2 or len(others) < 2:
        return False
    return _consecutive(steps) and bool(steps[-1] * 10 <= others[-1]) and len(steps) < len(others)


def names_epochs(name: str, at: Floats) -> bool:
    """Whether the clock of a series in a run of optimizer steps counts epochs, as its name says.

    Keras logs "epoch_loss" at 0, 1, 2 ... beside "batch_loss", whose clock is another one.

    >>> names_epochs("epoch_loss", np.arange(3.0)), names_epochs("epoch_loss", np.array([0.0, 500.0]))
    (True, False)
    """
    return bool(_EPOCH_NAME.match(canonical(name))) and _consecutive(at)


def each_step(at: Floats) -> bool:
    """Whether something was measured at every number from 0 or 1 up, three times at least."""
    return len(at) > 2 and _consecutive(at)


def _consecutive(at: Floats) -> bool:
    return len(at) > 0 and at[0] in (0, 1) and bool((np.diff(at) == 1).all())


def batches_of_epochs(series: Mapping[str, Series], epochs: float) -> float | None:
    """Optimizer steps of an epoch, of series "batch_..." that count all batches of so many epochs; None if unknown."""
    for name in series:
        if canonical(name).startswith("batch_") and len(at := series[name].at) > 1 and _consecutive(at):
            size = (at[-1] + (at[0] == 0)) / epochs
            return float(size) if size == round(size) else None
    return None


def joined(parts: list[Series]) -> Series:
    """Join the parts of a series over optimizer steps, in order. Where a part goes back, it replaces what was after.

    A single point out of order is only put in order.

    >>> one = joined([Series(np.array([1.0, 2, 3, 4]), np.array([0.4, 0.3, 0.2, 0.1])),
    ...               Series(np.array([3.0, 5]), np.array([0.25, 0.15]))])
    >>> one.at.tolist(), one.values.tolist()
    ([1.0, 2.0, 3.0, 5.0], [0.4, 0.3, 0.25, 0.15])
    """
    at = np.concatenate([part.at for part in parts]) if parts else np.zeros(0)
    values = np.concatenate([part.values for part in parts]) if parts else np.zeros(0)
    there = np.isfinite(at)
    at, values = at[there], values[there]
    falls = np.flatnonzero(np.diff(at) < 0) + 1
    if len(falls):
        keep = _not_replaced(at, falls)
        at, values = at[keep], values[keep]
    if len(at) and (np.diff(at) <= 0).any():
        order = np.argsort(at, kind="stable")
        at, values = at[order], values[order]
        last = np.append(np.diff(at) > 0, True)
        at, values = at[last], values[last]
    return Series(at, values)


def _not_replaced(at: Floats, falls: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which points are not after a step to which the log went back by more than a point.

    The points from the end to the beginning, with the lowest step to which a later one goes back.
    """
    keep = np.ones(len(at), dtype=bool)
    limit, end, bounds = math.inf, len(at), [0, *falls.tolist()]
    for place in reversed(range(len(bounds))):
        start = bounds[place]
        keep[start:end] = at[start:end] < limit
        if place and (at[bounds[place - 1] : start] >= at[start]).sum() > 1:
            limit = min(limit, at[start])
        end = start
    return keep
