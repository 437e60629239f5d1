"""How good forecasts are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from planners.forecaster.curves import CurveSet, Floats
from planners.forecaster.intervals import interval_scores

MOVING = 0.05
"""A run moves whose last value differs by this share from the last one seen. It is chosen by the outcome, so that it is
reported and nothing is tuned to it."""

_LEAST = 1e-12


def scores(
    curves: CurveSet, median: Floats, points: int, interval: tuple[Floats, Floats] | None = None
) -> dict[str, float]:
    """Score forecasts of all points that were not seen, the last one included.

    Args:
        curves: the truth.
        median: forecasts, (curves, POINTS).
        points: number of points seen.
        interval: lower and upper ends, (curves, POINTS) each.

    Returns:
        mape: mean over runs of the mean absolute percentage error, a fraction. median_ape: the median over runs.
        log_mae: mean absolute error of the logarithm. rmse: root mean square error of a run, then the mean over runs.
        tau: Kendall's tau of the last values. mape_moving, tau_moving: of runs that move. With an interval: coverage,
        coverage_moving, and interval_score (Gneiting & Raftery 2007, eq. 43) of the logarithms at 90 %.
    """
    truth, forecast = curves.values[:, points:], np.maximum(median[:, points:], _LEAST)
    there = np.isfinite(truth)
    relative = np.where(there, np.abs(forecast / truth - 1), np.nan)
    with np.errstate(invalid="ignore"):
        log_error = np.abs(np.log(forecast / truth))
    of_run = np.nanmean(relative, axis=1)
    _, last = curves.last_seen(points)
    with np.errstate(invalid="ignore"):
        moving = np.abs(curves.values[:, -1] / last - 1) > MOVING
    result = {
        "mape": float(of_run.mean()),
        "median_ape": float(np.median(of_run)),
        "log_mae": float(np.nanmean(log_error, axis=1).mean()),
        "rmse": float(np.sqrt(np.nanmean((forecast - truth) ** 2, axis=1)).mean()),
        "tau": _tau(forecast[:, -1], truth[:, -1]),
        "mape_moving": float(of_run[moving].mean()) if moving.any() else np.nan,
        "tau_moving": _tau(forecast[moving, -1], truth[moving, -1]),
    }
    if interval is not None:
        low, high = (end[:, points:] for end in interval)
        inside = np.where(there, (low <= truth) & (truth <= high), np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            low, high, log_truth = np.log(np.maximum(low, _LEAST)), np.log(high), np.log(truth)
        result |= {
            "coverage": float(np.nanmean(inside)),
            "coverage_moving": float(np.nanmean(inside[moving])) if moving.any() else np.nan,
            "interval_score": interval_scores(log_truth, low, high),
        }
    return result


def _tau(forecast: Floats, truth: Floats) -> float:
    """Kendall's tau, NaN for fewer than 3 runs, 0 where all forecasts are equal."""
    both = np.isfinite(forecast) & np.isfinite(truth)
    if both.sum() < 3:
        return np.nan
    result: Any = kendalltau(forecast[both], truth[both])
    tau = float(result.statistic)
    return 0.0 if np.isnan(tau) else tau


def mean_scores(of_folds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each score over folds, leaving out those that do not have it."""
    names = dict.fromkeys(name for fold in of_folds for name in fold)
    return {
        name: float(np.mean(values))
        if (values := [f[name] for f in of_folds if np.isfinite(f.get(name, np.nan))])
        else np.nan
        for name in names
    }
