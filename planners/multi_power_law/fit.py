"""Fit the multi-power law to the curves of runs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

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

_END_WEIGHT = 20.0
"""Weight of the error of a loss on the whole validation split at the end of a run. The others are of a small part of
it, and their luck at high rates is twenty times larger; what a schedule is worth is decided at the end."""

# What is known of the last three numbers before: mean and standard deviation of their natural logs, from the fits of
# the paper. Short runs of schedules that all fall alike say next to nothing about them, and without it a law may
# promise everything to a rate that falls at once.
_BEFORE, _BEFORE_DEVIATION = np.log([20.0, 0.6, 0.6]), np.array([1.5, 0.3, 0.3])

_BEFORE_WEIGHT = 0.3
"""A number that is one such deviation away is as bad as residuals that are larger by the root of 1 + this squared."""

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
        scored: whether a run's last loss is of the whole validation split, (runs,); None where none is.
    """

    rates: Floats
    durations: Floats
    losses: Floats
    labels: tuple[str, ...]
    scored: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.rates)

    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> Curves:
        """Some of the runs."""
        chosen = np.asarray(rows, dtype=np.int64)
        labels, scored = tuple(self.labels[row] for row in chosen), self.scored
        scored = None if scored is None else scored[chosen]
        return Curves(self.rates[chosen], self.durations[chosen], self.losses[chosen], labels, scored)


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
    scored = np.zeros(len(usable), dtype=bool)
    for row, record in enumerate(usable):
        count = len(record.curves["lr"])
        rates[row, :count] = record.curves["lr"]
        rates[row, count:] = record.curves["lr"][-1]
        durations[row, :count] = np.diff(np.asarray(record.curves["step"], dtype=np.float64), prepend=0.0) / budget
        measured[row, :count] = record.curves["val_loss"]
        if record.steps >= budget and np.isfinite(end := record.scores.get("final_val_loss", np.nan)):
            measured[row, count - 1], scored[row] = end, True
    if (np.ptp(np.log(rates / rates.max(1, keepdims=True)), axis=0) < 1e-6).all():
        raise UserError(
            "all runs have a schedule of the same shape: the multi-power law learns from how shapes differ, so give "
            "runs with others, too"
        )
    labels = tuple(f"{record.planner} {dict(record.settings)}" for record in usable)
    return Curves(rates, durations, measured, labels, scored)


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

    Losses on the whole validation split weigh more, and the last three numbers stay near what they are elsewhere.

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

    weights = np.ones(len(rows))
    if curves.scored is not None:
        weights[curves.scored[rows] & (columns == _last_points(curves.losses)[rows])] = _END_WEIGHT

    def errors(logs: Floats) -> Floats:
        law = losses(torch.from_numpy(np.exp(logs)), rates, durations, at).numpy()[rows, place]
        return np.log(np.maximum(law, lowest_loss)) - observed

    def residuals(logs: Floats, of_before: float) -> Floats:
        weighed = weights * errors(logs)
        size = np.abs(weighed)
        # Its square is Huber's loss, so that what was known before is not subject to it.
        huber = np.where(size <= _HUBER, weighed, np.sign(weighed) * np.sqrt(_HUBER * np.maximum(2 * size - _HUBER, 0)))
        return np.concatenate([huber, of_before * (logs[-3:] - _BEFORE) / _BEFORE_DEVIATION])

    def fitted(starts: Floats, of_before: float) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # where a trial step is far out
            fits = [
                least_squares(residuals, start, bounds=(_LOWEST, _HIGHEST), x_scale=1.0, max_nfev=60, args=(of_before,))
                for start in starts
            ]
        return min(fits, key=lambda fit: fit.cost)

    starts = _departures(curves, seed)
    alone = fitted(starts, 0.0)
    inside = np.clip(alone.x, _LOWEST + 1e-6, _HIGHEST - 1e-6)
    best = fitted(np.vstack([starts, inside]), _BEFORE_WEIGHT * np.sqrt(2 * alone.cost))
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


def _last_points(measured: Floats) -> NDArray[np.int64]:
    """The last point of each run that was measured, (runs,)."""
    return np.array([np.flatnonzero(np.isfinite(values))[-1] for values in measured])


def _chosen_points(measured: Floats) -> NDArray[np.bool_]:
    """Which points of the curves are fitted: evenly spread ones, and the last, (runs, stretches)."""
    stretches = measured.shape[1]
    chosen = np.zeros_like(measured, dtype=bool)
    chosen[:, np.unique(np.linspace(0, stretches - 1, min(stretches, _POINTS + 1)).astype(int))] = True
    chosen[np.arange(len(measured)), _last_points(measured)] = True
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
