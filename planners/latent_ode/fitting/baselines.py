"""Forecasts of how a run ends from how it began: simple rivals of the model, and how good forecasts are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from planners.latent_ode.data.dataset import LOSS, Floats, Series
from planners.latent_ode.model.dynamics import Scales

EXPONENTS = np.geomspace(0.05, 3, 40)
"""Of the power laws that are tried."""

Forecast = Callable[[Series, Series, Scales, float], Floats]
"""(runs to forecast, runs known to their ends, scales, share that is over) -> log final losses."""


def last_value(runs: Series, known: Series, scales: Scales, share: float) -> Floats:
    """A run ends as it is: the last validation loss measured."""
    return np.array([_past(runs, row, share)[-1] for row in range(len(runs))])


def nearest_run(runs: Series, known: Series, scales: Scales, share: float) -> Floats:
    """A run ends as the known one that is most like it ended.

    Likeness is the mean squared difference of the scaled channels so far, plus that of the log rates over the whole
    run: the schedule that is planned is known, as it is to the model.
    """
    deviations = np.array(scales.deviations)
    ends = np.where(np.isfinite(known.final), known.final, np.nan)
    answers = []
    for row in range(len(runs)):
        count = min(runs.lengths[row], known.values.shape[1])
        past = max(1, min(_points(runs, row, share), count))
        seen = (known.values[:, :past] - runs.values[row, :past]) / deviations
        rates = np.log(known.lr[:, :count]) - np.log(runs.lr[row, :count])
        distance = np.nanmean(seen**2, axis=(1, 2)) + np.mean(rates**2, axis=1)
        usable = np.isfinite(ends) & np.isfinite(distance)
        answers.append(ends[np.argmin(np.where(usable, distance, np.inf))] if usable.any() else np.nan)
    return np.array(answers)


def power_law(runs: Series, known: Series, scales: Scales, share: float) -> Floats:
    """The loss goes on as a + b t^-c, a and b not negative, fitted to the validation losses so far by least squares."""
    answers = []
    for row in range(len(runs)):
        past = _past(runs, row, share)
        steps = runs.steps[row, : len(past)] / runs.budget
        end = runs.steps[row, runs.lengths[row] - 1] / runs.budget
        usable = np.isfinite(past)
        answers.append(_extrapolated(steps[usable], np.exp(past[usable]), end))
    return np.log(np.array(answers))


RIVALS: dict[str, Forecast] = {"last value": last_value, "nearest run": nearest_run, "power law": power_law}


@dataclass(frozen=True)
class Quality:
    """How good forecasts are.

    Attributes:
        error: root mean square of the error of the log final loss.
        rank: Spearman's rank correlation with what happened; NaN where it has none.
        runs: forecasts judged.
    """

    error: float
    rank: float
    runs: int


def quality(forecasts: Floats, final: Floats) -> Quality:
    """How good forecasts (runs,) of log final losses (runs,) are; runs whose end was not measured do not count."""
    usable = np.isfinite(forecasts) & np.isfinite(final)
    forecasts, final = forecasts[usable], final[usable]
    if len(final) == 0:
        return Quality(np.nan, np.nan, 0)
    varied = len(final) > 2 and np.ptp(forecasts) > 0 and np.ptp(final) > 0
    rank = float(np.corrcoef(rankdata(forecasts), rankdata(final))[0, 1]) if varied else np.nan
    return Quality(float(np.sqrt(np.mean((forecasts - final) ** 2))), rank, len(final))


def _points(runs: Series, row: int, share: float) -> int:
    return max(1, int(share * runs.lengths[row]))


def _past(runs: Series, row: int, share: float) -> Floats:
    """Log validation losses so far; a missing one is the one before."""
    past = runs.values[row, : _points(runs, row, share), LOSS]
    known = np.maximum.accumulate(np.where(np.isfinite(past), np.arange(len(past)), -1))
    return np.where(known >= 0, past[np.maximum(known, 0)], np.nan)


def _extrapolated(steps: Floats, losses: Floats, end: float) -> float:
    """a + b end^-c of the best fit."""
    if len(losses) < 3:
        return float(losses[-1]) if len(losses) else np.nan
    best, answer = np.inf, float(losses[-1])
    for exponent in EXPONENTS:
        x = steps**-exponent
        slope = max(0.0, float(np.cov(x, losses, bias=True)[0, 1] / np.var(x)))
        level = float(np.mean(losses) - slope * np.mean(x))
        if level < 0:  # on the boundary: through the origin
            level, slope = 0.0, float(x @ losses / (x @ x))
        error = float(np.sum((level + slope * x - losses) ** 2))
        if error < best:
            best, answer = error, level + slope * end**-exponent
    return answer
