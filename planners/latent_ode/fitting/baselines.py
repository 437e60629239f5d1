"""Simple forecasts of how a run ends, as baselines of the model, and measures of how good forecasts are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from planners.latent_ode.channels import LOSS, Floats
from planners.latent_ode.data.dataset import RunDataset
from planners.latent_ode.data.scaling import Scales

EXPONENTS = np.geomspace(0.05, 3, 40)
"""Exponents of the power laws that are tried."""

Forecast = Callable[[RunDataset, RunDataset, Scales, float], Floats]
"""Maps (runs to forecast, complete runs, scales, share of the run that is over) to log final losses, (runs,)."""


def last_value(runs: RunDataset, complete: RunDataset, scales: Scales, elapsed: float) -> Floats:
    """Forecast that a run ends at its last validation loss."""
    return np.array([_losses_so_far(runs, row, elapsed)[-1] for row in range(len(runs))])


def nearest_run(runs: RunDataset, complete: RunDataset, scales: Scales, elapsed: float) -> Floats:
    """Forecast that a run ends as the complete run did that is nearest to it.

    The distance is the mean squared difference of the scaled channels so far, plus that of the log rates over the whole
    run, for the model has the planned schedule as well.
    """
    deviations = np.array(scales.deviations)
    ends = np.where(np.isfinite(complete.final), complete.final, np.nan)
    forecasts = []
    for row in range(len(runs)):
        count = min(runs.lengths[row], complete.values.shape[1])
        past = max(1, min(_points_so_far(runs, row, elapsed), count))
        channels = (complete.values[:, :past] - runs.values[row, :past]) / deviations
        rates = np.log(complete.lr[:, :count]) - np.log(runs.lr[row, :count])
        measured = np.isfinite(channels).any((1, 2))
        distance = np.mean(rates**2, axis=1)
        distance[measured] = np.nanmean(channels[measured] ** 2, axis=(1, 2)) + distance[measured]
        # A run that was measured at other times cannot be compared; if all were, the rates have to do.
        usable = np.isfinite(ends) & np.isfinite(distance) & (measured | ~measured.any())
        forecasts.append(ends[np.argmin(np.where(usable, distance, np.inf))] if usable.any() else np.nan)
    return np.array(forecasts)


def power_law(runs: RunDataset, complete: RunDataset, scales: Scales, elapsed: float) -> Floats:
    """Extrapolate the validation loss by a + b t^-c with a, b >= 0, fitted to the losses so far by least squares."""
    forecasts = []
    for row in range(len(runs)):
        losses = runs.values[row, : _points_so_far(runs, row, elapsed), LOSS]
        steps = runs.steps[row, : len(losses)] / runs.budget
        end = runs.steps[row, runs.lengths[row] - 1] / runs.budget
        finite = np.isfinite(losses)
        forecasts.append(_extrapolated(steps[finite], np.exp(losses[finite]), end))
    return np.log(np.array(forecasts))


BASELINES: dict[str, Forecast] = {"last value": last_value, "nearest run": nearest_run, "power law": power_law}


@dataclass(frozen=True)
class Quality:
    """The quality of forecasts.

    Attributes:
        error: root mean square error of the log final loss.
        rank: Spearman's rank correlation with the true final losses; NaN where it is not defined.
        runs: number of forecasts.
    """

    error: float
    rank: float
    runs: int


def quality(forecasts: Floats, final: Floats) -> Quality:
    """Compare forecasts of log final losses with the true ones, both (runs,); runs without a true one do not count."""
    usable = np.isfinite(forecasts) & np.isfinite(final)
    forecasts, final = forecasts[usable], final[usable]
    if len(final) == 0:
        return Quality(np.nan, np.nan, 0)
    varied = len(final) > 2 and np.ptp(forecasts) > 0 and np.ptp(final) > 0
    rank = float(np.corrcoef(rankdata(forecasts), rankdata(final))[0, 1]) if varied else np.nan
    return Quality(float(np.sqrt(np.mean((forecasts - final) ** 2))), rank, len(final))


def _points_so_far(runs: RunDataset, row: int, elapsed: float) -> int:
    return max(1, int(elapsed * runs.lengths[row]))


def _losses_so_far(runs: RunDataset, row: int, elapsed: float) -> Floats:
    """Return the log validation losses so far; a missing value is replaced by the one before."""
    losses = runs.values[row, : _points_so_far(runs, row, elapsed), LOSS]
    latest = np.maximum.accumulate(np.where(np.isfinite(losses), np.arange(len(losses)), -1))
    return np.where(latest >= 0, losses[np.maximum(latest, 0)], np.nan)


def _extrapolated(steps: Floats, losses: Floats, end: float) -> float:
    """Evaluate the best power law at the end."""
    if len(losses) < 3:
        return float(losses[-1]) if len(losses) else np.nan
    lowest, forecast = np.inf, float(losses[-1])
    for exponent in EXPONENTS:
        x = steps**-exponent
        slope = max(0.0, float(np.cov(x, losses, bias=True)[0, 1] / np.var(x)))
        level = float(np.mean(losses) - slope * np.mean(x))
        if level < 0:  # on the boundary: through the origin
            level, slope = 0.0, float(x @ losses / (x @ x))
        error = float(np.sum((level + slope * x - losses) ** 2))
        if error < lowest:
            lowest, forecast = error, level + slope * end**-exponent
    return forecast
