"""Fit the multi-power law to the curves of runs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares

from lr_env.errors import UserError
from lr_env.records.record import RunRecord
from planners.multi_power_law.law import Floats, LawNumbers, losses

MIN_RUNS = 3
"""Fewest runs that a law is fitted to: of one or two it can say anything."""

_HUBER = 0.001
"""Error of the log loss from which on an error counts in proportion to its size, and not to its square (the paper)."""

_POINTS = 24
"""Points of a curve that are fitted, besides its end."""

_STARTS = 6
"""From so many points of departure the best fit is taken."""

# Natural logs of the seven numbers: where fits depart from (mean and standard deviation), and how far they may go. The
# last is at most 1: if it were larger, a fall of the rate would pay sooner at lower rates.
_DEPARTURES = np.log([1.0, 1.0, 0.5, 0.5, 20.0, 0.6, 0.6]), np.array([0.5, 0.7, 0.5, 1.0, 2.0, 0.4, 0.4])
_LOWEST, _HIGHEST = np.log([1e-4, 1e-4, 0.02, 1e-5, 1e-3, 0.02, 0.02]), np.log([1e2, 1e2, 4.0, 1e2, 1e6, 2.0, 1.0])


@dataclass(frozen=True, eq=False)
class Curves:
    """Curves of runs as stretches of constant rate, with the losses at their ends.

    Attributes:
        rates: learning rates, (runs, stretches).
        durations: of the stretches, in budgets, (runs, stretches); 0 after the end of a run.
        losses: at the ends of the stretches, nats per example, (runs, stretches); NaN where not measured.
        labels: what shape each run's schedule has, as a text.
    """

    rates: Floats
    durations: Floats
    losses: Floats
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rates)

    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> Curves:
        """Some of the runs."""
        chosen = np.asarray(rows, dtype=np.int64)
        return Curves(
            self.rates[chosen], self.durations[chosen], self.losses[chosen], tuple(self.labels[row] for row in chosen)
        )


def curves_of(records: Sequence[RunRecord], budget: int) -> Curves:
    """The validation losses of runs that did not diverge.

    Args:
        records: with their curves.
        budget: optimizer steps of a whole run.

    Raises:
        UserError: there are fewer than three, or all have the same schedule.
    """
    usable = [
        record
        for record in records
        if not record.diverged and np.isfinite(np.asarray(record.curves["val_loss"], dtype=np.float64)).sum() > 1
    ]
    if len(usable) < MIN_RUNS:
        raise UserError(
            f"{len(usable)} of {len(records)} runs can be used: the multi-power law needs at least {MIN_RUNS} that did "
            "not diverge"
        )
    longest = max(len(record.curves["lr"]) for record in usable)
    rates, durations, measured = np.ones((3, len(usable), longest))
    durations *= 0.0
    measured *= np.nan
    for row, record in enumerate(usable):
        count = len(record.curves["lr"])
        rates[row, :count] = record.curves["lr"]
        rates[row, count:] = record.curves["lr"][-1]
        durations[row, :count] = np.diff(np.asarray(record.curves["step"], dtype=np.float64), prepend=0.0) / budget
        measured[row, :count] = record.curves["val_loss"]
    if (np.ptp(np.log(rates / rates.max(1, keepdims=True)), axis=0) < 1e-6).all():
        raise UserError(
            "all runs have a schedule of the same shape: the multi-power law learns from how shapes differ, so give "
            "runs with others, too"
        )
    labels = tuple(f"{record.planner} {dict(record.settings)}" for record in usable)
    return Curves(rates, durations, measured, labels)


@dataclass(frozen=True)
class FittedLaw:
    """A law with the unit of its rates.

    Attributes:
        numbers: of the law.
        unit: the rate that counts as 1.
        error: mean absolute error of the log loss over the fitted points.
    """

    numbers: LawNumbers
    unit: float
    error: float

    def forecast(self, curves: Curves) -> Floats:
        """Losses at the ends of all stretches, (runs, stretches)."""
        return self.numbers.losses(curves.rates / self.unit, curves.durations)


def fit_law(curves: Curves, seed: int = 0) -> FittedLaw:
    """Fit the law: least squares of log losses, with Huber's loss against outliers, from several points of departure.

    Args:
        curves: at least three runs.
        seed: of the points of departure.
    """
    unit = float(np.exp(np.median(np.log(curves.rates.max(1)))))
    points = _chosen_points(curves.losses)
    rows, columns = np.nonzero(points & np.isfinite(curves.losses))
    used = np.unique(columns)
    place = np.searchsorted(used, columns)
    observed = np.log(curves.losses[rows, columns])
    rates, durations = torch.from_numpy(curves.rates / unit), torch.from_numpy(curves.durations)
    at, lowest_loss = torch.from_numpy(used), 1e-3 * float(np.exp(observed.min()))

    def errors(logs: Floats) -> Floats:
        law = losses(torch.from_numpy(np.exp(logs)), rates, durations, at).numpy()[rows, place]
        return np.log(np.maximum(law, lowest_loss)) - observed

    best = None
    for start in _departures(curves, seed):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # where a trial step is far out
            fit = least_squares(
                errors, start, bounds=(_LOWEST, _HIGHEST), loss="huber", f_scale=_HUBER, x_scale=1.0, max_nfev=60
            )
        if best is None or fit.cost < best.cost:
            best = fit
    assert best is not None  # there is a departure
    error = float(np.abs(errors(best.x)).mean())
    return FittedLaw(LawNumbers.of(tuple(np.exp(best.x).tolist())), unit, error)


def held_out_error(curves: Curves, seed: int = 0, parts: int = 3) -> float:
    """Mean absolute error of forecasts of the last log loss of runs, each by a law fitted to runs of other schedules.

    The error is that of the best third of the runs, which is where a schedule is looked for.
    """
    ends = np.array([_last(row) for row in curves.losses])
    good = np.argsort(ends)[: max(1, len(ends) // 3)]
    order = np.random.default_rng(seed).permutation(good)
    errors = []
    for part in np.array_split(order, min(parts, len(order))):
        rest = np.setdiff1d(np.arange(len(curves)), part)
        if len(rest) < MIN_RUNS:
            continue
        law = fit_law(curves.select(rest), seed)
        forecast = [_last(row) for row in law.forecast(curves.select(part))]
        errors += np.abs(np.log(forecast) - np.log(ends[part])).tolist()
    return float(np.mean(errors)) if errors else np.nan


def _last(values: Floats) -> float:
    """The last finite value of a curve."""
    return float(values[np.isfinite(values)][-1])


def _chosen_points(measured: Floats) -> NDArray[np.bool_]:
    """Which points of the curves are fitted: evenly spread ones, and the last, (runs, stretches)."""
    stretches = measured.shape[1]
    chosen = np.zeros_like(measured, dtype=bool)
    chosen[:, np.unique(np.linspace(0, stretches - 1, min(stretches, _POINTS + 1)).astype(int))] = True
    for row, values in enumerate(measured):
        chosen[row, np.flatnonzero(np.isfinite(values))[-1]] = True
    return chosen


def _departures(curves: Curves, seed: int) -> Floats:
    """Logs of the numbers that fits depart from, (starts, 7): around usual ones, in units of the losses."""
    lowest = float(np.nanmin(curves.losses))
    fall = max(float(np.nanmedian(np.nanmax(curves.losses, 1))) - lowest, 1e-3 * lowest)
    middle, spread = _DEPARTURES
    drawn = np.random.default_rng([seed, len(curves)]).standard_normal((_STARTS - 1, len(middle)))
    starts = middle + spread * np.concatenate([np.zeros((1, len(middle))), drawn])
    starts[:, 0] += np.log(0.7 * lowest)
    starts[:, 1] += np.log(0.3 * fall)
    starts[:, 3] += np.log(0.3 * fall)
    return np.clip(starts, _LOWEST + 1e-6, _HIGHEST - 1e-6)


def as_setting(law: FittedLaw) -> tuple[float, ...]:
    """The numbers as a planner keeps them in its settings."""
    return tuple(float(number) for number in astuple(law.numbers))
